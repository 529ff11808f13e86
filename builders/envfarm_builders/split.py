"""What a path is to a project: source, test side, or neither. Decided by names alone, the same at every revision."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from posixpath import basename, dirname


class PathKind(StrEnum):
    """The parts of a project that mining tells apart."""

    source = "source"
    test = "test"
    runner_config = "runner_config"
    docs = "docs"
    ci = "ci"
    build = "build"
    lock = "lock"
    changelog = "changelog"
    other = "other"


TEST_SIDE = frozenset({PathKind.test, PathKind.runner_config})
"""What comes trusted from the fixed state, and is never part of an answer."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TEST_DIRS = _words(
    """
    test tests testsuite test_suite unittest unittests unit_tests functional_tests integration_tests e2e
    testcases regression_tests doctests
    """
)
_TEST_DIR = re.compile(r"tests?_[a-z0-9_]+|[a-z0-9_]+_tests?")
_TEST_MODULE = re.compile(r"(test_.*|.*_tests?)\.py")
_RUNNER_CONFIG = _words(
    """
    conftest.py pytest.ini .pytest.ini pytest.toml .pytest.toml tox.ini tox.toml setup.cfg pyproject.toml
    noxfile.py .coveragerc
    """
)
_CHANGELOG = re.compile(
    r"(changes?|change[-_]?log|history|news|release[-_ ]?notes?|releases|versions|whats[-_]?new|release[-_]?history)"
    r"([-_.]?v?\d[\w.]*)?(\.(rst|md|txt|markdown|rest|adoc))?",
    re.IGNORECASE,
)
_FRAGMENT_DIRS = _words(
    """
    newsfragments changelog.d changelogs changes.d news.d changelog news changes release_notes releasenotes
    whatsnew releases
    """
)
_DOC_DIRS = _words("doc docs documentation man")
_DOC_SUFFIXES = (".md", ".rst", ".txt", ".markdown", ".adoc", ".png", ".svg", ".gif", ".jpg")
_CI_DIRS = _words(".github .gitlab .circleci .azure-pipelines .buildkite .ci ci .travis .woodpecker")
_CI_FILES = re.compile(
    r"\.(travis|gitlab-ci|appveyor|pre-commit-config|pre-commit-hooks|readthedocs|codecov|cirrus|coveralls|lgtm)\.ya?ml"
    r"|appveyor\.yml|azure-pipelines.*\.yml|codecov\.yml|\.git(ignore|attributes|modules|-blame-ignore-revs)"
    r"|\.editorconfig|\.flake8|\.pylintrc|mypy\.ini|\.mailmap|ruff\.toml|\.ruff\.toml|renovate\.json|\.zuul\.yaml"
)
_LOCKS = re.compile(
    r"(.*requirements.*\.(txt|in)|.*\.lock|pipfile|constraints.*\.txt|package-lock\.json|environment\.ya?ml)"
)
_BUILD = _words(
    """
    setup.py meson.build meson_options.txt cmakelists.txt manifest.in makefile hatch_build.py build.py
    ez_setup.py versioneer.py _custom_build.py cargo.toml justfile dodo.py tasks.py fabfile.py pavement.py
    """
)
_NOT_PACKAGES = _words(
    """
    bench benches benchmark benchmarks perf asv_bench asv_benchmarks example examples sample samples demo demos
    script scripts tool tools util utils bin contrib misc extra extras admin release requirements tasks build
    dist fuzz fuzzing profiling tutorial tutorials notebooks typing-examples node_modules .devcontainer stubs
    typings vendor testing maint maintainer_tools
    """
) | _TEST_DIRS | _DOC_DIRS | _CI_DIRS  # fmt: skip
_NOT_MODULES = re.compile(
    r"(setup|conftest|noxfile|toxfile|tasks|fabfile|versioneer|ez_setup|hatch_build|build|_custom_build|dodo|pavement|"
    r"bootstrap|runtests?|run_tests?|release|make(_.*)?|examples?(_.*)?|bench.*|demo(_.*)?|tests?|test_.*|.*_tests?|gen(erate)?_.*|"
    r"update_.*|conf|__init__)\.py"
)
_NATIVE = tuple(_words(".c .h .cc .cpp .cxx .hpp .pyx .pxd .pxi .rs .f .f90 .go .cu .m .asm"))
_GENERATED_VERSION = re.compile(r"(_?_?version_?_?|_?scm_version|__about__|about|_meta|__version__)\.py")


def is_test_path(path: str) -> bool:
    """Whether ``path`` is a test, a test's data or a test runner's hook: below a test folder, or named like a test."""
    *folders, name = path.split("/")
    if name == "conftest.py" or is_test_module_name(name):
        return True
    if any(folder.lower() in _TEST_DIRS for folder in folders):
        return True
    # Only at the top: inside a package, ``foo_test`` may be a module of the product.
    return bool(folders) and (folders[0].lower() == "testing" or bool(_TEST_DIR.fullmatch(folders[0].lower())))


def is_test_module_name(name: str) -> bool:
    """Whether a file of that name is collected as a test module by default."""
    return bool(_TEST_MODULE.fullmatch(name))


def is_test_module(path: str) -> bool:
    """Whether ``path`` is Python with tests in it, going by names: what a runner would collect, or ``tests.py``."""
    name = basename(path)
    return is_test_module_name(name) or (name in {"test.py", "tests.py"} and is_test_path(path))


def is_native(path: str) -> bool:
    """Whether ``path`` is compiled into an extension."""
    return path.lower().endswith(_NATIVE)


def is_version_file(path: str) -> bool:
    """Whether ``path`` is named like a module that holds a version and nothing else."""
    return bool(_GENERATED_VERSION.fullmatch(basename(path)))


def is_changelog(path: str) -> bool:
    """Whether ``path`` tells of changes: a changelog, or a fragment of one."""
    *folders, name = path.split("/")
    if name.endswith(".py"):
        return False
    if folders and folders[-1].lower() in _FRAGMENT_DIRS and len(folders) <= 3:
        return True
    near = not folders or (len(folders) <= 2 and folders[0].lower() in _DOC_DIRS)
    return near and bool(_CHANGELOG.fullmatch(name))


def classify(path: str, roots: Iterable[str]) -> PathKind:
    """The kind of ``path``. ``roots`` are :func:`source_paths` of the tree, or of both trees of a change."""
    name = basename(path)
    folders = dirname(path).lower().split("/")
    if is_test_path(path) and name != "conftest.py":
        return PathKind.test
    if name == "conftest.py" or (name in _RUNNER_CONFIG and "/" not in path):
        return PathKind.runner_config
    if within(path, roots):
        return PathKind.source
    if is_changelog(path):
        return PathKind.changelog
    if folders[0] in _CI_DIRS or _CI_FILES.fullmatch(name.lower()):
        return PathKind.ci
    if _LOCKS.fullmatch(name.lower()):
        return PathKind.lock
    if name.lower() in _BUILD:
        return PathKind.build
    if folders[0] in _DOC_DIRS or name.lower().endswith(_DOC_SUFFIXES):
        return PathKind.docs
    return PathKind.other


def within(path: str, roots: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``roots`` or below one that ends in ``/``."""
    return any(path.startswith(root) if root.endswith("/") else path == root for root in roots)


def source_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """Packages (ending in ``/``) and single modules that make up the product, sorted.

    Test folders inside them count as test side all the same (:func:`is_test_path`).
    """
    names = list(paths)
    packages = {dirname(path) for path in names if basename(path) == "__init__.py" and dirname(path)}
    tops = {package for package in packages if dirname(package) not in packages and _is_product(package)}
    holders = {dirname(path) for path in names if path.endswith(".py")}
    # A folder of modules without __init__.py is a (part of a) namespace package; at the top, or below src.
    for folder in holders - packages:
        top = "/".join(folder.split("/")[: 2 if folder.startswith("src/") else 1])
        if top not in ("", "src") and _is_product(top) and _is_product(folder):
            tops.add(top if folder.startswith("src/") or top == folder else folder)
    roots = {top + "/" for top in tops if not any(top.startswith(other + "/") for other in tops)}
    for path in names:
        if dirname(path) in ("", "src", "lib", "py_modules") and _is_module(basename(path)):
            roots.add(path)
    return tuple(sorted(roots))


def _is_product(folder: str) -> bool:
    parts = folder.lower().split("/")
    return not any(part in _NOT_PACKAGES or part.startswith(".") for part in parts) and not is_test_path(f"{folder}/x")


def _is_module(name: str) -> bool:
    return name.endswith(".py") and name.removesuffix(".py").isidentifier() and not _NOT_MODULES.fullmatch(name)
