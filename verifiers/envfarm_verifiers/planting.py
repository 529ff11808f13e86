"""Puts twins and canaries into trusted test files, and reads a run's ids back.

A test and its twins stand side by side and take names by lot, the test's own among them: neither a name, nor a place,
nor the form of an assertion says which of them counts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from envfarm.core.verdict import TestStatus

from .canaries import Kind, word_source, write
from .sites import Function, Mode, Module, Site, read_module

GUESS_ODDS = 64
"""A subject that picks a test from among its twins by lot should win at most once in so many tries."""
MAX_TWINS = 15
ITEM_BUDGET = 400
"""Most twin items (parameter sets counted) in one run."""


@dataclass(frozen=True)
class Twin:
    """A planted twin, by qualified name."""

    name: str
    site: str


@dataclass(frozen=True)
class Group:
    """A graded test function and its twins. ``bearer`` is the name it runs under this time."""

    path: str
    function: str
    bearer: str
    twins: tuple[Twin, ...]


@dataclass(frozen=True)
class Canary:
    """A planted canary."""

    id: str
    kind: Kind


@dataclass(frozen=True)
class Planting:
    """What was put in. ``files``: path -> new content."""

    files: dict[str, bytes] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    canaries: tuple[Canary, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What may be planted: for each function (``path::qualname``) the sites to use, and the canary kinds."""

    sites: Mapping[str, Sequence[str]]
    kinds: Sequence[Kind]
    twins: Mapping[str, int] | None = None
    """Function -> its number of twins; one for each of its sites when None."""
    bearer_last: bool | None = None
    """Where a test stands among its twins: after all of them, before them, or by lot when None."""


def function_of(test: str) -> str:
    """``path::Class::name[param]`` -> ``path::Class::name``."""
    path, mark, rest = test.partition("::")
    return path + mark + rest.split("[", 1)[0]


def items_by_function(tests: Iterable[str]) -> dict[str, list[str]]:
    """Function -> its ids, in the order given."""
    found: dict[str, list[str]] = {}
    for test in tests:
        found.setdefault(function_of(test), []).append(test)
    return found


def candidates(files: Mapping[str, bytes], tests: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every function of ``tests`` that can have twins -> keys of its sites, within the budget, cheapest first."""
    modules: dict[str, Module | None] = {}
    found: dict[str, tuple[str, ...]] = {}
    left = ITEM_BUDGET
    for name, ids in sorted(items_by_function(tests).items(), key=lambda entry: (len(entry[1]), entry[0])):
        path, _, qualname = name.partition("::")
        if path not in modules:
            modules[path] = read_module(files[path]) if path in files else None
        module = modules[path]
        function = module.functions.get(qualname) if module else None
        if function is None or not function.sites:
            continue
        keys = tuple(site.key for site in function.sites)[: max(1, left // len(ids))]
        left -= len(keys) * len(ids)
        if left < 0:
            break
        found[name] = keys
    return found


def twin_counts(items: Mapping[str, int], seconds: Mapping[str, float], spare_sec: float) -> dict[str, int]:
    """Function -> number of twins: what keeps the odds of a blind guess at :data:`GUESS_ODDS` to one, and at least
    one, within the budgets of items and of time. ``items`` and ``seconds``: of each function's own run."""
    if not items:
        return {}
    ideal = min(MAX_TWINS, max(1, math.ceil(GUESS_ODDS ** (1 / len(items))) - 1))
    counts: dict[str, int] = {}
    left_items, left_sec = ITEM_BUDGET, spare_sec
    waiting = len(items)
    for name in sorted(items, key=lambda name: (items[name], name)):
        width, cost = max(1, items[name]), max(0.001, seconds.get(name, 0.0))
        # Each function may take its share of what is left; cheap ones come first and leave the rest to the others.
        affordable = min(left_items / waiting / width, left_sec / waiting / cost)
        counts[name] = min(ideal, max(1, int(affordable)))
        left_items -= counts[name] * width
        left_sec -= counts[name] * cost
        waiting -= 1
    return counts


def plant(files: Mapping[str, bytes], plan: Plan, canary_paths: Sequence[str], rng: Random) -> Planting:
    """Plant into copies of ``files``. Files that are no Python, or would no longer be, stay as they are."""
    wanted: dict[str, list[str]] = {}
    for name in plan.sites:
        path, _, qualname = name.partition("::")
        wanted.setdefault(path, []).append(qualname)
    kinds: dict[str, list[Kind]] = {}
    if canary_paths:
        for index, kind in enumerate(rng.sample(list(plan.kinds), len(plan.kinds))):
            kinds.setdefault(canary_paths[index % len(canary_paths)], []).append(kind)
    changed: dict[str, bytes] = {}
    groups: list[Group] = []
    canaries: list[Canary] = []
    for path in sorted({*wanted, *kinds}):
        module = read_module(files[path]) if path in files else None
        if module is None:
            continue
        planter = _Planter(path, module, rng, plan.bearer_last)
        for qualname in wanted.get(path, []):
            name = f"{path}::{qualname}"
            planter.twin(
                module.functions[qualname], plan.sites[name], None if plan.twins is None else plan.twins.get(name, 1)
            )
        for kind in kinds.get(path, []):
            planter.canary(kind)
        source = planter.source()
        if not _is_python(source):
            continue
        changed[path] = source
        groups += planter.groups
        canaries += planter.canaries
    return Planting(changed, tuple(groups), tuple(canaries))


def _is_python(source: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(source, "planted", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


class _Planter:
    """Edits of one file."""

    def __init__(self, path: str, module: Module, rng: Random, bearer_last: bool | None) -> None:
        self._path, self._module, self._rng, self._bearer_last = path, module, rng, bearer_last
        self._fresh = word_source(module.names, rng)
        self._edits: list[tuple[int, int, bytes]] = []
        self.groups: list[Group] = []
        self.canaries: list[Canary] = []

    def twin(self, function: Function, keys: Sequence[str], count: int | None) -> None:
        sites = [site for site in function.sites if site.key in keys]
        chosen: list[tuple[Site, str]] = []
        if count is None:
            chosen = [(site, text) for site in sites for text in site.variants(1, self._rng)]
        elif sites:
            # One place for all twins: a test that differs from each of its twins elsewhere would stand out.
            best = min(list(Mode).index(site.mode) for site in sites)
            site = self._rng.choice([site for site in sites if list(Mode).index(site.mode) == best])
            chosen = [(site, text) for text in site.variants(count, self._rng)]
        if not chosen:
            return
        lead = function.name.split("_")[0] + "_" if "_" in function.name else "test_"
        names = [function.name, *(lead + self._fresh() for _ in chosen)]
        self._rng.shuffle(names)
        members = [(names[0], self._copy(function, names[0], None, ""))]
        members += [
            (name, self._copy(function, name, site, text)) for name, (site, text) in zip(names[1:], chosen, strict=True)
        ]
        texts = [text for _, text in members]
        if self._bearer_last is None:
            self._rng.shuffle(texts)
        elif self._bearer_last:
            texts.append(texts.pop(0))
        self._edits.append((function.start, function.end, b"\n\n".join(texts)))
        prefix = function.qualname[: len(function.qualname) - len(function.name)]
        self.groups.append(
            Group(
                self._path,
                f"{self._path}::{function.qualname}",
                f"{self._path}::{prefix}{names[0]}",
                tuple(
                    Twin(f"{self._path}::{prefix}{name}", site.key)
                    for name, (site, _) in zip(names[1:], chosen, strict=True)
                ),
            )
        )

    def canary(self, kind: Kind) -> None:
        source, name = write(kind, "test_" + self._fresh(), self._rng, self._fresh)
        gaps = self._module.gaps or [len(self._module.source)]
        at = self._rng.choice(gaps)
        self._edits.append((at, at, b"\n\n" + source.encode() + b"\n\n"))
        self.canaries.append(Canary(f"{self._path}::{name}", kind))

    def source(self) -> bytes:
        data = self._module.source
        if not data.endswith(b"\n"):
            data += b"\n"
        # From the end; at one offset a replacement comes before an insertion, which then lands after it.
        for start, end, text in sorted(self._edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
            data = data[:start] + text + data[end:]
        return data

    def _copy(self, function: Function, name: str, site: Site | None, text: str) -> bytes:
        edits = [(function.name_at, function.name_at + len(function.name.encode()), name)]
        if site is not None:
            edits.append((site.start, site.end, text))
        data = self._module.source[: function.end]
        for start, end, new in sorted(edits, reverse=True):
            data = data[:start] + new.encode() + data[end:]
        data = data[function.start :]
        return data if data.endswith(b"\n") else data + b"\n"


@dataclass(frozen=True)
class Reading:
    """A run's statuses with the plants taken out: ids of the tests themselves, under their own names."""

    statuses: dict[str, TestStatus]
    names: dict[str, str]
    """Id as reported -> id as it is known, for tests only."""
    twins: dict[str, list[list[TestStatus]]]
    """Function -> for each of its twins, in the group's order, its items' statuses."""
    twin_ids: dict[str, list[list[str]]]
    originals: dict[str, list[str]]
    """Function -> known ids of its items, in order."""
    canaries: dict[str, TestStatus | None]


def read(planting: Planting, statuses: Mapping[str, TestStatus]) -> Reading:
    """Undo the planting on a report."""
    by_function = items_by_function(statuses)
    bearers = {group.bearer: group.function for group in planting.groups}
    twins = {twin.name for group in planting.groups for twin in group.twins}
    canary_ids = {canary.id for canary in planting.canaries}
    known: dict[str, str] = {}
    for name, ids in by_function.items():
        if name in twins:
            continue
        function = bearers.get(name, name)
        known |= {test: function + test[len(name) :] for test in ids if test not in canary_ids}
    return Reading(
        statuses={own: statuses[test] for test, own in known.items()},
        names=known,
        twins={
            group.function: [[statuses[test] for test in by_function.get(twin.name, [])] for twin in group.twins]
            for group in planting.groups
        },
        twin_ids={
            group.function: [by_function.get(twin.name, []) for twin in group.twins] for group in planting.groups
        },
        originals={
            group.function: [known[test] for test in by_function.get(group.bearer, [])] for group in planting.groups
        },
        canaries={canary.id: statuses.get(canary.id) for canary in planting.canaries},
    )
