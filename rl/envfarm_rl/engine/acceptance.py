"""How many drafts were accepted: counts that add up, and the rates that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Acceptance:
    """Counts over verifications, one for each sequence of each step. Depth 1 is the first draft (index 0)."""

    def __init__(self, max_draft: int) -> None:
        self.verifications = 0
        self.emitted = 0
        self.offered = [0] * max_draft
        """Verifications that had a draft at that depth."""
        self.reached = [0] * max_draft
        """Of those, the ones in which all drafts before it were accepted."""
        self.kept = [0] * max_draft
        """Of those, the ones in which it was accepted too."""

    def count(self, drafted: Tensor, accepted: Tensor) -> None:
        """Take in ``drafted`` and ``accepted`` [B]: a verification emits its accepted drafts and one token more, or,
        where it ended the request within its drafts, only those (then ``drafted`` is what was emitted)."""
        side = len(self.offered) + 1
        table = (drafted * side + accepted).bincount(minlength=side * side).tolist()
        for code, times in enumerate(table):
            if times:
                self._add(*divmod(code, side), times)

    def _add(self, drafted: int, accepted: int, times: int) -> None:
        self.verifications += times
        for depth in range(drafted):
            self.offered[depth] += times
            self.reached[depth] += times * (accepted >= depth)
            self.kept[depth] += times * (accepted > depth)

    def merge(self, other: Acceptance) -> None:
        """Add the counts of another engine, or of another time, with as many depths."""
        self.verifications += other.verifications
        self.emitted += other.emitted
        for mine, theirs in (
            (self.offered, other.offered), (self.reached, other.reached), (self.kept, other.kept),
        ):  # fmt: skip
            for depth, times in enumerate(theirs):
                mine[depth] += times

    @property
    def accepted_length(self) -> float:
        """Tokens emitted for each verification, weighted by token: 1.0 is what an engine without drafts has."""
        return self.emitted / self.verifications if self.verifications else 0.0

    @property
    def survival(self) -> tuple[float, ...]:
        """For each depth the share of its drafts that were accepted, refusals further up counted as its own."""
        return _ratios(self.kept, self.offered)

    @property
    def conditional(self) -> tuple[float, ...]:
        """For each depth the share of its drafts that were accepted where all before were."""
        return _ratios(self.kept, self.reached)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for :meth:`load_state_dict`."""
        return {
            "verifications": self.verifications,
            "emitted": self.emitted,
            "offered": [*self.offered],
            "reached": [*self.reached],
            "kept": [*self.kept],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from another's counts."""
        self.verifications, self.emitted = state["verifications"], state["emitted"]
        self.offered, self.reached, self.kept = [*state["offered"]], [*state["reached"]], [*state["kept"]]


def _ratios(parts: Sequence[int], wholes: Sequence[int]) -> tuple[float, ...]:
    return tuple(part / whole if whole else 0.0 for part, whole in zip(parts, wholes, strict=True))
