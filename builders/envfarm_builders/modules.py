"""Which names a project's modules offer at a revision, read from syntax alone."""

from __future__ import annotations

from collections.abc import Sequence

from envfarm.core.ports import Repository

from .pycode import Offer, offer

_COMPILED = Offer(frozenset(), frozenset(), (), unknown=True)


class ModuleMap:
    """Modules below the source roots of one revision."""

    def __init__(self, repository: Repository, commit: str, roots: Sequence[str]) -> None:
        self._repository, self._commit = repository, commit
        # "src/pkg/" offers pkg from "src/"; "pkg/" and "module.py" from the top.
        self._prefixes = sorted({root.rstrip("/").rpartition("/")[0] for root in roots})
        self._tops = {root.rstrip("/").rpartition("/")[2].removesuffix(".py") for root in roots}
        self._namespaces = {part for root in roots for part in root.split("/")[:-2]} - {"src", "lib"}
        self._modules: dict[str, tuple[Offer, bool] | None] = {}

    def has(self, module: str, name: str) -> bool:
        """Whether ``from module import name`` (``import module`` for an empty name) would find it. True where that
        cannot be told: other projects' modules, names made at run time, compiled modules."""
        if module.partition(".")[0] not in self._tops | self._namespaces or not module:
            return True
        if self._offered(module) is None:
            return False
        return not name or name == "*" or self._binds(module, name, set())

    def _binds(self, module: str, name: str, seen: set[str]) -> bool:
        found = self._offered(module)
        if found is None or module in seen:
            return False
        seen.add(module)
        offered, is_package = found
        if offered.unknown or name in offered.names or name in offered.dynamic:
            return True
        if is_package and self._offered(f"{module}.{name}") is not None:
            return True
        for level, target in offered.stars:
            source = _resolve(module, is_package, level, target)
            if source.partition(".")[0] not in self._tops | self._namespaces or self._binds(source, name, seen):
                return True
        return False

    def _offered(self, module: str) -> tuple[Offer, bool] | None:
        if module not in self._modules:
            self._modules[module] = self._read(module)
        return self._modules[module]

    def _read(self, module: str) -> tuple[Offer, bool] | None:
        relative = module.replace(".", "/")
        for prefix in self._prefixes:
            path = f"{prefix}/{relative}" if prefix else relative
            for file, is_package in ((f"{path}/__init__.py", True), (f"{path}.py", False)):
                data = self._repository.read(self._commit, file)
                if data is not None:
                    return offer(data), is_package
            for suffix in (".pyx", ".c", ".pyi", ".rs"):
                if self._repository.read(self._commit, path + suffix) is not None:
                    return _COMPILED, False
        return (_COMPILED, True) if module in self._namespaces else None


def _resolve(module: str, is_package: bool, level: int, target: str) -> str:
    if not level:
        return target
    parts = module.split(".")
    climb = level - 1 if is_package else level
    parts = parts[: len(parts) - climb] if climb else parts
    return ".".join([*parts, *([target] if target else [])])
