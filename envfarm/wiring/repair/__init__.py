"""Repair by a tiny policy, wired: builders' knowledge of code, real boxes and the grader behind what rl asks for."""
