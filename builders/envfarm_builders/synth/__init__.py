"""Synth tasks: one planted bug in a healthy tree, found by tests that are then taken away."""
