"""SWE-bench rows, classic and 5.x: read, written back without loss, and made from tasks.

A row is kept as it was read. What it says is read through properties, so that the two spellings of a field (a test
list as JSON text or as a list, say) survive a round trip. Format: the ``swebench`` package, 5.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from envfarm.core.base import Noun
from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import ConfigError, Reason
from envfarm.core.ports import BlobStore
from envfarm.core.task import Task

from .swebench_eval import PARSER, as_parsed, eval_script, image_name

REQUIRED = ("repo", "instance_id", "base_commit", "patch", "test_patch", "problem_statement")
TEST_LISTS = ("FAIL_TO_PASS", "PASS_TO_PASS")
_TEXTS = (*REQUIRED, "hints_text", "version", "environment_setup_commit", "eval_script", "image", "log_parser")
_EVAL_TYPES = ("pass_and_fail", "fail_only")


class RowError(ValueError):
    """Why a row cannot be used, as the end of a sentence."""


class SweBenchRow(Noun):
    """One row: ``values`` holds every column as it was, unknown ones included, in their order."""

    values: dict[str, Any]

    @classmethod
    def parse(cls, values: Any) -> SweBenchRow:
        """Check the columns that have a meaning. Raises ``RowError``."""
        if not isinstance(values, dict):
            raise RowError(f"it is {_kind(values)}, not an object")
        for name in REQUIRED:
            if name not in values:
                raise RowError(f"'{name}' is missing")
            if not isinstance(values[name], str):
                raise RowError(f"'{name}' is {_kind(values[name])}, not text")
        for name in _TEXTS:
            if not isinstance(values.get(name), str | None):
                raise RowError(f"'{name}' is {_kind(values[name])}, not text")
        for name in TEST_LISTS:
            _tests(name, values.get(name))
        if values.get("eval_type") not in (None, *_EVAL_TYPES):
            raise RowError(f"'eval_type' is {values['eval_type']!r}, not one of {', '.join(_EVAL_TYPES)}")
        if not values["instance_id"]:
            raise RowError("'instance_id' is empty")
        return cls(values=values)

    @property
    def instance_id(self) -> str:
        """``owner__repo-number``."""
        return self.values["instance_id"]

    @property
    def fail_to_pass(self) -> tuple[str, ...]:
        """Test ids, blanks and all, however the row spells the list."""
        return _tests("FAIL_TO_PASS", self.values.get("FAIL_TO_PASS"))

    @property
    def pass_to_pass(self) -> tuple[str, ...]:
        """Test ids, blanks and all, however the row spells the list."""
        return _tests("PASS_TO_PASS", self.values.get("PASS_TO_PASS"))

    @property
    def runnable(self) -> bool:
        """Whether the row carries what the 5.x harness runs."""
        return all(self.values.get(name) for name in ("eval_script", "image", "log_parser", "eval_type"))


def read_rows(path: Path) -> Iterator[SweBenchRow]:
    """Rows of a JSON lines or (``.parquet``) parquet file, one by one.

    Raises ``ConfigError`` (usage) that names the file and the line of a row that cannot be used.
    """
    if path.suffix == ".parquet":
        from . import parquet

        rows = enumerate(parquet.read(path), 1)
        place = "row"
    else:
        rows = _read_json_lines(path)
        place = "line"
    for number, values in rows:
        try:
            yield SweBenchRow.parse(values)
        except RowError as error:
            raise unusable(path, f"{place} {number}", str(error)) from error


def write_rows(path: Path, rows: Iterable[SweBenchRow]) -> int:
    """Write rows, as JSON lines or (``.parquet``) parquet; return how many. An existing file is replaced whole.

    JSON lines keep a row exactly. A parquet file gives all its rows the same columns, so that a column which a row
    lacks comes back as null. Raises ``ConfigError`` (usage) for values that the format cannot hold.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        if path.suffix == ".parquet":
            from . import parquet

            count = parquet.write(temporary, [row.values for row in rows], path)
        else:
            count = _write_json_lines(temporary, rows, path)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return count


def from_task(
    task: Task,
    blobs: BlobStore,
    environment: Environment,
    *,
    command: TestCommand | None = None,
    split: str = "train",
    namespace: str = "envfarm",
) -> SweBenchRow:
    """A validated task as a 5.x row. Raises ``StoreError`` where a blob is not there, ``ConfigError`` (usage)
    where a diff is not UTF-8: a row holds text only.

    ``image`` is the name by the harness's own rule, below ``namespace``: an image of the environment with the task's
    tree as a git repository at ``/testbed``. The row names it; building and pushing it is the exporter's work.
    """
    patch = _diff(task, blobs, task.gold_patch)
    test_patch = _diff(task, blobs, task.test_patch) if task.test_patch else ""
    values: dict[str, Any] = {
        "repo": task.repo_name,
        "instance_id": task.id,
        "base_commit": task.base_commit,
        "patch": patch,
        "test_patch": test_patch,
        "problem_statement": task.statement.text,
        "hints_text": "",
        "created_at": task.created_at.isoformat(),
        "version": task.version,
        "FAIL_TO_PASS": [as_parsed(test) for test in task.fail_to_pass],
        "PASS_TO_PASS": [as_parsed(test) for test in task.pass_to_pass],
        "environment_setup_commit": task.base_commit,
        "image": image_name(task.id, namespace),
        "eval_script": eval_script(task, test_patch, command or TestCommand()),
        "log_parser": PARSER,
        "eval_type": "pass_and_fail",
        "split": split,
        "envfarm_task": task.ref,
        "envfarm_environment": environment.digest,
    }
    return SweBenchRow.parse(values)


def unusable(path: Path, place: str, why: str) -> ConfigError:
    """The error for a file that cannot be used."""
    where = f"{path}, {place}," if place else str(path)
    return ConfigError(
        f"{where} cannot be used: {why}.",
        reason=Reason.usage,
        phase="swebench",
        remedy="Rows follow the SWE-bench schema; see docs/formats.md.",
    )


def _read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise unusable(path, "", error.strerror or str(error)) from error
    with file:
        # Split at line feeds only: a text may hold other line separators as they are.
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except UnicodeDecodeError as error:
                raise unusable(path, f"line {number}", "it is not UTF-8") from error
            except (json.JSONDecodeError, RecursionError) as error:
                why = error.msg.lower() if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
                raise unusable(path, f"line {number}", f"it is not JSON ({why})") from error


def _write_json_lines(target: Path, rows: Iterable[SweBenchRow], path: Path) -> int:
    count = 0
    with target.open("wb") as file:
        for count, row in enumerate(rows, 1):
            file.write(_json(row.values, path, count) + b"\n")
    return count


def _json(values: dict[str, Any], path: Path, number: int) -> bytes:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except UnicodeEncodeError:
        return json.dumps(values, allow_nan=False, default=_plain).encode()  # unpaired surrogates, escaped
    except (TypeError, ValueError) as error:
        raise unusable(path, f"row {number}", f"JSON cannot hold it ({error})") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):  # dates of parquet files
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__}")


def _tests(name: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise RowError(f"'{name}' is text but not a JSON list") from error
    if not isinstance(value, list) or not all(isinstance(test, str) for test in value):
        raise RowError(f"'{name}' is {_kind(value)}, not a list of test ids")
    return tuple(cast("list[str]", value))


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", dict: "an object"}
    return names.get(type(value), "a list" if isinstance(value, list) else f"a {type(value).__name__}")


def _diff(task: Task, blobs: BlobStore, digest: str) -> str:
    try:
        return blobs.get(digest).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"Task {task.id} cannot be a SWE-bench row: its diff is not UTF-8.", reason=Reason.usage, phase="swebench"
        ) from error
