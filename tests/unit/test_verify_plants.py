"""Twins and canaries: found, planted, read back."""

from __future__ import annotations

import ast
from random import Random

import pytest
from envfarm_verifiers import perturb
from envfarm_verifiers.canaries import Kind, word_source
from envfarm_verifiers.planting import (
    ITEM_BUDGET,
    MAX_TWINS,
    Plan,
    candidates,
    function_of,
    plant,
    read,
    twin_counts,
)
from envfarm_verifiers.sites import Mode, read_module
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.verdict import TestStatus

SOURCE = '''\
"""Ünïcode first, so that bytes and characters differ."""
import pytest, unittest


@pytest.mark.parametrize("text,seconds", [("1m 1s", 61), pytest.param("2h", 7200, id="two")])
def test_sum(text, seconds):
    # ü
    assert parse(text).seconds == seconds


def test_list():
    expected = ["a", "b"]
    assert words("ü a") == expected and words("") == []


class TestThings(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(parse("1s"), 1, "ü")

    def test_raises(self):
        with self.assertRaises(ValueError):
            parse("")

    def test_true(self):
        self.assertTrue(parse("1s"))


class Base:
    def test_inherited(self):
        assert 1 == 1


class TestChild(Base):
    def test_in(self): assert "x" in words("x")
'''
PATH = "tests/test_things.py"
FILES = {PATH: SOURCE.encode()}


def sites(name: str) -> dict[Mode, str]:
    module = read_module(SOURCE.encode())
    assert module is not None
    return {site.mode: site.text for site in module.functions[name].sites}


def test_the_expected_side_is_found():
    assert sites("test_sum")[Mode.constant] in ("61", "7200")
    assert sites("test_list")[Mode.constant] in ('"a"', '"b"')
    assert sites("TestThings::test_equal")[Mode.constant] == "1"
    assert sites("TestThings::test_raises") == {Mode.raises: "ValueError"}
    assert sites("TestThings::test_true") == {Mode.negation: "assertTrue"}
    assert sites("TestChild::test_in")[Mode.constant] == '"x"'


def test_tests_of_a_class_that_others_inherit_are_left_alone():
    module = read_module(SOURCE.encode())
    assert module is not None and "Base::test_inherited" not in module.functions


@pytest.mark.parametrize("source", [b"def test(:\n", b"\xff", b"def f():\r    pass\r", "\ufeffx = 1".encode()])
def test_files_that_cannot_be_edited_get_no_twins(source):
    assert read_module(source) is None
    assert plant({"t.py": source}, Plan({"t.py::f": ("0:constant",)}, list(Kind)), ["t.py"], Random(1)).files == {}


@pytest.mark.parametrize(
    "text", ["1", "-3", "0", "2.5", "'abc'", '"a b"', "''", "'...'", "b'x'", "None", "True", "r'\\d'"]
)
def test_a_perturbed_constant_is_another_of_its_kind(text):
    right = ast.literal_eval(text)
    for seed in range(40):
        wrong = perturb.constant(text, Random(seed))
        assert wrong is not None and ast.literal_eval(wrong) != right
        if right is not None:
            assert type(ast.literal_eval(wrong)) is type(right)


@given(st.text(max_size=8) | st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 99))
def test_any_constant_can_be_perturbed(value, seed):
    wrong = perturb.constant(repr(value), Random(seed))
    assert wrong is not None and ast.literal_eval(wrong) != value


def test_nothing_but_a_constant_is_perturbed():
    assert perturb.constant("f'{x}'", Random(1)) is None and perturb.constant("name", Random(1)) is None


def test_no_fresh_name_becomes_a_test_that_is_there():
    taken = {"test_schema_infer", "test_infer_schema", "schema", "infer"}
    for seed in range(300):
        fresh = word_source(taken, Random(seed))
        names = [fresh() for _ in range(20)]
        assert len(set(names)) == 20 and not {"test_" + name for name in names} & taken


@pytest.mark.parametrize("seed", range(30))
def test_planting_keeps_every_test_and_reads_back(seed):
    rng = Random(seed)
    found = candidates(FILES, IDS)
    plan = Plan(found, list(Kind), {name: 3 for name in found})
    planting = plant(FILES, plan, [PATH], rng)
    tree = ast.parse(planting.files[PATH])
    assert len({node.name for node in tree.body if hasattr(node, "name")}) == sum(hasattr(n, "name") for n in tree.body)
    assert {group.function for group in planting.groups} == set(found)
    assert {canary.kind for canary in planting.canaries} == set(Kind)
    planted = names(tree)
    assert {function_of(c.id).partition("::")[2] for c in planting.canaries} <= planted
    for group in planting.groups:
        own = {group.bearer, *(twin.name for twin in group.twins)}
        assert len(own) == len(group.twins) + 1 and group.function in own
        assert {name.partition("::")[2] for name in own} <= planted
    # Original and twins differ in one place only, and just one of them is the original.
    bodies = {group.function: bearer_body(tree, group.bearer) for group in planting.groups}
    original = ast.parse(SOURCE)
    for function, body in bodies.items():
        assert body == bearer_body(original, function)
    statuses = {test: TestStatus.passed for test in expand(planting)}
    reading = read(planting, statuses)
    assert set(reading.statuses) >= set(IDS)
    assert not any(canary.id in reading.statuses for canary in planting.canaries)


def test_statuses_go_to_the_test_that_bore_the_name():
    planting = plant(FILES, Plan({f"{PATH}::test_sum": ("0:constant",)}, [], {f"{PATH}::test_sum": 1}), [], Random(3))
    (group,) = planting.groups
    (twin,) = group.twins
    statuses = {f"{group.bearer}[1m 1s-61]": TestStatus.passed, f"{group.bearer}[two]": TestStatus.failed}
    statuses |= {f"{twin.name}[1m 1s-62]": TestStatus.failed, f"{twin.name}[two]": TestStatus.passed}
    reading = read(planting, statuses)
    assert reading.statuses == {
        f"{PATH}::test_sum[1m 1s-61]": TestStatus.passed,
        f"{PATH}::test_sum[two]": TestStatus.failed,
    }
    assert reading.twins[f"{PATH}::test_sum"] == [[TestStatus.failed, TestStatus.passed]]


def test_no_canary_takes_the_name_of_another_or_of_a_class_that_is_there():
    source = b"import unittest\n\n\nclass TestEmptyName(unittest.TestCase):\n    def test_it(self):\n        pass\n"
    for seed in range(40):
        planting = plant({"t.py": source}, Plan({}, [Kind.fails_unittest] * 60), ["t.py"], Random(seed))
        classes = [node.name for node in ast.parse(planting.files["t.py"]).body if isinstance(node, ast.ClassDef)]
        assert len(classes) == 61 and len(set(classes)) == 61


def test_names_move_between_a_test_and_its_twins():
    plan = Plan({f"{PATH}::test_list": ("0:constant",)}, [], {f"{PATH}::test_list": 3})
    bearers = {plant(FILES, plan, [], Random(seed)).groups[0].bearer == f"{PATH}::test_list" for seed in range(30)}
    assert bearers == {True, False}


def test_ids_with_brackets_and_colons():
    assert function_of("a/b.py::C::t[x::y[z]]") == "a/b.py::C::t"


def test_twins_stay_within_their_budgets():
    assert twin_counts({}, {}, 1) == {}
    assert twin_counts({"a": 1}, {"a": 0.001}, 3) == {"a": MAX_TWINS}
    assert twin_counts({"a": 1}, {"a": 2.0}, 3) == {"a": 1}
    assert set(twin_counts({str(n): 1 for n in range(6)}, {}, 3).values()) == {1}
    assert twin_counts({"a": 1, "b": 1}, {}, 3) == {"a": 7, "b": 7}


def test_huge_parameter_sets_get_few_twins():
    tests = [f"{PATH}::test_sum[{n}]" for n in range(ITEM_BUDGET * 2)] + [f"{PATH}::test_list"]
    assert f"{PATH}::test_list" in candidates(FILES, tests) and f"{PATH}::test_sum" not in candidates(FILES, tests)


IDS = [
    f"{PATH}::test_sum[1m 1s-61]", f"{PATH}::test_sum[two]", f"{PATH}::test_list", f"{PATH}::TestThings::test_equal",
    f"{PATH}::TestThings::test_raises", f"{PATH}::TestThings::test_true", f"{PATH}::TestChild::test_in",
]  # fmt: skip


def names(tree: ast.Module) -> set[str]:
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return found


def bearer_body(tree: ast.Module, name: str) -> str:
    *classes, leaf = name.split("::")[1:]
    body = tree.body
    for owner in classes:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == owner)
    node = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == leaf)
    return ast.unparse(node).replace(leaf, "", 1)


def expand(planting) -> list[str]:
    suffixes: dict[str, list[str]] = {}
    for test in IDS:
        suffixes.setdefault(function_of(test), []).append(test[len(function_of(test)) :])
    found = [canary.id for canary in planting.canaries]
    for group in planting.groups:
        for name in (group.bearer, *(twin.name for twin in group.twins)):
            found += [name + suffix for suffix in suffixes[group.function]]
    return found
