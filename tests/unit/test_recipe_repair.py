"""Repair rules: known outputs lead to known changes, each recorded; and the steps that result."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from envfarm_builders.recipes import uv
from envfarm_builders.recipes.adjust import Adjustments, adjusted_steps, name_of
from envfarm_builders.recipes.probe import read_collection
from envfarm_builders.recipes.repair import ACTIONS, Failure, load_rules, repair
from envfarm_builders.recipes.uv import install, install_project, venv
from hypothesis import given, settings
from hypothesis import strategies as st

from envfarm.core.environment import Environment, InstallMode, Recipe, Step, TestCommand

START = Adjustments(mode=InstallMode.editable)


def recipe(*requirements: str) -> Recipe:
    cutoff = datetime(2022, 1, 1, tzinfo=UTC)
    argv = install(["thing[test]", "pytest", *requirements], cutoff, "--constraint", uv.CONSTRAINTS, own="thing")
    steps = (
        Step(name="venv", argv=venv()),
        Step(name="constraints", argv=uv.write_file(uv.CONSTRAINTS, "a==1\n")),
        Step(name="project", argv=install_project(True)),
        Step(name="dependencies", argv=argv),
    )
    return Recipe(toolchain="3.11", cutoff=cutoff, install_mode=InstallMode.editable, install=steps, version="1.5")


INSTALL = [
    ("project", "ModuleNotFoundError: No module named 'pkg_resources'", "build constraint setuptools<81"),
    ("project", "error in x setup command: use_2to3 is invalid.", "build constraint setuptools<72"),
    ("project", "Build backend is missing the `build_editable` hook", "installed regularly"),
    ("project", "ModuleNotFoundError: No module named 'numpy'", "build requirement numpy"),
    ("project", "gcc: fatal error", "installed regularly"),
    ("regular", "gcc: fatal error: libfoo.h", "the published wheel thing==1.5 instead"),
    ("dependencies", "× No solution found when resolving dependencies", "versions given up"),
    ("dependencies", "Because foo was not found in the package registry and you require foo", "dropped foo"),
    ("dependencies", "Failed to build `foo==1.0`", "dropped foo"),
    ("dependencies", "Failed to build `numba==0.53.1`", "numba from wheels only"),
]
COLLECT = [
    ("E   ModuleNotFoundError: No module named 'yaml'", "added pyyaml"),
    ("ERROR: usage: pytest\npytest: error: unrecognized arguments: --cov=x --timeout 3", "added pytest-timeout"),
    ("E   pytest.PytestRemovedIn10Warning: x", "added pytest<9.1"),
    ("ImportError: cannot import name 'soft_unicode' from 'markupsafe'", "added markupsafe<2.1"),
    (
        'INTERNALERROR> pytest.PytestDeprecationWarning: The configuration option "asyncio_default_fixture_loop_scope" '
        "is unset.",
        "added pytest-asyncio<0.24",
    ),
    ("Direct construction of TokenizerFile has been deprecated, please use", "added pytest<6"),
    ("A module that was compiled using NumPy 1.x cannot be run", "added numpy<2"),
    ("ERROR: Missing required plugins: pytest-foo", "added pytest-foo"),
    (
        "a.py:3: in <module>\n    from test.support import x\nE   ModuleNotFoundError: No module named 'test'",
        "test.support",
    ),
    ("ImportError while loading conftest '/repo/tests_async/conftest.py'.", "left tests_async out"),
    ('INTERNALERROR>   File "/repo/t/b/conftest.py", line 5, in pytest_sessionstart\n', "left t/b out"),
]


@pytest.mark.parametrize(("step", "output", "note"), INSTALL)
def test_installation_rules(step: str, output: str, note: str):
    start = START if "solution" in output else START.noting("x", unlocked=True)
    if step == "regular":
        step, start = "project", start.noting("x", mode=InstallMode.regular)
    mended = repair(recipe("foo"), start, Failure("install", step, output))
    assert mended is not None and note in mended.notes[-1] and mended.notes[-1].startswith("repair ")


def test_a_folder_is_left_out_only_where_nothing_else_helps_and_others_remain():
    broken = "ImportError while loading conftest '/repo/tests/db/conftest.py'.\n"
    both = repair(recipe(), START, Failure("collect", "", broken + "E   ModuleNotFoundError: No module named 'yaml'"))
    assert both is not None and both.added and not both.ignored
    alone = recipe().model_copy(update={"test": TestCommand(paths=("tests/db",))})
    assert repair(alone, START, Failure("collect", "", broken)) is None
    mended = repair(recipe(), START, Failure("collect", "", broken))
    assert mended is not None and mended.ignored == ("tests/db",)


def test_an_environment_takes_its_unloadable_folders_out_of_the_command():
    environment = Environment(recipe_digest="sha256:0", toolchain="3.11", layers=(), built_at=datetime.now(UTC))
    command = TestCommand(args=("-x",), paths=("tests", "tests_db", "tests/db/more"))
    assert environment.adapted(command) == command
    ignoring = environment.model_copy(update={"ignored": ("tests_db", "tests/db")})
    assert ignoring.adapted(command).paths == ("tests",)
    assert ignoring.adapted(command).args == ("-x", "--ignore=tests_db", "--ignore=tests/db")


def test_steps_that_a_collection_asked_for_come_last():
    output = "    from test import support\nE   ModuleNotFoundError: No module named 'test'"
    mended = repair(recipe(), START, Failure("collect", "", output))
    assert mended is not None and adjusted_steps(recipe(), mended)[-1].argv == uv.place_stdlib_tests("3.11")
    assert repair(recipe(), mended, Failure("collect", "", output)) is None


@pytest.mark.parametrize(("output", "note"), COLLECT)
def test_collection_rules(output: str, note: str):
    mended = repair(recipe(), START, Failure("collect", "", output))
    assert mended is not None and note in "\n".join(mended.notes)


def test_every_rule_has_a_known_action_and_a_name_of_its_own():
    rules = load_rules()
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.action in ACTIONS for rule in rules)


def test_an_unknown_module_is_installed_only_if_the_project_names_it():
    failure = Failure("collect", "", "ModuleNotFoundError: No module named 'some_odd_thing'")
    assert repair(recipe(), START, failure) is None
    mended = repair(recipe(), START, failure, frozenset({"some-odd-thing"}))
    assert mended is not None and mended.added == ("some-odd-thing",)


def test_the_same_change_is_not_made_twice():
    failure = Failure("collect", "", "ModuleNotFoundError: No module named 'yaml'")
    once = repair(recipe(), START, failure)
    assert once is not None and repair(recipe(), once, failure) is None


def test_the_project_itself_is_never_dropped():
    failure = Failure("install", "dependencies", "Because thing was not found in the package registry")
    mended = repair(recipe(), START.noting("x", unlocked=True, uncapped=True), failure)
    assert mended is None or "thing" not in mended.dropped


def test_a_conflict_drops_the_least_sure_requirement_first():
    output = "No solution found: you require sure==1 and you require unsure>2, unsatisfiable"
    start = START.noting("x", unlocked=True)
    mended = repair(recipe("sure==1", "unsure>2"), start, Failure("install", "dependencies", output))
    assert mended is not None and mended.dropped == {"unsure"}


def test_the_runner_that_the_interpreter_needs_wins_over_the_projects_ceiling():
    output = (
        "error: No solution found when resolving dependencies\n  cause: Because all versions of foo[tests] depend on "
        "pytest>=6.0.0,<7.0.0 and you require foo[tests], we can conclude that you require pytest>=6.0.0,<7.0.0.\n"
        "         And because you require pytest>=8.0, we can conclude that your requirements are unsatisfiable."
    )
    start = START.noting("x", unlocked=True)
    mended = repair(recipe("foo[tests]", "pytest>=8.0"), start, Failure("install", "dependencies", output))
    assert mended is not None and mended.overrides == ("pytest>=8.0",) and not mended.dropped


def test_adjusted_steps_follow_the_adjustments():
    changed = START.noting(
        "n", mode=InstallMode.regular, dropped=frozenset({"foo"}), added=("bar<2",), unlocked=True, uncapped=True,
        build_constraints=("setuptools<81",), build_requirements=("setuptools", "numpy"), overrides=("q<1",),
    )  # fmt: skip
    steps = {step.name: step for step in adjusted_steps(recipe("foo>=1"), changed)}
    dependencies = steps["dependencies"].argv
    assert "foo>=1" not in dependencies and dependencies[-1] == "bar<2"
    assert not {"--constraint", "--exclude-newer", "setuptools=false"} & set(dependencies)
    assert f"thing={uv.NEVER}" in dependencies
    assert "--override" in dependencies and "constraints" not in steps
    assert "--editable" not in steps["project"].argv and "--no-build-isolation" in steps["project"].argv
    assert steps["project"].env["UV_BUILD_CONSTRAINT"] and "numpy" in steps["build requirements"].argv
    assert [step.argv for step in adjusted_steps(recipe("foo"), START)] == [step.argv for step in recipe("foo").install]


@settings(deadline=None)
@given(st.text(max_size=300), st.sampled_from(["install", "collect"]))
def test_any_output_is_survived(output: str, phase: str):
    repair(recipe(), START, Failure(phase, "project", output))
    read_collection(output, 1)


def test_a_published_wheel_stands_in_and_its_compiled_parts_are_placed():
    steps = {step.name: step.argv for step in adjusted_steps(recipe(), START.noting("n", mode=InstallMode.wheel))}
    assert steps["project"][-3:] == ("--only-binary", "thing", "thing==1.5")
    assert steps["place compiled"][-1] == "thing"


def test_names_of_words():
    assert name_of("Foo_Bar[x]>=1") == "foo-bar"
    assert [name_of(word) for word in ("--constraint", "/tmp/x", ".", "2022-01-01T00:00:00Z", "pip=false")] == [""] * 5


@pytest.mark.parametrize(
    ("output", "code", "tests", "errors"),
    [
        ("tests/test_a.py::test_a\n\n909 tests collected in 0.24s\n", 0, 909, 0),
        ("\n12/14 tests collected (2 deselected) in 1s\n", 0, 12, 0),
        ("=== short test summary info ===\nERROR tests/test_b.py\n!!!\n5 tests collected, 2 errors in 0.1s\n", 2, 5, 2),
        ("tests/test_a.py::test_a\ntests/test_a.py::test_b\n\nno summary\n", 0, 2, 0),
        ("tests/test_a.py: 3\ntests/test_b.py: 4\n", 0, 7, 0),
        ("no tests collected in 0.01s\n", 5, 0, 0),
        ("pytest: error: unrecognized arguments: --x\n", 4, 0, 1),
        ("1 test collected in 0.01s", 0, 1, 0),
    ],
)
def test_collection_output(output: str, code: int, tests: int, errors: int):
    found = read_collection(output, code)
    assert (found.tests, found.errors) == (tests, errors)
    assert found.clean is (tests > 0 and errors == 0)
