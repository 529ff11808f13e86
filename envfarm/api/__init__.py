"""The HTTP application: JSON below ``/api``, pages above it. A root."""

from .app import create_app

__all__ = ["create_app"]
