"""Policy, engine and training. Sees the farm as a ``RolloutSource`` and nothing else of it."""
