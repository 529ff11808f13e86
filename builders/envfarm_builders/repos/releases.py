"""Releases as a git repository: one commit for each, oldest first, ids a function of the releases alone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from envfarm.core.archive import File
from envfarm.core.errors import BuilderError, Reason

_WHO = "envfarm <envfarm@localhost>"
_ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "LC_ALL": "C",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
}


@dataclass(frozen=True)
class ReleaseTree:
    """What one commit is made of."""

    version: str
    uploaded_at: datetime
    message: str
    files: Mapping[str, File]


def write_repository(target: Path, releases: Iterable[ReleaseTree]) -> None:
    """Make a bare repository at ``target`` (which must not exist). Raises ``repository_broken`` when git fails."""
    _git(["init", "--quiet", "--bare", "--template=", "--initial-branch=main", str(target)], b"")
    stream = b"".join(part for mark, release in enumerate(releases, 1) for part in _commands(mark, release))
    _git(["--git-dir", str(target), "fast-import", "--quiet", "--date-format=raw"], stream)


def _commands(mark: int, release: ReleaseTree) -> Iterator[bytes]:
    stamp = f"{_WHO} {int(release.uploaded_at.timestamp())} +0000"
    yield f"commit refs/heads/main\nmark :{mark}\nauthor {stamp}\ncommitter {stamp}\n".encode()
    yield _data(release.message.encode("utf-8", "replace"))
    if mark > 1:
        yield f"from :{mark - 1}\n".encode()
    yield b"deleteall\n"
    for name in sorted(release.files):
        file = release.files[name]
        if file.link is not None:
            kind, data = b"120000", file.link.encode("utf-8", "surrogateescape")
        else:
            kind, data = (b"100755" if file.mode & 0o100 else b"100644"), file.data
        yield b"M %b inline %b\n" % (kind, _quoted(name))
        yield _data(data)
    yield f"reset refs/tags/{release.version}\nfrom :{mark}\n\n".encode()


def _data(data: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(data), data)


def _quoted(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    return b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'


def _git(args: list[str], stdin: bytes) -> None:
    done = subprocess.run(["git", *args], input=stdin, capture_output=True, env=_ENV)
    if done.returncode != 0:
        message = done.stderr.decode("utf-8", "replace").strip()
        first = message.splitlines()[0] if message else "git failed"
        raise BuilderError(
            f"The releases could not be written as a git repository: {first}.",
            reason=Reason.repository_broken,
            phase="materialise",
            detail=message,
        )
