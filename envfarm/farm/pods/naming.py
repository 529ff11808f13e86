"""Names that follow from what is meant: a Pod's name says its pool, its place and which box of that place it is."""

from __future__ import annotations

import re

from envfarm.core.errors import ConfigError, Reason

_PLAIN = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


def checked_name(name: str, what: str) -> str:
    """``name`` where it can stand in the names of Pods and namespaces. Raises ``ConfigError``."""
    if not _PLAIN.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used as a name.", reason=Reason.config, phase="farm",
            remedy="Use 1 to 40 lower-case letters, digits and dashes, letters or digits at both ends.",
        )  # fmt: skip
    return name


def pod_name(pool: str, slot: int, generation: int) -> str:
    """Of the box that is the ``generation``-th of its place."""
    return f"{pool}-{slot}-{generation}"


def parse_pod_name(name: str) -> tuple[str, int, int] | None:
    """Pool, place and generation; None where the name is not one of ours."""
    pool, slot, generation = [*name.rsplit("-", 2), "", ""][:3]
    return (pool, int(slot), int(generation)) if slot.isdecimal() and generation.isdecimal() else None


def shard(farm: str, slot: int, shards: int) -> str:
    """The namespace of a place."""
    return f"{farm}-{slot % shards}"
