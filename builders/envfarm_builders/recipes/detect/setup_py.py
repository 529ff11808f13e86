"""setup.py, read as text: literals of the ``setup()`` call and what they are made of. Never executed here."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from ..findings import Files, Findings, Weight, text_of
from .classifiers import read_classifiers
from .requirements import read_lines

FILE = "setup.py"
UNKNOWN = object()
"""A value that only running the file would tell."""


def read_setup_py(files: Files, findings: Findings) -> None:
    """Add what setup.py says in literals."""
    text = text_of(files, FILE)
    if text is None:
        return
    findings.installable = True
    tree = parse(text)
    if tree is None:
        return
    reader = _Reader(files)
    reader.visit(tree)
    call = reader.arguments
    name = call.get("name")
    findings.name = findings.name or (name if isinstance(name, str) else "")
    if isinstance(call.get("python_requires"), str):
        findings.requires_python = findings.requires_python or call["python_requires"]
    read_classifiers(_texts(call.get("classifiers")), findings)
    findings.want(_texts(call.get("install_requires")), Weight.runtime, f"{FILE} install_requires")
    findings.want(_texts(call.get("tests_require")), Weight.test, f"{FILE} tests_require")
    extras = call.get("extras_require")
    for extra, value in extras.items() if isinstance(extras, dict) else ():
        if isinstance(extra, str):
            findings.declared.setdefault(extra.split(":")[0], tuple(_texts(value)))
    if "ext_modules" in call or "cffi_modules" in call or "rust_extensions" in call:
        findings.native = True


def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None for what this interpreter cannot parse (Python 2, say)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, (list, tuple, set)):
        return [item for item in value if isinstance(item, str)]
    return []


class _Reader(ast.NodeVisitor):
    """Evaluates literals, names bound to them, list sums, ``dict()`` calls and reads of requirement files."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.names: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self._value(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.names[target.id] = value
            elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                key = self._value(target.slice)
                holder = self.names.get(target.value.id)
                if isinstance(holder, dict) and isinstance(key, str):
                    holder[key] = value

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name) and isinstance(self.names.get(node.target.id), list):
            self.names[node.target.id] = self.names[node.target.id] + _texts(self._value(node.value))

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            if isinstance(item.optional_vars, ast.Name):
                self.names[item.optional_vars.id] = self._value(item.context_expr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "setup":
            for keyword in node.keywords:
                value = self._value(keyword.value)
                if keyword.arg is None and isinstance(value, dict):
                    self.arguments.update(value)
                elif keyword.arg:
                    self.arguments[keyword.arg] = value
        elif called in {"append", "extend"} and isinstance(node.func, ast.Attribute) and node.args:
            holder = self._value(node.func.value)
            if isinstance(holder, list):
                value = self._value(node.args[0])
                holder.extend([value] if called == "append" and isinstance(value, str) else _texts(value))
        self.generic_visit(node)

    def _value(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.names.get(node.id, UNKNOWN)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            items: list[Any] = []
            for element in node.elts:
                value = self._value(element.value if isinstance(element, ast.Starred) else element)
                items += _texts(value) if isinstance(element, ast.Starred) else [value]
            return items
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return {self._value(key): self._value(value) for key, value in pairs if key is not None and _hashable(key)}
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._sum(self._value(node.left), self._value(node.right))
        if isinstance(node, ast.Subscript):
            holder, key = self._value(node.value), self._value(node.slice)
            return holder.get(key, UNKNOWN) if isinstance(holder, dict) and isinstance(key, str) else UNKNOWN
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            return self._value(node.generators[0].iter)
        return UNKNOWN

    def _call(self, node: ast.Call) -> Any:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "dict":
            return {keyword.arg: self._value(keyword.value) for keyword in node.keywords if keyword.arg}
        if called in {"list", "sorted", "set", "tuple", "filter"} and node.args:
            return self._value(node.args[-1])
        for path in re.findall(r"[\w./-]+\.(?:txt|in)\b", ast.unparse(node)):
            clean = path.lstrip("./")
            if clean in self.files and "require" in clean:
                return read_lines(self.files, clean)
        if isinstance(node.func, ast.Attribute):
            return self._value(node.func.value)
        return UNKNOWN

    @staticmethod
    def _sum(left: Any, right: Any) -> Any:
        if isinstance(left, list) or isinstance(right, list):
            return _texts(left) + _texts(right)
        if isinstance(left, str) and isinstance(right, str):
            return left + right
        return UNKNOWN


def _hashable(key: ast.AST) -> bool:
    return isinstance(key, (ast.Constant, ast.Name))
