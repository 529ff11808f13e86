"""Nouns, identity, ports, errors, configuration. Standard library and pydantic only."""
