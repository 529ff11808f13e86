"""Places of a farm's boxes: who controls the farm, which boxes were meant to be, who holds them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from envfarm.core.errors import Reason, StoreError

from .bulk import upsert
from .codec import checked
from .tables import farms, slots
from .transaction import Transaction

if TYPE_CHECKING:
    from .db import Store

_KEY = ("farm", "pool", "slot")


@dataclass(frozen=True)
class Place:
    """A row, as it is stored."""

    pool: str
    slot: int
    generation: int
    holder: str
    token: int
    until: float | None


@dataclass(frozen=True)
class Hold:
    """A box that shall be, or is, leased."""

    pool: str
    slot: int
    generation: int
    token: int
    holder: str


class Slots:
    """Of one farm. Every write names the epoch of the controller that makes it and is refused (lease_lost) when
    another has taken over. Every call is one transaction and may be repeated."""

    def __init__(self, store: Store, farm: str) -> None:
        checked(farm)
        self._store, self.farm = store, farm

    def lead(self, holder: str, ttl_sec: float) -> tuple[int, str]:
        """Become the controller: the new epoch, and the farm's secret. Raises ``StoreError`` (lease_lost) while another
        one is."""

        def take(tx: Transaction) -> tuple[int, str] | None:
            columns = ["name", "epoch", "holder", "until", "secret"]
            upsert(tx.connection, farms, columns, [(self.farm, 0, "", 0.0, secrets.token_hex(32))], key=["name"])
            free = (farms.c.until < tx.now) | (farms.c.holder == holder)
            change = (
                sa.update(farms)
                .where(farms.c.name == self.farm, free)
                .values(epoch=farms.c.epoch + 1, holder=holder, until=tx.now + ttl_sec)
            )
            row = tx.connection.execute(change.returning(farms.c.epoch, farms.c.secret)).first()
            return None if row is None else (row.epoch, row.secret)

        led = self._store.transact("lead", take)
        if led is None:
            raise StoreError(
                f"Farm {self.farm} has a controller already.", reason=Reason.lease_lost, phase="lead",
                remedy="End that one first, or wait until its lease has run out.",
            )  # fmt: skip
        return led

    def stay(self, epoch: int, ttl_sec: float) -> None:
        """Renew the controller's lease. Raises ``StoreError`` (lease_lost)."""

        def renew(tx: Transaction) -> None:
            self._fenced(tx, epoch)
            change = sa.update(farms).where(farms.c.name == self.farm).values(until=tx.now + ttl_sec)
            tx.connection.execute(change)

        self._store.transact("stay", renew)

    def leave(self, epoch: int) -> None:
        """Give the farm up. One that is lost already is no error."""

        def give(tx: Transaction) -> None:
            mine = (farms.c.name == self.farm) & (farms.c.epoch == epoch)
            tx.connection.execute(sa.update(farms).where(mine).values(until=0.0, holder=""))

        self._store.transact("leave", give)

    def intend(self, epoch: int, boxes: Sequence[tuple[str, int, int]]) -> None:
        """``(pool, slot, generation)`` shall be made: whoever held the place before holds it no more."""

        def write(tx: Transaction) -> None:
            self._fenced(tx, epoch)
            rows = [(self.farm, pool, slot, generation, "", 0, None) for pool, slot, generation in boxes]
            columns = [*_KEY, "generation", "holder", "token", "until"]
            upsert(
                tx.connection, slots, columns, rows, key=_KEY, update=["generation", "holder", "until"],
                where="slots.generation < excluded.generation",
            )  # fmt: skip

        self._store.transact("intend", write)

    def hold(self, epoch: int, holds: Sequence[Hold], ttl_sec: float) -> None:
        """Lease boxes, all or none. Tokens are the caller's and above every earlier one of their place."""

        def write(tx: Transaction) -> None:
            self._fenced(tx, epoch)
            rows = [
                {
                    **self._at(each), "at_generation": each.generation,
                    "new_holder": each.holder, "new_token": each.token,
                }
                for each in holds
            ]  # fmt: skip
            change = (
                sa.update(slots)
                .where(_AT, slots.c.generation == sa.bindparam("at_generation"))
                .values(holder=sa.bindparam("new_holder"), token=sa.bindparam("new_token"), until=tx.now + ttl_sec)
            )
            if tx.connection.execute(change, rows).rowcount != len(rows):
                raise StoreError(
                    "A box to be leased is not the newest of its place.", reason=Reason.lease_lost, phase="hold"
                )

        self._store.transact("hold", write)

    def renew(self, holds: Sequence[Hold], ttl_sec: float) -> list[Hold]:
        """Renew leases, from any process; those that are in force no more."""

        def write(tx: Transaction) -> list[Hold]:
            tx.need_not_last()
            lost: list[Hold] = []
            for each in holds:
                change = sa.update(slots).where(_AT, slots.c.token == each.token, slots.c.holder != "")
                if not tx.connection.execute(change.values(until=tx.now + ttl_sec), self._at(each)).rowcount:
                    lost.append(each)
            return lost

        return self._store.transact("renew", write)

    def free(self, epoch: int, holds: Iterable[Hold]) -> None:
        """Leases are over. Doing it again is no error."""

        def write(tx: Transaction) -> None:
            self._fenced(tx, epoch)
            rows = [self._at(each) | {"old_token": each.token} for each in holds]
            change = sa.update(slots).where(_AT, slots.c.token == sa.bindparam("old_token"))
            if rows:
                tx.connection.execute(change.values(holder="", until=None), rows)

        self._store.transact("free", write)

    def places(self) -> list[Place]:
        """Everything that is known of the farm."""

        return self._store.read(lambda connection: self._select(connection))

    def overdue(self) -> list[Place]:
        """Leases that have run out, by the store's clock."""

        return self._store.read(
            lambda connection: self._select(connection, slots.c.until < Transaction(connection).now)
        )

    def _select(self, connection: Connection, *more: sa.ColumnElement[bool]) -> list[Place]:
        columns = [slots.c[field.name] for field in fields(Place)]
        return [Place(*row) for row in connection.execute(sa.select(*columns).where(slots.c.farm == self.farm, *more))]

    def _at(self, each: Hold) -> dict[str, object]:
        """Parameters of :data:`_AT`."""
        return {"at_farm": self.farm, "at_pool": each.pool, "at_slot": each.slot}

    def _fenced(self, tx: Transaction, epoch: int) -> None:
        found = tx.connection.execute(
            sa.select(farms.c.epoch).where(farms.c.name == self.farm).with_for_update()
        ).scalar()
        if found != epoch:
            raise StoreError(
                f"Farm {self.farm} has another controller by now.", reason=Reason.lease_lost, phase="farm",
                remedy="This one ends; the other goes on.",
            )  # fmt: skip


_AT = (
    (slots.c.farm == sa.bindparam("at_farm"))
    & (slots.c.pool == sa.bindparam("at_pool"))
    & (slots.c.slot == sa.bindparam("at_slot"))
)
