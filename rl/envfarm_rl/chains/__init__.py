"""Chains of tokens: captured as they are emitted, packed as trees, read for the law that each was drawn from."""
