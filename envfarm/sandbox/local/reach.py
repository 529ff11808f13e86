"""Whether the boxes' user can reach a host path. bubblewrap opens bind sources as that user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from envfarm.core.errors import ProviderError, Reason


class Reach:
    """Checks paths for one user and remembers those it found reachable."""

    def __init__(self, uid: int | None) -> None:
        """``uid`` None: boxes run as ourselves."""
        self._uid = uid
        self._known: set[Path] = set()

    def require(self, path: Path, what: str) -> None:
        """Raise ``ProviderError`` (config) that names the first obstacle on the way to ``path``, and its remedy."""
        if path in self._known:
            return
        # Both the way as it is written and, where links are on it, the way it really goes.
        real = path.resolve()
        for step in dict.fromkeys((*reversed(path.parents), path, *reversed(real.parents), real)):
            try:
                status = step.stat()
            except FileNotFoundError:
                raise ProviderError(
                    f"{what} {path} does not exist.", reason=Reason.config, phase="start", remedy="Check the path."
                ) from None
            except PermissionError:
                raise self._blocked(step, path, what) from None
            is_folder = stat.S_ISDIR(status.st_mode)
            # The way there must be open for passing; the end itself for reading too.
            needed = (stat.S_IXOTH if is_folder else 0) | (stat.S_IROTH if step in (path, real) else 0)
            if not self._allows(status, needed):
                raise self._blocked(step, path, what)
        self._known.add(path)

    def can(self, path: Path) -> bool:
        """Whether :meth:`require` would pass."""
        try:
            self.require(path, "")
        except ProviderError:
            return False
        return True

    def _allows(self, status: os.stat_result, other_bits: int) -> bool:
        uid = os.geteuid() if self._uid is None else self._uid
        gids = {os.getegid(), *os.getgroups()} if self._uid is None else {self._uid}
        if status.st_uid == uid:
            wanted = other_bits << 6
        elif status.st_gid in gids:
            wanted = other_bits << 3
        else:
            wanted = other_bits
        return status.st_mode & wanted == wanted

    def _blocked(self, step: Path, path: Path, what: str) -> ProviderError:
        user = "this user" if self._uid is None else f"the boxes' user {self._uid}"
        mode = "o+rx" if step in (path, path.resolve()) else "o+x"
        return ProviderError(
            f"{what} {path} cannot be reached by {user}: {step} is closed to it.",
            reason=Reason.config,
            phase="start",
            remedy=f"Run 'chmod {mode} {step}', or choose another place with --home.",
        )
