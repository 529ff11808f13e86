"""setup.cfg: setuptools' declarative metadata (and pbr's)."""

from __future__ import annotations

import configparser

from ..findings import Files, Findings, Weight, text_of
from .classifiers import read_classifiers

FILE = "setup.cfg"


def parse_ini(text: str) -> configparser.RawConfigParser:
    """An INI file as far as it parses; an empty parser where it does not."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except configparser.Error:
        return configparser.RawConfigParser(strict=False, allow_no_value=True)
    return parser


def lines(value: str | None) -> list[str]:
    """The non-empty lines of a multi-line INI value, comments dropped."""
    rows = (row.split(" #")[0].strip() for row in (value or "").splitlines())
    return [row for row in rows if row and not row.startswith("#")]


def read_setup_cfg(files: Files, findings: Findings) -> None:
    """Add what setup.cfg says."""
    text = text_of(files, FILE)
    if text is None:
        return
    config = parse_ini(text)
    metadata = dict(config["metadata"]) if config.has_section("metadata") else {}
    options = dict(config["options"]) if config.has_section("options") else {}
    if metadata.get("name"):
        findings.name = findings.name or str(metadata["name"]).strip()
        findings.installable = True
    requires = options.get("python_requires") or metadata.get("python-requires") or metadata.get("requires-python")
    findings.requires_python = findings.requires_python or str(requires or "").strip()
    read_classifiers(lines(metadata.get("classifiers") or metadata.get("classifier")), findings)
    findings.want(_requirements(options.get("install_requires")), Weight.runtime, f"{FILE} install_requires")
    findings.want(_requirements(options.get("tests_require")), Weight.test, f"{FILE} tests_require")
    for section in ("options.extras_require", "extras"):
        if config.has_section(section):
            for name, value in config[section].items():
                findings.declared[name.split(":")[0]] = tuple(_requirements(value))


def _requirements(value: str | None) -> list[str]:
    rows = lines(value)
    if len(rows) == 1 and ";" in rows[0] and not any(word in rows[0] for word in ("python_version", "platform", "'")):
        rows = [part.strip() for part in rows[0].split(";")]
    return [row for row in rows if not row.startswith(("file:", "attr:"))]
