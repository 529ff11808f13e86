"""Source histories: git clones, and package releases laid out as one."""
