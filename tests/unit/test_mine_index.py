"""Package indexes and release repositories, over real HTTP to an index in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from envfarm_builders.filters import StaticFilter
from envfarm_builders.issues import default_sources
from envfarm_builders.mine import RepositoryMiner
from envfarm_builders.repos.index import PackageIndex, configured_index
from envfarm_builders.repos.pypi import PyPIRepository, latest_sdist

from envfarm.core.archive import unpack
from envfarm.core.errors import BuilderError, Reason

from ..repositories import LocalIndex, local_index, sdist

_TESTED = {"pkg.py": "X = 1\n", "tests/test_pkg.py": "def test_x(): pass\n"}


@pytest.fixture
def index() -> Iterator[LocalIndex]:
    with local_index() as served:
        yield served


def _versions(repository: PyPIRepository) -> list[str]:
    return [commit.version for commit in repository.commits()]


def test_final_releases_newest_version_first(index: LocalIndex) -> None:
    for day, version in enumerate(("1.0", "1.10", "1.9", "2.0rc1", "1.0.post1", "1.11.post1", "1.12.dev1"), 1):
        index.add("pkg", version, sdist("pkg", version, _TESTED), day=day)
    index.add("pkg", "1.13", b"", yanked="broken")
    index.add("pkg", "1.14", b"", size=1 << 40)
    index.packages["pkg"].append({**index.packages["pkg"][0], "filename": "pkg-3.0-py3-none-any.whl"})
    index.packages["pkg"].append({**index.packages["pkg"][0], "filename": "other-3.0.tar.gz"})
    found = PackageIndex(index.url).releases("Pkg")
    assert [str(release.version) for release in found] == ["1.11.post1", "1.10", "1.9", "1.0"]
    assert found[0].uploaded_at.isoformat() == "2024-02-06T10:00:00+00:00"


def test_releases_without_tests_or_broken_are_passed_over(index: LocalIndex, tmp_path: Path) -> None:
    index.add("pkg", "1.0", sdist("pkg", "1.0", _TESTED))
    index.add("pkg", "1.1", sdist("pkg", "1.1", {"pkg.py": ""}))
    index.add("pkg", "1.2", b"no archive")
    index.add("pkg", "1.3", sdist("pkg", "1.3", {**_TESTED, "../up": "x"}))
    index.add("pkg", "1.4", sdist("pkg", "1.4", _TESTED))
    repository = PyPIRepository("pkg", tmp_path, index=PackageIndex(index.url))
    assert _versions(repository) == ["1.4", "1.0"]
    repository.close()


def test_commits_are_a_function_of_the_releases(index: LocalIndex, tmp_path: Path) -> None:
    for day in range(1, 6):
        files = {**_TESTED, "pkg.py": f"X = {day}\n", "CHANGES.md": f"## 1.{day}\n\n- Day {day}.\n"}
        index.add("pkg", f"1.{day}", sdist("pkg", f"1.{day}", files), day=day)
    first = PyPIRepository("pkg", tmp_path / "a", index=PackageIndex(index.url), releases=3)
    second = PyPIRepository("PKG", tmp_path / "b", index=PackageIndex(index.url), releases=3)
    commits = list(first.commits())
    assert commits == list(second.commits()) and len(commits) == 3
    assert commits[0].message == "Release 1.5\n\n- Day 5." and commits[0].authored_at.day == 5
    assert set(unpack(first.tree(commits[0].id))) == {"pkg.py", "tests/test_pkg.py", "CHANGES.md"}
    first.close()
    second.close()


def test_a_repository_is_opened_again_without_the_index(index: LocalIndex, tmp_path: Path) -> None:
    index.add("pkg", "1.0", sdist("pkg", "1.0", _TESTED))
    PyPIRepository("pkg", tmp_path, index=PackageIndex(index.url)).close()
    asked = len(index.requests)
    again = PyPIRepository("pkg", tmp_path, index=PackageIndex(index.url))
    assert _versions(again) == ["1.0"] and len(index.requests) == asked
    again.close()


def test_downloads_are_kept_and_checked(index: LocalIndex, tmp_path: Path) -> None:
    data = sdist("pkg", "1.0", _TESTED)
    index.add("pkg", "1.0", data)
    assert latest_sdist("pkg", tmp_path, PackageIndex(index.url))[0] == "1.0"
    (kept,) = (tmp_path / "sdists").iterdir()
    version, uploaded_at, tree = latest_sdist("pkg", tmp_path, PackageIndex(index.url))
    assert sum("/files/" in path for path in index.requests) == 1 and "tests/test_pkg.py" in unpack(tree)
    kept.write_bytes(data[:50])
    assert latest_sdist("pkg", tmp_path, PackageIndex(index.url)) == (version, uploaded_at, tree)
    index.archives["pkg-1.0.tar.gz"] = data + b"more"
    kept.unlink()
    with pytest.raises(BuilderError) as caught:
        latest_sdist("pkg", tmp_path, PackageIndex(index.url))
    assert caught.value.reason is Reason.sdist_broken


def test_passing_faults_are_retried(index: LocalIndex) -> None:
    index.add("pkg", "1.0", sdist("pkg", "1.0", _TESTED))
    index.failures.extend([503, 429])
    assert len(PackageIndex(index.url).releases("pkg")) == 1
    assert len(index.requests) == 3


def test_a_release_pair_becomes_a_candidate(index: LocalIndex, tmp_path: Path) -> None:
    test = "import pkg\n\n\ndef test_x():\n    assert pkg.X == {}\n"
    for day in (1, 2):
        changes = "".join(f"## 1.{n}\n\n- `X` is {n} now, for reasons given elsewhere (#{n}).\n\n" for n in (2, 1))
        files = {"pkg.py": f"X = {day}\n", "tests/test_pkg.py": test.format(day), "CHANGES.md": changes}
        index.add("pkg", f"1.{day}", sdist("pkg", f"1.{day}", files), day=day)
    repository = PyPIRepository("pkg", tmp_path, index=PackageIndex(index.url))
    (candidate,) = RepositoryMiner().mine(repository, default_sources(), None)
    assert (candidate.id, candidate.repo, candidate.version) == ("pypi__pkg-1.2", "pypi:pkg", "1.2")
    assert StaticFilter().check(repository, candidate) is None
    repository.close()


def test_the_configured_index() -> None:
    assert configured_index({"UV_DEFAULT_INDEX": "mine=https://h.invalid/simple"})[0] == "https://h.invalid/simple"
    pip = {"PIP_INDEX_URL": "https://p.invalid/s", "PIP_CERT": "/ca"}
    assert configured_index(pip) == ("https://p.invalid/s", "/ca")
    assert configured_index({**pip, "UV_INDEX_URL": "https://u.invalid/"})[0] == "https://u.invalid/"


@pytest.mark.registry
def test_a_real_package(tmp_path: Path) -> None:
    repository = PyPIRepository("pluggy", tmp_path, releases=3)
    assert len(_versions(repository)) == 3
    repository.close()
