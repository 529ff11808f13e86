"""From findings to a recipe: interpreter, cut-off, steps, sharing by era."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from envfarm_builders.recipes.detect import detect
from envfarm_builders.recipes.findings import Findings
from envfarm_builders.recipes.interpreters import Interpreter, choose
from envfarm_builders.recipes.reuse import era_cutoff

from envfarm.core.environment import InstallMode, Recipe
from envfarm.core.errors import BuilderError, Reason

PRESENT = tuple(Interpreter(f"3.{minor}.1", Path(f"/opt/py3{minor}")) for minor in (13, 12, 11, 10, 9, 8, 7))
PYPROJECT = b"""
[build-system]
requires = ["setuptools", "setuptools_scm"]
build-backend = "setuptools.build_meta"
[project]
name = "Thing.Two"
dynamic = ["version"]
requires-python = ">=3.8"
[project.optional-dependencies]
tests = ["pytest>=7", "trio"]
"""
TEST = b"def test_it(): ...\n"


def plan(
    files: dict[str, bytes], when: datetime | None = datetime(2023, 5, 2, tzinfo=UTC), version: str = "1.2"
) -> Recipe:
    return detect(files, version=version, released_at=when, interpreters=PRESENT)


def step(recipe: Recipe, name: str) -> tuple[str, ...]:
    return next(each.argv for each in recipe.install if each.name == name)


def test_project_is_built_uncapped_and_dependencies_capped_at_the_quarters_end():
    recipe = plan({"pyproject.toml": PYPROJECT, "thing/__init__.py": b"", "tests/test_a.py": TEST})
    assert recipe.cutoff == datetime(2023, 7, 1, tzinfo=UTC)
    assert "--exclude-newer" not in step(recipe, "project") and "--editable" in step(recipe, "project")
    dependencies = step(recipe, "dependencies")
    assert dependencies[dependencies.index("--exclude-newer") + 1] == "2023-07-01T00:00:00Z"
    assert "Thing.Two[tests]" in dependencies
    assert recipe.install_mode is InstallMode.editable and recipe.test.paths == ("tests",)


def test_version_is_told_to_backends_that_ask_git():
    recipe = plan({"pyproject.toml": PYPROJECT})
    assert recipe.env["SETUPTOOLS_SCM_PRETEND_VERSION"] == "1.2"
    assert recipe.env["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_THING_TWO"] == "1.2"
    assert plan({"pyproject.toml": PYPROJECT}, version="not a version").env["PBR_VERSION"] == "0.0.1"
    assert plan({"setup.py": b"from setuptools import setup\nsetup(name='x', version='1')"}).env == {}


def test_commits_of_a_quarter_with_equal_metadata_share_a_recipe():
    files = {"pyproject.toml": PYPROJECT, "thing/__init__.py": b"", "tests/test_a.py": TEST}
    other = files | {"thing/__init__.py": b"x = 1", "thing/more.py": b"", "README.md": b"hello"}
    first, second = plan(files), plan(other, datetime(2023, 4, 3, tzinfo=UTC))
    assert first.digest == second.digest
    assert plan(files, datetime(2023, 8, 1, tzinfo=UTC)).digest != first.digest
    assert plan(files | {"thing/sub/__init__.py": b""}).digest != first.digest
    assert plan(files | {"pyproject.toml": PYPROJECT + b"\n# changed"}).digest != first.digest


def test_quarters_end():
    cases = {(2023, 1, 15): (2023, 4, 1), (2023, 12, 15): (2024, 4, 1), (2023, 11, 20): (2024, 1, 1)}
    for day, expected in cases.items():
        assert era_cutoff(datetime(*day, tzinfo=UTC)) == datetime(*expected, tzinfo=UTC)


def test_interpreter_is_the_newest_that_was_out_and_is_named():
    when = datetime(2023, 5, 2, tzinfo=UTC)
    assert choose(PRESENT, Findings(requires_python=">=3.7"), when)[0].minor == "3.11"
    assert choose(PRESENT, Findings(classifiers={"3.8", "3.9"}), when)[0].minor == "3.9"
    assert choose(PRESENT, Findings(matrix={"3.14"}), None)[0].minor == "3.13"
    assert choose(PRESENT, Findings(requires_python=">=3.8,<3.10"), None)[0].minor == "3.9"


def test_a_tree_older_than_every_interpreter_takes_the_nearest():
    found = Findings(classifiers={"3.3", "3.4"}, requires_python=">=2.7")
    assert choose(PRESENT, found, datetime(2014, 1, 1, tzinfo=UTC))[0].minor == "3.7"


def test_the_cutoff_is_never_before_the_interpreter_was_usable():
    setup = {"setup.py": b"from setuptools import setup\nsetup(name='x', version='1')"}
    assert plan(setup, datetime(2014, 1, 1, tzinfo=UTC)).cutoff == datetime(2020, 10, 1, tzinfo=UTC)


def test_no_interpreter_is_one_sentence_that_names_what_is_needed():
    with pytest.raises(BuilderError) as caught:
        choose(PRESENT, Findings(requires_python=">=3.99"), None)
    assert caught.value.reason is Reason.no_toolchain
    assert ">=3.99" in str(caught.value) and "3.13" in str(caught.value)


def test_tree_without_metadata_is_put_on_the_path_only():
    recipe = plan({"requirements.txt": b"click", "thing.py": b"", "test_thing.py": TEST})
    assert recipe.install_mode is InstallMode.none
    assert [each.name for each in recipe.install] == ["venv", "dependencies"]
    assert "click" in step(recipe, "dependencies")


def test_lock_becomes_constraints():
    lock = b'[[package]]\nname = "trio"\nversion = "0.22.0"\nsource = { registry = "x" }\n'
    recipe = plan({"pyproject.toml": PYPROJECT, "uv.lock": lock})
    assert step(recipe, "constraints")[-1] == "trio==0.22.0\n"
    assert "--constraint" in step(recipe, "dependencies")


def test_native_sources_get_a_rebuild_step():
    setup = b"from setuptools import setup, Extension\nsetup(name='x', ext_modules=[Extension('x', ['x.c'])])"
    recipe = plan({"setup.py": setup, "x.c": b"int x;"})
    assert recipe.rebuild[0].argv[-2:] == ("build_ext", "--inplace")
    assert plan({"setup.py": setup, "x.c": b"int y;"}).digest != recipe.digest


def test_linters_and_documentation_tools_are_left_out():
    project = PYPROJECT.replace(b'tests = ["pytest>=7", "trio"]', b'dev = ["ruff", "mypy", "trio", "sphinx-rtd-theme"]')
    words = step(plan({"pyproject.toml": project, "tests/test_a.py": TEST}), "dependencies")
    assert "trio" in words and not {"ruff", "mypy", "sphinx-rtd-theme"} & set(words)


def test_pytest_is_never_older_than_the_interpreter_can_run():
    project = PYPROJECT.replace(b"pytest>=7", b"pytest<6")
    words = step(plan({"pyproject.toml": project, "requirements-test.txt": b"pytest==5.4.3\n"}), "dependencies")
    assert "pytest==5.4.3" not in words and "pytest>=7.2" in words


def test_no_registry_host_and_no_host_path_in_a_recipe():
    text = plan({"pyproject.toml": PYPROJECT, "tests/test_a.py": TEST}).model_dump_json()
    assert "http" not in text and str(Path.home()) not in text
