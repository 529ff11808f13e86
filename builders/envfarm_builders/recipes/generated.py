"""What an installation wrote into the tree, as far as tests need it there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from envfarm.core.archive import File

LIMIT_BYTES = 128 << 20
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|\.git|\.eggs|\.tox|\.nox|\.pytest_cache|\.mypy_cache|\.ruff_cache|node_modules|\.venv)(/|$)"
    # The environment holds the project's metadata; beside it in the tree, every entry point would be there twice.
    r"|[^/]*\.egg-info/"
    r"|^(build|dist|target|_skbuild|\.mesonpy-[^/]*|builddir)/|\.(pyc|pyo|o|obj|d|log|whl)$|(^|/)\.lock$"
)


def generated_files(before: Mapping[str, File], after: Mapping[str, File]) -> dict[str, File]:
    """New and changed files, without caches, object files and the folders that hold copies of sources.

    Files that go over :data:`LIMIT_BYTES` together are left out from the largest on.
    """
    found = {
        path: file
        for path, file in after.items()
        if file.link is None and not _LEFT_OUT.search(path) and (path not in before or before[path].data != file.data)
    }
    total = sum(len(file.data) for file in found.values())
    for path in sorted(found, key=lambda each: -len(found[each].data)):
        if total <= LIMIT_BYTES:
            break
        total -= len(found.pop(path).data)
    return found
