"""What must stay light: core, and the help page."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "kubernetes", "playwright", "sqlalchemy", "fsspec", "typer", "rich", "fastapi", "git")


def loaded_by(code: str) -> set[str]:
    script = f"import sys; {code}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["ports", "types_all", "config", "errors", "work", "archive", "diff", "failpoints"])
def test_core_is_stdlib_and_pydantic(module):
    code = "import envfarm.core" if module == "types_all" else f"import envfarm.core.{module}"
    assert not loaded_by(code) & set(HEAVY)


def test_the_help_page_loads_nothing_heavy():
    code = "from envfarm.cli.main import run; run(['--help'])"
    heavy = {"torch", "ray", "kubernetes", "playwright", "sqlalchemy", "fsspec", "fastapi", "git"}
    assert not loaded_by(code) & heavy
