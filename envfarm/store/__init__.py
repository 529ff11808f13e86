"""State: a database (SQLite or PostgreSQL) of nouns, work queue and funnel; content-addressed blobs beside it."""

from .blobs import FsspecBlobs
from .db import Store
from .queue import Queue
from .transaction import Transaction

__all__ = ["FsspecBlobs", "Queue", "Store", "Transaction"]
