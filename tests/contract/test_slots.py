"""Places of a farm's boxes, over SQLite and over PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from envfarm.core.errors import Reason, StoreError
from envfarm.store import Store
from envfarm.store.slots import Hold, Slots


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as opened:
        yield opened


def test_a_farm_has_one_controller_at_a_time(store: Store) -> None:
    slots = Slots(store, "farm")
    first, secret = slots.lead("a", 30)
    with pytest.raises(StoreError, match="has a controller already") as caught:
        slots.lead("b", 30)
    assert caught.value.reason is Reason.lease_lost
    slots.leave(first)
    second, same = slots.lead("b", 30)
    assert second > first
    assert same == secret, "tokens of boxes outlive their controller"


def test_a_controller_that_was_replaced_writes_nothing(store: Store) -> None:
    slots = Slots(store, "farm")
    old, _ = slots.lead("a", 0.05)
    time.sleep(0.1)
    new, _ = slots.lead("b", 30)
    for late in (
        lambda: slots.stay(old, 30),
        lambda: slots.intend(old, [("pool", 0, 1)]),
        lambda: slots.hold(old, [Hold("pool", 0, 1, 1, "x")], 30),
        lambda: slots.free(old, [Hold("pool", 0, 1, 1, "x")]),
    ):
        with pytest.raises(StoreError, match="another controller") as caught:
            late()
        assert caught.value.reason is Reason.lease_lost
    slots.leave(old)
    slots.stay(new, 30)
    assert slots.places() == []


def test_generations_only_grow(store: Store) -> None:
    slots = Slots(store, "farm")
    epoch, _ = slots.lead("a", 30)
    slots.intend(epoch, [("pool", n, 1) for n in range(50)])
    slots.intend(epoch, [("pool", 7, 3)])
    slots.intend(epoch, [("pool", 7, 2)])
    found = {place.slot: place.generation for place in slots.places()}
    assert found == {n: 3 if n == 7 else 1 for n in range(50)}


def test_leases_are_held_renewed_freed_and_run_out(store: Store) -> None:
    slots = Slots(store, "farm")
    epoch, _ = slots.lead("a", 30)
    slots.intend(epoch, [("pool", 0, 1), ("pool", 1, 1)])
    one, two = Hold("pool", 0, 1, 1, "me"), Hold("pool", 1, 1, 1, "me")
    slots.hold(epoch, [one], 30)
    slots.hold(epoch, [two], 0.01)
    time.sleep(0.05)
    assert [place.slot for place in slots.overdue()] == [1]
    assert slots.renew([one, two], 30) == []
    assert slots.overdue() == []
    slots.free(epoch, [two])
    slots.free(epoch, [two])
    assert slots.renew([one, two], 30) == [two], "a lease that is over cannot be renewed"
    assert {place.slot: place.holder for place in slots.places()} == {0: "me", 1: ""}


def test_a_group_is_leased_as_a_whole_or_not_at_all(store: Store) -> None:
    slots = Slots(store, "farm")
    epoch, _ = slots.lead("a", 30)
    slots.intend(epoch, [("pool", 0, 1), ("pool", 1, 2)])
    group = [Hold("pool", 0, 1, 1, "me"), Hold("pool", 1, 1, 1, "me")]  # the second is of an older box
    with pytest.raises(StoreError, match="not the newest"):
        slots.hold(epoch, group, 30)
    assert [place.holder for place in slots.places()] == ["", ""]


def test_a_new_box_of_a_place_is_nobodys(store: Store) -> None:
    slots = Slots(store, "farm")
    epoch, _ = slots.lead("a", 30)
    slots.intend(epoch, [("pool", 0, 1)])
    old = Hold("pool", 0, 1, 1, "me")
    slots.hold(epoch, [old], 30)
    slots.intend(epoch, [("pool", 0, 2)])
    assert slots.renew([old], 30) == [old]
    (place,) = slots.places()
    assert (place.generation, place.holder) == (2, "")
    assert place.token == 1, "tokens of a place grow for good"
