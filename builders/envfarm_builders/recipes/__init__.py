"""From a tree to an environment: detection, plan, build, repair."""
