"""Lock files in the tree: uv.lock, pdm.lock and poetry.lock share one shape; their versions become constraints."""

from __future__ import annotations

import tomllib
from collections import defaultdict

from packaging.utils import canonicalize_name

from ..findings import Files, Findings, text_of

NAMES = ("uv.lock", "pdm.lock", "poetry.lock", "pylock.toml")


def read_locks(files: Files, findings: Findings) -> None:
    """Take the pins of the first lock file that is there. A package locked at several versions (for several
    interpreters or platforms) stays free."""
    for name in NAMES:
        text = text_of(files, name)
        if text is None:
            continue
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            findings.notes.append(f"{name}: not valid TOML; left out")
            continue
        versions: dict[str, set[str]] = defaultdict(set)
        rows = document.get("package") or document.get("packages") or []
        for package in rows if isinstance(rows, list) else []:
            if isinstance(package, dict) and "version" in package and _from_index(package):
                versions[canonicalize_name(str(package.get("name", "")))].add(str(package["version"]))
        findings.pins = {key: next(iter(found)) for key, found in sorted(versions.items()) if len(found) == 1}
        findings.lock = name
        return


def _from_index(package: dict[str, object]) -> bool:
    source = package.get("source")
    if isinstance(source, dict):
        return "registry" in source or source.get("type") == "legacy"
    return not any(key in package for key in ("path", "git", "url", "directory", "vcs", "archive"))
