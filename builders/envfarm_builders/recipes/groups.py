"""Which names of extras, groups and tools mean testing."""

from __future__ import annotations

import re

TEST_NAMES = frozenset(
    "test tests testing pytest unittest unittests unit unit-test unit-tests tests-require test-require test-requires "
    "test-deps test-dependencies testing-deps tests-deps testutils pytests test-suite dev-test dev-tests tests-dev "
    "test-dev testing-extra testing-extras test-extra test-extras tests-extra tests-extras testing-base "
    "test-requirements check checks ci test-base test-core core-test test-all tests-all testall".split()
)
DEVELOPER_NAMES = frozenset("dev develop development developer devel contrib dev-dependencies default-dev".split())

_TOOLS = frozenset(
    "ruff black isort flake8 flake8-pyproject pyflakes pycodestyle pydocstyle pylint mypy pyright basedpyright pytype "
    "ty pyre-check bandit safety pip-audit pre-commit prek twine build tox tox-uv tox-gh tox-gh-actions tox-pyenv "
    "tox-venv tox-wheel nox hatch pdm "
    "poetry uv flit bump2version bumpversion bump-my-version commitizen towncrier reno sphinx mkdocs mkdocs-material "
    "mkdocstrings furo myst-parser sphinx-rtd-theme numpydoc pdoc pdoc3 codecov coveralls codespell autopep8 yapf "
    "autoflake pyupgrade docformatter interrogate vulture radon xenon check-manifest pyroma cibuildwheel auditwheel "
    "zest-releaser wheel ipython ipdb jupyter jupyterlab notebook pudb gitlint licensecheck pip-licenses refurb "
    "pyinstaller codecov-cli semgrep python-semantic-release cogapp blacken-docs doc8 rstcheck restructuredtext-lint "
    "readme-renderer sphinx-autobuild docutils-stubs griffe griffelib pip-tools pipdeptree slotscheck deptry "
    "import-linter validate-pyproject yamllint check-wheel-contents unimport flynt darglint pep8-naming mypy-extensions "
    "pytest-ruff pytest-black pytest-flake8 pytest-mypy pytest-isort pytest-pylint pytest-checkdocs pytest-enabler "
    "invoke bumpver changelog-cli scriv git-cliff djlint curlylint cz-commitizen gitchangelog".split()
)
_TOOL_FAMILIES = re.compile(
    r"^(flake8-|pylint-|sphinx|mkdocs|mypy-boto|types-|.*-stubs$|jupyter-book|nbsphinx|pytest-codspeed$|tox-)"
)


def normal(name: str) -> str:
    """An extra's or group's name in the one form they are compared in."""
    return re.sub(r"[-_.\s]+", "-", name).strip("-").lower()


def is_test_name(name: str) -> bool:
    """The extra or group is for running the tests."""
    return normal(name) in TEST_NAMES


def is_developer_name(name: str) -> bool:
    """The extra or group is for development at large: linters and documentation tools among test requirements."""
    return normal(name) in DEVELOPER_NAMES


def is_tool(distribution: str) -> bool:
    """A linter, documentation or release tool: no test needs it unless it imports it."""
    name = normal(distribution)
    return name in _TOOLS or bool(_TOOL_FAMILIES.match(name))
