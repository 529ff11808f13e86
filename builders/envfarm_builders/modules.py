"""Which names a project's modules offer at a revision, read from syntax alone."""

from __future__ import annotations

from collections.abc import Sequence

from envfarm.core.ports import Repository

from . import pycode


class ModuleMap:
    """Modules below the source roots of one revision."""

    def __init__(self, repository: Repository, commit: str, roots: Sequence[str]) -> None:
        self._repository, self._commit = repository, commit
        # "src/pkg/" offers pkg from "src/"; "pkg/" and "module.py" from the top.
        self._prefixes = sorted({root.rstrip("/").rpartition("/")[0] for root in roots})
        self._tops = {root.rstrip("/").rpartition("/")[2].removesuffix(".py") for root in roots}
        self._namespace = {part for root in roots for part in root.split("/")[:-1]}
        self._modules: dict[str, tuple[frozenset[str], bool] | None] = {}

    def has(self, module: str, name: str) -> bool:
        """Whether ``from module import name`` (``import module`` for an empty name) would find it. True where that
        cannot be told: other projects' modules, star imports, compiled modules."""
        top = module.partition(".")[0]
        if not module or (top not in self._tops and top not in self._namespace):
            return True
        offered = self._offered(module)
        if offered is None:
            return False
        if not name or name == "*":
            return True
        names, is_open = offered
        return is_open or name in names or self._offered(f"{module}.{name}") is not None

    def _offered(self, module: str) -> tuple[frozenset[str], bool] | None:
        if module not in self._modules:
            self._modules[module] = self._read(module)
        return self._modules[module]

    def _read(self, module: str) -> tuple[frozenset[str], bool] | None:
        relative = module.replace(".", "/")
        for prefix in self._prefixes:
            path = f"{prefix}/{relative}" if prefix else relative
            for file in (f"{path}/__init__.py", f"{path}.py"):
                data = self._repository.read(self._commit, file)
                if data is not None:
                    return pycode.defined(data)
            for suffix in (".pyx", ".c", ".pyi", ".rs"):
                if self._repository.read(self._commit, path + suffix) is not None:
                    return frozenset(), True
        return None
