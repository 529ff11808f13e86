"""git plumbing over a repository that is not trusted.

Commands run in a *shadow*: an empty git folder of our own that borrows the objects and refs of the real one. So the
repository's hooks, configuration, attributes, grafts and replacements never speak, and its owner does not matter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

from envfarm.core.errors import BuilderError, Reason, Tier

from .shadow import Shadow

_OPTIONS = (
    "--no-pager",
    "--literal-pathspecs",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "core.attributesFile=/dev/null",
    "-c", "core.quotePath=true",
    "-c", "protocol.allow=never",
    "-c", "diff.renameLimit=400",
)  # fmt: skip


class Plumbing:
    """Runs git over ``objects`` and ``refs`` found at ``common_dir``, with ``head`` as HEAD.

    Errors are ``BuilderError`` (``repository_broken``), one sentence each. Safe to use from several threads.
    """

    def __init__(self, label: str, git_dir: Path, common_dir: Path, object_format: str = "sha1") -> None:
        self._label = label
        git = shutil.which("git")
        if git is None:
            raise BuilderError(
                "The git command is not on this machine.",
                reason=Reason.repository_broken,
                phase="open",
                tier=Tier.environment,
                remedy="Install git 2.30 or newer.",
            )
        self._git = git
        shadow = Shadow(git_dir, common_dir, object_format)
        self._shadow = shadow.path
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._shadow),
            "LC_ALL": "C",
            "TZ": "UTC",
            "GIT_DIR": str(self._shadow),
            "GIT_OBJECT_DIRECTORY": str(common_dir / "objects"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
        }
        self._reader = _ObjectReader()
        self._finalizer = weakref.finalize(self, _close, shadow, self._reader)

    def close(self) -> None:
        """End helper processes and remove the shadow. Idempotent; also done when the object goes away."""
        self._finalizer()

    def run(self, *args: str, stdin: bytes = b"", check: bool = True) -> bytes:
        """Output of ``git *args``; with ``check`` off, empty output where git fails."""
        done = subprocess.run([self._git, *_OPTIONS, *args], input=stdin, capture_output=True, env=self._env)
        if done.returncode != 0:
            if not check:
                return b""
            raise self.broken(args[0], done.stderr)
        return done.stdout

    def stream(self, *args: str, delimiter: bytes) -> Iterator[bytes]:
        """Pieces of ``git *args``'s output between delimiters, as they arrive. Leaving early ends git."""
        process = subprocess.Popen(
            [self._git, *_OPTIONS, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
        )
        assert process.stdout and process.stderr
        finished = False
        try:
            rest = b""
            while chunk := process.stdout.read1(1 << 18):  # type: ignore[attr-defined]
                pieces = (rest + chunk).split(delimiter)
                rest = pieces.pop()
                yield from pieces
            if rest:
                yield rest
            finished = True
        finally:
            if not finished:
                process.kill()
            stderr = process.stderr.read()
            process.stdout.close()
            process.stderr.close()
            code = process.wait()
        if code != 0:
            raise self.broken(args[0], stderr)

    def blobs(self, names: Sequence[str]) -> list[bytes | None]:
        """Contents of objects named ``sha`` or ``commit:path``; None for what does not exist or is no blob."""
        return self._reader.read([self._git, *_OPTIONS, "cat-file", "--batch"], self._env, names)

    def broken(self, command: str, stderr: bytes) -> BuilderError:
        """The error for a git command that failed."""
        text = stderr.decode("utf-8", "replace").strip()
        first = text.splitlines()[0].removeprefix("fatal: ").removeprefix("error: ") if text else "no message"
        return BuilderError(
            f"Repository {self._label} cannot be read: git {command} says '{first.replace(str(self._shadow), '')}'.",
            reason=Reason.repository_broken,
            phase="read",
            remedy="Check it with git fsck, or clone it again.",
            detail=text,
        )


class _ObjectReader:
    """One long-lived ``git cat-file --batch``."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def read(self, argv: list[str], env: dict[str, str], names: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
                )
            return [self._one(self._process, name) for name in names]

    @staticmethod
    def _one(process: subprocess.Popen[bytes], name: str) -> bytes | None:
        assert process.stdin and process.stdout
        if "\n" in name:
            return None  # the protocol is line-based; git itself cannot be asked for such a path here
        try:
            process.stdin.write(name.encode("utf-8", "surrogateescape") + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None  # git died on a damaged object: the caller sees a missing one
        header = process.stdout.readline().rsplit(b" ", 2)
        if len(header) != 3 or not header[2].strip().isdigit():
            return None
        size = int(header[2])
        data = process.stdout.read(size)
        process.stdout.read(1)
        return data if header[1] == b"blob" and len(data) == size else None

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                assert self._process.stdin and self._process.stdout
                self._process.kill()
                self._process.wait()
                self._process.stdin.close()
                self._process.stdout.close()
                self._process = None


def _close(shadow: Shadow, reader: _ObjectReader) -> None:
    reader.close()
    shadow.remove()
