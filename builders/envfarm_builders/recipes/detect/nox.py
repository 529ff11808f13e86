"""noxfile.py, read as text: what its test sessions install and which Pythons they run."""

from __future__ import annotations

import ast
import re

from ..findings import Files, Findings, Weight, text_of
from ..groups import is_test_name
from .setup_py import parse
from .shell import pip_install, pytest_arguments, want_install

FILE = "noxfile.py"


def read_nox(files: Files, findings: Findings) -> None:
    """Add the literals of ``session.install`` in sessions that run pytest or are named for testing."""
    text = text_of(files, FILE)
    tree = parse(text) if text is not None else None
    if tree is None:
        return
    constants = _constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and _is_test_session(node):
            _read_session(files, node, findings, constants)


def _is_test_session(node: ast.FunctionDef) -> bool:
    if not any("session" in ast.unparse(decorator) for decorator in node.decorator_list):
        return False
    body = ast.unparse(node)
    if re.search(r"lint|docs?|mypy|typ(e|ing)|bench|release|build|format|cover$", node.name):
        return False
    return is_test_name(node.name) or "pytest" in body


def _read_session(files: Files, node: ast.FunctionDef, findings: Findings, constants: dict[str, list[str]]) -> None:
    source = f"{FILE} {node.name}"
    for decorator in node.decorator_list:
        if "session" in ast.unparse(decorator):
            findings.matrix.update(re.findall(r"['\"](3\.\d+)['\"]", ast.unparse(decorator)))
    for call in ast.walk(node):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        arguments = _literals(call, constants)
        if call.func.attr in {"install", "conda_install"}:
            want_install(files, findings, pip_install(arguments), Weight.test, source)
        elif call.func.attr in {"run", "run_always", "run_install"} and arguments[:2] == ["uv", "pip"]:
            want_install(files, findings, pip_install(arguments[3:]), Weight.test, source)
        elif call.func.attr == "run" and "pytest" in arguments and not findings.pytest_args:
            findings.pytest_args = pytest_arguments(arguments[arguments.index("pytest") + 1 :])


def _literals(call: ast.Call, constants: dict[str, list[str]]) -> list[str]:
    """String arguments in order; starred names of module-level lists are put in place."""
    found: list[str] = []
    for argument in call.args:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            found.append(argument.value)
        elif isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Name):
            found += constants.get(argument.value.id, [])
    return found


def _constants(tree: ast.Module) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in tree.body:
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(value, (ast.List, ast.Tuple)):
            found[target.id] = [
                item.value for item in value.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)
            ]
    return found
