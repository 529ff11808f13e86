"""The embedded engine: batched generation on token ids."""
