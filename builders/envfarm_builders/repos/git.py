"""A git clone (bare or not) as a ``Repository``."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from git import Repo
from git.exc import GitError

from envfarm.core.archive import ArchiveLimits, File, link_stays_inside, pack
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.ids import repository_name
from envfarm.core.source import Commit, FileChange

from .history import HEADER, parse_changes, parse_log, versions_by_commit
from .plumbing import Plumbing


class GitRepository:
    """A git history, read through plumbing only: nothing is checked out and nothing of the repository's runs.

    Raises ``BuilderError``: ``repository_missing`` where there is no folder, ``repository_broken`` where it is no git
    repository, holds no commit, or its objects are damaged. A shallow clone works as far as it goes.
    """

    def __init__(self, path: Path | str, *, ref: str = "", name: str = "") -> None:
        self.path = Path(path).expanduser().resolve()
        self._ref = ref or f"git:{self.path}"
        self._name = name or repository_name(str(self.path))
        git_dir, common_dir, object_format = _locate(self.path)
        self._git = Plumbing(str(self.path), git_dir, common_dir, object_format)
        self._versions: dict[str, str] | None = None
        self._notes: list[str] = []
        if not self._git.run("rev-parse", "--quiet", "--verify", "HEAD", check=False):
            raise BuilderError(
                f"Repository {self.path} has no commits on its current branch.",
                reason=Reason.repository_broken,
                phase="open",
                remedy="Give a clone whose HEAD names a branch with commits.",
            )
        self._git.run("cat-file", "-e", "HEAD^{tree}")

    @property
    def ref(self) -> str:
        return self._ref

    @property
    def name(self) -> str:
        return self._name

    @property
    def notes(self) -> tuple[str, ...]:
        """What :meth:`tree` had to leave out (submodules, links that leave the tree), one line each."""
        return tuple(self._notes)

    def close(self) -> None:
        """End helper processes. Idempotent."""
        self._git.close()

    def commits(self, limit: int | None = None) -> Iterator[Commit]:
        """First-parent history, newest first."""
        pieces = self._git.stream(
            "log", "--first-parent", "-z", "--no-patch", f"--format={HEADER}", *_limit(limit), "HEAD", delimiter=b"\0"
        )
        for commit, _ in parse_log(pieces, self.versions()):
            yield commit

    def history(self, limit: int | None = None) -> Generator[tuple[Commit, tuple[FileChange, ...]], None, None]:
        """:meth:`commits` with the changes against the first parent, out of one process."""
        pieces = self._git.stream(
            "log", "--first-parent", "--diff-merges=first-parent", "--root", "-z", "--raw", "--numstat", "-M",
            "--no-ext-diff", "--no-textconv", "--ignore-submodules=none", f"--format={HEADER}", *_limit(limit), "HEAD",
            delimiter=b"\0",
        )  # fmt: skip
        yield from parse_log(pieces, self.versions())

    def versions(self) -> dict[str, str]:
        """Commit id -> highest release tag at or before it."""
        if self._versions is None:
            tags: dict[str, str] = {}
            listing = self._git.run(
                "for-each-ref", "--format=%(objectname) %(*objectname) %(refname:strip=2)", "refs/tags"
            )
            for line in listing.decode("utf-8", "replace").splitlines():
                direct, peeled, tag = line.split(" ", 2)
                tags[peeled or direct] = tag
            graph = self._git.stream("log", "--topo-order", "--reverse", "--format=%H %P", "HEAD", delimiter=b"\n")
            self._versions = versions_by_commit(graph, tags) if tags else {}
        return self._versions

    def changes(self, base: str, fix: str) -> tuple[FileChange, ...]:
        """Paths that differ, with line counts; renames found."""
        out = self._git.run(
            "diff-tree", "-r", "-z", "--raw", "--numstat", "-M", "--no-ext-diff", "--no-textconv", base, fix, "--"
        )
        return parse_changes(out.split(b"\0"))

    def diff(self, base: str, fix: str, paths: Sequence[str]) -> str:
        """Unified diff with binary hunks, renames as deletion and addition; bytes that are no UTF-8 as surrogates."""
        if not paths:
            return ""
        out = self._git.run(
            "diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff",
            "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", base, fix, "--", *paths,
        )  # fmt: skip
        return out.decode("utf-8", "surrogateescape")

    def tree(self, commit: str) -> bytes:
        """Deterministic tar of the tree, export attributes disregarded. Submodules are left out and noted."""
        return pack(self.files(commit))

    def files(self, commit: str, limits: ArchiveLimits | None = None) -> dict[str, File]:
        """The tree as a mapping. Raises ``repository_broken`` for missing objects and trees beyond ``limits``."""
        limits = limits or ArchiveLimits()
        entries: list[tuple[str, str, str]] = []
        total = 0
        for path, mode, kind, sha, size in self._entries(commit):
            if kind != "blob":
                self._note(f"{commit[:12]}: submodule {path} left out")
                continue
            total += size
            entries.append((path, mode, sha))
        if total > limits.total_bytes or len(entries) > limits.entries:
            raise self._git.broken("ls-tree", f"tree {commit} holds {len(entries)} files, {total} bytes".encode())
        files: dict[str, File] = {}
        blobs = self._git.blobs([sha for _, _, sha in entries])
        for (path, mode, sha), data in zip(entries, blobs, strict=True):
            if data is None:
                raise self._git.broken("cat-file", f"blob {sha} ({path}) is missing or damaged".encode())
            if mode == "120000":
                target = data.decode("utf-8", "surrogateescape")
                if link_stays_inside(path, target):
                    files[path] = File(link=target)
                else:
                    self._note(f"{commit[:12]}: link {path} leaves the tree, left out")
            else:
                files[path] = File(data, 0o755 if mode == "100755" else 0o644)
        return files

    def paths(self, commit: str) -> tuple[str, ...]:
        """Names of all files at ``commit``."""
        return tuple(path for path, _, kind, _, _ in self._entries(commit) if kind == "blob")

    def read(self, commit: str, path: str) -> bytes | None:
        """One file at ``commit``, or None. A link gives its target's text."""
        return self._git.blobs([f"{commit}:{path}"])[0]

    def merged(self, base: str, fix: str) -> tuple[str, ...]:
        """Messages of the commits that ``fix`` brings in beside ``base``'s line, oldest first; the newest 20."""
        out = self._git.run("log", "--reverse", "--no-merges", "-n", "20", "-z", "--format=%B", f"{base}..{fix}", "--")
        return tuple(text.strip() for text in out.decode("utf-8", "replace").split("\0") if text.strip())

    def _entries(self, commit: str) -> Iterator[tuple[str, str, str, str, int]]:
        out = self._git.run("ls-tree", "-r", "-z", "--long", "--full-tree", commit, "--")
        for entry in filter(None, out.split(b"\0")):
            meta, _, path = entry.partition(b"\t")
            mode, kind, sha, size = meta.decode("ascii").split()
            yield path.decode("utf-8", "surrogateescape"), mode, kind, sha, int(size) if size.isdigit() else 0

    def _note(self, line: str) -> None:
        if line not in self._notes:
            self._notes.append(line)


def _limit(limit: int | None) -> tuple[str, ...]:
    return () if limit is None else (f"--max-count={limit}",)


def _locate(path: Path) -> tuple[Path, Path, str]:
    """The git folder, the folder with objects and refs, and the object format."""
    if not path.exists():
        raise BuilderError(
            f"There is no repository at {path}.",
            reason=Reason.repository_missing,
            phase="open",
            remedy="Give the path of a git clone.",
        )
    try:
        with Repo(path, search_parent_directories=False) as repo:
            git_dir, common_dir = Path(repo.git_dir), Path(repo.common_dir)
            with repo.config_reader("repository") as config:
                object_format = str(config.get_value("extensions", "objectformat", default="sha1"))
        return git_dir.resolve(), common_dir.resolve(), object_format
    except (GitError, OSError, ValueError, TypeError) as error:
        # The boundary: GitPython has a type for each way in which a folder is no repository; here they are one.
        raise BuilderError(
            f"{path} is not a git repository.",
            reason=Reason.repository_broken,
            phase="open",
            remedy="Give the path of a git clone, bare or with a work tree.",
            detail=str(error),
        ) from error
