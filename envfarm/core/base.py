"""The base of every noun: frozen, closed, and (where it has an identity) content-addressed."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Noun(BaseModel):
    """A frozen value. Unknown fields are refused; methods do no I/O."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Identified(Noun):
    """A noun with a digest over an explicit, versioned list of fields.

    Never a whole dump: a new field, or a typo mended in metadata, must not orphan what was bound to the digest.
    Raise ``DIGEST_VERSION`` when the meaning of a listed field changes.
    """

    DIGEST_VERSION: ClassVar[int] = 1
    DIGEST_FIELDS: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def digest(self) -> str:
        """``sha256:<64 hex>`` of the canonical JSON of kind, version and the listed fields."""
        dump = self.model_dump(mode="json", include=set(self.DIGEST_FIELDS))
        fields = {name: dump[name] for name in self.DIGEST_FIELDS}
        return digest_json({"kind": type(self).__name__, "version": self.DIGEST_VERSION, "fields": fields})


def digest_bytes(data: bytes) -> str:
    """Content address of ``data``: ``sha256:<64 hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Content address of a JSON value: keys sorted, no blanks, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


def short(digest: str, length: int = 12) -> str:
    """The first ``length`` hex digits of a digest, for names and tables."""
    return digest.removeprefix("sha256:")[:length]
