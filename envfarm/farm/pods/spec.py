"""What a farm is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from envfarm.kube.manifests import BoxShape

from .naming import checked_name

PER_SHARD = 2500
"""Pods of a namespace; Kubernetes is tested up to 3,000."""


class Placing(StrEnum):
    """Who chooses a box's node."""

    scheduler = "scheduler"
    direct = "direct"
    """We do: cheaper for the API server by a third, blind to what only the scheduler knows."""


@dataclass(frozen=True)
class PoolSpec:
    """A pool of equal boxes."""

    name: str
    size: int
    """Boxes kept, leased ones among them."""
    shape: BoxShape
    placing: Placing = Placing.scheduler
    rate: float = 300.0
    """Boxes asked for in a second, at most."""
    burst: float = 500.0
    start_sec: float = 120.0
    """A box that is not ready by then is made anew."""

    def __post_init__(self) -> None:
        checked_name(self.name, "Pool")


@dataclass(frozen=True)
class FarmSpec:
    """A farm. ``shards`` must not change while it has boxes: a box's namespace follows from it."""

    name: str
    pools: tuple[PoolSpec, ...]
    shards: int = 1

    def __post_init__(self) -> None:
        checked_name(self.name, "Farm")

    @classmethod
    def of(cls, name: str, *pools: PoolSpec) -> FarmSpec:
        """With as many shards as its boxes need."""
        return cls(name, pools, max(1, -(-sum(pool.size for pool in pools) // PER_SHARD)))
