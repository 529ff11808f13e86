"""Leases stage work from the store and runs it: the one worker shape, wherever a worker runs."""
