"""A system call filter for boxes: kernel interfaces that no build and no test needs, refused with EPERM.

An unprivileged user without capabilities is refused most of them anyway; what is gained is that a fault in one of these
large interfaces (io_uring, bpf, perf, keyrings, the mount calls) is out of reach.
"""

from __future__ import annotations

import errno
import os
import struct

_REFUSED: dict[str, tuple[int, int]] = {
    # name: number on x86_64, on aarch64 (-1: has none)
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, -1),
    "ioperm": (173, -1),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column in the table, and the kernel's name of the calling convention."""
_X32 = 0x40000000

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH = 0, 4
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter as classic BPF, the way ``bwrap --seccomp`` reads it; None for a machine that is not in the table.

    Calls by another convention of the same machine (32 bit, x32) are refused whole: their numbers mean other things.
    """
    known = _MACHINES.get(machine or os.uname().machine)
    if known is None:
        return None
    column, arch = known
    numbers = sorted(pair[column] for pair in _REFUSED.values() if pair[column] >= 0)
    # Instructions: the two loads and checks, one comparison for each number, then allow, then refuse.
    program = [
        _instruction(_LOAD, _OFFSET_ARCH),
        _instruction(_JUMP_IF_EQUAL, arch, 0, len(numbers) + 3),
        _instruction(_LOAD, _OFFSET_NUMBER),
        _instruction(_JUMP_IF_GREATER_OR_EQUAL, _X32, len(numbers) + 1, 0),
    ]
    for index, number in enumerate(numbers):
        program.append(_instruction(_JUMP_IF_EQUAL, number, len(numbers) - index, 0))
    program += [_instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)]
    return b"".join(program)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
