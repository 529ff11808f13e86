"""Advantages and losses: pure functions, and the named algorithms made of them."""
