"""Which functions an answer touches: where a policy that knows the place may edit."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unidiff import PatchSet

from envfarm.core.archive import File
from envfarm.core.errors import BuilderError

from .edits import parse_units


def touched_functions(patch: str, tree: Mapping[str, File]) -> dict[str, tuple[str, ...]]:
    """Path -> qualified names of the functions whose lines the patch deletes, changes or adds to.

    Only Python files that ``tree`` has; what is added outside any function is left out.
    """
    found: dict[str, tuple[str, ...]] = {}
    for file in PatchSet(patch):
        path = re.sub(r"^a/", "", file.source_file)
        if path not in tree or not path.endswith(".py"):
            continue
        lines = {line.source_line_no for hunk in file for line in hunk if line.is_removed and line.source_line_no}
        for hunk in file:
            before = hunk.source_start
            for line in hunk:
                if line.is_added:
                    lines.add(before)
                elif line.source_line_no:
                    before = line.source_line_no
        try:
            units = parse_units(tree[path].data.decode("utf-8", "replace"))
        except BuilderError:
            continue  # not Python that this interpreter reads: nothing in it can be edited by rule
        names = [unit.qualname for unit in units if any(unit.first_line <= n <= unit.last_line for n in lines)]
        if names:
            found[path] = tuple(dict.fromkeys(names))
    return found
