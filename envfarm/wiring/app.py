"""The object graph of one machine: every place that names a concrete class of another room."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import cast

from envfarm.core.config import Config, CustomProviderConfig, KubernetesProviderConfig
from envfarm.core.environment import Environment, Recipe, TestCommand
from envfarm.core.errors import ConfigError, Reason, StoreError
from envfarm.core.ports import BlobStore, EnvironmentBuilder, Repository, SandboxProvider, TestRunner, Verifier
from envfarm.store import FsspecBlobs, Store, queries


@dataclass
class App:
    """What stages and commands work with. Made by :func:`open_app`."""

    config: Config
    store: Store
    blobs: BlobStore
    provider: SandboxProvider
    builder: EnvironmentBuilder
    runner: TestRunner
    grader: Verifier
    """Asks the verdict cache first."""
    regrader: Verifier
    """Really runs each submission, whatever was said of it before."""
    _repositories: dict[str, Repository] = field(default_factory=dict[str, Repository])
    _opening: Lock = field(default_factory=Lock)

    @property
    def home(self) -> Path:
        """The folder everything lies in."""
        return self.config.home_path

    def command(self, recipe: Recipe) -> TestCommand:
        """How an environment's tests are run, within the configured time."""
        return within_time(recipe.test, self.config)

    def repository(self, ref: str) -> Repository:
        """Open once per process. Blocks (a package's releases are downloaded); call it in a thread."""
        from envfarm_builders.repos.open import open_repository

        with self._opening:
            if ref not in self._repositories:
                self._repositories[ref] = cast("Repository", open_repository(ref, self.home / "cache"))
            return self._repositories[ref]


def within_time(command: TestCommand, config: Config) -> TestCommand:
    """The command, limited to ``build.suite_timeout_sec``."""
    limit_sec = min(command.timeout_sec, config.build.suite_timeout_sec)
    return command.model_copy(update={"timeout_sec": limit_sec})


def open_store(config: Config) -> tuple[Store, BlobStore]:
    """The database and the blobs, home made if it is not there."""
    try:
        config.home_path.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as error:  # the boundary to the file system
        raise StoreError(
            f"The home folder {config.home_path} cannot be made: {error.strerror}.",
            reason=Reason.config,
            phase="open",
            remedy="Name another with --home.",
        ) from error
    return Store.open(config.database_url), FsspecBlobs(config.blobs_url)


@contextlib.asynccontextmanager
async def open_app(config: Config) -> AsyncIterator[App]:
    """Everything, started; and ended again, boxes and all, when the block is left."""
    # heavy imports happen here, after the command line was parsed
    from envfarm_builders.recipes.builder import UvEnvironmentBuilder
    from envfarm_verifiers.grade import PytestGrader
    from envfarm_verifiers.runner import PytestRunner

    from .verdicts import FreshVerdicts, StoredVerdicts

    store, blobs = open_store(config)
    calibrations = config.home_path / "calibrations"

    def command(environment: Environment) -> TestCommand:
        recipe = queries.recipe(store, environment.recipe_digest)
        return within_time(recipe.test if recipe else TestCommand(), config)

    def grader(cache: StoredVerdicts) -> PytestGrader:
        return PytestGrader(provider, blobs, command, cache, config.limits)

    with contextlib.closing(store):
        async with make_provider(config) as provider:
            yield App(
                config=config,
                store=store,
                blobs=blobs,
                provider=provider,
                builder=UvEnvironmentBuilder(config.home_path, provider, blobs, config.build),
                runner=PytestRunner(provider, blobs, config.limits),
                grader=grader(StoredVerdicts(store, calibrations)),
                regrader=grader(FreshVerdicts(store, calibrations)),
            )


@contextlib.asynccontextmanager
async def make_provider(config: Config) -> AsyncIterator[SandboxProvider]:
    """The provider the configuration asks for, started."""
    chosen = config.provider
    if isinstance(chosen, CustomProviderConfig):
        made = _custom(chosen)(home=config.home_path, options=chosen.options)
    elif isinstance(chosen, KubernetesProviderConfig):
        from envfarm.farm.pods.provider import KubernetesProvider
        from envfarm.kube.cluster import load_cluster

        file = Path(chosen.kubeconfig).expanduser() if chosen.kubeconfig else None
        made = KubernetesProvider(load_cluster(file, chosen.context or None), chosen)
    else:
        from envfarm.sandbox.local import LocalProvider

        made = LocalProvider(config.home_path, chosen)
    async with made as provider:
        yield provider


def _custom(chosen: CustomProviderConfig) -> type:
    module, _, name = chosen.path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # the boundary to the user's own code
        raise ConfigError(
            f"Provider class '{chosen.path}' cannot be loaded: {error}.",
            reason=Reason.config,
            phase="config",
            remedy="Give it as package.module:Class.",
        ) from error
