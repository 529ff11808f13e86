"""Hiding tests: the file stays valid, everything else stays as it is."""

import ast
import textwrap

import pytest
from envfarm_builders.synth.hide import definitions, hide_tests
from envfarm_builders.synth.locate import Place, locate, place_of
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.archive import File
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
    assert place_of("a/b.py::T::t[x::y[]]") == ("a/b.py", ("T", "t"))
    assert place_of("a.py::t") == ("a.py", ("t",))


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


def test_a_test_is_found_where_it_is_written() -> None:
    other = """from test_base import TestC as Base
from .deeper.helpers import TestHelper
from nowhere import TestGone
from tests.star import *
class TestD(TestHelper, Base):
    class TestInner(Base): pass
class TestLoop(TestLoop, TestGone): pass
"""
    files = {
        "tests/test_base.py": File(SOURCE.encode()),
        "tests/test_other.py": File(other.encode()),
        "tests/deeper/helpers.py": File(b"class TestHelper:\n    def test_h(self): pass\n"),
        "tests/star.py": File(b"def test_s(): pass\n"),
        "tests/test_broken.py": File(b"def f(:"),
        "src/a.py": File(b"def test_a(): pass\n"),
    }

    def found(test: str) -> Place | None:
        return locate(files, test)

    assert found("tests/test_base.py::test_a[1]") == ("tests/test_base.py", ("test_a",))
    assert found("tests/test_base.py::TestChild::test_d") == ("tests/test_base.py", ("TestOnly", "test_d"))
    assert found("tests/test_other.py::TestD::test_e") == ("tests/test_base.py", ("TestC", "test_e"))
    assert found("tests/test_other.py::TestD::TestInner::test_e") == ("tests/test_base.py", ("TestC", "test_e"))
    assert found("tests/test_other.py::Base::test_e") == ("tests/test_base.py", ("TestC", "test_e"))
    assert found("tests/test_other.py::test_s[a]") == ("tests/star.py", ("test_s",))
    assert found("tests/test_other.py::TestD::test_h") == ("tests/deeper/helpers.py", ("TestHelper", "test_h"))
    for missing in (
        "tests/test_other.py::TestD::test_x", "tests/test_other.py::TestLoop::test_x", "tests/test_other.py",
        "tests/test_broken.py::f", "src/a.py::test_a", "tests/test_gone.py::test_a",
    ):  # fmt: skip
        assert found(missing) is None


def test_line_ends_stay() -> None:
    assert hide_tests("def test_a():\r\n    pass\r\nx = 1\r\n", [("test_a",)]) == "x = 1\r\n"


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("test_a = make()\n", ("test_a",)),
        ("class T(Base): pass\n", ("T", "test_a")),
        ("def test_a(): pass; x = 1\ny = 2\n", ("test_b",)),
        ("def f(:\n", ("test_a",)),
    ],
)
def test_what_cannot_be_hidden_is_refused(source: str, function: tuple[str, ...]) -> None:
    with pytest.raises(BuilderError, match="cannot be hidden"):
        hide_tests(source, [function])


def test_a_string_that_ends_like_a_comment_is_none() -> None:
    first = "def test_0():\n    assert 0 == '''\n\n# é'''\n"
    assert hide_tests(first + "# why\ndef test_1(): pass\n", [("test_1",)]) == first
    assert hide_tests(first + "def test_1(): pass\n", [("test_1",)]) == first


@given(st.data())
def test_any_choice_of_tests_can_be_hidden(data: st.DataObject) -> None:
    """Files of functions and classes in random order: what is hidden is gone, the rest is byte for byte there."""
    parts: dict[tuple[str, ...], str] = {}
    text = "import pytest\n"
    for number in range(data.draw(st.integers(1, 4))):
        gap = "\n" * data.draw(st.integers(0, 3))
        mark = data.draw(st.sampled_from(["", "@pytest.mark.x\n", "# why\n@pytest.mark.x(\n    1)\n"]))
        if data.draw(st.booleans()):
            parts[(f"test_{number}",)] = f"{mark}def test_{number}():\n    assert {number} == '''\n\n# é'''\n"
            text += gap + parts[(f"test_{number}",)]
        else:
            text += f"{gap}class Test{number}:\n"
            for inner in range(data.draw(st.integers(1, 3))):
                body = textwrap.indent(f"{mark}def test_m{inner}(self): return {inner}  # é\n", "\t")
                parts[(f"Test{number}", f"test_m{inner}")] = body
                text += body + "\n" * data.draw(st.integers(0, 2))
    hidden = data.draw(st.lists(st.sampled_from(sorted(parts)), unique=True))
    after = hide_tests(text, hidden)
    ast.parse(after)
    for names, body in parts.items():
        assert (names in hidden) == (not definitions(ast.parse(after), names))
        assert names in hidden or body in after
