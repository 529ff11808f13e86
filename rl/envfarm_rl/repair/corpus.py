"""The bring-up corpus on disk: mutated functions with their valid edits, one file for each package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import zstandard

from envfarm.core.durable import write_file
from envfarm.core.errors import Reason, TrainerError

from .problem import Problem


class Example(msgspec.Struct, frozen=True):
    """A function with one to three planted bugs. Nothing was run: whether a test would notice is not known."""

    problem: Problem
    gold: tuple[int, ...]
    """Indices into ``problem.edits`` of the edits that each undo one of the bugs."""
    function: str
    """Digest of the healthy function's syntax tree: what the corpus is de-duplicated by."""


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write a package's file, whole or not at all; the number written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(example) for example in examples]
    write_file(path, zstandard.compress(b"\n".join(lines)))
    return len(lines)


def read_lines(path: Path) -> list[bytes]:
    """The examples of a package's file, each as :func:`decode` takes it: a corpus kept like this is a tenth in size.
    Raises ``TrainerError`` for a file that is no corpus."""
    try:
        return zstandard.decompress(path.read_bytes()).splitlines()
    except (OSError, zstandard.ZstdError) as error:  # the boundary to the file system
        raise TrainerError(
            f"The corpus file {path} cannot be read: {error}.",
            reason=Reason.checkpoint_corrupt,
            phase="corpus",
            remedy="Remove it; the corpus is built again.",
        ) from error


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a package's file."""
    return map(decode, read_lines(path))


decode = msgspec.json.Decoder(Example).decode
