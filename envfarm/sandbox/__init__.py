"""Boxes: the client of the in-box agent, and the providers that start boxes with an agent in them."""
