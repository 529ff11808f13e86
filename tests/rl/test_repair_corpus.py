"""The bring-up's corpus: planted bugs that can be undone, split by package, copies dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from envfarm_rl.repair.corpus import read_examples
from envfarm_rl.repair.recipe import CorpusSection, read_recipe

from envfarm.core.archive import File, pack
from envfarm.core.errors import ConfigError
from envfarm.core.stats import bootstrap
from envfarm.wiring.repair.bringup import package_corpus, write_digests
from envfarm.wiring.repair.corpus import examples, function_digest
from envfarm.wiring.repair.pages import function_units, valid_edits

FUNCTION = '''
def clamp(value, low=0, high=None, strict=False):
    """Keep a value within bounds."""
    if high is not None and value > high:
        return high - 1 if strict else high
    if value < low and not strict:
        return low
    return value + 1 - 1
'''
OTHER = FUNCTION.replace("clamp", "held").replace("low", "least")
SECTION = CorpusSection(train=("a",), held_out=("b",), examples=6)


def unit(source: str):  # type: ignore[no-untyped-def]
    (found,) = function_units(source)
    return found


def test_each_bug_of_an_example_is_undone_by_its_gold_edit() -> None:
    made = list(examples("pkg/a.py", unit(FUNCTION), count=8, seed=1))
    assert len(made) >= 5 and {len(each.gold) for each in made} >= {1, 2}
    assert [each.gold for each in made] == [each.gold for each in examples("pkg/a.py", unit(FUNCTION), count=8, seed=1)]
    for example in made:
        assert example.problem.base == 1 and example.function == function_digest(unit(FUNCTION))
        assert len(set(example.gold)) == len(example.gold)
        text = "\n".join(line for _, line in example.problem.lines)
        single = len(example.gold) == 1
        for index in example.gold:
            edit = example.problem.edits[index]
            numbers = dict(example.problem.lines)
            undone = numbers[edit.line].replace(edit.old, edit.new)
            assert edit.old in numbers[edit.line]
            if single:
                healthy = FUNCTION.splitlines()
                assert any(undone.split() == line.split() for line in healthy) or edit.occurrence > 1, (text, edit)


def test_a_copy_has_the_digest_of_its_original_and_another_function_has_not() -> None:
    copied = FUNCTION.replace("def clamp", "def renamed").replace("Keep a value within bounds", "Other words")
    assert function_digest(unit(copied)) == function_digest(unit(FUNCTION))
    assert function_digest(unit(OTHER)) != function_digest(unit(FUNCTION))


def test_what_occurs_in_a_held_out_package_is_dropped(tmp_path: Path) -> None:
    def tree(source: str) -> bytes:
        return pack({"pkg/__init__.py": File(b""), "pkg/a.py": File(source.encode()), "tests/test_a.py": File(b"")})

    held = package_corpus("b", "1", tree(FUNCTION), tmp_path / "b.zst", SECTION, frozenset())
    assert held["functions"] == 1 and held["digests"] == [function_digest(unit(FUNCTION))]
    digests = frozenset(map(str, held["digests"]))  # type: ignore[arg-type]
    both = package_corpus("a", "2", tree(FUNCTION + OTHER), tmp_path / "a.zst", SECTION, digests)
    assert both == {"version": "2", "functions": 1, "examples": both["examples"]}
    assert {each.function for each in read_examples(tmp_path / "a.zst")} == {function_digest(unit(OTHER))}


def test_the_shipped_recipe_keeps_its_split_apart(tmp_path: Path) -> None:
    corpus = read_recipe().corpus
    assert not set(corpus.train) & set(corpus.held_out) and len(corpus.train) > 50
    (tmp_path / "recipe.toml").write_text("[shape]\n[corpus]\ntrain = []\nheld_out = []\nextra = 1\n")
    with pytest.raises(ConfigError, match=r"corpus\.extra"):
        read_recipe(tmp_path / "recipe.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({}))
    write_digests(tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == (
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a  a.json\n"
    )


def test_the_bootstrap_holds_the_mean_and_narrows_with_more_values() -> None:
    values = [float(number % 2) for number in range(40)]
    mean, low, high = bootstrap(values)
    assert mean == 0.5 and low < 0.5 < high and 0.1 < high - low < 0.4
    wide = bootstrap(values[:10])
    assert wide[2] - wide[1] > high - low
    assert bootstrap([]) == (0.0, 0.0, 0.0) and bootstrap([0.25, 0.25]) == (0.25, 0.25, 0.25)


def test_valid_edits_of_the_healthy_function_are_what_bugs_are_drawn_from() -> None:
    planted = {(edit.original, edit.mutated) for edit in valid_edits(unit(FUNCTION))}
    for example in examples("a.py", unit(FUNCTION), count=8, seed=2):
        for index in example.gold:
            edit = example.problem.edits[index]
            assert any(new.endswith(edit.old) or edit.old.endswith(new) or edit.old == new for _, new in planted)
