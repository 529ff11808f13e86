"""Nouns of building: a recipe is data, an environment is what building it gave."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from .base import Identified, Noun

WORKDIR = "/repo"
"""Where a task's source tree lies in every box."""
ENV_DIR = "/env"
"""Where an environment's dependencies lie in every box (for Python: a virtual environment)."""
TOOLCHAIN_DIR = "/opt/toolchain"
"""Where an environment's interpreter or compiler lies in every box."""


class InstallMode(StrEnum):
    """How the project itself was put into the environment. Recorded, so that a weaker install is never silent."""

    editable = "editable"
    regular = "regular"
    wheel = "wheel"
    """The tree could not be built here: the published wheel of exactly its version stands in for what is compiled; the
    tree's own Python sources lie before it on the path."""
    none = "none"
    """Not installable as a distribution; its tree is on the import path only."""


class Step(Noun):
    """One command of a recipe, run in a box with the tree at :data:`WORKDIR`."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    timeout_sec: float = 900.0


class TestCommand(Noun):
    """How a project's tests are run and what their report looks like."""

    __test__: ClassVar[bool] = False

    runner: str = "pytest"
    args: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Test files or folders, relative to the tree; empty means the runner's own default."""
    env: dict[str, str] = {}
    timeout_sec: float = 300.0


class Recipe(Identified):
    """How to build an environment: data, hashed, shared by every task of a repository era."""

    DIGEST_FIELDS: ClassVar[tuple[str, ...]] = (
        "ecosystem", "toolchain", "cutoff", "install_mode", "install", "rebuild", "test", "env", "tree",
    )  # fmt: skip

    ecosystem: str = "python"
    toolchain: str
    """Toolchain version among those present, such as ``3.11``."""
    cutoff: datetime | None = None
    """Dependencies are resolved as of this moment; never applied to the build backend."""
    install_mode: InstallMode
    install: tuple[Step, ...]
    rebuild: tuple[Step, ...] = ()
    """Run again after a tree was placed, where the change touches what an install compiles."""
    test: TestCommand = TestCommand()
    env: dict[str, str] = {}
    tree: str = ""
    """Digest of the files the install reads (build metadata and package layout), so that eras can share a recipe."""
    version: str = ""
    """Release that the tree is or follows, empty when unknown. Not part of the identity."""
    provenance: tuple[str, ...] = ()
    """One line for each decision, in order. Not part of the identity."""


class Layer(Noun):
    """A folder of an environment and where it appears in a box."""

    source: str
    """Path relative to envfarm's home on this machine, or a digest a provider resolves."""
    target: str


class Environment(Identified):
    """A built recipe. On one machine its layers are folders; elsewhere an image."""

    DIGEST_FIELDS: ClassVar[tuple[str, ...]] = ("recipe_digest", "packages", "generated")

    recipe_digest: str
    toolchain: str
    layers: tuple[Layer, ...]
    image: str = ""
    packages: tuple[str, ...] = ()
    """``name==version`` as installed, sorted."""
    generated: str = ""
    """Blob digest of a tar with files the install wrote into the tree (extension modules, version files), or empty."""
    repo_name: str = ""
    install_mode: InstallMode = InstallMode.editable
    ignored: tuple[str, ...] = ()
    """Test folders of the tree that cannot be loaded in this environment: its test command leaves them out."""
    size_bytes: int = 0
    build_sec: float = 0.0
    built_at: datetime
    provenance: tuple[str, ...] = ()
    """The recipe's lines, then one for each repair that its build needed. Not part of the identity."""

    def adapted(self, command: TestCommand) -> TestCommand:
        """``command`` without the folders that this environment cannot load."""
        if not self.ignored:
            return command
        paths = tuple(
            path for path in command.paths if not any(f"{path}/".startswith(f"{each}/") for each in self.ignored)
        )
        args = (*command.args, *(f"--ignore={each}" for each in self.ignored))
        return command.model_copy(update={"paths": paths, "args": args})
