"""Tests of our own that look like any other: some must fail, some must pass, one cannot set up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from random import Random

from envfarm.core.verdict import TestStatus

_WORDS = (
    "empty", "nested", "default", "simple", "round", "trip", "order", "unicode", "missing", "extra", "value",
    "values", "single", "multiple", "invalid", "keeps", "ignores", "case", "copy", "merge", "repeat", "bounds",
    "limit", "first", "last", "mixed", "plain", "long", "short", "options", "name", "path", "text", "number", "state",
    "restores", "returns", "accepts", "handles", "preserves", "updates", "basic", "edge", "zero", "negative",
)  # fmt: skip


class Kind(StrEnum):
    """What a canary shows when it does not end as it must."""

    fails_assert = "fails_assert"
    fails_raises = "fails_raises"
    fails_unittest = "fails_unittest"
    errors_fixture = "errors_fixture"
    passes = "passes"


_BROKEN = frozenset({TestStatus.failed, TestStatus.error})
DUE: dict[Kind, frozenset[TestStatus]] = {kind: _BROKEN for kind in Kind} | {
    Kind.passes: frozenset({TestStatus.passed})
}
"""The statuses each kind may end with. A broken shared fixture makes an error of any test, so both count as failing."""


def write(kind: Kind, name: str, rng: Random, fresh: Callable[[], str]) -> tuple[str, str]:
    """Source of a top-level test and its id within the file. ``name``: of the test; ``fresh``: gives more names."""
    values = rng.sample(range(1, 90), rng.randint(3, 5))
    match kind:
        case Kind.fails_assert | Kind.passes:
            right = sorted(values)
            shown = right if kind is Kind.passes else [*right[:-1], right[-1] + rng.randint(1, 9)]
            return f"def {name}():\n    values = {values}\n    assert sorted(values) == {shown}\n", name
        case Kind.fails_raises:
            key, other = rng.sample(_WORDS, 2)
            return (
                "import pytest\n\n\n"
                f"def {name}():\n    options = {{{key!r}: {values[0]}, {other!r}: {values[1]}}}\n"
                f"    with pytest.raises(KeyError):\n        options[{key!r}]\n",
                name,
            )
        case Kind.fails_unittest:
            group = "Test" + "".join(word.title() for word in fresh().split("_"))
            method = "test_" + fresh()
            wrong = sum(values) + rng.randint(1, 9)
            return (
                "import unittest\n\n\n"
                f"class {group}(unittest.TestCase):\n    def {method}(self):\n"
                f"        self.assertEqual(sum({values}), {wrong})\n",
                f"{group}::{method}",
            )
        case Kind.errors_fixture:
            fixture = fresh()
            return (
                f"import pytest\n\n\n@pytest.fixture\ndef {fixture}():\n    return {values}[{len(values) + 3}]\n\n\n"
                f"def {name}({fixture}):\n    assert {fixture}\n",
                name,
            )


def word_source(taken: Iterable[str], rng: Random) -> Callable[[], str]:
    """Gives names of two to three words, each once, such that neither a name nor one that ends in it is in ``taken``:
    callers put ``test_`` or the like before it, or make a class's name of it. Words of the names taken are used too."""
    used = {tail for name in taken for form in (name, _snake(name)) for tail in _tails(form)}
    words = sorted({word for name in used for word in name.lower().split("_") if word.isalpha() and len(word) > 2})
    pool = [word for word in words if word not in ("test", "tests")] + list(_WORDS)

    def fresh() -> str:
        while True:
            name = "_".join(rng.sample(pool, rng.randint(2, 3)))
            if name not in used and name.isidentifier():
                used.add(name)
                return name

    return fresh


def _snake(name: str) -> str:
    """``TestEmptyName`` -> ``test_empty_name``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _tails(name: str) -> Iterator[str]:
    """``test_a_b`` -> ``test_a_b``, ``a_b``, ``b``."""
    while name:
        yield name
        name = name.partition("_")[2]
