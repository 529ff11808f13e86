"""Just enough of ELF to give a moved program a library path that moves with it."""

from __future__ import annotations

import struct
from pathlib import Path

ORIGIN = b"$ORIGIN/../lib"
_DYNAMIC, _LOAD = 2, 1
_STRTAB, _RPATH, _RUNPATH, _NULL = 5, 15, 29, 0


def relocate_library_path(path: Path, prefix: str) -> bool:
    """Rewrite in place a library search path that points below ``prefix`` so that it is relative to the file itself.

    The string is overwritten within its room (64-bit little-endian files only). True when something was changed; False
    for what is no such file or has no such path. Raises ``ValueError`` where the new path does not fit.
    """
    data = bytearray(path.read_bytes())
    place = _library_path(data)
    if place is None:
        return False
    old = bytes(data[place : data.index(0, place)])
    if not any(part.startswith(prefix.encode()) for part in old.split(b":")):
        return False
    if len(ORIGIN) > len(old):
        raise ValueError(f"the library path {old.decode(errors='replace')!r} of {path} is too short to rewrite")
    data[place : place + len(old)] = ORIGIN.ljust(len(old), b"\0")
    path.write_bytes(data)
    return True


def _library_path(data: bytearray) -> int | None:
    """File offset of the DT_RPATH or DT_RUNPATH string."""
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, offset + index * size) for index in range(count)]
    dynamic = next((segment for segment in segments if segment[0] == _DYNAMIC), None)
    if dynamic is None:
        return None
    table = name = None
    for position in range(dynamic[2], dynamic[2] + dynamic[5], 16):
        tag, value = struct.unpack_from("<QQ", data, position)
        if tag == _NULL:
            break
        if tag == _STRTAB:
            table = value
        elif tag in (_RPATH, _RUNPATH):
            name = value
    if table is None or name is None:
        return None
    for kind, _, where, address, _, length in segments:
        if kind == _LOAD and address <= table < address + length:
            return where + (table - address) + name
    return None
