"""Nouns to and from what a column holds."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import orjson
import zstandard
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from envfarm.core.errors import Reason, StoreError

N = TypeVar("N", bound=BaseModel)


def dump(noun: BaseModel) -> str:
    """JSON text. Exact for every string, file names that are not UTF-8 (unpaired surrogates) included."""
    try:
        return noun.model_dump_json()
    except PydanticSerializationError:
        # The fast writer refuses unpaired surrogates; the standard one escapes them.
        return json.dumps(noun.model_dump(mode="json"))


def load(kind: type[N], text: str | bytes) -> N:
    """The noun again. Raises ``StoreError`` (schema_mismatch) where this version's noun has another shape."""
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        pass  # the fast reader refuses escaped surrogates; the standard one below says whether the value is bad
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise StoreError(
            f"A stored {kind.__name__} does not fit this version of envfarm: {field}: {first['msg'].lower()}.",
            reason=Reason.schema_mismatch,
            phase="read",
            remedy="Use the version that wrote it, or a fresh database.",
        ) from error


def dump_value(value: Any) -> str:
    """JSON text of plain values, unpaired surrogates included."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)  # escapes surrogates; raises again for what is not JSON


def load_value(text: str) -> Any:
    """The plain values again."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)  # escaped surrogates, numbers beyond 64 bits


def pack(noun: BaseModel) -> bytes:
    """Compressed JSON."""
    return zstandard.compress(dump(noun).encode(), 3)


def unpack(kind: type[N], data: bytes) -> N:
    """The noun again. Raises ``StoreError`` (blob_corrupt, schema_mismatch)."""
    try:
        text = zstandard.decompress(data)
    except zstandard.ZstdError as error:
        raise StoreError(
            f"A stored {kind.__name__} is damaged: {error}.",
            reason=Reason.blob_corrupt,
            phase="read",
            remedy="Restore the database from a backup.",
        ) from error
    return load(kind, text)


def checked(*texts: str) -> None:
    """Raise ``StoreError`` (usage) for a key or label that a text column cannot hold on every database."""
    for text in texts:
        if text.isascii() and "\0" not in text:
            continue
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise StoreError(
                f"The key or label {text!r} cannot be stored: it holds a NUL or an unpaired surrogate.",
                reason=Reason.usage,
                phase="write",
            )


def cleaned(text: str) -> str:
    """Free text for a column: what it cannot hold (NUL, unpaired surrogates) becomes U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
