"""Training runs as jobs: in this process or as Ray actors, in the foreground, detached, or on a Ray cluster."""
