"""Runs a project's pytest suite in a fresh box: the :class:`~envfarm.core.ports.TestRunner` of this package."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from envfarm.core.base import short
from envfarm.core.box import BoxSpec, ExecRequest, ExecResult, Limits, Network
from envfarm.core.environment import WORKDIR, Environment, TestCommand
from envfarm.core.errors import Reason, SandboxError, Tier, VerifierError
from envfarm.core.ports import BlobStore, Sandbox, SandboxProvider
from envfarm.core.verdict import TestReport

from .launch import launch
from .report import RunRecord, read_run

_APPLY = (
    "git",
    "-c",
    "core.autocrlf=false",
    "-c",
    "core.attributesFile=/dev/null",
    "apply",
    "--whitespace=nowarn",
    "-",
)
_GIT_ENV = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CEILING_DIRECTORIES": "/", "GIT_DIR": "/nonexistent", "HOME": "/nonexistent",
}  # fmt: skip
_PREPARE_SEC = 120.0


class PytestRunner:
    """Each run has a box of its own, without a network, that ends with it."""

    def __init__(
        self,
        provider: SandboxProvider,
        blobs: BlobStore,
        limits: Limits | None = None,
        owner: str = "envfarm-verify",
    ) -> None:
        self._provider = provider
        self._blobs = blobs
        self._limits = limits or Limits()
        self._owner = owner

    async def run(
        self,
        environment: Environment,
        command: TestCommand,
        archives: Sequence[bytes],
        *,
        patch: str = "",
        removed: Sequence[str] = (),
        only: Sequence[str] = (),
        trace: Sequence[str] = (),
    ) -> TestReport:
        """See the port. Raises ``ProviderError`` and ``SandboxError`` for what happens before the suite starts."""
        run = await self.record(environment, command, archives, patch=patch, removed=removed, only=only, trace=trace)
        return run.report

    async def record(
        self,
        environment: Environment,
        command: TestCommand,
        archives: Sequence[bytes],
        *,
        patch: str = "",
        overlay: Sequence[bytes] = (),
        removed: Sequence[str] = (),
        only: Sequence[str] = (),
        trace: Sequence[str] = (),
        trusted: Mapping[str, str] | None = None,
    ) -> RunRecord:
        """Like :meth:`run`, with what a grader needs: ``overlay`` is unpacked after the patch, so that trusted files
        come last; ``trusted`` (path -> SHA-256 of its content) switches on integrity checks, of those files too, and
        tripwires."""
        if command.runner != "pytest":
            raise VerifierError(
                f"The test runner {command.runner!r} is not known.",
                reason=Reason.usage,
                phase="run",
                tier=Tier.task,
                remedy="This verifier runs 'pytest'.",
            )
        spec = BoxSpec(environment=environment, limits=self._limits, network=Network.none, owner=self._owner)
        sandbox = await self._provider.acquire(spec)
        try:
            await self._prepare(sandbox, environment, archives, patch, overlay, removed)
            start = launch(environment, command, only=only, trace=trace, trusted=trusted)
            request = ExecRequest(
                argv=start.argv, cwd="/", env=start.env, timeout_sec=command.timeout_sec, report_fd=True
            )
            result = await _exec_suite(sandbox, request, start.stdin)
        finally:
            await asyncio.shield(self._provider.release(sandbox))
        output = result.stdout + result.stderr
        log = await asyncio.to_thread(self._blobs.put, output) if output else ""
        run = read_run(result, start.key, log=log)
        if not run.versions and not run.forged and result.exit_code is not None:
            raise _not_started(environment, result)
        return run

    async def _prepare(
        self,
        sandbox: Sandbox,
        environment: Environment,
        archives: Sequence[bytes],
        patch: str,
        overlay: Sequence[bytes],
        removed: Sequence[str],
    ) -> None:
        # What the install wrote goes first, so that it never replaces a file of the tree.
        generated = await asyncio.to_thread(self._blobs.get, environment.generated) if environment.generated else b""
        for archive in filter(None, (generated, *archives)):
            await sandbox.put(WORKDIR, archive)
        if patch:
            await _apply(sandbox, patch)
        for archive in overlay:
            await _lay_over(sandbox, archive, patched=bool(patch))
        if removed:
            request = ExecRequest(argv=("rm", "-rf", "--", *removed), timeout_sec=_PREPARE_SEC)
            result = await sandbox.exec(request)
            if not result.ok:
                raise VerifierError(
                    "Files that the fix deletes could not be removed from the box.",
                    reason=Reason.internal,
                    phase="prepare",
                    tier=Tier.environment,
                    detail=result.stderr.decode("utf-8", "replace"),
                )


def _not_started(environment: Environment, result: ExecResult) -> VerifierError:
    """The runner ended by itself before its first record, so before it looked at the tree."""
    lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
    return VerifierError(
        f"The test runner cannot be started in environment {short(environment.digest)}: "
        f"{lines[-1] if lines else f'exit status {result.exit_code}'}.",
        reason=Reason.suite_crash,
        phase="start",
        tier=Tier.environment,
        remedy="The environment needs an interpreter at /env/bin/python and pytest.",
        detail="\n".join(lines),
    )


async def _apply(sandbox: Sandbox, patch: str) -> None:
    data = patch.encode("utf-8", "surrogateescape")
    request = ExecRequest(argv=_APPLY, env=_GIT_ENV, timeout_sec=_PREPARE_SEC)
    result = await sandbox.exec(request, stdin=data if data.endswith(b"\n") else data + b"\n")
    if result.exit_code in (126, 127) or (result.exit_code is None and result.signal is None):
        raise VerifierError(
            "git cannot be run in the box.",
            reason=Reason.internal,
            phase="apply",
            tier=Tier.environment,
            remedy="The environment's base needs git.",
            detail=result.stderr.decode("utf-8", "replace"),
        )
    if not result.ok:
        error = result.stderr.decode("utf-8", "replace").strip()
        raise VerifierError(
            f"The patch does not apply: {error.splitlines()[0] if error else 'git apply failed'}.",
            reason=Reason.patch_refused,
            phase="apply",
            tier=Tier.policy,
            detail=error,
        )


async def _lay_over(sandbox: Sandbox, archive: bytes, *, patched: bool) -> None:
    try:
        await sandbox.put(WORKDIR, archive)
    except SandboxError as error:
        # The boundary: a patch may have put a file where the trusted tests need a folder.
        if not patched or error.reason in (Reason.box_lost, Reason.protocol):
            raise
        raise VerifierError(
            f"The trusted tests cannot be laid over the patched tree: {error}",
            reason=Reason.patch_refused,
            phase="overlay",
            tier=Tier.policy,
        ) from error


async def _exec_suite(sandbox: Sandbox, request: ExecRequest, stdin: bytes) -> ExecResult:
    """The boundary: from here on the subject's code runs, so that a box that dies is a result, not a fault of ours."""
    try:
        return await sandbox.exec(request, stdin=stdin)
    except SandboxError as error:
        return ExecResult(
            exit_code=None,
            timed_out=error.reason is Reason.wall_limit,
            oom_killed=error.reason is Reason.memory_limit,
            stderr=f"The box ended during the run: {error}\n".encode(),
        )
