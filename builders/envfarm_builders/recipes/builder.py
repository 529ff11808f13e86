"""Environments by uv, built in boxes: nothing of the tree or of a package runs with our own privileges."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from envfarm.core.archive import File, pack, unpack
from envfarm.core.base import short
from envfarm.core.config import BuildConfig
from envfarm.core.environment import ENV_DIR, TOOLCHAIN_DIR, WORKDIR, Environment, InstallMode, Layer, Recipe, Step
from envfarm.core.errors import BuilderError, Reason, Tier
from envfarm.core.ids import slug
from envfarm.core.ports import BlobStore, Sandbox, SandboxProvider

from . import uv
from .adjust import Adjustments, adjusted_steps, own_name
from .boxwork import Log, build_box, probe_box, run_step, text_of
from .detect import find
from .detect.imports import declared_names
from .generated import generated_files
from .installed import mentioned_names
from .interpreters import Interpreter, discover
from .place import Place
from .probe import Collection, read_collection
from .repair import Failure, repair
from .toolchain import ensure_toolchain

MAX_ROUNDS = 6
"""Repairs of a collection; installations get twice as many, for they mend one thing at a time."""
_UNREACHABLE = ("error sending request", "dns error", "Connection refused", "Could not connect", "Network unreachable")


@dataclass
class _Work:
    """One build under way."""

    recipe: Recipe
    tree: bytes
    before: dict[str, File]
    declared: frozenset[str]
    staging: Path
    toolchain: Path
    log: Log


class UvEnvironmentBuilder:
    """Satisfies ``envfarm.core.ports.EnvironmentBuilder``.

    Environments lie in ``<home>/envs/<recipe digest>``, toolchains in ``<home>/toolchains``, downloads of each
    repository in ``<home>/cache/uv``: a build can only poison the downloads of its own repository. Repairs of an
    build are never silent: each is a line of the environment's ``provenance``.
    """

    def __init__(
        self,
        home: Path,
        provider: SandboxProvider,
        blobs: BlobStore,
        config: BuildConfig | None = None,
        interpreters: tuple[Interpreter, ...] | None = None,
    ) -> None:
        self._home = home.absolute()
        self._provider = provider
        self._blobs = blobs
        self._config = config or BuildConfig()
        self._interpreters = interpreters

    @property
    def interpreters(self) -> tuple[Interpreter, ...]:
        """Interpreters present; looked for once."""
        if self._interpreters is None:
            self._interpreters = discover()
        return self._interpreters

    async def build(self, recipe: Recipe, tree: bytes, log: Log, *, repo: str = "") -> Environment:
        """Build, or return the environment already built from an equal recipe.

        ``repo`` names whose download cache is used. Raises ``BuilderError``: ``no_toolchain``, ``resolve_failed``,
        ``install_failed``, ``install_timeout``, ``collect_failed``, ``index_unreachable`` (retryable).
        """
        place = Place(self._home / "envs", short(recipe.digest, 16))
        async with place.locked():
            if found := self._reusable(place):
                log(f"environment {place.key} is already there")
                return found
            toolchain = await asyncio.to_thread(ensure_toolchain, self._home, self._interpreter(recipe))
            staging = place.stage(getattr(self._provider, "box_uid", None))
            try:
                before = unpack(tree)
                files = {path: file.data for path, file in before.items() if file.link is None}
                declared = frozenset(declared_names(await asyncio.to_thread(find, files)))
                work = _Work(recipe, tree, before, declared, staging, toolchain, log)
                environment = place.finish(staging, await self._build(work, repo))
            except BaseException:
                place.discard(staging)
                raise
        return environment

    def _reusable(self, place: Place) -> Environment | None:
        found = place.read()
        return found if found and (not found.generated or self._blobs.has(found.generated)) else None

    def _interpreter(self, recipe: Recipe) -> Interpreter:
        for interpreter in self.interpreters:
            if interpreter.minor == recipe.toolchain:
                return interpreter
        present = ", ".join(each.minor for each in self.interpreters) or "none"
        raise BuilderError(
            f"Python {recipe.toolchain} is not on this machine (present: {present}).",
            reason=Reason.no_toolchain,
            phase="toolchain",
            remedy="Install it and put it on PATH, or in pyenv's versions folder.",
        )

    async def _build(self, work: _Work, repo: str) -> Environment:
        started = time.monotonic()
        uid = getattr(self._provider, "box_uid", None)
        cache = self._home / "cache" / "uv" / slug(repo or short(work.recipe.digest))
        cache.mkdir(parents=True, exist_ok=True, mode=0o755)
        if uid is not None:
            os.chown(cache, uid, uid)
        adjustments = Adjustments(mode=work.recipe.install_mode)
        async with build_box(
            self._provider, env_dir=work.staging / "env", toolchain=work.toolchain, cache=cache
        ) as sandbox:
            await sandbox.put(WORKDIR, work.tree)
            await run_step(sandbox, _date_step(), {}, work.log)
            adjustments = await self._install(sandbox, work, adjustments)
            environment = await self._describe(sandbox, work, adjustments, repo)
            for round_number in range(MAX_ROUNDS + 1):
                collection = await self._collect(work, environment)
                work.log(f"collected {collection.tests} tests, {collection.errors} errors")
                failure = Failure("collect", "", collection.output)
                mended = None
                if not collection.clean and round_number < MAX_ROUNDS:
                    known = work.declared | await asyncio.to_thread(mentioned_names, work.staging / "env")
                    mended = repair(work.recipe, adjustments, failure, known)
                if mended is None:
                    break
                mended = await self._mend(sandbox, work, adjustments, mended)
                if mended is None:
                    break
                adjustments = mended
                environment = await self._describe(sandbox, work, adjustments, repo)
            if not collection.tests:
                raise _nothing_collected(collection, adjustments)
        notes = (*work.recipe.provenance, *adjustments.notes)
        return environment.model_copy(update={"build_sec": round(time.monotonic() - started, 2), "provenance": notes})

    async def _install(self, sandbox: Sandbox, work: _Work, adjustments: Adjustments) -> Adjustments:
        """Run the installation steps, mending and going on from the step that failed."""
        done: set[tuple[str, ...]] = set()
        for _ in range(2 * MAX_ROUNDS + 1):
            failed = None
            for step in adjusted_steps(work.recipe, adjustments):
                marker = (*step.argv, *map(str, sorted(step.env.items())))
                if marker in done:
                    continue
                step = self._timed(step)
                result = await run_step(sandbox, step, work.recipe.env, work.log)
                if result.timed_out:
                    raise _timed_out(step)
                if not result.ok:
                    failed = Failure("install", step.name, text_of(result))
                    break
                done.add(marker)
            if failed is None:
                return adjustments
            _check_reachable(failed)
            mended = repair(work.recipe, adjustments, failed, work.declared)
            if mended is None:
                raise _not_installed(failed, adjustments)
            for line in mended.notes[len(adjustments.notes) :]:
                work.log(line)
            adjustments = mended
        raise _not_installed(failed, adjustments)

    async def _mend(self, sandbox: Sandbox, work: _Work, before: Adjustments, after: Adjustments) -> Adjustments | None:
        """Install what a failed collection asked for; None when that cannot be installed."""
        for line in after.notes[len(before.notes) :]:
            work.log(line)
        added = [requirement for requirement in after.added if requirement not in before.added]
        cutoff = None if after.uncapped else work.recipe.cutoff
        own = own_name(work.recipe)
        for step in after.extra[len(before.extra) :]:
            if not (await run_step(sandbox, self._timed(step), work.recipe.env, work.log)).ok:
                return None
        if not added:
            return after
        argv = uv.install(added, cutoff, own=own)
        result = await run_step(sandbox, self._timed(Step(name="repair", argv=argv)), work.recipe.env, work.log)
        if result.ok:
            return after
        _check_reachable(Failure("install", "repair", text_of(result)))
        if len(added) == 1:
            return None
        # Together they conflict: what can be had is had one by one, and the rest is recorded as not to be had.
        notes, kept = after.notes, list(before.added)
        for requirement in added:
            step = Step(name="repair", argv=uv.install([requirement], cutoff, own=own))
            if (await run_step(sandbox, self._timed(step), work.recipe.env, work.log)).ok:
                kept.append(requirement)
            else:
                notes = (*notes, f"repair: {requirement} could not be installed")
        return None if kept == list(before.added) else after.noting(notes[-1], added=tuple(kept), notes=notes)

    async def _collect(self, work: _Work, environment: Environment) -> Collection:
        command = environment.adapted(work.recipe.test)
        async with probe_box(self._provider, environment) as sandbox:
            if environment.generated:
                await sandbox.put(WORKDIR, self._blobs.get(environment.generated))
            await sandbox.put(WORKDIR, work.tree)
            argv = (uv.PYTHON, "-m", "pytest", "--collect-only", "-q", "--continue-on-collection-errors")
            env = dict(command.env)
            if environment.install_mode is not InstallMode.editable:
                env["PYTHONPATH"] = f"{WORKDIR}/src:{WORKDIR}"
            step = Step(name="collect", argv=(*argv, *command.args, *command.paths), env=env, timeout_sec=300)
            result = await run_step(sandbox, step, {"PATH": uv.ENVIRONMENT["PATH"]}, lambda _: None)
        return read_collection(text_of(result), None if result.timed_out else result.exit_code)

    async def _describe(self, sandbox: Sandbox, work: _Work, adjustments: Adjustments, repo: str) -> Environment:
        """The environment as it is now: packages, generated files, layers."""
        listing = Step(name="list", argv=(uv.UV, "pip", "list", "--format", "json", "--quiet"))
        result = await run_step(sandbox, listing, {}, lambda _: None)
        rows = json.loads(result.stdout or b"[]")
        if adjustments.mode is InstallMode.editable and not any("editable_project_location" in row for row in rows):
            raise _replaced()
        packages = tuple(sorted(f"{row['name']}=={row['version']}" for row in rows))
        generated = generated_files(work.before, unpack(await sandbox.get(WORKDIR, limit_bytes=1 << 30)))
        size = await asyncio.to_thread(_folder_bytes, work.staging / "env")
        return Environment(
            recipe_digest=work.recipe.digest,
            toolchain=work.recipe.toolchain,
            layers=(
                Layer(source=str(work.toolchain.relative_to(self._home)), target=TOOLCHAIN_DIR),
                Layer(source=str((work.staging / "env").relative_to(self._home)), target=ENV_DIR),
            ),
            packages=packages,
            generated=self._blobs.put(pack(generated)) if generated else "",
            repo_name=repo,
            install_mode=adjustments.mode,
            ignored=adjustments.ignored,
            size_bytes=size,
            built_at=datetime.now(UTC),
        )

    def _timed(self, step: Step) -> Step:
        return step.model_copy(update={"timeout_sec": min(step.timeout_sec, self._config.install_timeout_sec)})


def _date_step() -> Step:
    """Trees carry no times; backends that zip sources refuse those before 1980."""
    return Step(name="dates", argv=("find", ".", "-exec", "touch", "-h", "-d", "2000-01-01", "{}", "+"))


def _folder_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _check_reachable(failure: Failure) -> None:
    if any(sign in failure.output for sign in _UNREACHABLE) and "No solution found" not in failure.output:
        raise BuilderError(
            "The package index cannot be reached from the build box.",
            reason=Reason.index_unreachable,
            phase=failure.step,
            tier=Tier.environment,
            remedy="Check the network and the index settings, then run again.",
            detail=failure.output[-4000:],
            retryable=True,
        )


def _replaced() -> BuilderError:
    return BuilderError(
        "The project's own tree was replaced by a released version of it while dependencies were installed.",
        reason=Reason.install_failed,
        phase="dependencies",
        remedy="A dependency asks for a version of the project that the tree is not.",
    )


def _timed_out(step: Step) -> BuilderError:
    return BuilderError(
        f"The installation step '{step.name}' took longer than {step.timeout_sec:g} s.",
        reason=Reason.install_timeout,
        phase=step.name,
        remedy="Raise build.install_timeout_sec if that is its normal time.",
    )


def _not_installed(failure: Failure, adjustments: Adjustments) -> BuilderError:
    resolving = "No solution found" in failure.output
    return BuilderError(
        f"The installation step '{failure.step}' failed: {_last_line(failure.output)}",
        reason=Reason.resolve_failed if resolving else Reason.install_failed,
        phase=failure.step,
        remedy="No repair rule helps; see the log.",
        detail="\n".join((*adjustments.notes, failure.output[-6000:])),
    )


def _nothing_collected(collection: Collection, adjustments: Adjustments) -> BuilderError:
    why = "ran out of time" if collection.exit_code is None else f"pytest ended with {collection.exit_code}"
    return BuilderError(
        f"No test was collected: {why}, {_last_line(collection.output)}",
        reason=Reason.collect_failed,
        phase="collect",
        remedy="No repair rule helps; see the log.",
        detail="\n".join((*adjustments.notes, collection.output[-6000:])),
    )


def _last_line(output: str) -> str:
    rows = [row.strip() for row in output.splitlines() if row.strip() and not row.strip().startswith(("hint:", "="))]
    marked = [row for row in rows if row.startswith(("E  ", "error:", "×", "ERROR")) or "Error:" in row]
    return (marked or rows or ["no output"])[-1][:300]
