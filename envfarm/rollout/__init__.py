"""Drives an agent through an episode: session, tools, harnesses, scripted policies, submissions."""
