"""CI files of the tree: pip lines, Python versions and pytest lines of GitHub workflows, GitLab and Travis."""

from __future__ import annotations

import re

from ..findings import Files, Findings, Weight, text_of
from .shell import pip_install, pytest_arguments, pytest_call, want_install, words

_FILE = re.compile(r"^\.github/workflows/[^/]+\.ya?ml$|^\.gitlab-ci\.yml$|^\.travis\.yml$|^\.circleci/config\.yml$")
_OTHER = re.compile(r"lint|docs?|release|publish|pypi|mypy|typing|codeql|bench|stale|label|nightly|deploy|wheel", re.I)
_PYTHONS = re.compile(r"^\s*-?\s*['\"]?(?:python(?:[-_]?versions?)?|py(?:thon)?)['\"]?\s*:\s*(.*)$")
_MINOR = re.compile(r"(?<![\d.])3\.(\d{1,2})(?![\d])")
_PIP = re.compile(r"(?:uv\s+)?(?:python3?\s+-m\s+)?pip3?\s+install\s+")
_PREFIX = re.compile(r"^(?:-\s+)?(?:run|script|install|before_install|before_script)\s*:\s*[|>]?-?\s*")


def read_ci(files: Files, findings: Findings) -> None:
    """Add what the CI files install and test. Read line by line: half of them is template that no YAML reader knows."""
    for path in sorted(files):
        if _FILE.match(path) and not _OTHER.search(path.rsplit("/", 1)[-1]):
            _read_file(files, path, findings)


def _read_file(files: Files, path: str, findings: Findings) -> None:
    text = (text_of(files, path) or "").replace("\\\n", " ")
    if "pytest" not in text and "tox" not in text and "unittest" not in text:
        return
    listing = False
    for line in text.splitlines():
        if match := _PYTHONS.match(line):
            listing = not match[1].strip()
            _add_versions(match[1], findings)
            continue
        if listing and re.match(r"^\s*-\s*['\"]?[\w.@^~-]+['\"]?\s*(#.*)?$", line):
            _add_versions(line, findings)
            continue
        listing = False
        _read_command(files, _PREFIX.sub("", line.strip()), findings, path)


def _add_versions(text: str, findings: Findings) -> None:
    findings.matrix.update(f"3.{int(minor)}" for minor in _MINOR.findall(text.split("#")[0]))


def _read_command(files: Files, command: str, findings: Findings, path: str) -> None:
    for part in re.split(r"&&|;(?!\s*python_version)", command):
        clean = part.strip().strip("'\"") if part.count('"') % 2 else part.strip()
        if match := _PIP.search(clean):
            arguments = words(clean[match.end() :])
            want_install(files, findings, pip_install(arguments), Weight.developer, path)
        elif not findings.pytest_args and (arguments := pytest_call(words(clean))) is not None:
            findings.pytest_args = pytest_arguments(arguments)
