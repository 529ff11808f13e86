"""Hiding tests: the file stays valid, everything else stays as it is."""

import ast

import pytest
from envfarm_builders.synth.hide import function_of, hide_tests, holds_test

from envfarm.core.errors import BuilderError

SOURCE = '''"""Doc."""
import pytest

# about a
# more about a
@pytest.mark.parametrize(
    "x", [1, 2]
)
def test_a(x):
    assert x


async def test_b():
    """Multi
    line."""


class TestC:
    limit = 3

    def test_d(self): assert 1

    # a comment
    def test_e(self):
        pass

class TestOnly:
    def test_d(self):
        pass

class TestChild(TestOnly): pass

if True:
    def test_f(): pass
else:
    def test_f(): pass
'''


def names(source: str) -> list[str]:
    return [
        node.name for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def test_ids() -> None:
    assert function_of("a/b.py::T::t[x::y[]]") == ("a/b.py", ("T", "t"))
    assert function_of("a.py::t") == ("a.py", ("t",))


def test_hides_functions_with_decorators_and_comments() -> None:
    hidden = hide_tests(SOURCE, [("test_a",), ("TestC", "test_d")])
    assert hidden == SOURCE.replace(SOURCE[SOURCE.index("\n# about a") : SOURCE.index("\n\nasync")], "").replace(
        "\n    def test_d(self): assert 1\n", ""
    )
    assert "test_d" in names(hidden)  # the one of TestOnly


def test_an_empty_body_gets_pass() -> None:
    hidden = hide_tests(SOURCE, [("TestOnly", "test_d"), ("test_f",)])
    ast.parse(hidden)
    assert names(hidden) == ["test_a", "test_b", "test_d", "test_e"]
    assert "class TestOnly:\n    pass\n" in hidden
    assert hidden.endswith("if True:\n    pass\nelse:\n    pass\n")


def test_hiding_everything_leaves_a_module() -> None:
    assert hide_tests("def test_a():\n    pass\n", [("test_a",)]) == "pass\n"
    assert hide_tests("def test_a():\n    pass", [("test_a",)]) == "pass"


def test_inherited_tests_are_hidden_where_they_are_written() -> None:
    assert holds_test(SOURCE, ("TestChild", "test_d"))
    hidden = hide_tests(SOURCE, [("TestChild", "test_d")])
    assert not holds_test(hidden, ("TestOnly", "test_d"))
    assert holds_test(hidden, ("TestC", "test_d"))


def test_line_ends_stay() -> None:
    assert hide_tests("def test_a():\r\n    pass\r\nx = 1\r\n", [("test_a",)]) == "x = 1\r\n"


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("test_a = make()\n", ("test_a",)),
        ("class T(Base): pass\n", ("T", "test_a")),
        ("class T(T): pass\n", ("T", "test_a")),
        ("def test_a(): pass; x = 1\ny = 2\n", ("test_b",)),
        ("def f(:\n", ("test_a",)),
        ("", ()),
    ],
)
def test_what_cannot_be_hidden_is_refused(source: str, function: tuple[str, ...]) -> None:
    with pytest.raises(BuilderError, match="cannot be hidden"):
        hide_tests(source, [function])
