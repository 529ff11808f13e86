"""Training: packing, optimisers, and what turns groups of episodes into a new policy version."""
