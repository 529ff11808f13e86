"""A toolchain is an interpreter of this machine, copied once without anything that was installed into it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from envfarm.core.environment import TOOLCHAIN_DIR
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.failpoints import failpoint

from .elf import relocate_library_path
from .interpreters import Interpreter

_LAYOUT = "v3"
"""Raised when the same interpreter would give another folder."""
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "idlelib", "turtledemo", "__pycache__", "idle_test"})
"""Folders of the library that no environment needs, or that would leak this machine's packages into it."""


def ensure_toolchain(home: Path, interpreter: Interpreter) -> Path:
    """``<home>/toolchains/<version>-<hash>``, made if it is not there yet. Two processes may ask at once.

    Raises ``BuilderError`` (no_toolchain) where the interpreter cannot be copied to a place of its own.
    """
    key = hashlib.sha256(f"{_LAYOUT} {interpreter.version} {interpreter.prefix}".encode()).hexdigest()[:10]
    target = home / "toolchains" / f"{interpreter.version}-{key}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        for stale in target.parent.glob(f".{target.name}.tmp-*"):
            shutil.rmtree(stale)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
        try:
            _copy(interpreter, staging)
            failpoint("toolchain.before_rename")
            staging.rename(target)
        except (OSError, ValueError) as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise BuilderError(
                f"Python {interpreter.version} at {interpreter.prefix} cannot be copied as a toolchain: {error}.",
                reason=Reason.no_toolchain,
                phase="toolchain",
                remedy="Make room, or use another interpreter.",
            ) from error
    return target


def _copy(interpreter: Interpreter, staging: Path) -> None:
    name = f"python{interpreter.minor}"
    library = interpreter.prefix / "lib" / name
    if not library.is_dir():
        raise ValueError(f"its library is not at {library}")
    shutil.copytree(library, staging / "lib" / name, symlinks=True, ignore=_ignore)
    (staging / "lib" / name / "site-packages").mkdir(exist_ok=True)
    for path in sorted((interpreter.prefix / "lib").glob("libpython3*")):
        shutil.copy2(path, staging / "lib" / path.name, follow_symlinks=False)
    headers = interpreter.prefix / "include"
    for folder in sorted(headers.glob(f"{name}*")):
        if folder.is_dir():
            shutil.copytree(folder.resolve(), staging / "include" / folder.name, symlinks=False)
    _copy_test_support(library / "test", staging / "lib" / "stdlib-tests" / "test")
    (staging / "bin").mkdir()
    program = (interpreter.prefix / "bin" / name).resolve()
    shutil.copy2(program, staging / "bin" / name)
    for link in ("python3", "python"):
        (staging / "bin" / link).symlink_to(name)
    relocate_library_path(staging / "bin" / name, str(interpreter.prefix))
    _rewrite_prefix(staging / "lib", str(interpreter.prefix))
    _compile(staging, name)
    _open_up(staging)


def _copy_test_support(tests: Path, target: Path) -> None:
    """The helpers of the interpreter's own tests, off the path: a repair puts them where a backport's tests ask."""
    if (tests / "support").is_dir():
        shutil.copytree(tests / "support", target / "support", ignore=_ignore)
        shutil.copy2(tests / "__init__.py", target / "__init__.py")


def _compile(staging: Path, name: str) -> None:
    """Bytecode for the library, good for whatever time stamps a copy gets: in a box nothing can add it."""
    subprocess.run(
        [
            *(staging / "bin" / name, "-I", "-m", "compileall", "-q", "-j", "0"),
            *("--invalidation-mode", "unchecked-hash", "-d", f"{TOOLCHAIN_DIR}/lib/{name}", staging / "lib" / name),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,  # the library holds files that are broken on purpose
        timeout=300,
    )


def _ignore(folder: str, names: list[str]) -> set[str]:
    # The interpreter's own tests, 100 MB, would also hide a project's folder of the same name.
    own_tests = {"test"} if Path(folder).name.startswith("python3") else set()
    return {name for name in names if name in _LEFT_OUT | own_tests or name.endswith(".a")}


def _rewrite_prefix(library: Path, prefix: str) -> None:
    """Build settings name the old place in text; extensions are compiled by them."""
    candidates = [*library.rglob("_sysconfigdata*.py"), *library.rglob("config-*/Makefile"), *library.rglob("*.pc")]
    for path in candidates:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if prefix in text and prefix != "/usr":
            path.write_text(text.replace(prefix, TOOLCHAIN_DIR), encoding="utf-8", errors="surrogateescape")


def _open_up(staging: Path) -> None:
    """Everybody may read and enter; nobody but the owner may write."""
    staging.chmod(0o755)
    for folder, folders, files in os.walk(staging):
        for name in folders:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o755)
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
