"""A store with a run in it, written as workers write it: through the queue and in its transactions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from envfarm.core.environment import Environment, InstallMode, Layer, Recipe, Step, TestCommand
from envfarm.core.errors import FailureRecord, Reason, Tier
from envfarm.core.ports import BlobStore, StageOutcome
from envfarm.core.rollout import Role, Rollout, StopReason, Submission, ToolCall, Turn
from envfarm.core.source import Candidate, FileChange, Issue, IssueKind
from envfarm.core.task import Mutation, Statement, Task, TaskKind
from envfarm.core.verdict import (
    InvalidReason,
    Outcome,
    RunOutcome,
    TestReport,
    TestStatus,
    Transition,
    Validation,
    Verdict,
)
from envfarm.core.work import StageResult, Work
from envfarm.store import Store

RUN = "spring"
SCRIPT = "<script>document.title='owned'</script>"
"""Hostile text: if it is ever run, the page's title says so."""
WHEN = datetime(2026, 11, 24, 9, 30, 15, tzinfo=UTC)
GOLD = """diff --git a/src/jinja2/utils.py b/src/jinja2/utils.py
--- a/src/jinja2/utils.py
+++ b/src/jinja2/utils.py
@@ -10,4 +10,5 @@ def urlize(text):
     if not text:
--- trailing
-        return None
+        # <script>document.title='owned'</script>
+        return ""
+
     return text
"""
LOG = f"\x1b[31mFAILED\x1b[0m tests/test_utils.py {SCRIPT}\nassert None == ''\n"


@dataclass(frozen=True)
class Rows:
    """What was written, for tests to ask about."""

    task: Task
    invalid: Task
    synth: Task
    environment: Environment
    log: str
    """Blob digest."""
    rollout: Rollout


def fill(store: Store, blobs: BlobStore) -> Rows:
    """One run: jinja2 healthy with tasks, a hostile repository that does not install, click that fails its tests."""
    log = blobs.put(LOG.encode())
    recipe = Recipe(
        toolchain="3.11",
        install_mode=InstallMode.editable,
        install=(Step(name="dependencies", argv=("uv", "pip", "install", "-r", "requirements/tests.txt")),),
        test=TestCommand(args=("-q",), paths=("tests",)),
        cutoff=WHEN,
        provenance=("Python 3.11: the newest that pyproject.toml allows", f"tests from tox.ini {SCRIPT}"),
    )
    environment = Environment(
        recipe_digest=recipe.digest,
        toolchain="3.11",
        layers=(Layer(source="environments/ab12", target="/env"),),
        packages=("markupsafe==3.0.2", "pytest==8.3.4", "trio==0.27.0"),
        repo_name="jinja2",
        size_bytes=48 << 20,
        build_sec=12.4,
        built_at=WHEN,
    )
    task = make_task(blobs, "pallets__jinja2-3.1.6", TaskKind.release, environment)
    invalid = make_task(blobs, "pallets__jinja2-3.1.5", TaskKind.release, None)
    mutation = Mutation(
        operator="flip_comparison",
        path="src/jinja2/lexer.py",
        line=41,
        function="Lexer.tokeniter",
        original="a < b",
        mutated="a >= b",
    )
    synth = make_task(blobs, "pallets__jinja2-mutant-1", TaskKind.synth, environment).model_copy(
        update={"mutation": mutation}
    )
    rollout = make_rollout(task)
    with store.begin() as tx:
        tx.put_run(RUN, "build", {"repositories": ["pypi:jinja2", "pypi:click", "git:/src/evil"], "synth": 2})
        tx.put_recipe(recipe)
        tx.put_environment(RUN, environment)
        tx.put_candidates(RUN, [candidate(task.id), candidate(invalid.id), candidate("evil__evil-1")])
        for each, state in ((task, "valid"), (invalid, "invalid"), (synth, "valid")):
            tx.put_task(RUN, each, state)
        for each in (task, synth):
            tx.publish(RUN, each.id)
        tx.put_validation(make_validation(task, environment, log))
        tx.put_validation(refused_validation(invalid, environment))
        assert rollout.verdict is not None
        tx.put_verdict(rollout.verdict)
        tx.put_rollout(RUN, rollout)
    finish_items(store, task, invalid, synth, log)
    return Rows(task, invalid, synth, environment, log, rollout)


def finish_items(store: Store, task: Task, invalid: Task, synth: Task, log: str) -> None:
    """The events and counters of the run; two items stay queued."""
    evil = {"repo": f"evil{SCRIPT}", "source": "git"}
    failure = FailureRecord(
        boundary="builder",
        phase="install",
        reason=Reason.install_failed,
        tier=Tier.task,
        message=f"pip said no: {SCRIPT}",
        detail="error: command 'gcc' failed",
    )
    broken = {"reason": Reason.install_failed, "detail": failure.message, "failure": failure, "log": log}
    poor = {"reason": Reason.tests_mostly_fail, "detail": "60 of 100 tests pass, 0 files do not collect", "log": log}
    one_f2p = {"reason": InvalidReason.few_f2p}
    end(store, "mine", "pypi:jinja2", detail="2 candidates", wall_sec=3.2, cpu_sec=2.1)
    end(store, "mine", "pypi:click", repo="click", detail="0 candidates", wall_sec=1.2, cpu_sec=0.8)
    end(store, "mine", "git:/src/evil", detail="1 candidates", wall_sec=0.4, cpu_sec=0.3, **evil)
    end(store, "base", "pypi:jinja2", detail="911 of 911 tests pass", wall_sec=70, cpu_sec=55, bytes_written=48 << 20)
    end(store, "base", "pypi:click", StageOutcome.rejected, repo="click", wall_sec=44, cpu_sec=30, **poor)
    end(store, "base", "git:/src/evil", StageOutcome.failed, wall_sec=8, cpu_sec=3, **broken, **evil)
    for key in (task.id, invalid.id):
        for stage in ("filter", "draft", "build"):
            end(store, stage, key, wall_sec=0.2, cpu_sec=0.1)
    end(store, "filter", "evil__evil-1", StageOutcome.rejected, reason="no_tests", detail=SCRIPT, **evil)
    end(store, "validate", task.id, wall_sec=31, cpu_sec=28)
    end(store, "validate", invalid.id, StageOutcome.rejected, reason=InvalidReason.no_f2p, wall_sec=29, cpu_sec=25)
    end(store, "mutate", "pypi:jinja2#0", source="synth", wall_sec=4)
    end(store, "mutate", "pypi:jinja2#1", StageOutcome.rejected, source="synth", wall_sec=4, **one_f2p)
    end(store, "validate", synth.id, source="synth", wall_sec=22, cpu_sec=20)
    end(store, "publish", task.id)
    end(store, "publish", synth.id, source="synth")
    store.queue.enqueue(work("rollout", f"{task.id}#{policy}") for policy in ("noop", "random-edit"))


def work(stage: str, key: str, **labels: str) -> Work:
    """An item of the run, of jinja2 from the registry unless said otherwise."""
    return Work(**{"run": RUN, "stage": stage, "key": key, "source": "pypi", "repo": "jinja2"} | labels)


def end(
    store: Store, stage: str, key: str, outcome: StageOutcome = StageOutcome.done,
    *, source: str = "pypi", repo: str = "jinja2", **result: object,
) -> None:  # fmt: skip
    """Queue an item, lease it and finish it."""
    store.queue.enqueue([work(stage, key, source=source, repo=repo)])
    lease = store.queue.lease(RUN, [stage], "worker-1", 60)
    assert lease is not None
    store.queue.finish(lease, StageResult.model_validate({"outcome": outcome, **result}))


def make_task(blobs: BlobStore, id: str, kind: TaskKind, environment: Environment | None) -> Task:
    """A task; with an environment it is one that validation has passed."""
    text = f"urlize() returns None for empty text.\n\nIt should return the empty string. {SCRIPT}"
    valid = {
        "fail_to_pass": ("tests/test_utils.py::test_urlize_empty",),
        "pass_to_pass": ("tests/test_utils.py::test_urlize",),
    }
    return Task.model_validate(
        {
            "id": id,
            "kind": kind,
            "repo": "pypi:jinja2",
            "repo_name": "jinja2",
            "base_commit": "b" * 40,
            "fix_commit": "f" * 40,
            "created_at": WHEN,
            "version": "3.1.6",
            "statement": Statement(text=text, source=IssueKind.changelog, reference="CHANGES.rst#3.1.6"),
            "tree": blobs.put(b"tree\0"),
            "tests": blobs.put(b"tests\0"),
            "gold_patch": blobs.put(GOLD.encode()),
            "test_patch": blobs.put(GOLD.replace("src/jinja2/utils", "tests/test_utils").encode()),
            "source_paths": ("src/",),
            "test_files": ("tests/test_utils.py",),
            "environment_digest": environment.digest if environment else "",
            **(valid if environment else {}),
        }
    )


def candidate(id: str) -> Candidate:
    """A candidate whose issue is hostile."""
    changes = (FileChange(path="src/jinja2/utils.py", added=3, deleted=2), FileChange(path="tests/test_utils.py"))
    return Candidate(
        id=id,
        repo="pypi:jinja2",
        repo_name="jinja2",
        base_commit="b" * 40,
        fix_commit="f" * 40,
        created_at=WHEN,
        version="3.1.6",
        issue=Issue(kind=IssueKind.changelog, title="Fix urlize", body=SCRIPT, reference="CHANGES.rst#3.1.6"),
        changes=changes,
        source_files=("src/jinja2/utils.py",),
        test_files=("tests/test_utils.py",),
    )


def make_report(log: str = "", **statuses: TestStatus) -> TestReport:
    """A finished run; keywords name tests of one file."""
    named = {f"tests/test_utils.py::test_{name}": status for name, status in statuses.items()}
    failed = [test for test, status in named.items() if status is TestStatus.failed]
    return TestReport(
        outcome=RunOutcome.finished,
        statuses=named,
        messages={test: f"assert None == '' {SCRIPT}" for test in failed},
        exit_code=1 if failed else 0,
        duration_sec=4.2,
        log=log,
        log_tail="" if log else "1 failed",
    )


def make_validation(task: Task, environment: Environment, log: str) -> Validation:
    """One fail-to-pass test, many that pass all along, one that is flaky."""
    passed, failed, skipped = TestStatus.passed, TestStatus.failed, TestStatus.skipped
    steady = {f"template_{number}": passed for number in range(40)}
    before = [make_report(log, urlize_empty=failed, urlize=passed, clock=clock, windows=skipped, **steady)
              for clock in (passed, failed)]  # fmt: skip
    after = [make_report(log, urlize_empty=passed, urlize=passed, clock=passed, windows=skipped, **steady)] * 2
    p2p = {f"tests/test_utils.py::test_{name}": Transition.p2p for name in ("urlize", *steady)}
    return Validation(
        task_id=task.id,
        environment_digest=environment.digest,
        valid=True,
        base=(make_report(log, urlize=passed, clock=passed, windows=skipped, **steady),) * 2,
        before=tuple(before),
        after=tuple(after),
        transitions={**p2p, "tests/test_utils.py::test_urlize_empty": Transition.f2p,
                     "tests/test_utils.py::test_windows": Transition.other},
        flaky=("tests/test_utils.py::test_clock",),
        wall_sec=31,
        cpu_sec=28,
        validated_at=WHEN,
    )  # fmt: skip


def refused_validation(task: Task, environment: Environment) -> Validation:
    """Nothing fails before."""
    reports = (make_report(urlize=TestStatus.passed),) * 2
    return Validation(
        task_id=task.id,
        environment_digest=environment.digest,
        valid=False,
        reason=InvalidReason.no_f2p,
        detail="No test fails before the fix.",
        base=reports,
        before=reports,
        after=reports,
        transitions={"tests/test_utils.py::test_urlize": Transition.p2p},
        validated_at=WHEN,
    )


def make_rollout(task: Task) -> Rollout:
    """A policy that handed in the gold patch."""
    submission = Submission(task_id=task.id, task_digest=task.digest, patch=GOLD)
    verdict = Verdict(
        task_id=task.id,
        task_digest=task.digest,
        submission_digest=submission.digest,
        grader="pytest-1",
        outcome=Outcome.passed,
        reason="all_passed",
        evidence={"missing": [], "canaries": {"must_fail": "failed", "note": SCRIPT}},
        duration_sec=5.1,
        graded_at=WHEN,
    )
    turns = (
        Turn(role=Role.user, text=task.statement.text),
        Turn(role=Role.assistant, text="I mend it.", tool_calls=(ToolCall(name="bash", arguments={"command": "ls"}),)),
        Turn(role=Role.tool, text=f"src tests {SCRIPT}"),
    )
    return Rollout(
        id=f"{RUN}.{task.id}#oracle",
        task_id=task.id,
        task_digest=task.digest,
        policy="oracle",
        turns=turns,
        submission=submission,
        verdict=verdict,
        stop=StopReason.finished,
        duration_sec=6.3,
        started_at=WHEN,
    )
