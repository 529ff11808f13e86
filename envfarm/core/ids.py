"""Names that are safe everywhere: file systems, image names, Kubernetes labels, URLs."""

from __future__ import annotations

import hashlib
import re
import secrets

_UNSAFE = re.compile(r"[^a-z0-9._-]+")


def slug(text: str, limit: int = 80) -> str:
    """Lower case, ``[a-z0-9._-]``, no leading or trailing punctuation. Too long: cut, with a hash of the whole."""
    clean = _UNSAFE.sub("-", text.lower()).strip("-._") or "x"
    if len(clean) <= limit:
        return clean
    return clean[: limit - 9].rstrip("-._") + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]


def task_id(owner: str, repo: str, key: str) -> str:
    """``owner__repo-key``, the field's form of an instance id."""
    return f"{slug(owner, 40)}__{slug(repo, 40)}-{slug(key, 38)}"


def stable_seed(*parts: object) -> int:
    """32 bits that depend on nothing but the text of ``parts``: the same on every machine and in every process."""
    return int(hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[-8:], 16)


def box_id() -> str:
    """A fresh random name for a box: ``box-`` and 12 hex digits."""
    return "box-" + secrets.token_hex(6)


_COMMON = {"", "repo", "repository", "clone", "checkout", "src", "source", "git", "bare", "main", "master", "work"}


def repository_name(ref: str) -> str:
    """The short name of a repository ref: ``pypi:jinja2`` -> ``jinja2``, ``git:/src/click.git`` -> ``click``.

    A folder whose name says nothing (``repo``, ``clone``, ``.git``) hands the question to the one it lies in.
    """
    parts = [part.removesuffix(".git") for part in ref.split(":", 1)[-1].split("/")]
    telling = [part for part in parts if part.lower() not in _COMMON and part != "."]
    last = telling[-1] if telling else "repository"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last.rpartition("+")[2]).strip("-") or "repository"
