"""A package's releases as a ``Repository``: commit = release, message = its changelog section."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from packaging.utils import canonicalize_name

from envfarm.core.archive import File, pack
from envfarm.core.durable import write_file
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.failpoints import failpoint
from envfarm.core.source import Commit, FileChange

from ..issues.changelog import release_section
from .git import GitRepository
from .index import PackageIndex, Release
from .releases import ReleaseTree, write_repository
from .sdist import carries_tests, unpack_sdist

DEFAULT_RELEASES = 12
_LAYOUT = "v1"
"""Raised when the same releases would give other commits."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class PyPIRepository:
    """The newest ``releases`` final releases whose source archives carry tests, as a bare git repository.

    Built once below ``cache_dir`` and read from there afterwards without the index, so that every worker of a run sees
    the same commits; downloads that were done when a build was cut short are kept. Raises ``BuilderError``:
    ``index_unreachable`` (retryable), ``package_unknown``, ``no_sdist``, ``no_tests``.
    """

    def __init__(
        self, name: str, cache_dir: Path, *, index: PackageIndex | None = None, releases: int = DEFAULT_RELEASES
    ) -> None:
        self._project = check_name(name)
        path = cache_dir / "pypi" / f"{self._project}-{releases}-{_LAYOUT}.git"
        if not path.is_dir():
            _materialise(self._project, path, cache_dir / "sdists", index or PackageIndex(), releases)
        self._repository = GitRepository(path, ref=f"pypi:{self._project}", name=self._project)

    @property
    def ref(self) -> str:
        return self._repository.ref

    @property
    def name(self) -> str:
        return self._project

    @property
    def notes(self) -> tuple[str, ...]:
        """What trees had to leave out."""
        return self._repository.notes

    def close(self) -> None:
        """End helper processes. Idempotent."""
        self._repository.close()

    def commits(self, limit: int | None = None) -> Iterator[Commit]:
        """Releases, newest version first."""
        return self._repository.commits(limit)

    def history(self, limit: int | None = None) -> Iterator[tuple[Commit, tuple[FileChange, ...]]]:
        """Releases with what each changed against the one before."""
        return self._repository.history(limit)

    def changes(self, base: str, fix: str) -> tuple[FileChange, ...]:
        return self._repository.changes(base, fix)

    def diff(self, base: str, fix: str, paths: Sequence[str]) -> str:
        return self._repository.diff(base, fix, paths)

    def tree(self, commit: str) -> bytes:
        return self._repository.tree(commit)

    def files(self, commit: str) -> dict[str, File]:
        """The tree as a mapping."""
        return self._repository.files(commit)

    def paths(self, commit: str) -> tuple[str, ...]:
        """Names of all files at ``commit``."""
        return self._repository.paths(commit)

    def read(self, commit: str, path: str) -> bytes | None:
        return self._repository.read(commit, path)


def latest_sdist(name: str, cache_dir: Path, index: PackageIndex | None = None) -> tuple[str, datetime, bytes]:
    """Version, upload time and tree (tar) of the newest final release, whether or not it carries tests."""
    index = index or PackageIndex()
    newest = index.releases(check_name(name))[0]
    return str(newest.version), newest.uploaded_at, pack(_tree(newest, index, cache_dir / "sdists"))


def check_name(name: str) -> str:
    """The normalised project name. Raises ``package_unknown`` for what cannot be one."""
    if not _NAME.fullmatch(name):
        raise BuilderError(
            f"'{name}' cannot be a package name.",
            reason=Reason.package_unknown,
            phase="index",
            remedy="Check the spelling.",
        )
    return canonicalize_name(name)


def _materialise(project: str, path: Path, downloads: Path, index: PackageIndex, wanted: int) -> None:
    chosen = _with_tests(project, index, downloads, wanted)
    chosen.reverse()
    trees = [
        ReleaseTree(str(release.version), release.uploaded_at, _message(str(release.version), files), files)
        for release, files in chosen
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{project}-", dir=path.parent))
    try:
        write_repository(scratch / "repository.git", trees)
        failpoint("pypi.materialise.before_rename")
        try:
            (scratch / "repository.git").rename(path)
        except OSError:
            if not path.is_dir():
                raise
            # Another worker was first: its repository is equal, and ours goes with the scratch folder.
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _with_tests(
    project: str, index: PackageIndex, downloads: Path, wanted: int
) -> list[tuple[Release, dict[str, File]]]:
    """The newest releases that carry tests, newest first. Broken archives are passed over while others are left."""
    looked_at = index.releases(project)[: 2 * wanted + 4]
    chosen: list[tuple[Release, dict[str, File]]] = []
    problem: BuilderError | None = None
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(looked_at), 4):
            for release, files in pool.map(
                lambda release: _attempt(release, index, downloads), looked_at[start : start + 4]
            ):
                if isinstance(files, BuilderError):
                    problem = files
                elif carries_tests(files) and len(chosen) < wanted:
                    chosen.append((release, files))
            if len(chosen) == wanted:
                break
    if not chosen:
        raise problem or BuilderError(
            f"None of the {len(looked_at)} newest source archives of {project} carries tests.",
            reason=Reason.no_tests,
            phase="materialise",
            remedy="Mine a git clone of it instead.",
        )
    return chosen


def _attempt(release: Release, index: PackageIndex, downloads: Path) -> tuple[Release, dict[str, File] | BuilderError]:
    try:
        return release, _tree(release, index, downloads)
    except BuilderError as error:
        # The boundary of one release: an unusable archive costs that release. An index that is down costs the run.
        if error.reason is Reason.index_unreachable:
            raise
        return release, error


def _tree(release: Release, index: PackageIndex, downloads: Path) -> dict[str, File]:
    kept = downloads / f"{release.sha256[:16] or release.version}-{release.filename}"
    if release.sha256 and kept.is_file():
        data = kept.read_bytes()
        if hashlib.sha256(data).hexdigest() == release.sha256:
            return unpack_sdist(data, release.filename)
    data = index.download(release)
    downloads.mkdir(parents=True, exist_ok=True)
    write_file(kept, data, before_rename="pypi.download.before_rename")
    return unpack_sdist(data, release.filename)


def _message(version: str, files: dict[str, File]) -> str:
    return f"Release {version}\n\n{release_section(files, version)}".strip() + "\n"
