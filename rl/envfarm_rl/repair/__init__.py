"""The task form of a tiny policy: one function on the page, short ``sed`` edits, a few test runs."""
