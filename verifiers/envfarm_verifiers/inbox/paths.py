"""The import path around the moment pytest is loaded: nothing of the tree may answer for a missing module then."""

# ruff: noqa: PTH100, PTH112  (pathlib costs start-up time in every box)
from __future__ import annotations

import os
import sys


def hide(root):
    """Take every way to import from the tree out of ``sys.path`` and ``sys.meta_path``; return what was taken."""
    inside = root.rstrip("/") + "/"
    paths = [entry for entry in sys.path if (os.path.abspath(entry) + "/").startswith(inside)]
    sys.path[:] = [entry for entry in sys.path if entry not in paths]
    finders = [finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("_frozen")]
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in finders]
    return paths, finders


def restore(held, front, back):
    """Paths of the tree come back behind everything else; ``front`` before installed packages, ``back`` last."""
    paths, finders = held
    place = next((index for index, entry in enumerate(sys.path) if "site-packages" in entry), len(sys.path))
    front = [entry for entry in front if os.path.isdir(entry)]
    sys.path[place:place] = front
    for entry in paths + back:
        if entry not in sys.path and os.path.isdir(entry):
            sys.path.append(entry)
    sys.meta_path += finders
    inherited = front + [entry for entry in back if entry not in front]
    if inherited:  # for interpreters that the tests start
        os.environ["PYTHONPATH"] = os.pathsep.join(inherited)
