"""The statement's text, and which functions a patch touches."""

import pytest
from envfarm_builders.synth.choose import Proposal
from envfarm_builders.synth.edits import edits
from envfarm_builders.synth.statement import clean_message, write_statement
from envfarm_builders.synth.touched import touched_functions

from envfarm.core.archive import File
from envfarm.core.diff import git_diff

SOURCE = (
    "class Cart:\n    def add(self, n):\n        return n + 1\n\n    @property\n    def size(self):\n        return 2\n"
)
EDIT = next(edit for edit in edits(SOURCE) if edit.line_after == "        return n - 1")
PROPOSAL = Proposal("src/shop.py", EDIT, ("t.py::a", "t.py::b"))


@pytest.mark.parametrize(
    ("message", "phrase"),
    [
        ("AssertionError: assert 3 == 4", "Cart.add"),
        ("ValueError: no", "ValueError"),
        ("shop.errors.CartError: no", "CartError"),
        ("Failed: DID NOT RAISE <class 'ValueError'>", "Cart.add"),
        ("", "Cart.add"),
    ],
)
def test_every_kind_of_failure_reads_well(message: str, phrase: str) -> None:
    texts = {write_statement(PROPOSAL, "t.py::a", message, in_tree=True, seed=seed).text for seed in range(40)}
    assert len(texts) > 4
    for text in texts:
        assert phrase in text.splitlines()[0]
        assert "`t.py::a`" in text and "t.py::b" not in text
        assert message in text
        assert "{" not in text and "arithmetic" not in text and "return n" not in text


def test_a_test_outside_the_tree_is_not_called_runnable() -> None:
    statement = write_statement(PROPOSAL, "t.py::a", "assert 0", in_tree=False, seed=0)
    assert "outside this tree" in statement.text
    assert statement.shown_tests == ("t.py::a",)


def test_messages_do_not_quote_the_place() -> None:
    message = (
        """AssertionError: <C object at 0x7f00aa>
src/shop.py:3: in add
>       return n - 1
   return n + 1
  File "/repo/src/shop.py", line 3, in add
```
E   other"""
        + "\n"
        + "x" * 900
    )
    cleaned = clean_message(message, PROPOSAL)
    assert cleaned.startswith("AssertionError: <C object>\n'''\nE   other\nxxx")
    assert len(cleaned) <= 610 and cleaned.endswith(" ...")


def test_touched_functions() -> None:
    def touched(after: str) -> dict[str, list[str]]:
        patch = git_diff({"a.py": SOURCE.encode()}, {"a.py": after.encode()})
        return touched_functions(patch, {"a.py": File(SOURCE.encode())})

    assert touched(SOURCE.replace("n + 1", "n")) == {"a.py": ["Cart.add"]}
    assert touched(SOURCE.replace("2\n", "2\n        pass\n").replace("n + 1", "n")) == {
        "a.py": ["Cart.add", "Cart.size"]
    }
    assert touched(SOURCE.replace("        return 2", "        x = 1\n        return 2")) == {"a.py": ["Cart.size"]}
    assert touched("import os\n" + SOURCE) == {}
    patch = git_diff({"a.py": b"def f(:\n"}, {"a.py": b"def f(): pass\n"})
    assert touched_functions(patch, {"a.py": File(b"def f(:\n")}) == {}
    assert touched_functions(patch, {}) == {}
