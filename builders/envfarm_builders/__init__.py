"""Repository + issue -> candidate -> recipe -> environment -> task."""
