"""The static filter: ordered rules, cheap ones first, that turn away what cannot become a valid task.

A valid task has a test that *fails* before the fix (not one that merely cannot be imported) and passes after it. The
rules read text and syntax trees only; no code of the project runs. ``docs/filters.md`` is :func:`table` of this list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from envfarm.core.config import BuildConfig
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.ports import Repository
from envfarm.core.source import Candidate, Rejected, RejectReason

from . import intent
from .evidence import Evidence
from .patches import fingerprint
from .split import is_native, is_version_file
from .statement import statement_text


@dataclass(frozen=True)
class Rule:
    """One line of the published table. ``check`` returns why it turns a candidate away, or None."""

    reason: RejectReason
    description: str
    check: Callable[[Evidence, BuildConfig], str | None]


def _no_source(evidence: Evidence, _: BuildConfig) -> str | None:
    return None if evidence.candidate.source_files else "no file of the product changes"


def _no_tests(evidence: Evidence, _: BuildConfig) -> str | None:
    return None if evidence.candidate.test_files else "no test changes"


def _no_python(evidence: Evidence, _: BuildConfig) -> str | None:
    candidate = evidence.candidate
    if any(path.endswith(".py") or is_native(path) for path in candidate.source_files):
        return None
    return "no Python file of the product changes"


def _native(evidence: Evidence, _: BuildConfig) -> str | None:
    compiled = [path for path in evidence.candidate.source_files if is_native(path)]
    return f"{compiled[0]} is compiled" if compiled else None


def _too_many_files(evidence: Evidence, config: BuildConfig) -> str | None:
    count = sum(not is_version_file(path) for path in evidence.candidate.source_files)
    return f"{count} source files" if count > config.max_source_files else None


def _too_many_lines(evidence: Evidence, config: BuildConfig) -> str | None:
    source = set(evidence.candidate.source_files)
    count = sum(change.added + change.deleted for change in evidence.candidate.changes if change.path in source)
    return f"{count} source lines" if count > config.max_source_lines else None


def _merge_or_revert(evidence: Evidence, _: BuildConfig) -> str | None:
    if evidence.candidate.repo.startswith("pypi:"):
        return None  # releases are what that repository is made of
    return intent.housekeeping(evidence.message)


def _no_statement(evidence: Evidence, _: BuildConfig) -> str | None:
    return None if statement_text(evidence.candidate.issue) else "nothing remains once search keys are taken out"


def _short_statement(evidence: Evidence, config: BuildConfig) -> str | None:
    length = len(statement_text(evidence.candidate.issue))
    return f"{length} characters" if length < config.min_statement_chars else None


def _unreadable(evidence: Evidence, _: BuildConfig) -> str | None:
    broken = evidence.unparsable()
    if broken:
        return f"{broken} is not Python 3"
    module = evidence.test_submodule()
    return f"tests need the submodule {module}, which a tree does not carry" if module else None


def _no_behaviour_change(evidence: Evidence, _: BuildConfig) -> str | None:
    if not evidence.behaviour_changes():
        return "the product differs in comments, docstrings, annotations or version only"
    return None


def _no_new_assertions(evidence: Evidence, _: BuildConfig) -> str | None:
    return evidence.no_new_assertions()


def _need_new_names(evidence: Evidence, _: BuildConfig) -> str | None:
    return evidence.needs_new_names()


RULES: tuple[Rule, ...] = (
    Rule(RejectReason.no_source, "No file of the product changes.", _no_source),
    Rule(RejectReason.no_tests, "No test changes.", _no_tests),
    Rule(RejectReason.no_python_source, "The product changes in data files only.", _no_python),
    Rule(RejectReason.native_source, "A source file that is compiled (C, C++, Cython, Rust, ...) changes.", _native),
    Rule(
        RejectReason.too_many_files,
        "More than {max_source_files} source files change (version files not counted).",
        _too_many_files,
    ),
    Rule(
        RejectReason.too_many_lines,
        "More than {max_source_lines} source lines are added and deleted.",
        _too_many_lines,
    ),
    Rule(
        RejectReason.merge_or_revert,
        "The commit's own first line announces a merge of another line, a revert, a release or version bump, a bot's "
        "update, formatting, typing, documentation, a refactoring, speed, or the end of support for an old Python.",
        _merge_or_revert,
    ),
    Rule(
        RejectReason.no_statement,
        "No changelog entry or message remains once search keys are taken out.",
        _no_statement,
    ),
    Rule(
        RejectReason.short_statement,
        "The statement is shorter than {min_statement_chars} characters once search keys are taken out.",
        _short_statement,
    ),
    Rule(
        RejectReason.unreadable,
        "A changed Python file is not Python 3, an object of the repository is damaged, or test data lies in a "
        "submodule.",
        _unreadable,
    ),
    Rule(
        RejectReason.no_behaviour_change,
        "The product differs in comments, docstrings, annotations, import order or version strings only.",
        _no_behaviour_change,
    ),
    Rule(
        RejectReason.no_new_assertions,
        "No test function is new or different: tests are renamed, moved, reformatted, annotated or deleted only, or "
        "the changed ones are skipped on Linux.",
        _no_new_assertions,
    ),
    Rule(
        RejectReason.tests_need_new_names,
        "Every changed test needs, when its module or a fixture of it is set up, a name that only the fix brings: it "
        "could not fail before, only break.",
        _need_new_names,
    ),
)
"""In the order in which they are asked. ``duplicate`` comes last and needs memory: see :class:`StaticFilter`."""

_DUPLICATE = "The same source lines change in the same files as in a candidate taken before."


class StaticFilter:
    """Asks the rules in order. One instance sees one pass over a repository: it remembers patches for duplicates."""

    def __init__(self, config: BuildConfig | None = None) -> None:
        self._config = config or BuildConfig()
        self._seen: dict[str, str] = {}

    def check(self, repository: Repository, candidate: Candidate) -> Rejected | None:
        """The first rule that turns the candidate away, or None. Raises nothing for what a repository may hold."""
        try:
            return self._check(Evidence(repository, candidate))
        except BuilderError as error:
            # The boundary: damage in one revision costs that revision, not the repository.
            if error.reason is not Reason.repository_broken:
                raise
            return Rejected(candidate_id=candidate.id, reason=RejectReason.unreadable, detail=error.message)

    def remember(self, repository: Repository, candidate: Candidate) -> None:
        """Take note of a candidate that was let through before, by an instance that is gone."""
        self._seen.setdefault(fingerprint(Evidence(repository, candidate).source_diff()), candidate.id)

    def _check(self, evidence: Evidence) -> Rejected | None:
        candidate = evidence.candidate
        for rule in RULES:
            if detail := rule.check(evidence, self._config):
                return Rejected(candidate_id=candidate.id, reason=rule.reason, detail=detail)
        patch = fingerprint(evidence.source_diff())
        first = self._seen.setdefault(patch, candidate.id)
        if first != candidate.id:
            return Rejected(candidate_id=candidate.id, reason=RejectReason.duplicate, detail=f"same patch as {first}")
        return None


def table(config: BuildConfig | None = None) -> str:
    """The published table, in Markdown."""
    limits = (config or BuildConfig()).model_dump()
    rows = [(rule.reason.value, rule.description.format(**limits)) for rule in RULES]
    rows.append((RejectReason.duplicate.value, _DUPLICATE))
    lines = ["| # | reason | turned away when |", "|---|---|---|"]
    lines += [f"| {number} | `{reason}` | {text} |" for number, (reason, text) in enumerate(rows, 1)]
    return "\n".join(lines)
