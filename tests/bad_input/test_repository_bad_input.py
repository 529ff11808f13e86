"""Repositories that cannot be read: one sentence, the right reason, nothing left behind."""

from __future__ import annotations

import socket
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from envfarm_builders.repos.git import GitRepository
from envfarm_builders.repos.index import PackageIndex
from envfarm_builders.repos.open import open_repository
from envfarm_builders.repos.pypi import PyPIRepository
from envfarm_builders.repos.sdist import unpack_sdist

from envfarm.core.errors import BuilderError, Reason

from ..repositories import GitHistory, entry, local_index, sdist, tar_of


def _refused(call: Callable[[], object], reason: Reason) -> BuilderError:
    with pytest.raises(BuilderError) as caught:
        call()
    message = str(caught.value)
    assert caught.value.reason is reason and message.endswith(".") and "\n" not in message and len(message) < 400
    return caught.value


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    _refused(lambda: GitRepository(tmp_path / "nothing"), Reason.repository_missing)


def test_a_folder_and_a_file_that_are_no_repository(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken/.git").mkdir(parents=True)
    (tmp_path / "pointing").mkdir()
    (tmp_path / "pointing/.git").write_text("gitdir: /nowhere\n")
    for path in (tmp_path, tmp_path / "file", tmp_path / "broken", tmp_path / "pointing"):
        _refused(lambda path=path: GitRepository(path), Reason.repository_broken)


def test_a_repository_without_commits(tmp_path: Path) -> None:
    history = GitHistory(tmp_path / "empty")
    assert "no commits" in str(_refused(lambda: GitRepository(history.path), Reason.repository_broken))


def test_a_repository_with_damaged_objects(tmp_path: Path) -> None:
    history = GitHistory(tmp_path / "damaged")
    history.commit("One", {"a.py": "A = 1\n"})
    head = history.commit("Two", {"a.py": "A = 2\n"})
    blob, parent = history.git("rev-parse", "HEAD:a.py"), history.git("rev-parse", "HEAD~1")
    (history.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    repository = GitRepository(history.path)
    _refused(lambda: repository.tree(head), Reason.repository_broken)
    _refused(lambda: repository.diff(parent, head, ["a.py"]), Reason.repository_broken)
    _refused(lambda: repository.tree("0" * 40), Reason.repository_broken)
    repository.close()
    (history.path / ".git/objects" / parent[:2] / parent[2:]).unlink()
    repository = GitRepository(history.path)
    _refused(lambda: list(repository.commits()), Reason.repository_broken)
    repository.close()
    (history.path / ".git/objects" / head[:2] / head[2:]).unlink()
    _refused(lambda: GitRepository(history.path), Reason.repository_broken)


def test_a_commit_that_looks_like_an_option(tmp_path: Path) -> None:
    history = GitHistory(tmp_path / "repo")
    history.commit("One", {"a.py": "A = 1\n"})
    repository = GitRepository(history.path)
    _refused(lambda: repository.tree("--output=/tmp/x"), Reason.repository_broken)
    repository.close()


def test_refs_that_mean_nothing(tmp_path: Path) -> None:
    assert "pypi:NAME" in str(_refused(lambda: open_repository("npm:left-pad", tmp_path), Reason.repository_missing))
    for ref in ("git:", "", "git:/nowhere/at/all"):
        _refused(lambda ref=ref: open_repository(ref, tmp_path), Reason.repository_missing)
    for name in ("", "../up", "a b", "-x", "a/b", "é"):
        _refused(lambda name=name: open_repository(f"pypi:{name}", tmp_path), Reason.package_unknown)


def test_an_unknown_package_and_one_without_archives(tmp_path: Path) -> None:
    with local_index() as index:
        index.packages["wheels"] = []
        _refused(lambda: PyPIRepository("nope", tmp_path, index=PackageIndex(index.url)), Reason.package_unknown)
        _refused(lambda: PyPIRepository("wheels", tmp_path, index=PackageIndex(index.url)), Reason.no_sdist)
    assert not list(tmp_path.rglob("*.git"))


def test_a_package_whose_archives_carry_no_tests(tmp_path: Path) -> None:
    with local_index() as index:
        index.add("pkg", "1.0", sdist("pkg", "1.0", {"pkg.py": ""}))
        error = _refused(lambda: PyPIRepository("pkg", tmp_path, index=PackageIndex(index.url)), Reason.no_tests)
    assert not error.retryable and not list(tmp_path.glob("pypi/*"))


def test_a_package_with_nothing_but_hostile_archives(tmp_path: Path) -> None:
    with local_index() as index:
        index.add("pkg", "1.0", sdist("pkg", "1.0", {"/etc/x": "", "../../up": ""}))
        _refused(lambda: PyPIRepository("pkg", tmp_path, index=PackageIndex(index.url)), Reason.sdist_unsafe)


def test_an_index_that_is_down_is_worth_another_try(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/simple/"
        index = PackageIndex(url, attempts=2, timeout_sec=2)
        error = _refused(lambda: PyPIRepository("pkg", tmp_path, index=index), Reason.index_unreachable)
    assert error.retryable and "UV_DEFAULT_INDEX" in str(error)


def test_an_index_that_answers_nonsense(tmp_path: Path) -> None:
    with local_index() as index:
        index.packages["old"] = [{"filename": "old-1.0.tar.gz", "url": "x", "hashes": {}}]
        _refused(lambda: PackageIndex(index.url).releases("old"), Reason.index_unreachable)
        index.failures.append(403)
        assert not _refused(lambda: PackageIndex(index.url).releases("old"), Reason.index_unreachable).retryable
    _refused(lambda: PackageIndex("ftp://h.invalid/simple"), Reason.index_unreachable)
    secret = PackageIndex("http://user:secret@127.0.0.1:1/simple", attempts=1)
    assert "secret" not in str(_refused(lambda: secret.releases("x"), Reason.index_unreachable))


def _zip(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        tar_of({"p-1/a": "", "p-1/../../up": ""}),
        tar_of({"p-1/a": "", "/abs": ""}),
        tar_of({"p-1/a": "", "p-1/l": entry("p-1/l", tarfile.SYMTYPE, "/etc/passwd")}),
        tar_of({"p-1/a": "", "p-1/l": entry("p-1/l", tarfile.SYMTYPE, "../../up")}),
        tar_of({"p-1/a": "", "p-1/l": entry("p-1/l", tarfile.FIFOTYPE)}),
        tar_of({"p-1/a": "", "p-1/l": entry("p-1/l", tarfile.CHRTYPE)}),
        _zip({"p-1/a": b"", "../up": b""}),
        _zip({"p-1/l": b"/etc/passwd"}, mode=0o120777),
    ],
)
def test_hostile_archives(data: bytes) -> None:
    _refused(lambda: unpack_sdist(data, "p-1.tar.gz"), Reason.sdist_unsafe)


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"\x1f\x8bgarbage", b"PK\x03\x04garbage", sdist("p", "1", {"a": "x" * 999})[:-30], tar_of({}),
     tar_of({"p-1/PKG-INFO": ""}), _zip({"p-1/a": b"x" * 99})[:-30]],
)  # fmt: skip
def test_broken_archives(data: bytes) -> None:
    _refused(lambda: unpack_sdist(data, "p-1.tar.gz"), Reason.sdist_broken)


def test_a_link_inside_an_archive_that_its_top_folder_hides() -> None:
    # Inside the archive the link stays within it; within the tree below the top folder it would not.
    data = tar_of({"p-1/a": "", "p-1/l": entry("p-1/l", tarfile.SYMTYPE, "../p-1/a")})
    _refused(lambda: unpack_sdist(data, "p-1.tar.gz"), Reason.sdist_unsafe)
