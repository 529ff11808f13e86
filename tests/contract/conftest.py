"""Fixtures of the contract suites."""

from .postgres import database_url, postgres

__all__ = ["database_url", "postgres"]
