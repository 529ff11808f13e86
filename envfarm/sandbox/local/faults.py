"""Why a box did not start, told from what was seen from outside: one sentence and its remedy."""

from __future__ import annotations

import errno

from envfarm.core.errors import ProviderError, Reason, Tier

_NAMESPACE_SIGNS = ("creating new namespace", "new namespace", "uid map", "gid map", "user namespace", "unshare user")
_NAMESPACE_REMEDY = (
    "Allow them for unprivileged users (sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0), or run where they are."
)


def start_failure(log: str, exit_code: int | None, uid: int | None) -> ProviderError:
    """The error for a box that ended at its start with ``log`` on its standard error.

    ``exit_code`` None: it still ran but did not answer.
    """
    last = log.strip().splitlines()[-1] if log.strip() else ""
    lowered = log.lower()
    if "bwrap:" in lowered and any(sign in lowered for sign in _NAMESPACE_SIGNS):
        return _error(
            "This machine does not let the boxes' user create user namespaces, which boxes are made of.",
            Reason.no_user_namespaces,
            _NAMESPACE_REMEDY,
            log,
        )
    if "can't mount proc" in lowered:
        return _error(
            "The kernel refused a box its own /proc, as it does in containers that cover parts of theirs.",
            Reason.box_start_failed,
            "Start the container with an uncovered /proc (docker: --security-opt systempaths=unconfined).",
            log,
        )
    if "launch: user" in lowered or "launch: group" in lowered or "launch: setgroups" in lowered:
        return _error(
            f"Boxes cannot be run as the unprivileged user {uid}: {last.removeprefix('launch: ')}.",
            Reason.box_start_failed,
            "Give a user id that this machine can switch to with provider.uid (ENVFARM_PROVIDER__UID).",
            log,
        )
    if "overlay" in lowered and "bwrap:" in lowered:
        return _error(
            f"This kernel refused an overlay for a writable environment: {last.removeprefix('bwrap: ')}.",
            Reason.box_start_failed,
            "A kernel of 5.11 or later is needed, and a home on a file system that overlays can lie on.",
            log,
        )
    if "no space left" in lowered or "disk quota" in lowered:
        return disk_full(log)
    how = "did not answer in time" if exit_code is None else f"ended at once with status {exit_code}"
    detail = f": {last}" if last else ""
    return _error(f"The box {how}{detail}.", Reason.box_start_failed, "Run 'envfarm doctor'.", log, retryable=True)


def os_failure(error: OSError) -> ProviderError:
    """The error for a system call of ours that failed while a box was prepared."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(str(error))
    where = f" ({error.filename})" if error.filename else ""
    return _error(
        f"A box could not be prepared: {error.strerror or error}{where}.",
        Reason.box_start_failed,
        "Check the home folder's owner and free space with 'envfarm doctor'.",
        str(error),
        retryable=error.errno in (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY),
    )


def disk_full(detail: str) -> ProviderError:
    """The error for a disk that has no room for a box's few small files."""
    return _error(
        "There is no space left for starting a box.",
        Reason.disk_full,
        "Free some on the disk of the home folder, or choose another place with --home.",
        detail,
        retryable=True,
    )


def _error(message: str, reason: Reason, remedy: str, detail: str, *, retryable: bool = False) -> ProviderError:
    return ProviderError(
        message,
        reason=reason,
        phase="start",
        tier=Tier.environment,
        remedy=remedy,
        detail=detail,
        retryable=retryable,
    )
