"""Repositories for tests: git histories, source archives and a package index, all made here and now."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from envfarm.core.base import digest_bytes

_ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "A Developer",
    "GIT_AUTHOR_EMAIL": "a@example.invalid",
    "GIT_COMMITTER_NAME": "A Developer",
    "GIT_COMMITTER_EMAIL": "a@example.invalid",
}


class GitHistory:
    """A git repository with a work tree, written commit by commit, one minute apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._minute = 0
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *args: str) -> str:
        """Run git in the repository."""
        date = f"2024-01-01T00:{self._minute:02d}:00+0000"
        env = {**_ENV, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        done = subprocess.run(["git", *args], cwd=self.path, env=env, capture_output=True, check=True)
        return done.stdout.decode().strip()

    def commit(self, message: str, files: Mapping[str, str | bytes | None] | None = None, tag: str = "") -> str:
        """Write (or, for None, delete) files and commit everything; the commit's id."""
        for name, content in (files or {}).items():
            target = self.path / name
            if content is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        self._minute += 1
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        if tag:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD")


def sdist(name: str, version: str, files: Mapping[str, str | bytes]) -> bytes:
    """A source archive as a build backend writes it: one top folder, ``PKG-INFO`` in it."""
    everything = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", **files}
    return gzip.compress(tar_of({f"{name}-{version}/{path}": content for path, content in everything.items()}), mtime=0)


def tar_of(files: Mapping[str, str | bytes | tarfile.TarInfo]) -> bytes:
    """A tar of names and contents; a ``TarInfo`` is taken as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A tar entry that is no regular file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@dataclass
class LocalIndex:
    """A package index in this process, over real HTTP."""

    url: str
    packages: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    archives: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    """Status codes that the next requests get instead of an answer."""

    def add(self, name: str, version: str, data: bytes, *, day: int = 1, **extra: object) -> None:
        """List a source archive."""
        filename = f"{name}-{version}.tar.gz"
        self.archives[filename] = data
        self.packages.setdefault(name, []).append(
            {
                "filename": filename,
                "url": f"../../files/{filename}",
                "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
                "upload-time": f"2024-02-{day:02d}T10:00:00.123456Z",
                "size": len(data),
                "yanked": False,
                **extra,
            }
        )


@contextmanager
def local_index() -> Iterator[LocalIndex]:
    """Serve an index until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.requests.append(self.path)
            if index.failures:
                self._answer(index.failures.pop(0), b"")
                return
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "simple" and name in index.packages:
                listing = {"meta": {"api-version": "1.1"}, "name": name, "files": index.packages[name]}
                self._answer(200, json.dumps(listing).encode())
            elif kind == "files" and name in index.archives:
                self._answer(200, index.archives[name])
            else:
                self._answer(404, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index = LocalIndex(f"http://127.0.0.1:{server.server_address[1]}/simple/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class MemoryBlobs(dict[str, bytes]):
    """A ``BlobStore`` in memory."""

    def put(self, data: bytes) -> str:
        digest = digest_bytes(data)
        self[digest] = data
        return digest

    def get(self, digest: str) -> bytes:  # type: ignore[override]
        return self[digest]

    def has(self, digest: str) -> bool:
        return digest in self
