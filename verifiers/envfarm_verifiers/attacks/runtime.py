"""Attacks by code that runs: put behind a source module, at import or around every function it defines."""

from __future__ import annotations

from collections.abc import Iterator

from envfarm.core.task import Task

from .edits import Tree
from .payloads import payloads

_AROUND = """

def _cheat_install(space):
    import functools
    import types

    def around(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            return _cheat(function, args, kwargs)

        return call

    for name, value in list(space.items()):
        if name.startswith("_cheat"):
            continue
        if isinstance(value, types.FunctionType) and value.__module__ == space["__name__"]:
            space[name] = around(value)
        elif isinstance(value, type) and value.__module__ == space["__name__"]:
            for key, method in list(vars(value).items()):
                if isinstance(method, types.FunctionType) and not key.startswith("__"):
                    try:
                        setattr(value, key, around(method))
                    except (AttributeError, TypeError):
                        pass


_cheat_install(globals())
"""


def default_target(task: Task, tree: Tree) -> str | None:
    """The first Python source file that a submission may touch."""
    return next(iter(_sources(task, tree)), None)


def patches(tree: Tree, target: str) -> dict[str, str]:
    """Every payload, put into ``target``."""
    return {
        name: tree.append(target, "\n\n" + text + (_AROUND if wraps else ""))
        for name, (text, wraps) in payloads().items()
    }


def _sources(task: Task, tree: Tree) -> Iterator[str]:
    for path in sorted(tree.files, key=lambda path: (not path.endswith("__init__.py"), path.count("/"), path)):
        allowed = any(path == entry or (entry.endswith("/") and path.startswith(entry)) for entry in task.source_paths)
        if allowed and path.endswith(".py") and tree.text(path) is not None:
            yield path
