"""Rows in a parquet file. A column that Arrow cannot give back exactly (mixed types, objects whose keys differ) is
stored as JSON text and marked so in the schema; only :func:`read` undoes that, other readers see text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from envfarm.core.errors import ConfigError, Reason

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:  # the boundary to an optional dependency
    raise ConfigError(
        "Parquet files need the pyarrow package, which is not installed.",
        reason=Reason.config,
        phase="parquet",
        remedy="Run: pip install 'envfarm[verify]'.",
    ) from error

_JSON = {b"envfarm": b"json"}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, one by one. Raises ``ConfigError`` (usage) for a file that is not parquet."""
    try:
        with path.open("rb") as source, pq.ParquetFile(source) as file:
            encoded = {field.name for field in file.schema_arrow if (field.metadata or {}).items() >= _JSON.items()}
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    yield {name: _decoded(value) if name in encoded else value for name, value in row.items()}
    except (OSError, pa.ArrowException, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(".")
        raise _unusable(path, why) from error


def write(target: Path, rows: Sequence[dict[str, Any]], path: Path) -> int:
    """Write to ``target``; ``path`` is the name in messages. Raises ``ConfigError`` (usage)."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays: list[pa.Array] = []
    fields: list[pa.Field] = []
    for name in names:
        values = [row.get(name) for row in rows]
        array = _native(values)
        fields.append(
            pa.field(name, array.type if array is not None else pa.string(), metadata=_JSON if array is None else None)
        )
        arrays.append(array if array is not None else _encoded(name, values, path))
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), target, compression="zstd")
    return len(rows)


def _native(values: list[Any]) -> pa.Array | None:
    """The column as Arrow sees it, if it gives back exactly what was put in."""
    try:
        array = pa.array(values)
        if _storable(array.type) and _same(array.to_pylist(), values):
            return array
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
        return None  # mixed types, numbers beyond 64 bits, unpaired surrogates: JSON holds them
    return None


def _storable(kind: pa.DataType) -> bool:
    """Parquet has no struct without fields, and an all-null column of lists is a matter of luck: JSON then."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_storable(kind.field(n).type) for n in range(kind.num_fields))
    if pa.types.is_list(kind):
        return _storable(kind.value_type)
    return True


def _same(left: Any, right: Any) -> bool:
    """Equal, types included: 1, 1.0 and True are three values."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same(left[key], right[key]) for key in left)
    return left == right


def _encoded(name: str, values: list[Any], path: Path) -> pa.Array:
    try:
        return pa.array(
            [None if value is None else json.dumps(value, allow_nan=False) for value in values], pa.string()
        )
    except (TypeError, ValueError) as error:
        raise _unusable(path, f"column '{name}' holds what neither parquet nor JSON can ({error})") from error


def _decoded(value: str | None) -> Any:
    return None if value is None else json.loads(value)


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be used: {why}.",
        reason=Reason.usage,
        phase="parquet",
        remedy="See docs/formats.md for what is read and written.",
    )
