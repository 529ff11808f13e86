"""The agent's protocol, client side: frames of type, length and payload. See docs/agent-protocol.md."""

from __future__ import annotations

import json
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from typing import Any

MAX_FRAME = 1 << 20
CHUNK = 256 << 10

QUERY, DATA, END, KEEP_ALIVE = b"Q", b"D", b"E", b"H"
STDOUT, STDERR, REPORT, RESULT, FAILURE = b"O", b"R", b"P", b"X", b"F"

_HEADER = struct.Struct(">cI")
END_FRAME = _HEADER.pack(END, 0)
KEEP_ALIVE_FRAME = _HEADER.pack(KEEP_ALIVE, 0)


class WireError(Exception):
    """The other side does not speak the protocol."""


def query_frame(request: Mapping[str, Any]) -> bytes:
    """The opening frame. Raises ``WireError`` for a request that does not fit one, or holds text that is not UTF-8."""
    try:
        payload = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise WireError("the request holds text that is not valid Unicode") from error
    if len(payload) > MAX_FRAME:
        raise WireError(f"the request has {len(payload)} bytes; a frame holds {MAX_FRAME}")
    return _HEADER.pack(QUERY, len(payload)) + payload


def write_data(writer: StreamWriter, data: bytes | memoryview) -> None:
    """Queue one data frame of at most ``CHUNK`` bytes."""
    writer.write(_HEADER.pack(DATA, len(data)))
    writer.write(data)


async def read_frame(reader: StreamReader) -> tuple[bytes, bytes]:
    """The next frame's type and payload. Raises ``IncompleteReadError`` at the end, ``WireError`` for no frame."""
    kind, size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    if size > MAX_FRAME:
        raise WireError(f"a frame of {size} bytes is larger than {MAX_FRAME}")
    return kind, await reader.readexactly(size) if size else b""
