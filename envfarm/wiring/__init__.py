"""A root: builds the object graph from the configuration, and the stages from the rooms."""
