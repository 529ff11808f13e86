"""Telling build backends the version that they would read from a git history which a task's tree does not have."""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

from .findings import Files, Findings, text_of


def version_environment(files: Files, findings: Findings, version: str) -> tuple[dict[str, str], str]:
    """Variables for every backend plug-in that asks git for the version, and the version they give.

    Set for all of them: each looks at its own. An unknown version becomes ``0.0.1``, as nothing else is true.
    """
    try:
        value = str(Version(version)) if version else "0.0.1"
    except InvalidVersion:
        value = "0.0.1"
    env = {
        "SETUPTOOLS_SCM_PRETEND_VERSION": value,
        "PBR_VERSION": value,
        "PDM_BUILD_SCM_VERSION": value,
        "POETRY_DYNAMIC_VERSIONING_BYPASS": value,
        "UV_DYNAMIC_VERSIONING_BYPASS": value,
        "HATCH_VCS_PRETEND_VERSION": value,
        "VERSIONINGIT_DEFAULT_VERSION": value,
        "PYTHON_VERSIONEER_PRETEND_VERSION": value,
        "MILKSNAKE_PRETEND_VERSION": value,
    }
    if findings.name:
        key = re.sub(r"[-_.]+", "_", findings.name).upper()
        env[f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{key}"] = value
    return env, value


def asks_git(files: Files, findings: Findings) -> bool:
    """The version is read from git: the variables matter to the recipe."""
    texts = " ".join((*findings.build_requires, text_of(files, "setup.py") or "", text_of(files, "setup.cfg") or ""))
    texts += text_of(files, "pyproject.toml") or ""
    return bool(
        re.search(
            r"setuptools[-_]scm|hatch-vcs|\bpbr\b|dynamic-versioning|versioningit|versioneer|get_version_from_git"
            r"|setuptools[-_]git|source\s*=\s*[\"'](scm|vcs)[\"']|use_scm_version|flit_scm|milksnake|autosemver",
            texts,
        )
    )
