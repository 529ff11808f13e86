"""What the sources of truth of a tree say about its environment: the detectors' common currency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

Files = Mapping[str, bytes]
"""A source tree: path relative to its root (``/`` between parts) -> content."""


class Weight(IntEnum):
    """How surely a requirement is needed to run the tests. What is least sure is dropped first on a conflict."""

    guessed = 1
    """Seen as an import or an option only."""
    developer = 2
    """Named for development at large, or in a CI line."""
    test = 3
    """Named for testing by the project."""
    runtime = 4
    """A dependency of the project itself."""


@lru_cache(maxsize=4096)
def name_of(requirement: str) -> str:
    """The normalised distribution name of a PEP 508 requirement."""
    return canonicalize_name(Requirement(requirement).name)


@dataclass(frozen=True, order=True)
class Wanted:
    """One requirement and who asks for it."""

    text: str
    """PEP 508."""
    weight: Weight
    source: str
    """File and table, for the provenance line."""

    @property
    def name(self) -> str:
        """The distribution's normalised name."""
        return name_of(self.text)


@dataclass
class Findings:
    """All that the detectors of one tree found. Each adds to it; none reads another's part."""

    name: str = ""
    """Distribution name, empty when only an installation would tell."""
    installable: bool = False
    """There is build metadata at the root of the tree."""
    backend: str = ""
    """PEP 517 backend, or ``setuptools`` where only setup.py or setup.cfg exist."""
    build_requires: tuple[str, ...] = ()
    requires_python: str = ""
    classifiers: set[str] = field(default_factory=set)
    """Python minor versions named by trove classifiers, such as ``3.9``."""
    matrix: set[str] = field(default_factory=set)
    """Python minor versions that CI, tox or nox run."""
    wanted: list[Wanted] = field(default_factory=list)
    extras: dict[str, str] = field(default_factory=dict)
    """Extra of the project to install -> who asks for it."""
    declared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Every extra that the metadata declares -> its requirements as far as they can be read statically."""
    pins: dict[str, str] = field(default_factory=dict)
    """Distribution -> version, from a lock file in the tree."""
    lock: str = ""
    """The lock file that ``pins`` come from."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables that the project sets for its test run."""
    pytest_args: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    native: bool = False
    """An installation compiles something."""
    editable: bool = True
    """The backend is known to be able to build an editable wheel that works with tests."""
    notes: list[str] = field(default_factory=list)

    def want(self, texts: Iterable[str], weight: Weight, source: str) -> None:
        """Add requirements; what is no PEP 508 requirement on an index (paths, URLs) is noted and left out."""
        for text in texts:
            clean = text.split(" #")[0].strip()
            if not clean:
                continue
            try:
                requirement = Requirement(clean)
            except InvalidRequirement:
                self.notes.append(f"{source}: '{clean[:80]}' is no requirement that an index can serve; left out")
                continue
            if requirement.name.lower().endswith((".tar.gz", ".whl", ".zip", ".tgz", ".tar.bz2")):
                self.notes.append(f"{source}: '{clean[:80]}' is a file; left out")
                continue
            if requirement.url:
                self.notes.append(f"{source}: '{requirement.name}' comes from a URL; taken from the index instead")
                clean = requirement.name + (f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else "")
                clean += f" ; {requirement.marker}" if requirement.marker else ""
            self.wanted.append(Wanted(clean, weight, source))

    def names(self) -> set[str]:
        """Normalised names of all wanted distributions."""
        return {wanted.name for wanted in self.wanted}


def text_of(files: Files, path: str) -> str | None:
    """A file's text, or None where it is missing. Bytes that are no UTF-8 are replaced, a BOM is dropped."""
    data = files.get(path)
    return None if data is None else data.decode("utf-8-sig", "replace")
