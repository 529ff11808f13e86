"""A constraint from a list: what is emitted must be one of some token sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..samples import Support


class Trie:
    """Satisfies :class:`~envfarm_rl.engine.requests.Constraint`.

    Every sequence ends with the request's stop id, so that a leaf is never asked what follows. Raises ``ValueError``
    for no sequence, an empty one, or one that begins another (where it ends could not be seen).
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self.sequences = tuple(dict.fromkeys(tuple(each) for each in sequences))
        """Each once, in the order given."""
        if not self.sequences or () in self.sequences:
            raise ValueError("a trie needs at least one sequence, and none that is empty")
        self._root: dict[int, Any] = {}
        for sequence in self.sequences:
            node = self._root
            for token in sequence:
                node = node.setdefault(token, {})
        for sequence in self.sequences:
            if self._node(sequence):
                raise ValueError(f"{sequence} begins another sequence: end each with a stop id")

    def allowed(self, emitted: Sequence[int]) -> Support:
        """Token ids that may follow, ascending. ``ValueError`` where ``emitted`` is complete or begins no sequence."""
        if not (node := self._node(emitted)):
            raise ValueError(f"nothing follows {tuple(emitted)}: it is complete, and its last token not a stop id")
        return tuple(sorted(node))

    def without(self, sequence: Sequence[int]) -> Trie:
        """A trie of the other sequences. ``ValueError`` where ``sequence`` is not in it, or is the last one."""
        if tuple(sequence) not in self.sequences:
            raise ValueError(f"{tuple(sequence)} is not in the trie")
        return Trie(each for each in self.sequences if each != tuple(sequence))

    def _node(self, emitted: Sequence[int]) -> dict[int, Any]:
        node = self._root
        for place, token in enumerate(emitted):
            if token not in node:
                raise ValueError(f"token {token} at place {place} of {tuple(emitted)} begins no sequence of the trie")
            node = node[token]
        return node
