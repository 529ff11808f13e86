"""Blobs as text for people."""

from __future__ import annotations

import re
from dataclasses import dataclass

from envfarm.core.errors import Reason, StoreError
from envfarm.core.ports import BlobStore

SHOWN_BYTES = 256 << 10
"""Of a longer text a page shows only this much."""

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True)
class Text:
    """What a page shows of a blob."""

    text: str
    size: int
    """Bytes of the whole."""
    cut: bool


def head(blobs: BlobStore, digest: str) -> Text | None:
    """The beginning of a blob; None where the blob store does not have it (it may lie on another machine)."""
    data = _get(blobs, digest)
    return None if data is None else _text(data, data[:SHOWN_BYTES])


def tail(blobs: BlobStore, digest: str) -> Text | None:
    """The end of a blob, where a log says what went wrong; None as for :func:`head`."""
    data = _get(blobs, digest)
    return None if data is None else _text(data, data[-SHOWN_BYTES:])


def _get(blobs: BlobStore, digest: str) -> bytes | None:
    try:
        return blobs.get(digest) if digest else None
    except StoreError as error:
        # The boundary of a page: it says that this part is missing and shows the rest.
        if error.reason is Reason.blob_missing:
            return None
        raise


def _text(data: bytes, part: bytes) -> Text:
    text = _TERMINAL.sub("", part.decode("utf-8", "replace")).replace("\r\n", "\n").replace("\0", "\ufffd")
    return Text(text, len(data), len(part) < len(data))
