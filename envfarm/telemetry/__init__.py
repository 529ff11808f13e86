"""What long work tells of itself, read back without what did the work: usable alone."""
