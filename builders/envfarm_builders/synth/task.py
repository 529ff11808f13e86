"""From a mutant that passed its gate to a task draft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from envfarm.core.archive import File, pack, unpack
from envfarm.core.base import digest_bytes, digest_json, short
from envfarm.core.diff import git_diff
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.ids import task_id
from envfarm.core.ports import BlobStore
from envfarm.core.task import Mutation, Task, TaskKind
from envfarm.core.verdict import TestReport

from .choose import Proposal
from .gate import failed_tests, mutated_files
from .hide import hide_tests
from .locate import Place, locate
from .statement import write_statement


@dataclass(frozen=True)
class Origin:
    """The healthy revision that mutants are made of."""

    repo: str
    """Ref that opens the repository again."""
    repo_name: str
    commit: str
    version: str
    files: Mapping[str, File]
    """The whole healthy tree."""
    source_paths: tuple[str, ...]


def draft_mutant(
    origin: Origin,
    proposal: Proposal,
    report: TestReport,
    blobs: BlobStore,
    *,
    created_at: datetime,
    failing: Sequence[str] | None = None,
) -> Task:
    """A task whose tree is the mutant without the tests that tell of it, except at most one.

    ``failing`` names the fail-to-pass tests where more is known than ``report`` (the gate's) says: pass what
    validation found to draft again when :func:`still_shown` is not empty. Raises ``BuilderError`` for tests that
    cannot be hidden (generated, or outside the test side).
    """
    failing = tuple(sorted(failing)) if failing is not None else failed_tests(report, proposal.tests)
    places = _places(origin, failing)
    key = short(mutant_digest(origin, proposal), 8)
    shown = _choose_shown(places, report, int(key, 16))
    hidden = [place for place, tests in places.items() if shown not in tests]

    tree = dict(origin.files) | mutated_files(origin.files, proposal)
    for path in {place.path for place in hidden}:
        source = origin.files[path].data.decode("utf-8")
        kept = hide_tests(source, [place.names for place in hidden if place.path == path])
        tree[path] = File(kept.encode("utf-8"), origin.files[path].mode)
    if len(still_shown(tree, failing)) > 1:
        raise _refused("more than one would be left in the tree")
    test_files = tuple(sorted({test.split("::")[0] for test in failing}))
    trusted = {path: origin.files[path] for path in {*test_files, *(place.path for place in places)}}
    reported = shown or min(failing, key=lambda test: _showable(test, report))
    edit = proposal.edit
    return Task(
        id=task_id("synth", origin.repo_name, key),
        kind=TaskKind.synth,
        repo=origin.repo,
        repo_name=origin.repo_name,
        base_commit=origin.commit,
        created_at=created_at,
        version=origin.version,
        statement=write_statement(
            proposal,
            reported,
            report.messages.get(reported, ""),
            in_tree=bool(still_shown(tree, [reported])),
            seed=int(key, 16),
        ),
        tree=blobs.put(pack(tree)),
        tests=blobs.put(pack(trusted)),
        gold_patch=blobs.put(_patch(mutated_files(origin.files, proposal), origin.files)),
        test_patch=blobs.put(_patch({path: tree[path] for path in trusted}, trusted)),
        source_paths=origin.source_paths,
        test_files=test_files,
        mutation=Mutation(
            operator=edit.operator,
            path=proposal.path,
            line=edit.line,
            function=edit.function,
            original=edit.original,
            mutated=edit.mutated,
        ),
    )


def all_shown(task: Task, failing: Sequence[str], blobs: BlobStore) -> set[str]:
    """Of the tests that tell of the bug, those that a mutant shows, by its statement or in its tree. More than one
    means that ``failing`` has tests which its gate had not seen: draft it again with them."""
    return {*task.statement.shown_tests, *still_shown(unpack(blobs.get(task.tree)), failing)}


def still_shown(tree: Mapping[str, File], failing: Sequence[str]) -> tuple[str, ...]:
    """Of the tests that tell of a bug, those that a tree still holds."""
    return tuple(test for test in failing if locate(tree, test) is not None)


def mutant_digest(origin: Origin, proposal: Proposal) -> str:
    """Identity of a mutant: the file it is made of, and the edit."""
    edit = proposal.edit
    return digest_json({
        "repo": origin.repo,
        "commit": origin.commit,
        "path": proposal.path,
        "file": digest_bytes(origin.files[proposal.path].data),
        "edit": [edit.start, edit.original, edit.mutated],
    })  # fmt: skip


def _places(origin: Origin, failing: Sequence[str]) -> dict[Place, list[str]]:
    """Where the failing tests are written, each with those that are written there."""
    places: dict[Place, list[str]] = {}
    for test in failing:
        place = locate(origin.files, test)
        if place is None:
            raise _refused(f"'{test}' is not written in a test file of the tree")
        places.setdefault(place, []).append(test)
    return places


def _choose_shown(places: Mapping[Place, list[str]], report: TestReport, seed: int) -> str | None:
    """The failing test of a function that holds only one, so that showing it shows no more; None where there is none.

    The last one is never shown: something must stay hidden.
    """
    single = [tests[0] for tests in places.values() if len(tests) == 1]
    if len(places) < 2 or not single:
        return None
    telling = [test for test in single if report.messages.get(test)] or single
    return sorted(telling)[seed % len(telling)]


def _showable(test: str, report: TestReport) -> tuple[bool, int, str]:
    return test not in report.messages, len(report.messages.get(test, "")), test


def _patch(before: Mapping[str, File], after: Mapping[str, File]) -> bytes:
    old = {path: file.data for path, file in before.items()}
    return git_diff(old, {path: after[path].data for path in before}).encode("utf-8")


def _refused(why: str) -> BuilderError:
    return BuilderError(f"The failing tests cannot be hidden: {why}.", reason=Reason.no_tests, phase="synth")
