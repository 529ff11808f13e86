"""What the trusted answer shows under the grader's own measures: the line an honest submission is held to.

Computed once for a task, by running its gold patch. A twin that gold does not fail, a canary that a project's plugins
bend, a class that a plugin patches: none of them may count against a submission.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from envfarm.core.base import Noun
from envfarm.core.verdict import RunOutcome, TestStatus

from .canaries import DUE, Kind
from .planting import Plan, Planting, Reading, function_of, read
from .report import RunRecord

CLEAN_ROUNDS = 2
"""Gold runs with equal plants that must agree, one of each order."""
MAX_ROUNDS = 5
_ASSERTION = ("assert", "AssertionError", "Failed", "Regex", "Pattern")
_BROKEN = (TestStatus.failed, TestStatus.error)


class Calibration(Noun):
    """What holds for one task under one grader version."""

    task_digest: str
    grader: str
    sites: dict[str, dict[str, tuple[int, ...]]] = {}
    """Function -> site -> the items (by position) whose twins fail with the gold patch."""
    kinds: tuple[Kind, ...] = ()
    canary_paths: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Parts of the test machinery that the project's own plugins and tests replace."""
    alarms: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    """Tests that pass although an exception was seen, a plugin's doing."""
    items: dict[str, int] = {}
    """Function with twins -> its items."""
    seconds: dict[str, float] = {}
    """Function with twins -> the time its items take, in seconds."""
    suite_sec: float = 0.0
    exit_agrees: bool = True
    """Whether the suite's exit status says whether tests failed."""
    runs: int = 0
    cpu_sec: float = 0.0


@dataclass
class Calibrator:
    """Narrows plants down to those that gold bears out. Pure: the caller runs, this judges."""

    graded: Sequence[str]
    sites: dict[str, dict[str, set[int] | None]]
    """Function -> site -> items that failed in every round so far; None before the first."""
    paths: list[str]
    kinds: list[Kind] = field(default_factory=lambda: list(Kind))
    changed: set[str] = field(default_factory=set)
    alarms: set[str] = field(default_factory=set)
    raised: set[str] = field(default_factory=set)
    exit_agrees: bool = True
    runs: int = 0
    clean: int = 0
    cpu_sec: float = 0.0
    suite_sec: float = 0.0
    items: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def start(cls, graded: Sequence[str], candidates: Mapping[str, Sequence[str]], paths: Sequence[str]) -> Calibrator:
        return cls(graded, {name: dict.fromkeys(keys) for name, keys in candidates.items()}, list(paths))

    @property
    def plan(self) -> Plan:
        """What to plant next: every site that is still in, every kind in every path. A test stands after its twins in
        one round and before them in the next: some tests do not bear their own repetition."""
        sites = {name: tuple(keys) for name, keys in self.sites.items()}
        return Plan(sites, self.kinds * max(1, len(self.paths)), bearer_last=self.runs % 2 == 0)

    @property
    def done(self) -> bool:
        return self.clean >= CLEAN_ROUNDS

    def strip(self) -> None:
        """Give up all plants: the project's tests do not bear them."""
        self.sites, self.kinds, self.paths, self.clean = {}, [], [], 0

    def observe(self, planting: Planting, run: RunRecord) -> None:
        """Take in a gold run."""
        self.runs += 1
        self.cpu_sec += run.report.cpu_sec
        self.suite_sec = run.report.duration_sec
        reading = read(planting, run.report.statuses)
        self.changed |= set(run.changed)
        self.alarms |= set(run.alarms)
        self.raised |= {
            own for reported, own in reading.names.items()
            if reported in run.raised and reading.statuses[own] is TestStatus.passed
        }  # fmt: skip
        broken = any(status in _BROKEN for status in run.report.statuses.values()) or run.report.collection_errors
        if run.report.outcome is not RunOutcome.finished or not run.closed or run.forged:
            self.problem = f"the run {run.report.outcome.replace('_', ' ')}: {run.report.log_tail[-300:]}"
            self.clean = 0
            return
        self.exit_agrees = self.exit_agrees and run.report.exit_code == (1 if broken else 0)
        dropped = self._drop_blamed(planting, reading) | self._drop_sites(planting, reading, run)
        kinds = [
            kind for kind in self.kinds
            if all(reading.canaries[c.id] in DUE[kind] for c in planting.canaries if c.kind is kind)
        ]  # fmt: skip
        dropped |= len(kinds) != len(self.kinds)
        self.kinds = kinds
        self.clean = 0 if dropped else self.clean + 1

    def result(self, task_digest: str, grader: str) -> Calibration:
        return Calibration(
            task_digest=task_digest,
            grader=grader,
            sites={
                name: {key: tuple(sorted(items)) for key, items in sites.items() if items}
                for name, sites in self.sites.items()
                if any(sites.values())
            },
            kinds=tuple(self.kinds),
            canary_paths=tuple(self.paths),
            changed=tuple(sorted(self.changed)),
            alarms=tuple(sorted(self.alarms)),
            raised=tuple(sorted(self.raised)),
            exit_agrees=self.exit_agrees,
            items={name: count for name, count in self.items.items() if any(self.sites.get(name, {}).values())},
            seconds={
                name: round(sec, 4) for name, sec in self.seconds.items() if any(self.sites.get(name, {}).values())
            },
            suite_sec=round(self.suite_sec, 3),
            runs=self.runs,
            cpu_sec=self.cpu_sec,
        )

    def _drop_blamed(self, planting: Planting, reading: Reading) -> bool:
        """Graded tests that do not pass now did in validation: blame the plants of their function, then their file."""
        lost = [test for test in self.graded if reading.statuses.get(test) is not TestStatus.passed]
        dropped = False
        for test in lost:
            path = test.split("::")[0]
            owner = next((name for name in self.sites if test == name or test.startswith(name + "[")), None)
            if owner is not None:
                del self.sites[owner]
            elif path in planting.files:
                self.sites = {name: keys for name, keys in self.sites.items() if not name.startswith(path + "::")}
                self.paths = [other for other in self.paths if other != path]
            dropped = dropped or owner is not None or path in planting.files
        if lost and not dropped:
            self.problem = f"{len(lost)} graded tests do not pass with the gold patch: {', '.join(lost[:3])}"
            self.strip()  # some other file's plants disturb it, if any do
        return bool(lost)

    def _drop_sites(self, planting: Planting, reading: Reading, run: RunRecord) -> bool:
        dropped = False
        for group in planting.groups:
            sites = self.sites.get(group.function)
            if sites is None:
                continue
            width = len(reading.originals[group.function])
            self.items[group.function] = width
            self.seconds[group.function] = sum(
                run.seconds[reported] for reported in reading.names if function_of(reported) == group.bearer
            )
            seen = zip(group.twins, reading.twins[group.function], reading.twin_ids[group.function], strict=True)
            for twin, statuses, ids in seen:
                due = {
                    index for index, status in enumerate(statuses)
                    if status is TestStatus.failed and _told(twin.site, run.report.messages.get(ids[index], ""))
                }  # fmt: skip
                kept = due if sites.get(twin.site) is None else due & (sites[twin.site] or set())
                if len(statuses) != width or not kept:
                    sites.pop(twin.site, None)
                    dropped = True
                else:
                    sites[twin.site] = kept
            if not sites:
                del self.sites[group.function]
        return dropped


def _told(site: str, message: str) -> bool:
    """The twin failed by its assertion: one that cannot even be computed proves nothing."""
    return ":raises" in site or message.startswith(_ASSERTION)
