"""What a stage is to a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from envfarm.core.work import Lease, StageResult
from envfarm.store.transaction import Transaction


@dataclass(frozen=True)
class Completed:
    """A stage's result and what it writes, in the transaction that finishes the item."""

    result: StageResult
    write: Callable[[Transaction], None] | None = None


class Stage(Protocol):
    """One kind of stage work. Instances are shared by all workers of a process."""

    @property
    def name(self) -> str: ...

    async def run(self, lease: Lease) -> Completed:
        """Do the work. Nothing durable may be visible before :class:`Completed` is recorded, except content-addressed
        blobs and environments, which are idempotent. Raises ``EnvfarmError`` for what went wrong around the item."""
        ...
