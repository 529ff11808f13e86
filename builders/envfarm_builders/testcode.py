"""Test modules read as syntax: which tests differ between two states, and what it takes to reach them."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator
from functools import cached_property

from . import pycode

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SET_UP = frozenset({"setUp", "setUpClass", "asyncSetUp", "setup_method", "setup_class", "setup"})


class TestFunction:
    """One test. Everything beyond its own text is worked out when asked for."""

    __test__ = False

    def __init__(self, module: TestModule, owner: ast.ClassDef | None, node: _Function) -> None:
        self._module, self._owner, self._node = module, owner, node
        self.name = f"{owner.name}.{node.name}" if owner else node.name
        self.text = module.text(node)

    @cached_property
    def identifiers(self) -> frozenset[str]:
        """Of its own body and decorators."""
        return self._module.identifiers(self._node)

    @cached_property
    def rests_on(self) -> tuple[ast.stmt, ...]:
        """Members of its class and helpers, constants and fixtures of the module that it reaches; no other tests."""
        owner = self._owner
        # A class that holds tests is not itself something its tests rest on: only its other members are.
        shared = [item for item in owner.body if not _is_test(item)] if owner else []
        used = set(self.identifiers)
        for item in [*shared, *(owner.bases if owner else [])]:
            used |= self._module.identifiers(item)
        return (*shared, *self._module.reached(used))

    @cached_property
    def meaning(self) -> str:
        """Equal for tests that differ in name, comments, annotations or layout only."""
        own = self._module.normalised(self._node).replace(f"name='{self._node.name}'", "name=''", 1)
        return "\n".join([own, *map(self._module.normalised, self.rests_on)])

    @cached_property
    def fixtures(self) -> frozenset[str]:
        """Identifiers in fixtures and set-up methods of the module that run before it."""
        arguments = self._node.args
        wanted = {arg.arg for arg in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
        before = [node for node in self._module.reached(wanted) if isinstance(node, _Function)]
        for item in self._owner.body if self._owner else []:
            if isinstance(item, _Function) and (item.name in _SET_UP or _is_fixture(item)):
                before.append(item)
        return frozenset().union(*(self._module.identifiers(node) for node in before))

    @cached_property
    def decorators(self) -> str:
        """Source of its own and its class's decorators."""
        marks = [*self._node.decorator_list, *(self._owner.decorator_list if self._owner else [])]
        return "\n".join(ast.unparse(mark) for mark in marks)


class TestModule:
    """A parsed test module."""

    __test__ = False

    def __init__(self, tree: ast.Module, source: bytes, package: str) -> None:
        self._tree, self._package = tree, package
        self._lines = source.decode("utf-8", "replace").splitlines()
        self._identifiers: dict[ast.AST, frozenset[str]] = {}
        self._normalised: dict[ast.AST, str] = {}
        self._helpers = {
            name: node
            for node in pycode.statements(tree.body)
            if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_test(node) and not _holds_tests(node)
            for name in pycode.bound(node)
        }
        self.tests = [TestFunction(self, owner, node) for owner, node in _functions(tree)]

    def text(self, node: ast.stmt) -> str:
        """Source of a statement, decorators included."""
        return pycode.text_of(node, self._lines)

    def identifiers(self, node: ast.AST) -> frozenset[str]:
        """Names below a node; worked out once."""
        if node not in self._identifiers:
            self._identifiers[node] = frozenset(pycode.identifiers(node))
        return self._identifiers[node]

    def normalised(self, node: ast.stmt) -> str:
        """What a statement does, as text; worked out once."""
        if node not in self._normalised:
            result = pycode.Normaliser().visit(copy.deepcopy(node))
            self._normalised[node] = ast.dump(result) if result is not None else ""
        return self._normalised[node]

    def reached(self, names: Iterable[str]) -> list[ast.stmt]:
        """Helpers that ``names`` lead to, directly or through other helpers, in order of name."""
        found: set[str] = set()
        todo = [name for name in names if name in self._helpers]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(other for other in self.identifiers(self._helpers[name]) if other in self._helpers)
        return [self._helpers[name] for name in sorted(found)]

    @cached_property
    def shared_texts(self) -> frozenset[str]:
        """Source of everything in the module that is neither a test nor an import."""
        members = [
            item
            for node in pycode.statements(self._tree.body)
            if isinstance(node, ast.ClassDef) and _holds_tests(node)
            for item in node.body
            if not _is_test(item)
        ]
        return frozenset(self.text(node) for node in [*self._helpers.values(), *members])

    @cached_property
    def imports(self) -> list[tuple[str, str]]:
        """``(module, name)`` imported when the module is; name '' for ``import module``. Guarded ones are left out."""
        return list(pycode.module_imports(self._tree, self._package))

    @cached_property
    def import_time(self) -> frozenset[str]:
        """Attributes and keywords evaluated on import: decorators, defaults, class bodies, constants."""
        found: set[str] = set()
        for node in pycode.import_time_statements(self._tree.body):
            if isinstance(node, ast.Import | ast.ImportFrom | ast.If):
                continue
            for child in (child for part in _evaluated(node) for child in ast.walk(part)):
                if isinstance(child, ast.Attribute):
                    found.add(child.attr)
                elif isinstance(child, ast.keyword) and child.arg:
                    found.add(child.arg)
        return frozenset(found)


def read_tests(source: bytes | None, package: str = "") -> TestModule | None:
    """The module, or None where there is none or it is not Python 3. ``package`` resolves relative imports."""
    tree = pycode.parse(source) if source is not None else None
    return TestModule(tree, source or b"", package) if tree is not None else None


def changed_tests(
    before: Iterable[TestModule], after: Iterable[TestModule]
) -> list[tuple[TestModule, list[TestFunction]]]:
    """Tests of ``after`` that no test of ``before`` equals in meaning, by module; modules with none are left out."""
    old = [test for module in before for test in module.tests]
    old_texts = {test.text for test in old}
    old_shared = frozenset().union(*(module.shared_texts for module in before))
    new_texts = {test.text for module in after for test in module.tests}
    found: list[tuple[TestModule, list[TestFunction]]] = []
    meanings: set[str] | None = None
    for module in after:
        fresh = module.shared_texts - old_shared
        suspects = [
            test
            for test in module.tests
            if test.text not in old_texts or (fresh and any(module.text(node) in fresh for node in test.rests_on))
        ]
        if suspects and meanings is None:
            # Only tests that left, and those that share a name with a suspect, can be what a suspect was.
            names = {test.name for test in suspects}
            meanings = {test.meaning for test in old if test.text not in new_texts or test.name in names}
        changed = [test for test in suspects if test.meaning not in (meanings or set())]
        if changed:
            found.append((module, changed))
    return found


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, _Function) and node.name.startswith("test")


def _is_fixture(node: _Function) -> bool:
    return any("fixture" in pycode.identifiers(mark) for mark in node.decorator_list)


def _holds_tests(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(_is_test(item) for item in node.body)


def _functions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, _Function]]:
    for node in pycode.statements(tree.body):
        if isinstance(node, _Function) and _is_test(node):
            yield None, node
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, _Function) and _is_test(item):
                    yield node, item


def _evaluated(node: ast.stmt) -> Iterator[ast.AST]:
    """What of a statement runs at once: of a function its decorators and defaults only; lambdas are left out."""
    if isinstance(node, _Function):
        for part in [*node.decorator_list, *node.args.defaults, *(item for item in node.args.kw_defaults if item)]:
            yield from _without_lambdas(part)
    elif isinstance(node, ast.ClassDef):
        yield from [*node.decorator_list, *node.bases]
        for item in node.body:
            yield from _evaluated(item)
    else:
        yield from _without_lambdas(node)


def _without_lambdas(node: ast.AST) -> Iterator[ast.AST]:
    """``node`` in pieces that hold no lambda."""
    if not any(isinstance(child, ast.Lambda) for child in ast.walk(node)):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.Lambda):
            yield from _without_lambdas(child)
