"""What lets commits share a recipe: the cut-off's quarter and the digest of what an installation reads."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from envfarm.core.base import digest_bytes, digest_json

from .findings import Files

GRACE = timedelta(days=30)
"""A release is tested with what came out about when it did."""

_METADATA = re.compile(
    r"^(pyproject\.toml|setup\.(py|cfg)|MANIFEST\.in|meson\.build|CMakeLists\.txt|Cargo\.(toml|lock)|tox\.ini|noxfile\.py"
    r"|Pipfile|pytest\.ini|requirements[\w./-]*\.(txt|in)|versioneer\.py|(uv|pdm|poetry)\.lock)$"
)
_COMPILED = re.compile(r"\.(pyx|pxd|pxi|c|cc|cpp|cxx|h|hpp|rs)$")


def era_cutoff(released_at: datetime) -> datetime:
    """The end of the quarter that the release date plus :data:`GRACE` falls in."""
    moment = (released_at + GRACE).astimezone(UTC)
    month = 3 * ((moment.month - 1) // 3) + 4
    return datetime(moment.year + (month > 12), (month - 1) % 12 + 1, 1, tzinfo=UTC)


def tree_digest(files: Files, native: bool) -> str:
    """Digest of the files that an installation reads: build metadata, the packages' layout and, where something is
    compiled, the native sources. Pure Python sources are not in it: an editable install reads them at run time."""
    metadata = {path: digest_bytes(data) for path, data in files.items() if _METADATA.match(path)}
    layout = sorted({path.rpartition("/")[0] for path in files if path.endswith("/__init__.py")})
    compiled = {path: digest_bytes(data) for path, data in files.items() if native and _COMPILED.search(path)}
    return digest_json({"metadata": metadata, "layout": layout, "compiled": compiled})
