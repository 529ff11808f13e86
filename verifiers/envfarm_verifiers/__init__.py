"""Tests to verdict: running a suite to a structured report, three-state validation, grading with canaries."""
