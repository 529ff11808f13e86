"""The repository contract over git clones (with a work tree, bare) and over a package's releases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from envfarm_builders.repos.git import GitRepository
from envfarm_builders.repos.index import PackageIndex
from envfarm_builders.repos.pypi import PyPIRepository

from envfarm.core.ports import Repository

from ..repositories import GitHistory, local_index, sdist
from .repository_suite import *  # noqa: F403
from .repository_suite import STATES


def _git_history(path: Path) -> GitHistory:
    history = GitHistory(path)
    before: set[str] = set()
    for version, files in STATES:
        history.commit(f"State {version}", {**dict.fromkeys(before - set(files)), **files}, tag=f"v{version}")
        before = set(files)
    return history


@pytest.fixture(scope="module", params=["git", "bare", "pypi"])
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    folder = tmp_path_factory.mktemp("repository")
    if request.param == "pypi":
        with local_index() as index:
            for day, (version, files) in enumerate(STATES, 1):
                index.add("pkg", version, sdist("pkg", version, files), day=day)
            opened: GitRepository | PyPIRepository = PyPIRepository("pkg", folder, index=PackageIndex(index.url))
    else:
        history = _git_history(folder / "pkg")
        path = history.path
        if request.param == "bare":
            path = folder / "bare" / "pkg.git"
            history.git("clone", "--quiet", "--bare", str(history.path), str(path))
        opened = GitRepository(path)
    yield opened
    opened.close()
