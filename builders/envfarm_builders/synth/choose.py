"""Which mutants are worth a run: lines that a few tests reach, spread over operators, files and functions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envfarm.core.archive import File
from envfarm.core.errors import BuilderError
from envfarm_builders.split import is_test_path, is_version_file, within

from .baseline import Baseline
from .edits import Edit, is_valid, parse_units, unit_edits
from .operators import Operator
from .unit import Unit


@dataclass(frozen=True, slots=True)
class ChoiceLimits:
    """What a proposal must satisfy before anything is run."""

    min_tests: int = 2
    max_tests: int = 80
    """Passing tests that reach the line. All of them run at the gate, so that its list of failures is complete."""
    max_share: float = 0.6
    """Of the suite: a line that nearly every test reaches breaks everything at once ..."""
    small_suite: int = 12
    """... unless it is no more than this many tests."""
    min_lines: int = 4
    max_lines: int = 60
    """Functions of this length come first."""
    per_function: int = 4
    """Proposals of one function."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A mutant that may become a task."""

    path: str
    edit: Edit
    tests: tuple[str, ...]
    """Stable tests that reach the edited line, sorted."""

    @property
    def function(self) -> tuple[str, str, int]:
        """Identity of the mutated function."""
        return self.path, self.edit.function, self.edit.function_line


@dataclass(slots=True)
class _Candidate:
    proposal: Proposal
    unit: Unit
    preferred: bool


class Chooser:
    """An ordered stream of proposals, the same for the same seed and the same answers.

    ``next`` gives the next proposal, or None; ``accept`` tells it that one became a task, so that operators are
    balanced by what they yield rather than by how often they are tried.
    """

    def __init__(
        self, sources: Mapping[str, str], baseline: Baseline, *, seed: int, limits: ChoiceLimits | None = None
    ) -> None:
        self._limits = limits or ChoiceLimits()
        rng = random.Random(seed)
        pools: dict[Operator, list[_Candidate]] = {}
        for candidate in _candidates(sources, baseline, self._limits, rng):
            pools.setdefault(candidate.proposal.edit.operator, []).append(candidate)
        self._pools = {operator: pools[operator] for operator in Operator if operator in pools}
        self._tried: Counter[Operator] = Counter()
        self._accepted: Counter[Operator] = Counter()
        self._functions: Counter[tuple[str, str, int]] = Counter()
        self._files: Counter[str] = Counter()

    def next(self) -> Proposal | None:
        """The next valid proposal; None when there is none left."""
        while self._pools:
            operator = min(self._pools, key=lambda name: self._accepted[name] + 0.25 * self._tried[name])
            candidate = self._take(operator)
            if candidate is None:
                del self._pools[operator]
            elif is_valid(candidate.unit, candidate.proposal.edit):
                self._tried[operator] += 1
                self._functions[candidate.proposal.function] += 1
                self._files[candidate.proposal.path] += 1
                return candidate.proposal
        return None

    def accept(self, proposal: Proposal) -> None:
        """Count a proposal that passed its gate."""
        self._accepted[proposal.edit.operator] += 1

    def _take(self, operator: Operator) -> _Candidate | None:
        pool = [
            candidate
            for candidate in self._pools[operator]
            if self._functions[candidate.proposal.function] < self._limits.per_function
        ]
        if not pool:
            return None
        chosen = min(pool, key=self._rank)  # the first of equals: pools are shuffled
        pool.remove(chosen)
        self._pools[operator] = pool
        return chosen

    def _rank(self, candidate: _Candidate) -> tuple[bool, int, int]:
        proposal = candidate.proposal
        return not candidate.preferred, self._functions[proposal.function], self._files[proposal.path]


def python_sources(files: Mapping[str, File], source_paths: Sequence[str]) -> dict[str, str]:
    """The product's own Python files: below ``source_paths``, no tests, no version files, UTF-8 only."""
    sources = {}
    for path in sorted(files):
        product = path.endswith(".py") and within(path, source_paths)
        if product and not is_test_path(path) and not is_version_file(path) and files[path].link is None:
            try:
                sources[path] = files[path].data.decode("utf-8")
            except UnicodeDecodeError:
                continue  # an answer is a text patch: files in other encodings cannot carry one
    return sources


def covering_tests(edit: Edit, unit: Unit, lines: Mapping[int, tuple[str, ...]]) -> tuple[str, ...]:
    """Tests that run the edited code. A default is read at import, so there it is whoever calls the function."""
    if edit.operator is Operator.default:
        return tuple(sorted({test for line in unit.body_lines for test in lines.get(line, ())}))
    return lines.get(edit.line) or lines.get(edit.statement_line) or ()


def _candidates(
    sources: Mapping[str, str], baseline: Baseline, limits: ChoiceLimits, rng: random.Random
) -> list[_Candidate]:
    most = min(limits.max_tests, max(limits.small_suite, int(limits.max_share * len(baseline.passing))))
    found: list[_Candidate] = []
    for path in sorted(sources):
        lines = baseline.coverage.get(path, {})
        if not lines:
            continue
        try:
            units = parse_units(sources[path])
        except BuilderError:
            continue  # for a newer Python than this one, or a template: not ours to mutate
        for unit in units:
            preferred = limits.min_lines <= unit.length <= limits.max_lines
            if not any(line in lines for line in unit.body_lines):
                continue
            for edit in unit_edits(unit):
                tests = covering_tests(edit, unit, lines)
                if limits.min_tests <= len(tests) <= most and not edit.may_hang:
                    found.append(_Candidate(Proposal(path, edit, tests), unit, preferred))
    rng.shuffle(found)
    distinct: dict[tuple[object, ...], _Candidate] = {}
    for candidate in found:
        edit = candidate.proposal.edit
        distinct.setdefault((candidate.proposal.function, edit.operator, edit.line), candidate)
    return list(distinct.values())
