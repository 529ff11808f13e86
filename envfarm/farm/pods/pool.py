"""A pool: so many places for equal boxes. Pure state; the controller drives it, the cluster's events change it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from envfarm.kube.slim import Pod

from .limits import Breaker, Bucket


class Phase(StrEnum):
    """Where a place stands. It has never more than one box: the next is not asked for until the last is gone."""

    empty = "empty"
    asked = "asked"
    """Its box is meant to be, and may or may not be there yet."""
    starting = "starting"
    """The cluster has it."""
    ready = "ready"
    held = "held"
    leaving = "leaving"
    """Its end was asked for, or has begun by itself."""


@dataclass(slots=True)
class Slot:
    """A place."""

    index: int
    namespace: str
    phase: Phase = Phase.empty
    generation: int = 0
    token: int = 0
    """Of the newest lease."""
    node: str = ""
    address: str = ""
    asked_at: float = 0.0
    unschedulable: bool = False


@dataclass
class Pool:
    """``slots`` has the declared size; what is beyond ``declared`` after a shrink drains."""

    name: str
    declared: int
    bucket: Bucket
    slots: list[Slot]
    breaker: Breaker = field(default_factory=Breaker)
    counts: dict[Phase, int] = field(default_factory=lambda: dict.fromkeys(Phase, 0))
    unschedulable: int = 0
    """Boxes that wait for room in the cluster."""
    _empty: deque[int] = field(default_factory=deque[int])
    _ready: deque[int] = field(default_factory=deque[int])

    def __post_init__(self) -> None:
        for slot in self.slots:
            self.counts[slot.phase] += 1
            self._queue(slot)

    def move(self, slot: Slot, phase: Phase) -> None:
        """Change a place's phase, and the counts with it."""
        if slot.phase is phase:
            return
        self.counts[slot.phase] -= 1
        self.counts[phase] += 1
        slot.phase = phase
        if slot.unschedulable and phase is not Phase.starting:
            self.unschedulable -= 1
            slot.unschedulable = False
        self._queue(slot)

    def _queue(self, slot: Slot) -> None:
        if slot.phase is Phase.empty:
            self._empty.append(slot.index)
        elif slot.phase is Phase.ready:
            self._ready.append(slot.index)

    def waits_for_room(self, slot: Slot, waits: bool) -> None:
        """Whether the scheduler found no place for a starting box."""
        if slot.unschedulable != waits and slot.phase is Phase.starting:
            slot.unschedulable = waits
            self.unschedulable += 1 if waits else -1

    def to_fill(self, now: float) -> list[Slot]:
        """Places whose boxes are to be asked for now. A box that waits for room holds the others back: they would wait
        too."""
        if self.unschedulable:
            return []
        wanted = self.breaker.allowed(self.counts[Phase.empty], now)
        given = self.bucket.take(wanted, now) if wanted else 0
        found: list[Slot] = []
        while len(found) < given and self._empty:
            slot = self.slots[self._empty.popleft()]
            if slot.phase is Phase.empty and slot.index < self.declared:
                found.append(slot)
        return found

    def take_ready(self, count: int) -> list[Slot]:
        """``count`` ready places, oldest first, or none. They stay ready until moved."""
        found: dict[int, Slot] = {}  # a place that was lost and made again stands in the queue twice
        while len(found) < count and self._ready:
            slot = self.slots[self._ready.popleft()]
            if slot.phase is Phase.ready:
                found.setdefault(slot.index, slot)
        if len(found) < count:
            self._ready.extendleft(reversed(found))
            return []
        return list(found.values())

    @property
    def boxes(self) -> int:
        """Places that are not empty: never more than :attr:`slots`."""
        return len(self.slots) - self.counts[Phase.empty]


def is_unschedulable(pod: Pod) -> bool:
    """The scheduler has tried and found no room."""
    return any(
        each.type == "PodScheduled" and each.status == "False" and each.reason == "Unschedulable"
        for each in pod.status.conditions or ()
    )


def image_failure(pod: Pod) -> str:
    """Why the node cannot get an image, where it cannot."""
    for each in (*(pod.status.initContainerStatuses or ()), *(pod.status.containerStatuses or ())):
        waiting = each.state.waiting if each.state else None
        if waiting and waiting.reason in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
            return waiting.message or waiting.reason
    return ""
