"""Pipfile: its development packages."""

from __future__ import annotations

import tomllib
from typing import Any

from ..findings import Files, Findings, Weight, text_of

FILE = "Pipfile"


def read_pipfile(files: Files, findings: Findings) -> None:
    """Add ``[dev-packages]``, and ``[packages]`` where the tree is no distribution."""
    text = text_of(files, FILE)
    if text is None:
        return
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        findings.notes.append(f"{FILE}: not valid TOML; left out")
        return
    findings.want(_lines(document.get("dev-packages")), Weight.developer, f"{FILE} dev-packages")
    if not findings.installable:
        findings.want(_lines(document.get("packages")), Weight.runtime, f"{FILE} packages")


def _lines(table: Any) -> list[str]:
    found: list[str] = []
    for name, value in table.items() if isinstance(table, dict) else ():
        options: dict[str, Any] = value if isinstance(value, dict) else {"version": value}
        if "path" in options:
            continue
        extras = options.get("extras") or []
        version = options.get("version") or "*"
        line = name + (f"[{','.join(extras)}]" if extras else "") + ("" if version == "*" else str(version))
        found.append(line + (f" ; {options['markers']}" if options.get("markers") else ""))
    return found
