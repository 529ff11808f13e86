"""Valid edits: every operator, what is left alone, and that every mutant can be undone by one of them."""

import ast
import importlib.util
import random
from collections import Counter
from pathlib import Path

import pytest
from envfarm_builders.synth.edits import Edit, edits, is_valid, parse_units, random_edit, unit_edits
from envfarm_builders.synth.operators import Operator
from envfarm_builders.synth.unit import Unit

from envfarm.core.errors import BuilderError


def lines_after(source: str, operator: Operator | None = None) -> list[str]:
    return [edit.line_after.strip() for edit in edits(source) if operator in (None, edit.operator)]


@pytest.mark.parametrize(
    ("operator", "line", "expected"),
    [
        ("comparison", "x = a < b", ["x = a <= b", "x = a > b", "x = a >= b"]),
        ("comparison", "x = (a)==(b)", ["x = (a)!=(b)"]),
        ("comparison", "x = a is not b in c", ["x = a is b in c", "x = a is not b not in c"]),
        ("integer", "x = y[-1]", ["x = y[-2]", "x = y[0]"]),
        ("integer", "x = y - 0", ["x = y - -1", "x = y - 1"]),
        ("boolean", "f(a and (b or c))", ["f(a or (b or c))", "f(a and (b and c))"]),
        ("boolean", "x = True", ["x = False"]),
        ("arithmetic", "x += y // z", ["x -= y // z", "x += y % z", "x += y * z", "x += y / z"]),
        ("negation", "if a and not b: pass", ["if not a and not b: pass", "if a and b: pass"]),
        ("negation", "y = [i for i in x if i.ok()]", ["y = [i for i in x if not i.ok()]"]),
        ("branch", "x = a if b else c", ["x = c if b else a"]),
        ("return", "return len(a)", ["return len(a) + 1", "return len(a) - 1"]),
        ("return", "return len(a) - 1", ["return len(a)", "return len(a) + 1"][:1]),
        ("return", "return not any(a)", ["return any(a)"]),
        ("return", "return a, (b)", ["return b, (a)"]),
        ("return", "return True", ["return False"]),
        ("return", "return -1", ["return -2", "return 0"]),
    ],
)
def test_operator_on_a_line(operator: str, line: str, expected: list[str]) -> None:
    found = lines_after(f"def f(a, b, c, x, y, z):\n    {line}\n", Operator(operator))
    assert sorted(found) == sorted(expected)


def test_defaults() -> None:
    found = lines_after("def f(a, b=1, *, c=None, d=False, e='', g='utf-8'): pass\n")
    assert len(found) == len(set(found)) == 2 + 2 + 1 + 2
    assert "def f(a, b=1, *, c=None, d=True, e='', g='utf-8'): pass" in found
    assert all("g='utf-8'" in line for line in found)


def test_loops_and_chains() -> None:
    source = "def f(xs):\n    for x in xs:\n        if x:\n            x.a()\n        elif y:\n            break\n"
    assert lines_after(source, Operator.branch) == ["if y:", "continue"]
    assert lines_after(source.replace("elif", "if"), Operator.branch) == ["elif y:", "continue"]
    jumps = source.replace("x.a()", "continue")
    assert "if y:" not in lines_after(jumps, Operator.branch)  # the same program


def test_what_is_left_alone() -> None:
    source = '''
"""1 < 2"""
__version__ = 1
LIMIT = 3
class C:
    __slots__ = ("a",)
    size = 4
    @decorate(1, True)
    def f(self, a: Literal[1], b: "int < 2") -> Tuple[int, Literal[3]]:
        """Docs: 1 < 2."""
        x: Literal[4] = cast(Literal[5], a)
        assert_(f"{a + 1 < 2}", "text" + a, "%d" % a)
        assert a.b, a < 1
        warn("x", stacklevel=2)
        if TYPE_CHECKING:
            from y import z if 1 < 2 else None
        pass
        if sys.version_info >= (3, 8):
            pass
    @overload
    def g(self, a=1): ...
if __name__ == "__main__":
    def main(): return 1
'''.replace("from y import z if 1 < 2 else None", "z = 1 < 2")
    assert edits(source) == []


def test_positions_with_wide_characters_and_odd_line_ends() -> None:
    source = "# \u00e9\r\ndef f(\u00e9\u00e9):\r\n\treturn '\u2603\x0c' if \u00e9\u00e9 > 1 else '\u20ac'\r\n"
    after = {edit.source_after for edit in edits(source)}
    assert source.replace("> 1", ">= 1") in after
    assert source.replace("> 1", "> 2") in after
    assert all(text.count("\r\n") == 3 for text in after)


def test_edit_fields() -> None:
    (edit,) = edits("import x\n\nclass C:\n    def f(self):\n        return (self.a\n            is None)\n")
    assert (edit.operator, edit.function, edit.function_line) == ("comparison", "C.f", 4)
    assert (edit.line, edit.col, edit.statement_line) == (6, 12, 5)
    assert (edit.original, edit.mutated) == ("is", "is not")
    assert (edit.line_before, edit.line_after) == ("            is None)", "            is not None)")


def test_edits_that_may_not_end_are_marked() -> None:
    source = "def f(n):\n    while n < 3:\n        n += 1\n        if n == 2:\n            break\n    return n + 1\n"
    marked = {edit.line: edit.may_hang for edit in edits(source)}
    assert marked == {2: True, 3: True, 4: False, 5: True, 6: False}


def test_random_edit_is_uniform_over_the_known_function() -> None:
    source = "def f(a):\n    return a < 1\n\ndef g(a):\n    return a == b\n"
    rng = random.Random(5)
    drawn = Counter(random_edit(source, "f", rng).line_after for _ in range(500))
    assert len(drawn) == len(edits(source, function="f")) == 5
    assert max(drawn.values()) - min(drawn.values()) < 60
    assert random_edit(source, "f", random.Random(1)) == random_edit(source, "f", random.Random(1))


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(BuilderError, match="not Python"):
        edits("def f(:\n")
    with pytest.raises(BuilderError, match="no valid edit in a function called 'nope'"):
        random_edit("def f(a): return a < 1\n", "nope", random.Random(0))


def can_be_undone(edit: Edit) -> bool:
    """Whether one valid edit of the mutant makes the original program again."""
    original = ast.dump(ast.parse(edit.source))
    for unit in parse_units(edit.source_after):
        if (unit.qualname, unit.node.lineno) == (edit.function, edit.function_line):
            back = [each for each in unit_edits(unit) if each.line == edit.line and is_valid(unit, each)]
            return any(ast.dump(ast.parse(each.source_after)) == original for each in back)
    return False


def sample_of(*modules: str, rng: random.Random, per_operator: int) -> list[Edit]:
    found: dict[Operator, list[tuple[Unit, Edit]]] = {operator: [] for operator in Operator}
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        path = Path(spec.origin)
        for file in sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]:
            for unit in parse_units(file.read_text()):
                for edit in unit_edits(unit):
                    found[edit.operator].append((unit, edit))
    assert all(found.values())
    drawn = [pair for pool in found.values() for pair in rng.sample(pool, min(per_operator, len(pool)))]
    return [edit for unit, edit in drawn if is_valid(unit, edit)]


def test_every_mutant_can_be_undone() -> None:
    for edit in sample_of("textwrap", "heapq", "shlex", "h11", "iniconfig", rng=random.Random(7), per_operator=8):
        assert can_be_undone(edit), edit


@pytest.mark.slow
def test_every_mutant_of_larger_packages_can_be_undone() -> None:
    for edit in sample_of("jinja2", "click", "packaging", "httpx", rng=random.Random(8), per_operator=30):
        assert can_be_undone(edit), edit
