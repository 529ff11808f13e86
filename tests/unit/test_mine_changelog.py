"""Sections of changelogs in the styles that projects use."""

from __future__ import annotations

import pytest
from envfarm_builders.issues.changelog import added_lines, release_section, section_of

from envfarm.core.archive import File

_STYLES = {
    "pallets": "Version 1.2.0\n-------------\n\nReleased 2024-01-02\n\n-   New.\n\n\n"
    "Version 1.1.0\n-------------\n\n-   Old 0.9.\n",
    "keep": "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2024-01-02\n### Added\n- New.\n\n"
    "## [1.1.0] - 2023-01-01\n- Old.\n",
    "rst": "News\n====\n\n1.2 (2024-01-02)\n----------------\n\n* New.\n\n1.1 (2023-01-01)\n"
    "----------------\n\n* Old.\n",
    "towncrier": "pkg 1.2.0 (2024-01-02)\n======================\n\nFeatures\n--------\n\n"
    "- New. (`#1 <u>`_)\n\npkg 1.1.0\n=========\n\n- Old.\n",
    "plain": "1.2.0 (2024-01-02):\n  - New.\n\n1.1.0 (2023-01-01):\n  - Old.\n",
    "v": "# v1.2.0\n\nNew.\n\n# v1.1.0\n\nOld.\n",
    "release": "Release 1.2.0 (Jan 02, 2024)\n----------------------------\n\nNew.\n\n"
    "Release 1.1.0\n-------------\n\nOld.\n",
    "bold": "Changes\n-------\n\n1.2.0 *2024-01-02*\n  * New.\n\n1.1.0 *2023-01-01*\n  * Old.\n",
}


@pytest.mark.parametrize("style", _STYLES)
def test_styles(style: str) -> None:
    section = section_of(_STYLES[style], "1.2.0")
    assert "New." in section and "Old" not in section
    assert "Old" in section_of(_STYLES[style], "1.1.0")
    assert section_of(_STYLES[style], "9.9") == ""


def test_skipped_versions_are_taken_along() -> None:
    text = "## 1.3\n- c\n\n## 1.2\n- b\n\n## 1.1\n- a\n"
    assert section_of(text, "1.3", after="1.1").split() == ["-", "c", "-", "b"]


def test_a_sentence_that_begins_with_a_version_is_no_heading() -> None:
    text = "## 2.0\n\n- one\n\n1.9 and below read the old file as well.\n\n## 1.0\n- old\n"
    assert "read the old file" in section_of(text, "2.0")


def test_the_changelog_is_found_in_a_tree() -> None:
    files = {"docs/changes.rst": File(b".. include:: ../CHANGES.rst\n"), "CHANGES.rst": File(b"1.0\n---\n\n- It.\n")}
    assert release_section(files, "1.0") == "- It."
    assert release_section({"README.md": File(b"# pkg\n\n## 1.0\n\nIt.\n")}, "1.0") == "It."
    assert release_section({}, "1.0") == ""


def test_added_lines() -> None:
    diff = "diff --git a/C b/C\n--- a/C\n+++ b/C\n@@ -1 +1,2 @@\n+one\n old\n@@ -9 +9 @@\n-gone\n+two\n"
    assert added_lines(diff) == "one\n\ntwo"
