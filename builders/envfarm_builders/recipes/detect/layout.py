"""Where a tree keeps its packages and tests, and whether an installation compiles something."""

from __future__ import annotations

import re

from ..findings import Files, Findings

TEST_FILE = re.compile(r"(^|/)(test_[^/]*|[^/]*_test|tests)\.py$")
_TEST_FOLDER = re.compile(r"^(tests?|testing|unittests?|unit_tests|[\w-]*_tests?|tests?_[\w-]+)$", re.IGNORECASE)
_NOT_TESTS = re.compile(
    r"(^|/)(docs?|examples?|benchmarks?|bench|perf|vendor|_vendor|third_party|thirdparty|node_modules|build|dist"
    r"|\.[^/]*|[^/]*\.egg-info|templates?|site-packages)/"
)
_OUTSIDE = re.compile(
    r"^(tests?[-_])?(integration(s|[-_]?tests?)?|e2e|end[-_]?(to|2)[-_]?end|live|external|system[-_]tests?|smoke|acceptance|load)"
    r"([-_]tests?)?$"
)
_UNIT = re.compile(r"^(tests?[-_])?(unit|unittests?|unit[-_]?tests?)$")
_BROADER = re.compile(r"^(functional|system|regression|performance|perf|stress|benchmarks?|scenarios?)([-_]?tests?)?$")
_DEFINES = re.compile(rb"^\s*(async\s+)?def\s+test|^\s*class\s+\w*Test|^\s*def\s+runTest", re.MULTILINE)
_NATIVE_SOURCE = re.compile(r"\.(pyx|c|cc|cpp|cxx|rs|f|f90|go)$")
_NATIVE_BACKENDS = (
    "maturin",
    "mesonpy",
    "scikit_build_core",
    "setuptools_rust",
    "py_build_cmake",
    "sipbuild",
    "enscons",
)


def test_files(files: Files) -> tuple[str, ...]:
    """Files that pytest would collect by name and that define a test, outside vendored and documentation folders."""
    return tuple(
        sorted(
            path
            for path, data in files.items()
            if TEST_FILE.search(path) and not _NOT_TESTS.search(path) and _DEFINES.search(data)
        )
    )


def carries_tests(files: Files) -> bool:
    """The tree has tests of its own."""
    return bool(test_files(files))


def read_layout(files: Files, findings: Findings) -> None:
    """Set test paths (unless pytest's own configuration names them) and whether there is native source."""
    findings.test_paths = findings.test_paths or _test_paths(files)
    for folder in outside_tests(files):
        findings.pytest_args += (f"--ignore={folder}",)
        findings.notes.append(f"{folder}: left out, its name says that it needs services or a network")
    backend = findings.backend
    if backend.startswith(_NATIVE_BACKENDS) or any(
        requirement.lower().startswith(("maturin", "setuptools-rust", "setuptools_rust", "cffi", "cython", "pybind11"))
        for requirement in findings.build_requires
    ):
        findings.native = any(_NATIVE_SOURCE.search(path) for path in files) or findings.native
    if findings.native and not any(_NATIVE_SOURCE.search(path) for path in files):
        findings.native = False
    if backend.startswith(("mesonpy", "sipbuild")):
        findings.editable = False
        findings.notes.append(f"{backend} rebuilds an editable install at import: installed regularly instead")


def outside_tests(files: Files) -> tuple[str, ...]:
    """Test folders that are for a live system by their name, as long as other tests are left."""
    tests = test_files(files)
    children: dict[str, set[str]] = {}
    for path in tests:
        parts = path.split("/")
        for position, part in enumerate(parts):
            children.setdefault("/".join(parts[:position]), set()).add(part)
    found: set[str] = set()
    for path in tests:
        parts = path.split("/")[:-1]
        for position, part in enumerate(parts):
            inside = any(_TEST_FOLDER.match(each) for each in parts[: position + 1])
            unit = any(_UNIT.match(sibling) for sibling in children["/".join(parts[:position])])
            if inside and (_OUTSIDE.match(part) or (unit and _BROADER.match(part))):
                found.add("/".join(parts[: position + 1]))
                break
    if all(any(path.startswith(folder + "/") for folder in found) for path in tests):
        return ()
    return tuple(sorted(found))


def packages(files: Files) -> frozenset[str]:
    """Importable names that the tree itself provides, in any of the folders a test run may have on its path."""
    names: set[str] = set()
    for path in files:
        if not path.endswith((".py", ".pyi", ".so", ".pyx")):
            continue
        parts = path.split("/")
        stem = parts[-1].split(".")[0]
        names.update(parts[:-1])
        names.add(stem)
    return frozenset(names)


def _test_paths(files: Files) -> tuple[str, ...]:
    """The outermost test folders; single test files only where there is no such folder."""
    folders: set[str] = set()
    loose: set[str] = set()
    for path in test_files(files):
        parts = path.split("/")[:-1]
        position = next((i for i, part in enumerate(parts) if _TEST_FOLDER.match(part)), None)
        if position is None:
            loose.add("/".join(parts) or path)
        else:
            folders.add("/".join(parts[: position + 1]))
    chosen = folders or loose
    outer = {path for path in chosen if not any(path.startswith(other + "/") for other in chosen)}
    return tuple(sorted(outer)) if len(outer) <= 12 else ()
