"""From what somebody wrote about a change to what an agent may read: prose without search keys.

Numbers of issues, hashes and links would let an agent look the answer up; diffs are the answer; trailers, headings of
versions and credits are noise. What remains is the text of the task.
"""

from __future__ import annotations

import re

from envfarm.core.source import Issue

from . import noise
from .noise import KEYS


def statement_text(issue: Issue) -> str:
    """The cleaned text of an issue; '' when nothing remains."""
    title, body = clean(issue.title), clean(issue.body)
    return body if title in body else clean(f"{title}\n\n{body}")


def clean(text: str) -> str:
    """``text`` without search keys, diffs, trailers, version headings and credits. Idempotent."""
    for _ in range(10):
        cleaned = _pass(text)
        if cleaned == text:
            return text
        text = cleaned
    # Adversarial text only: keys that keep forming out of what removal joins. They must not survive.
    for pattern in KEYS.values():
        text = pattern.sub(" ", text)
    return text.strip()


def search_keys(text: str) -> list[str]:
    """What in ``text`` could be looked up: links, numbers of issues, advisories, hashes."""
    return [match.group(0) for pattern in KEYS.values() for match in pattern.finditer(text)]


def _pass(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    text = "".join(char for char in text if char == "\n" or char.isprintable())
    lines = _without_noise(_without_diffs(text.split("\n")))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n ")


def _without_diffs(lines: list[str]) -> list[str]:
    kept: list[str] = []
    inside = False
    for line in lines:
        if noise.DIFF_START.match(line):
            inside = True
        elif inside and not noise.DIFF_LINE.match(line):
            inside = False
        if not inside:
            kept.append(line)
    return kept


def _without_noise(lines: list[str]) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if line.strip() and (
            noise.TRAILER.match(line)
            or noise.VERSION_LINE.match(line)
            or noise.RELEASED_LINE.match(line)
            or noise.DIRECTIVE.match(line)
            or noise.UNDERLINE.match(line)
        ):
            continue
        cleaned = _inline(line)
        if cleaned != line and (noise.NO_WORDS.match(cleaned) or noise.LED.match(cleaned)):
            continue  # nothing but a bullet, or "Fixes" without what
        kept.append(cleaned)
    return kept


def _inline(line: str) -> str:
    cleaned = line
    for pattern, replacement in noise.LINKS:
        cleaned = pattern.sub(replacement, cleaned)
    for pattern in KEYS.values():
        cleaned = pattern.sub("", cleaned)
    for pattern in noise.CREDITS:
        cleaned = pattern.sub("", cleaned)
    if cleaned == line:
        return line.rstrip()
    indent = line[: len(line) - len(line.lstrip(" "))]
    for _ in range(3):
        cleaned = noise.DANGLING.sub("", noise.EMPTY.sub("", cleaned))
    cleaned = re.sub(r" {2,}", " ", cleaned.strip())
    cleaned = re.sub(r"([(\[])\s+", r"\1", cleaned)
    cleaned = re.sub(r"^([-*+•]\s+)?[:;,)\]]+\s*", r"\1", cleaned)
    cleaned = re.sub(r"\s+([.,;:!?)\]])(?=\s|$|[.,;:)])", r"\1", cleaned)
    cleaned = re.sub(r"([,;:(\[–—-]\s*)+([.)]?)$", r"\2", cleaned)
    return (indent + cleaned).rstrip()
