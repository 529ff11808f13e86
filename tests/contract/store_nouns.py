"""Nouns for tests of the store, filled in by rule."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from envfarm.core.environment import Environment, InstallMode, Layer, Recipe, Step
from envfarm.core.errors import FailureRecord, Reason, Tier
from envfarm.core.ports import StageOutcome
from envfarm.core.rollout import Role, Rollout, StopReason, Submission, Turn
from envfarm.core.source import Candidate, FileChange, Issue, IssueKind
from envfarm.core.task import Statement, Task, TaskKind
from envfarm.core.verdict import Outcome, RunOutcome, TestReport, TestStatus, Transition, Validation, Verdict
from envfarm.core.work import StageResult, Work

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DONE = StageResult(outcome=StageOutcome.done, wall_sec=1.5, cpu_sec=0.5, bytes_written=10)
FAILURE = FailureRecord(
    boundary="builder", phase="install", reason=Reason.install_failed, tier=Tier.task, message="pip said no"
)


def work(key: str, **fields: Any) -> Work:
    values: dict[str, Any] = {"run": "r", "stage": "build", "source": "pypi", "repo": "jinja2"}
    return Work(**values | fields, key=key)


def candidate(key: str, **fields: Any) -> Candidate:
    values: dict[str, Any] = {
        "repo": "git:/src/jinja", "repo_name": "jinja2", "base_commit": "b" * 40, "fix_commit": "f" * 40,
        "created_at": WHEN, "issue": Issue(kind=IssueKind.changelog, title="Fix it", body="It broke: ümlaut, \0, 🐍"),
        "changes": (FileChange(path="src/a.py", added=3, deleted=1),), "source_files": ("src/a.py",),
        "test_files": ("tests/test_a.py",),
    }  # fmt: skip
    return Candidate(**values | fields, id=f"pallets__jinja-{key}")


def task(key: str, **fields: Any) -> Task:
    values: dict[str, Any] = {
        "kind": TaskKind.release, "repo": "git:/src/jinja", "repo_name": "jinja2", "base_commit": "b" * 40,
        "created_at": WHEN, "statement": Statement(text="It broke", source=IssueKind.changelog),
        "tree": digest("1"), "tests": digest("2"), "gold_patch": digest("3"), "source_paths": ("src/",),
        "test_files": ("tests/test_a.py",), "fail_to_pass": ("tests/test_a.py::test_x[a b]",),
    }  # fmt: skip
    return Task(**values | fields, id=f"pallets__jinja-{key}")


def recipe() -> Recipe:
    step = Step(name="install", argv=("pip", "install", "."))
    return Recipe(toolchain="3.11", install_mode=InstallMode.editable, install=(step,), cutoff=WHEN)


def environment(**fields: Any) -> Environment:
    values: dict[str, Any] = {
        "recipe_digest": recipe().digest, "toolchain": "3.11", "layers": (Layer(source="env/1", target="/env"),),
        "packages": ("markupsafe==2.1",), "repo_name": "jinja2", "built_at": WHEN,
    }  # fmt: skip
    return Environment(**values | fields)


def report(tests: int) -> TestReport:
    names = [f"tests/test_{n % 100}.py::test_some_longer_name[{n}]" for n in range(tests)]
    coverage = {"src/a.py": {1: (names[0],)}} if names else {}
    return TestReport(
        outcome=RunOutcome.finished, statuses=dict.fromkeys(names, TestStatus.passed), exit_code=0, coverage=coverage
    )  # fmt: skip


def validation(tests: int = 3) -> Validation:
    reports = (report(tests), report(tests))
    moved = dict.fromkeys(reports[0].statuses, Transition.p2p)
    return Validation(
        task_id="pallets__jinja-1", environment_digest=digest("e"), valid=True, base=reports, before=reports,
        after=reports, transitions=moved, validated_at=WHEN,
    )  # fmt: skip


def verdict(outcome: Outcome, **fields: Any) -> Verdict:
    values: dict[str, Any] = {
        "task_id": "pallets__jinja-1", "task_digest": digest("a"), "submission_digest": digest("b"),
        "grader": "pytest-1", "evidence": {"missing": [], "exit": 0}, "report": report(2), "graded_at": WHEN,
    }  # fmt: skip
    return Verdict(**values | fields, outcome=outcome)


def rollout(key: str, **fields: Any) -> Rollout:
    turn = Turn(role=Role.assistant, text="sed -i", token_ids=(1, 2), logprobs=(-0.5, -1.25), policy_version=3)
    values: dict[str, Any] = {
        "task_id": "pallets__jinja-1", "task_digest": digest("a"), "policy": "scripted", "turns": (turn,) * 5,
        "submission": Submission(task_id="pallets__jinja-1", task_digest=digest("a"), patch="diff\r\n"),
        "stop": StopReason.finished, "started_at": WHEN,
    }  # fmt: skip
    return Rollout(**values | fields, id=key)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64
