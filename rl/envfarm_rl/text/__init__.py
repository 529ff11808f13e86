"""Between turns and the text that a policy reads and writes."""
