"""Which functions a patch changes: the place that a policy is told of."""

from __future__ import annotations

from collections.abc import Mapping

from unidiff.patch import PatchSet

from envfarm.core.archive import File
from envfarm.core.errors import BuilderError

from .edits import parse_units


def touched_functions(patch: str, tree: Mapping[str, File]) -> dict[str, list[str]]:
    """Path -> qualified names of the functions with changed lines, in source order, as ``tree`` (the patch's old side)
    has them.

    Files that are not Python this interpreter reads, and changes outside of functions, give nothing.
    """
    found: dict[str, list[str]] = {}
    for file in PatchSet(patch):
        old = tree.get(file.path)
        if old is None or old.link is not None or not file.path.endswith(".py"):
            continue
        changed: set[int] = set()
        for hunk in file:
            before = hunk.source_start
            for line in hunk:
                before = line.source_line_no or before
                if not line.is_context:
                    changed.add(before)
        try:
            units = parse_units(old.data.decode("utf-8"))
        except (BuilderError, UnicodeDecodeError):
            continue  # the boundary to subjects' files: what cannot be read has no functions to tell of
        names = [unit.qualname for unit in units if any(unit.first_line <= line <= unit.last_line for line in changed)]
        if names:
            found[file.path] = list(dict.fromkeys(names))
    return found
