"""envfarm: repository history -> verifiable tasks -> sandboxes -> verdicts -> training."""

__version__ = "0.1.0"
