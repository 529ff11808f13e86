"""The ``local`` provider: boxes by bubblewrap on this machine, never with our own privileges."""

from __future__ import annotations

import asyncio
import os
import secrets
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from envfarm.core.box import BoxInfo, BoxSpec
from envfarm.core.config import LocalProviderConfig
from envfarm.core.errors import ProviderError, Reason
from envfarm.core.ids import box_id
from envfarm.core.ports import Capabilities, Sandbox
from envfarm.core.process import own_process, pid_namespace

from ..agent_binary import agent_binary
from . import reaper
from .binaries import find_bwrap, install
from .box import Box, Place
from .capabilities import describe
from .cgroup_search import find_cgroups
from .cgroups import Cgroups, remove_parents
from .command import box_argv
from .faults import os_failure
from .plan import Host, plan_box
from .reach import Reach
from .records import BoxRecord, now, read_record, read_records
from .root import install_etc, system_root
from .sandbox import LocalSandbox, cgroups_of
from .seccomp import seccomp_filter


class LocalProvider:
    """Satisfies ``envfarm.core.ports.SandboxProvider``; an async context manager.

    ``box_uid`` is the user boxes run as when we are root, else None: boxes run as ourselves. A folder that is mounted
    writable must belong to that user.
    """

    name = "local"

    def __init__(self, home: Path, config: LocalProviderConfig | None = None) -> None:
        self._config = config or LocalProviderConfig()
        self._home = home.absolute()
        self.box_uid: int | None = self._config.uid if os.geteuid() == 0 else None
        self._instance = secrets.token_hex(6)
        self._live: dict[str, Box] = {}
        self._host: Host | None = None
        self._place: Place | None = None
        self._reaper: reaper.Reaper | None = None
        self._notes: list[str] = []

    async def __aenter__(self) -> Self:
        """Install what boxes need, clear what earlier processes left, start the reaper. Raises ``ProviderError``."""
        try:
            await asyncio.to_thread(self._open)
        except OSError as error:
            self._close()
            raise os_failure(error) from error
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release every box. Finishes even if cancelled."""
        await asyncio.shield(self._leave())

    async def acquire(self, spec: BoxSpec) -> Sandbox:
        """See the port. The box answers when this returns."""
        box = await self._start(spec)
        self._live[box.record.id] = box
        return self._sandbox(box.record)

    async def start_detached(self, spec: BoxSpec) -> BoxInfo:
        """Start a box that outlives this process. Raises ``ProviderError``.

        Its agent ends it after ``spec.limits.wall_sec``; a small reaper of its own waits for that and cleans up.
        """
        box = await self._start(spec, detached=True)
        try:
            _, place = self._opened()
            reaper.watch_detached(place.agent, place.boxes / box.record.id)
        except BaseException:
            await box.end()
            raise
        return box.record.info()

    async def _start(self, spec: BoxSpec, *, detached: bool = False) -> Box:
        host, place = self._opened()
        command = box_argv(plan_box(spec, host, detached=detached))
        created, name = now(), box_id()
        record = BoxRecord(
            id=name,
            owner=spec.owner,
            provider=self._instance,
            owner_process=own_process(),
            cgroups=tuple(map(str, place.cgroups.paths(name))),
            pid_namespace=pid_namespace(),
            memory_limited="memory" in place.cgroups.controllers,
            limits=spec.limits,
            created_at=created,
            deadline_at=created + timedelta(seconds=spec.limits.wall_sec),
            detached=detached,
        )
        box = Box(place, record)
        await box.start(command, host.seccomp)
        return box

    async def release(self, sandbox: Sandbox) -> None:
        """See the port. Finishes even if the caller is cancelled."""
        box = self._live.pop(sandbox.id, None)
        if box is not None:
            await box.end()

    async def attach(self, name: str) -> LocalSandbox:
        """A running box by id, whoever started it. Raises ``ProviderError`` (box_not_found)."""
        return self._sandbox(self._find(name))

    async def remove(self, name: str) -> None:
        """End a box by id, whoever started it. Raises ``ProviderError`` (box_not_found)."""
        _, place = self._opened()
        box = self._live.pop(name, None)
        if box is not None:
            await box.end()
            return
        self._find(name, dead_too=True)
        await asyncio.to_thread(reaper.reap_box, place.agent, place.boxes / name)

    async def list(self, owner: str | None = None) -> list[BoxInfo]:
        """See the port. A dead box whose owner has not yet released it is listed as not alive."""
        records = read_records(self._home / "boxes")
        return [record.info() for record in records if owner is None or record.owner == owner]

    def capabilities(self) -> Capabilities:
        """See the port. Only complete once the provider was entered."""
        cgroups = self._place.cgroups if self._place else Cgroups()
        return describe(cgroups, self._notes)

    def _open(self) -> None:
        bwrap, agent = find_bwrap(), agent_binary()
        boxes = self._home / "boxes"
        for folder in (self._home, boxes):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        binaries = install(self._home, bwrap, agent)
        reach = Reach(self.box_uid)
        for path in (binaries.bwrap, binaries.agent):
            reach.require(path, "The home folder's program")
        found = find_cgroups() if self._config.use_cgroups else Cgroups(note="switched off in the configuration")
        root = system_root(binaries.empty, install_etc(self._home))
        self._host = Host(home=self._home, binaries=binaries, root=root, reach=reach, seccomp=seccomp_filter())
        if leftover := reaper.reap_stale(binaries.agent, boxes):
            self._notes.append(f"Boxes of an earlier process could not be removed: {leftover}")
        self._reaper = reaper.Reaper(binaries.agent, boxes, self._instance)
        boxes_fd = os.open(boxes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._place = Place(boxes, boxes_fd, binaries.agent, self.box_uid, found)

    async def _leave(self) -> None:
        boxes, self._live = list(self._live.values()), {}
        try:
            results = await asyncio.gather(*(box.end() for box in boxes), return_exceptions=True)
        finally:
            await asyncio.to_thread(self._close)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _close(self) -> None:
        if self._reaper is not None:
            self._reaper.close()
            self._reaper = None
        if self._place is not None:
            os.close(self._place.boxes_fd)
            remove_parents(self._place.cgroups)
            self._place = None

    def _opened(self) -> tuple[Host, Place]:
        if self._host is None or self._place is None:
            raise ProviderError(
                "The local provider was not entered.",
                reason=Reason.internal,
                phase="start",
                remedy="Use it as an async context manager.",
            )
        return self._host, self._place

    def _sandbox(self, record: BoxRecord) -> LocalSandbox:
        _, place = self._opened()
        return LocalSandbox(record, place.connect(record.id), cgroups_of(record, place.cgroups))

    def _find(self, name: str, *, dead_too: bool = False) -> BoxRecord:
        known = Path(name).name == name and name.startswith("box-")
        record = read_record(self._home / "boxes" / name) if known else None
        if record is None or not (record.alive or dead_too):
            raise ProviderError(
                f"There is no running box {name!r}.",
                reason=Reason.box_not_found,
                phase="find",
                remedy="'envfarm sandbox ls' lists them.",
            )
        return record
