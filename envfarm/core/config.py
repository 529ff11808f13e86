"""Configuration: TOML < environment (``ENVFARM_``, ``__`` between levels) < flags. Unknown keys are refused."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .box import Limits
from .errors import ConfigError, Reason


class Section(BaseModel):
    """A part of the configuration. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LocalProviderConfig(Section):
    """Boxes by bubblewrap on this machine."""

    type: Literal["local"] = "local"
    uid: int = 61000
    """Unprivileged user id that boxes run as when envfarm itself runs as root. Ignored otherwise."""
    use_cgroups: bool = True
    """Use cgroups where this process may create them; resource limits of the process otherwise."""


class KubernetesProviderConfig(Section):
    """A box is a Pod on a cluster."""

    type: Literal["kubernetes"] = "kubernetes"
    kubeconfig: str = ""
    """File; empty: ``KUBECONFIG``, ``~/.kube/config``, or the service account where envfarm runs in a Pod."""
    context: str = ""
    """Of the kubeconfig; empty: its current one."""
    namespace: str = "envfarm-boxes"
    """Where boxes run. It is made where it is missing; every Pod in it must pass *restricted*."""
    agent_image: str = "envfarm/agent:latest"
    """Holds ``/envfarm-agent``."""
    image: str = "envfarm/env:{digest}"
    """Of a box, ``{digest}`` being the first 12 letters of its environment's digest; ``base`` where it has none."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Of both images."""
    runtime_class: str = ""
    """gVisor, Kata, ...; empty: the node's own runtime."""
    start_sec: float = Field(default=120.0, gt=0)
    """How long a box may take to get ready."""
    pids_limited: bool = False
    """Whether the nodes' kubelets limit processes of a Pod (``podPidsLimit``); it is their setting, not ours."""

    def image_of(self, digest: str) -> str:
        """The image of an environment."""
        return self.image.replace("{digest}", digest.removeprefix("sha256:")[:12] or "base")


class CustomProviderConfig(Section):
    """A provider of the user's own: any class that satisfies the port; no registration."""

    type: Literal["custom"]
    path: str
    """Dotted path, ``package.module:Class``. It is called with ``home`` and ``options``."""
    options: dict[str, Any] = {}


class BuildConfig(Section):
    """Mining and environment building."""

    workers: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)) + 1, ge=1, le=256)
    """Stage items under way at once. Default: one more than the cores we may use, since each item waits at times."""
    limit: int | None = Field(default=None, ge=1)
    """Revisions looked at for each repository, newest first; all when unset."""
    max_source_files: int = Field(default=10, ge=1)
    """Static filter: most source files a fix may touch."""
    max_source_lines: int = Field(default=2000, ge=1)
    """Static filter: most source lines a fix may add and delete."""
    min_statement_chars: int = Field(default=40, ge=1)
    """Static filter: least statement text once search keys, hashes, links and diffs are taken out."""
    suite_timeout_sec: float = Field(default=300.0, gt=0)
    """Longest a test run may take."""
    install_timeout_sec: float = Field(default=900.0, gt=0)
    """Longest an installation may take."""
    repeats: int = Field(default=2, ge=2)
    """Runs of each of the three states during validation."""
    max_attempts: int = Field(default=3, ge=1)
    """Retry budget of a stage item before it is quarantined."""
    lease_sec: float = Field(default=30.0, gt=0)
    """A worker that has not renewed its lease for this long has lost the item."""


class Config(Section):
    """Everything, resolved."""

    home: str = ""
    """Where environments, blobs and the database lie. Default: /var/lib/envfarm for root, the XDG data folder else."""
    database: str = ""
    """SQLAlchemy URL. Default: SQLite below ``home``."""
    blobs: str = ""
    """fsspec URL of the blob store. Default: a folder below ``home``."""
    provider: LocalProviderConfig | KubernetesProviderConfig | CustomProviderConfig = Field(
        default=LocalProviderConfig(), discriminator="type"
    )
    """Who starts boxes."""
    limits: Limits = Limits()
    """Limits of a task's box."""
    build: BuildConfig = BuildConfig()
    """Mining and building."""

    @property
    def home_path(self) -> Path:
        """The resolved home."""
        return Path(self.home) if self.home else default_home()

    @property
    def database_url(self) -> str:
        """The resolved database URL."""
        return self.database or f"sqlite:///{self.home_path / 'envfarm.db'}"

    @property
    def blobs_url(self) -> str:
        """The resolved blob URL."""
        return self.blobs or str(self.home_path / "blobs")


def default_home() -> Path:
    """A folder that an unprivileged box user can reach: root's own home usually is not."""
    if os.geteuid() == 0:
        return Path("/var/lib/envfarm")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "envfarm"


_NOT_CONFIG = {
    "ENVFARM_FAILPOINTS", "ENVFARM_FAILPOINT_LOG", "ENVFARM_CONFIG", "ENVFARM_BWRAP", "ENVFARM_AGENT", "ENVFARM_DEBUG",
}  # fmt: skip


def load_config(
    file: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, Any] | None = None
) -> Config:
    """Merge the three sources and validate. Raises ``ConfigError`` with one sentence that names the key."""
    environ = dict(os.environ) if environ is None else environ
    if file is None and environ.get("ENVFARM_CONFIG"):
        file = Path(environ["ENVFARM_CONFIG"])
    merged: dict[str, Any] = {}
    if file is not None:
        merged = _read_toml(file)
    for key, value in environ.items():
        if key.startswith("ENVFARM_") and key not in _NOT_CONFIG:
            _set(merged, key.removeprefix("ENVFARM_").lower().split("__"), value)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _set(merged, dotted.split("."), value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the configuration"
        source = f" (in {file})" if file else ""
        raise ConfigError(
            f"Configuration key '{key}' cannot be used{source}: {first['msg'].lower()}.",
            reason=Reason.config,
            phase="config",
            remedy="See docs/configuration.md for the keys and their values.",
        ) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Configuration file {file} cannot be read: {error.strerror}.", reason=Reason.config, phase="config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Configuration file {file} is not valid TOML: {error}.", reason=Reason.config, phase="config"
        ) from error


def _set(target: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        child = target.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"Configuration key '{'.'.join(path)}' cannot be used: '{part}' is not a section.",
                reason=Reason.config,
                phase="config",
            )
        target = cast("dict[str, Any]", child)
    target[path[-1]] = value
