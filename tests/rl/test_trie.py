"""A trie allows exactly its sequences."""

from __future__ import annotations

import time

import pytest
from envfarm_rl.engine.requests import Constraint
from envfarm_rl.text.trie import Trie
from hypothesis import given
from hypothesis import strategies as st

STOP = 99
SEQUENCES = st.sets(st.lists(st.integers(0, 3), max_size=5).map(lambda body: (*body, STOP)), min_size=1, max_size=12)


def language(constraint: Constraint) -> set[tuple[int, ...]]:
    """All that may be emitted up to the stop id."""
    found: set[tuple[int, ...]] = set()
    open_: list[tuple[int, ...]] = [()]
    while open_:
        prefix = open_.pop()
        allowed = constraint.allowed(prefix)
        assert allowed and list(allowed) == sorted(set(allowed))
        for token in allowed:
            (found.add if token == STOP else open_.append)((*prefix, token))
    return found


@given(SEQUENCES)
def test_what_may_be_emitted_is_the_list(sequences: set[tuple[int, ...]]) -> None:
    trie = Trie(sequences)
    assert language(trie) == sequences
    for gone in sequences if len(sequences) > 1 else ():
        assert language(trie.without(gone)) == sequences - {gone}
    assert language(trie) == sequences, "without made a new trie"


def test_what_is_off_the_trie_or_complete_is_refused() -> None:
    trie = Trie([(1, 2, STOP), (1, 3, STOP), (1, 2, STOP)])
    assert trie.allowed(()) == (1,) and trie.allowed([1]) == (2, 3)
    with pytest.raises(ValueError, match="token 4 at place 1"):
        trie.allowed((1, 4))
    with pytest.raises(ValueError, match="complete"):
        trie.allowed((1, 2, STOP))
    with pytest.raises(ValueError, match="token 7 at place 3"):
        trie.allowed((1, 2, STOP, 7))


@pytest.mark.parametrize("sequences", [[], [()], [(1,), (1, 2)], [(1, 2), (1,)]])
def test_lists_that_cannot_be_told_apart_are_refused(sequences: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"at least one|begins another"):
        Trie(sequences)


def test_without_refuses_strangers_and_the_last() -> None:
    trie = Trie([(1, STOP)])
    with pytest.raises(ValueError, match="not in the trie"):
        trie.without((2, STOP))
    with pytest.raises(ValueError, match="at least one"):
        trie.without((1, STOP))


def test_a_hundred_edits_are_rebuilt_in_milliseconds() -> None:
    trie = Trie([(7,) * 30 + tuple(divmod(n, 10)) + (5,) * 8 + (STOP,) for n in range(100)])
    started = time.perf_counter()
    for sequence in trie.sequences[:20]:
        trie = trie.without(sequence)
    assert len(trie.sequences) == 80
    assert (time.perf_counter() - started) / 20 < 0.05, "seconds each; about 0.001 is usual"
