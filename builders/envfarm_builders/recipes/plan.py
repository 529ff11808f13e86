"""From findings to a recipe: which requirements, in which steps, with which test command."""

from __future__ import annotations

from datetime import UTC, datetime

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from envfarm.core.environment import InstallMode, Recipe, Step, TestCommand

from . import uv
from .adjust import name_of
from .findings import Files, Findings, Wanted, Weight
from .groups import is_developer_name, is_test_name, is_tool, normal
from .interpreters import Interpreter
from .reuse import era_cutoff, tree_digest
from .versions import asks_git, version_environment

PYTEST_FLOOR = {
    "3.7": "6.0", "3.8": "6.0", "3.9": "6.0", "3.10": "6.2.5", "3.11": "7.2", "3.12": "7.4", "3.13": "8.0",
}  # fmt: skip
"""Oldest pytest that works on each interpreter, whatever the tree asks for."""

EARLIEST_CUTOFF = {
    "3.7": datetime(2020, 10, 1, tzinfo=UTC), "3.8": datetime(2020, 10, 1, tzinfo=UTC),
    "3.9": datetime(2021, 1, 1, tzinfo=UTC), "3.10": datetime(2022, 1, 1, tzinfo=UTC),
    "3.11": datetime(2023, 1, 1, tzinfo=UTC), "3.12": datetime(2024, 1, 1, tzinfo=UTC),
    "3.13": datetime(2025, 1, 1, tzinfo=UTC),
}  # fmt: skip
"""When enough of the index worked on each interpreter: a tree that is older than every interpreter here, or has to use
one that is newer than itself, is resolved as of then."""

TEST_ENVIRONMENT = {
    "TZ": "UTC", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8",
    "GIT_AUTHOR_NAME": "envfarm", "GIT_AUTHOR_EMAIL": "envfarm@localhost",
    "GIT_COMMITTER_NAME": "envfarm", "GIT_COMMITTER_EMAIL": "envfarm@localhost", "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*", "GIT_CONFIG_KEY_1": "init.defaultBranch",
    "GIT_CONFIG_VALUE_1": "main", "GIT_CONFIG_KEY_2": "protocol.file.allow", "GIT_CONFIG_VALUE_2": "always",
    "QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_DISABLE_SANDBOX": "1", "SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "Agg",
}  # fmt: skip
"""A sane place for tests: fixed zone and locale, a git that can commit, windows that need no display."""


def make_recipe(
    files: Files, findings: Findings, interpreter: Interpreter, why: str, *, version: str, released_at: datetime | None
) -> Recipe:
    """The recipe that the findings ask for. Pure: equal inputs give equal digests."""
    provenance = [f"python {interpreter.minor}: {why}"]
    cutoff = era_cutoff(released_at) if released_at else None
    if cutoff and (earliest := EARLIEST_CUTOFF.get(interpreter.minor)) and cutoff < earliest:
        cutoff = earliest
        provenance.append(f"dependencies as of {cutoff:%Y-%m-%d}: before, little worked on Python {interpreter.minor}")
    elif cutoff:
        provenance.append(
            f"dependencies as of {cutoff:%Y-%m-%d} (end of the release's quarter); build backend not capped"
        )
    requirements = _requirements(findings, interpreter, provenance)
    mode = _mode(findings, provenance)
    env: dict[str, str] = {}
    if findings.installable and asks_git(files, findings):
        env, shown = version_environment(files, findings, version)
        provenance.append(f"version {shown} told to the build backend, which would ask git")
    steps = [Step(name="venv", argv=uv.venv(), timeout_sec=120)]
    options: tuple[str, ...] = ()
    if findings.pins:
        steps.append(Step(name="constraints", argv=uv.write_file(uv.CONSTRAINTS, uv.constraint_text(findings.pins))))
        options = ("--constraint", uv.CONSTRAINTS)
        provenance.append(f"{findings.lock}: {len(findings.pins)} versions taken as constraints")
    if mode is not InstallMode.none:
        steps.append(Step(name="project", argv=uv.install_project(mode is InstallMode.editable)))
    project = _project_requirement(findings, mode, provenance)
    own = canonicalize_name(findings.name) if findings.name and mode is not InstallMode.none else ""
    steps.append(Step(name="dependencies", argv=uv.install([*project, *requirements], cutoff, *options, own=own)))
    rebuild: tuple[Step, ...] = ()
    if findings.native and mode is not InstallMode.none:
        build = [*findings.build_requires] or ["setuptools", "wheel"]
        steps.append(Step(name="build requirements", argv=uv.install(build, None, own=own)))
        rebuild = (_rebuild(files, findings, mode),)
        provenance.append("native sources: build requirements installed, rebuild after the tree is placed")
    for note in findings.notes:
        provenance.append(note)
    return Recipe(
        toolchain=interpreter.minor,
        cutoff=cutoff,
        install_mode=mode,
        install=tuple(steps),
        rebuild=rebuild,
        test=TestCommand(args=findings.pytest_args, paths=findings.test_paths, env=TEST_ENVIRONMENT | findings.env),
        env=env,
        tree=tree_digest(files, findings.native),
        version=version,
        provenance=tuple(provenance),
    )


def _mode(findings: Findings, provenance: list[str]) -> InstallMode:
    if not findings.installable:
        provenance.append("no build metadata at the root: the tree is put on the import path only")
        return InstallMode.none
    return InstallMode.editable if findings.editable else InstallMode.regular


def _project_requirement(findings: Findings, mode: InstallMode, provenance: list[str]) -> list[str]:
    """The project by name, with its extras: uv then reads the requirements of the distribution just installed."""
    extras = dict(findings.extras)
    for extra in findings.declared:
        if is_test_name(extra):
            extras.setdefault(extra, "declared extra named for testing")
    known = {normal(extra): extra for extra in findings.declared}
    chosen = sorted({known.get(normal(extra), extra) for extra in extras if not known or normal(extra) in known})
    chosen = [extra for extra in chosen if not is_developer_name(extra)]
    for extra in chosen:
        provenance.append(f"extra '{extra}': {next(v for k, v in extras.items() if normal(k) == normal(extra))}")
    if mode is InstallMode.none:
        return []
    if findings.name:
        return [findings.name + (f"[{','.join(chosen)}]" if chosen else "")]
    return ["--editable" if mode is InstallMode.editable else "", ".[{}]".format(",".join(chosen)) if chosen else "."][
        0 if mode is InstallMode.editable else 1 :
    ]


def _requirements(findings: Findings, interpreter: Interpreter, provenance: list[str]) -> list[str]:
    """Test requirements, one text for each distribution and marker: the surest source wins, tools are left out."""
    own = canonicalize_name(findings.name) if findings.name else ""
    candidates = list(findings.wanted)
    has_tests = any(each.weight is Weight.test for each in candidates) or any(map(is_test_name, findings.declared))
    for extra, texts in findings.declared.items():
        if is_developer_name(extra):
            scratch = Findings()
            scratch.want(texts, Weight.developer, f"extra '{extra}'")
            candidates += scratch.wanted
    chosen: dict[tuple[str, str], Wanted] = {}
    for wanted in sorted(candidates, key=lambda each: -each.weight):
        if wanted.name == own or (wanted.weight is Weight.runtime and findings.installable):
            continue
        if is_tool(wanted.name) and wanted.weight is not Weight.guessed:
            continue
        if (
            has_tests
            and wanted.weight is Weight.developer
            and not _from_ci(wanted)
            and not wanted.name.startswith("pytest")
        ):
            continue
        key = (wanted.name, str(Requirement(wanted.text).marker or ""))
        if any(name == wanted.name and other.weight > wanted.weight for (name, _), other in chosen.items()):
            continue
        chosen.setdefault(key, wanted)
    if not has_tests:
        provenance.append("no extra, group or file is named for testing: developer lists and imports are used")
    for wanted in chosen.values():
        provenance.append(f"{wanted.text}: {wanted.source}")
    rest = sorted(
        (each for each in chosen.values() if each.name != "pytest"), key=lambda each: (-each.weight, each.text)
    )
    tools = [tool for tool in ("pip", "setuptools<81") if name_of(tool) not in {own, *(each.name for each in rest)}]
    # In order of weight: on a conflict, repair takes them out from the end.
    return [*_pytest(chosen, interpreter), *(each.text for each in rest), *tools]


def _from_ci(wanted: Wanted) -> bool:
    return wanted.source.endswith((".yml", ".yaml")) or wanted.source.startswith("tox.ini")


def _pytest(chosen: dict[tuple[str, str], Wanted], interpreter: Interpreter) -> list[str]:
    """pytest is always there: as asked for, but never older than what the interpreter can run."""
    floor = PYTEST_FLOOR.get(interpreter.minor, "8.0")
    asked = [wanted for (name, _), wanted in chosen.items() if name == "pytest"]
    usable: list[str] = []
    for wanted in asked:
        requirement = Requirement(wanted.text)
        if _reaches(requirement.specifier, floor):
            usable.append(wanted.text)
    return [*usable, f"pytest>={floor}"]


def _reaches(specifier: SpecifierSet, floor: str) -> bool:
    """Whether some known pytest at or above ``floor`` satisfies the specifier."""
    known = [
        "6.2.5",
        "7.0.1",
        "7.1.3",
        "7.2.2",
        "7.3.2",
        "7.4.4",
        "8.0.2",
        "8.1.2",
        "8.2.2",
        "8.3.5",
        "8.4.2",
        "9.0.0",
        "99",
    ]
    pinned = [spec.version for spec in specifier if spec.operator in {"==", "~=", "<="} and "*" not in spec.version]
    usable = [each for each in [*known, *pinned] if _release(each) >= _release(floor)]
    return any(specifier.contains(each, prereleases=True) for each in usable)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def _rebuild(files: Files, findings: Findings, mode: InstallMode) -> Step:
    backend = findings.backend
    if mode is InstallMode.editable and "setup.py" in files and (not backend or backend.startswith("setuptools")):
        return Step(name="rebuild", argv=(uv.PYTHON, "setup.py", "build_ext", "--inplace"))
    editable = ("--editable",) if mode is InstallMode.editable else ()
    argv = (uv.PYTHON, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", *editable, ".")
    return Step(name="rebuild", argv=argv)
