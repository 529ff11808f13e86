"""Detectors on small trees: each source of truth by itself, and that nothing of a tree is ever executed."""

from __future__ import annotations

import tomllib
from textwrap import dedent

from envfarm_builders.recipes.detect import find
from envfarm_builders.recipes.detect.gaps import suite_gaps
from envfarm_builders.recipes.detect.layout import carries_tests, outside_tests
from envfarm_builders.recipes.detect.poetry import specifier
from envfarm_builders.recipes.detect.requirements import read_lines
from envfarm_builders.recipes.detect.shell import pip_install, pytest_arguments
from envfarm_builders.recipes.findings import Findings, Weight
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

TEST = b"def test_it():\n    pass\n"


def tree(**files: str) -> dict[str, bytes]:
    """Files by name, with ``__`` for ``/`` and ``_DOT_`` for a dot; dedented."""
    return {name.replace("__", "/").replace("_DOT_", "."): dedent(text).encode() for name, text in files.items()}


def texts(findings: Findings, weight: Weight | None = None) -> set[str]:
    return {wanted.text for wanted in findings.wanted if weight is None or wanted.weight is weight}


def test_pyproject_metadata_groups_and_includes():
    found = find(
        tree(
            pyproject_DOT_toml="""
            [build-system]
            requires = ["hatchling"]
            build-backend = "hatchling.build"
            [project]
            name = "thing"
            requires-python = ">=3.9"
            dependencies = ["click>=8"]
            classifiers = ["Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3 :: Only"]
            [project.optional-dependencies]
            test = ["pytest", "trio"]
            [dependency-groups]
            base = ["coverage"]
            tests = [{include-group = "base"}, "hypothesis", {include-group = "tests"}]
            docs = ["sphinx"]
            """
        )
    )
    assert (found.name, found.requires_python, found.backend) == ("thing", ">=3.9", "hatchling.build")
    assert found.classifiers == {"3.11"}
    assert texts(found, Weight.runtime) == {"click>=8"}
    assert texts(found, Weight.test) == {"coverage", "hypothesis"}
    assert found.declared["test"] == ("pytest", "trio")


def test_poetry_groups_and_python_markers():
    found = find(
        tree(
            pyproject_DOT_toml="""
            [tool.poetry]
            name = "thing"
            [tool.poetry.dependencies]
            python = "^3.8"
            httpx = { version = "^0.24", extras = ["http2"] }
            tomli = { version = "*", python = "<3.11" }
            local = { path = "../local" }
            extra = { version = "^1", optional = true }
            [tool.poetry.extras]
            more = ["extra"]
            [tool.poetry.group.test.dependencies]
            pytest = "~7.4"
            [tool.poetry.dev-dependencies]
            mock = "*"
            """
        )
    )
    assert found.requires_python == ">=3.8,<4"
    assert texts(found, Weight.runtime) == {"httpx[http2]>=0.24,<0.25", "tomli ; python_version < '3.11'"}
    assert texts(found, Weight.test) == {"pytest>=7.4,<7.5"}
    assert texts(found, Weight.developer) == {"mock"}
    assert found.declared["more"] == ("extra>=1,<2",)


@settings(deadline=None)
@given(st.text(alphabet="^~<>=!*.,| 0123456789abv", max_size=20))
def test_any_poetry_constraint_gives_a_valid_specifier(constraint: str):
    SpecifierSet(specifier(constraint))


def test_poetry_constraints():
    cases = {
        "^1.2.3": ">=1.2.3,<2",
        "^0.2.3": ">=0.2.3,<0.3",
        "^0.0.3": ">=0.0.3,<0.0.4",
        "~1.2": ">=1.2,<1.3",
        "*": "",
    }
    cases |= {">=1,<2": ">=1,<2", "1.4": "==1.4", "1.*": "==1.*", "^2.0 || ^3.0": ">=2.0,<3"}
    for text, expected in cases.items():
        assert specifier(text) == expected
        SpecifierSet(expected)


def test_setup_py_is_read_and_never_run(tmp_path):
    marker = tmp_path / "ran"
    found = find(
        tree(
            setup_DOT_py=f"""
            import io, os
            from setuptools import setup, Extension
            open({str(marker)!r}, "w").close()
            base = ["six"]
            tests = base + ["mock>=2"]
            tests.append("nose2")
            extras = {{"test": tests}}
            extras["fast"] = ["cython"]
            with open("requirements.txt") as file:
                requirements = file.read().splitlines()
            setup(
                name="old", python_requires=">=3.6", install_requires=requirements, tests_require=["pretend"],
                extras_require=extras, classifiers="Programming Language :: Python :: 3.8".splitlines(),
                ext_modules=[Extension("old._c", ["old/_c.c"])],
            )
            """,
            requirements_DOT_txt="requests  # web\n-e .\n",
            old___c_DOT_c="int x;",
        )
        | {"old/_c.c": b"int x;"}
    )
    assert not marker.exists()
    assert (found.name, found.requires_python, found.native) == ("old", ">=3.6", True)
    assert texts(found, Weight.runtime) == {"requests"}
    assert texts(found, Weight.test) == {"pretend"}
    assert found.declared["test"] == ("six", "mock>=2", "nose2")
    assert found.declared["fast"] == ("cython",)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_setup_py_and_setup_cfg_are_survived(text: str):
    data = text.encode("utf-8", "surrogatepass")
    found = find({"setup.py": data, "setup.cfg": data, "tox.ini": data, "pyproject.toml": data, "noxfile.py": data})
    assert found.installable


def test_setup_cfg_extras_and_pbr_names():
    found = find(
        tree(
            setup_DOT_cfg="""
            [metadata]
            name = thing
            python-requires = >=3.8
            classifier =
                Programming Language :: Python :: 3.9
            [options]
            install_requires =
                attrs>=20  # why
            tests_require = pytest
            [options.extras_require]
            testing =
                trustme
                pytest-xdist
            """
        )
    )
    assert found.requires_python == ">=3.8" and found.classifiers == {"3.9"}
    assert texts(found, Weight.runtime) == {"attrs>=20"}
    assert found.declared["testing"] == ("trustme", "pytest-xdist")


def test_tox_dependencies_extras_variables_and_versions():
    found = find(
        tree(
            tox_DOT_ini="""
            [tox]
            envlist = py3{9,10}, py{311,312}, lint, docs
            [testenv]
            deps =
                -r{toxinidir}/requirements/tests.txt
                py39: backport
                lowest: flask==0.1
                django{42,main}-min,oldest: ancient
                !lowest: modern
                py39,devel: either
                flask
                {[base]deps}
            extras = tests
            setenv =
                THING_MODE = test
                PYTHONPATH = {toxinidir}
            commands = python -m pytest {posargs} -m "not slow" --cov thing tests
            [testenv:py37]
            deps = ancient
            [testenv:docs]
            deps = sphinx
            """,
            requirements__tests_DOT_in="trio\n",
            requirements__tests_DOT_txt="trio==0.1\noutcome==1\n",
        )
    )
    assert found.matrix == {"3.9", "3.10", "3.11", "3.12"}
    assert texts(found) == {"trio", "backport", "modern", "either", "flask"}
    assert set(found.extras) == {"tests"}
    assert found.env == {"THING_MODE": "test"}
    assert found.pytest_args == ("-m", "not slow")


def test_the_first_pytest_call_of_tox_is_the_suite():
    found = find(
        tree(
            tox_DOT_ini="""
            [testenv]
            commands =
                tests: pytest {posargs:-n auto}
                mypy: pytest -k test_mypy
            """
        )
    )
    assert found.pytest_args == ()


def test_nox_reads_test_sessions_only():
    found = find(
        tree(
            noxfile_DOT_py="""
            import nox
            COMMON = ["mock", "asyncmock"]
            @nox.session(python=["3.9", "3.12"])
            def unit(session):
                session.install(*COMMON, "freezegun")
                session.install("-e", ".[testing]")
                session.run("pytest", "--ignore=tests/slow", *session.posargs)
            @nox.session
            def docs(session):
                session.install("sphinx")
            """
        )
    )
    assert texts(found, Weight.test) == {"mock", "asyncmock", "freezegun"}
    assert found.matrix == {"3.9", "3.12"}
    assert set(found.extras) == {"testing"}
    assert found.pytest_args == ("--ignore=tests/slow",)


def test_ci_workflow_lines_and_matrix():
    found = find(
        {
            ".github/workflows/ci.yml": dedent(
                """
                jobs:
                  test:
                    strategy:
                      matrix:
                        python-version: ["3.9", "3.10", 3.12, "pypy-3.9"]
                    steps:
                      - run: pip install -U pip && pip install -e ".[test]" responses
                      - run: |
                          python -m pip install 'moto[s3]>=4' ; python_version
                          pytest -n auto -k "not net"
                """
            ).encode(),
            ".github/workflows/lint.yml": b"run: pip install flake8-pytest",
        }
    )
    assert {"3.9", "3.10", "3.12"} <= found.matrix
    assert {"responses", "moto[s3]>=4"} <= texts(found, Weight.developer)
    assert "flake8-pytest" not in texts(found)
    assert set(found.extras) == {"test"}
    assert found.pytest_args == ("-k", "not net")


def test_pytest_options_settings_marks_and_fixtures_name_their_plugins():
    found = find(
        tree(
            pyproject_DOT_toml="""
            [tool.pytest.ini_options]
            addopts = ["--cov=thing", "-n", "2"]
            asyncio_mode = "auto"
            timeout = 5
            testpaths = ["tests"]
            """,
            tests__conftest_DOT_py="""
            import pytest
            @pytest.fixture
            def benchmark(): ...
            """,
            tests__test_a_DOT_py="""
            import pytest
            @pytest.mark.trio
            async def test_a(mocker, benchmark, tmp_path): ...
            """,
        )
    )
    assert {"pytest-cov", "pytest-xdist", "pytest-asyncio", "pytest-timeout", "pytest-trio", "pytest-mock"} <= texts(
        found
    )
    assert "pytest-benchmark" not in texts(found)
    assert found.test_paths == ("tests",)


def test_django_settings_of_the_projects_own_runner():
    runner = b"os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'tests.settings')\n"
    files = {"runtests.py": runner, "tests/settings.py": b"", "tests/test_a.py": TEST}
    found = find(files)
    assert found.env["DJANGO_SETTINGS_MODULE"] == "tests.settings" and "pytest-django" in texts(found)
    assert find({**files, "runtests.py": runner.replace(b"tests.s", b"other.s")}).env == {}


def test_shared_namespaces_are_mapped_by_their_parts():
    source = b"from google.protobuf import message\nfrom zope import interface\nimport jaraco.functools\n" + TEST
    assert texts(find({"tests/test_a.py": source})) == {"protobuf", "zope-interface", "jaraco-functools"}


def test_gaps_are_what_the_suite_needs_of_itself_and_is_not_there():
    whole = {"tests/__init__.py": b"", "tests/util.py": b"", "tests/test_a.py": b"from tests.util import x\n" + TEST}
    assert suite_gaps(whole) == ()
    assert suite_gaps({**whole, "tests/test_b.py": b"from .missing import x\n" + TEST}) == ("tests.missing",)
    assert suite_gaps({"tests/test_b.py": b"from tests import helper\n" + TEST}) == ("tests.helper",)
    odd = b"def test_a(tmp_path, node): ...\n@pytest.mark.parametrize('x', [1])\ndef test_b(x): ...\n"
    assert suite_gaps({"tests/test_b.py": odd}) == ("fixture node",)
    assert suite_gaps({"tests/test_b.py": odd, "conftest.py": b""}) == ()
    helper = {"tests/test_c.py": b"from blis_tests_common import *\nimport pytest_mock, testfixtures\n" + TEST}
    assert suite_gaps(helper) == ("blis_tests_common",)
    assert suite_gaps({**helper, "tests/blis_tests_common.py": b""}) == ()


def test_imports_are_mapped_and_unknown_ones_never_guessed():
    found = find(
        tree(
            setup_DOT_py="from setuptools import setup\nsetup(name='thing', extras_require={'x': ['oddname>1']})",
            tests__test_a_DOT_py="""
            import os, yaml, thing, helper_of_ours, oddname, some_unknown_module
            from PIL import Image
            try:
                import numpy
            except ImportError:
                numpy = None
            def test_a(): ...
            """,
            tests__helper_of_ours_DOT_py="",
            thing____init___DOT_py="",
        )
        | {"thing/__init__.py": b""}
    )
    assert texts(found, Weight.guessed) == {"pyyaml", "pillow", "oddname"}


def test_an_extra_is_needed_where_a_module_that_tests_import_needs_it_without_a_guard():
    found = find(
        tree(
            pyproject_DOT_toml="""
            [build-system]
            requires = ["hatchling"]
            [project]
            name = "thing"
            version = "1"
            [project.optional-dependencies]
            rpc = ["grpcio>=1.4"]
            speed = ["cytoolz"]
            big = ["torch"]
            far = ["redis"]
            """,
            tests__test_a_DOT_py="""
            def test_a():
                from thing import remote
            """,
            src__thing__remote_DOT_py="""
            import grpc
            import torch
            from . import inner
            try:
                import cytoolz
            except ImportError:
                cytoolz = None
            """,
            src__thing__inner_DOT_py="from .deep import x",
            src__thing__deep_DOT_py="import redis",
        )
    )
    assert "grpcio>=1.4" in texts(found, Weight.guessed)
    assert not {"cytoolz", "torch", "redis"} & texts(found)


def test_a_source_archives_own_metadata_names_it_and_archives_are_no_requirements():
    found = find(tree(setup_DOT_py="from x import setup, NAME\nsetup(name=NAME)\n") | {"PKG-INFO": b"Name: Thing\n"})
    assert found.name == "Thing"
    scratch = Findings()
    scratch.want(["Counter-1.0.0.tar.gz", "six"], Weight.developer, "ci.yml")
    assert texts(scratch) == {"six"} and "Counter" in scratch.notes[0]


def test_locks_give_pins_of_packages_with_one_version_from_an_index():
    lock = """
    [[package]]
    name = "one"
    version = "1.0"
    source = { registry = "x" }
    [[package]]
    name = "two"
    version = "1.0"
    source = { registry = "x" }
    [[package]]
    name = "two"
    version = "2.0"
    source = { registry = "x" }
    [[package]]
    name = "self"
    version = "0"
    source = { editable = "." }
    """
    tomllib.loads(dedent(lock))
    found = find(tree(uv_DOT_lock=lock))
    assert found.pins == {"one": "1.0"} and found.lock == "uv.lock"
    poetry = find(tree(poetry_DOT_lock='[[package]]\nname = "One"\nversion = "3"\n'))
    assert poetry.pins == {"one": "3"}


def test_requirement_files_follow_includes_and_cycles_end():
    files = tree(
        a_DOT_txt="-r b.txt\none==1 --hash=sha256:00\n", b_DOT_txt="-r a.txt\ntwo ; python_version < '3'\n# no\n"
    )
    assert read_lines(files, "a.txt") == ["two ; python_version < '3'", "one==1"]


@settings(deadline=None)
@given(st.text(max_size=80))
def test_command_lines_of_any_text_are_survived(text: str):
    words = text.split()
    install, arguments = pip_install(words), pytest_arguments(words)
    assert all(isinstance(each, str) for each in (*install.requirements, *install.files, *arguments))


def test_outside_tests_are_left_out_only_while_others_remain():
    both = {"tests/unit/test_a.py": TEST, "tests/functional/test_b.py": TEST, "tests/e2e/test_c.py": TEST}
    assert outside_tests(both) == ("tests/e2e", "tests/functional")
    assert outside_tests({"tests/integration/test_b.py": TEST}) == ()
    assert outside_tests({"tests/functional/test_b.py": TEST, "tests/test_a.py": TEST}) == ()


def test_tests_marked_for_the_outside_world_are_deselected_beside_the_projects_own_choice():
    files = tree(
        pytest_DOT_ini="""
            [pytest]
            addopts = -ra -m "not slow"
        """,
        tests__test_a_DOT_py="""
            import pytest
            @pytest.mark.network
            @pytest.mark.slow
            def test_it():
                pass
        """,
        tests__test_b_DOT_py="""
            import pytest
            pytestmark = [pytest.mark.integration]
            def test_it():
                pass
        """,
    )
    expected = ("-m", "(not slow) and not integration and not network")
    assert find(files).pytest_args == expected
    files["tests/test_a.py"] = files["tests/test_b.py"]
    assert find(files).pytest_args == (), "every file is marked: nothing would be left"
    files["tests/test_a.py"] = b"import pytest\n@pytest.mark.networkx\ndef test_it():\n    pass\n"
    del files["tests/test_b.py"]
    assert find(files).pytest_args == ()


def test_carries_tests_wants_a_test_function():
    assert carries_tests({"tests/test_a.py": TEST})
    assert carries_tests({"a/test_b.py": b"class TestX(unittest.TestCase):\n"})
    assert not carries_tests({"tests/__init__.py": b"", "test_data.py": b"x = 1", "docs/test_x.py": TEST})
