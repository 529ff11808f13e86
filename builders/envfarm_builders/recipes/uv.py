"""The uv command lines of a recipe. uv runs inside the box only; its binary comes from the installed distribution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from uv import find_uv_bin

from envfarm.core.environment import ENV_DIR, TOOLCHAIN_DIR

BIN_DIR = "/opt/envfarm-uv"
"""Where uv's folder lies in a build box."""
UV = f"{BIN_DIR}/uv"
CACHE_DIR = "/cache/uv"
PYTHON = f"{ENV_DIR}/bin/python"
CONSTRAINTS = "/tmp/envfarm-constraints.txt"

BACKENDS = ("setuptools", "wheel", "hatchling", "flit-core", "poetry-core", "pdm-backend", "setuptools-scm", "pip")
"""Never capped by date, wherever they turn up."""

ENVIRONMENT = {
    "UV_CACHE_DIR": CACHE_DIR,
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_LINK_MODE": "copy",
    "UV_NO_CONFIG": "1",
    "UV_NO_PROGRESS": "1",
    "UV_NO_SOURCES": "1",
    "UV_HTTP_TIMEOUT": "120",
    "VIRTUAL_ENV": ENV_DIR,
    "PATH": f"{ENV_DIR}/bin:{TOOLCHAIN_DIR}/bin:{BIN_DIR}:/usr/local/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "UV_COMPILE_BYTECODE": "1",
    "NO_COLOR": "1",
    # Trees carry no times, and a wheel cannot hold one before 1980.
    "SOURCE_DATE_EPOCH": "946684800",
}
"""Variables of every build step."""


def binary_folder() -> Path:
    """The folder of the uv binary on this machine, to be mounted read-only."""
    return Path(find_uv_bin()).resolve().parent


def venv() -> tuple[str, ...]:
    """Make the environment."""
    return (UV, "venv", "--allow-existing", "--python", f"{TOOLCHAIN_DIR}/bin/python3", ENV_DIR)


def cutoff_arguments(cutoff: datetime | None) -> tuple[str, ...]:
    """Cap what is resolved by upload time; backends stay free."""
    if cutoff is None:
        return ()
    arguments = ["--exclude-newer", cutoff.strftime("%Y-%m-%dT%H:%M:%SZ")]
    for backend in BACKENDS:
        arguments += ["--exclude-newer-package", f"{backend}=false"]
    return tuple(arguments)


NEVER = "1990-01-01T00:00:00Z"
"""Before any upload."""


def install(requirements: Iterable[str], cutoff: datetime | None, *options: str, own: str = "") -> tuple[str, ...]:
    """Install distributions, resolved as of ``cutoff``. No release of the project's ``own`` name is ever taken from the
    index: the installed tree must satisfy whoever asks for it."""
    kept = ("--exclude-newer-package", f"{own}={NEVER}") if own else ()
    return (UV, "pip", "install", *cutoff_arguments(cutoff), *kept, *options, *requirements)


def install_project(editable: bool, *options: str) -> tuple[str, ...]:
    """Install the tree itself without its dependencies and without a cut-off: the backend is not capped."""
    return (UV, "pip", "install", "--no-deps", *options, *(("--editable",) if editable else ()), ".")


def install_wheel(name: str, version: str) -> tuple[str, ...]:
    """Install the published wheel of exactly that version, without its dependencies."""
    return (UV, "pip", "install", "--no-deps", "--only-binary", name, f"{name}=={version}")


PLACE_SCRIPT = """
import importlib.metadata, os, shutil, sys
files = [file for file in importlib.metadata.distribution(sys.argv[1]).files or () if ".." not in file.parts]
roots = ("", "src", "python", "lib")
tops = {file.parts[0] for file in files if len(file.parts) > 1}
# Where the tree has most of a package's own files: a folder of that name may also hold its C sources.
home = {top: max(roots, key=lambda root: sum(
    os.path.exists(os.path.join(root, file)) for file in files if file.parts[0] == top)) for top in tops}
for file in files:
    top = file.parts[0]
    libs = top.endswith(".libs")  # where repaired wheels keep the libraries that their extensions look for
    target = os.path.join(home.get(top[:-5] if libs else top, ""), file)
    if libs:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    if len(file.parts) == 1 or os.path.exists(target) or not os.path.isdir(os.path.dirname(target)):
        continue
    if libs or file.suffix in (".so", ".py", ".pyi"):
        shutil.copyfile(file.locate(), target)
        print(target)
"""


def place_compiled(name: str) -> tuple[str, ...]:
    """Copy what an installation made beyond the tree's own files (extension modules, version files) to where the tree
    would have it: the tree lies first on the path."""
    return (PYTHON, "-c", PLACE_SCRIPT, name)


STDLIB_TESTS = f"{TOOLCHAIN_DIR}/lib/stdlib-tests/test"


def place_stdlib_tests(minor: str) -> tuple[str, ...]:
    """Put CPython's ``test.support`` on the path of an environment; fails where the toolchain has none."""
    return ("cp", "-r", STDLIB_TESTS, f"{ENV_DIR}/lib/python{minor}/site-packages/")


def write_file(path: str, text: str) -> tuple[str, ...]:
    """Put a small text file into the box."""
    return (PYTHON, "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", path, text)


def constraint_text(pins: Mapping[str, str]) -> str:
    """Lock-file pins as a constraints file."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
