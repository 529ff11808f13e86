"""Boxes by bubblewrap on this machine."""

from .provider import LocalProvider

__all__ = ["LocalProvider"]
