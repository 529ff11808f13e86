"""The report channel: JSON lines over an inherited pipe, each authenticated and chained to the one before."""

from __future__ import annotations

import hashlib
import hmac
import json
import os


def open_channel(descriptor, key):
    """Move the pipe to a descriptor of its own and return ``send(record)``.

    A line is ``<mac> <json>``; the mac covers the previous mac too, so that a line that is forged, dropped, repeated
    or moved is seen. The key lives in this closure only. Processes forked from this one cannot send.
    """
    owner = os.getpid()
    pipe = _move(descriptor)
    encode = json.JSONEncoder(separators=(",", ":")).encode
    sign, sha256, write, getpid = hmac.new, hashlib.sha256, os.write, os.getpid
    state = [b"envfarm"]

    def send(record):
        if getpid() != owner:
            return
        payload = encode(record).encode("ascii")
        mac = sign(key, state[0] + payload, sha256).hexdigest().encode("ascii")
        state[0] = mac
        line = mac + b" " + payload + b"\n"
        while line:
            line = line[write(pipe, line) :]

    return send


def _move(descriptor):
    """A copy at an unpredictable, high, close-on-exec number; the original is closed."""
    import fcntl
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    top = 1024 if soft == resource.RLIM_INFINITY else min(soft, 1024)
    floor = max(10, min(top - 64, 100 + int.from_bytes(os.urandom(2), "big") % max(1, top - 200)))
    pipe = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, floor)
    os.close(descriptor)
    return pipe


def printable(text, limit=4000):
    """Text that survives JSON, UTF-8 and databases: no lone surrogates, no NUL."""
    clean = str(text)[:limit].encode("utf-8", "backslashreplace").decode("utf-8")
    return clean.replace("\x00", "\\x00")
