"""Statements: prose stays, search keys do not."""

from __future__ import annotations

import pytest
from envfarm_builders.statement import clean, search_keys, statement_text
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.source import Issue, IssueKind


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Fix parsing when a parameter is named `help` (#3678)", "Fix parsing when a parameter is named `help`"),
        ("- Fix foo. :issue:`1234` :pr:`12`, gh-7", "- Fix foo."),
        ("- {func}`edit` takes paths. {issue}`2869` {pr}`3781`", "- {func}`edit` takes paths."),
        ("Emit a :class:`Warning` :ghpull:`3` :src:`12, 13` now", "Emit a :class:`Warning` now"),
        ("Add tests (#1572 followup) (#3405)", "Add tests (followup)"),
        ("Crash in `a/b` (closes #12, fixes owner/repo#3)", "Crash in `a/b`"),
        ("See issue 12 for why `x` breaks", "See for why `x` breaks"),
        ("- [#12](https://h.invalid/12): Fix a thing in [foo](http://h.invalid)", "- Fix a thing in foo"),
        ("- thing (`#12 <https://h.invalid/12>`_) by @someone", "- thing"),
        ("Regression since abc1234def was merged", "Regression since was merged"),
        ("Allow UTF-8 and SHA-256 per RFC 2616", "Allow UTF-8 and SHA-256 per RFC 2616"),
        ("Add the @property decorator to `C#`", "Add the @property decorator to `C#`"),
        ("Sandbox escape, CVE-2024-12345 and GHSA-cpwx-vrp4-4pq7.", "Sandbox escape."),
        ("Version 3.1.6\n-------------\n\nReleased 2025-03-05\n\n- Fix it.", "- Fix it."),
        ("## [1.2.3] - 2024-05-06\n### Fixed\n- thing", "### Fixed\n- thing"),
        ("1.2.3 is broken under Python 3.11.4", "1.2.3 is broken under Python 3.11.4"),
        ("Fix it\n\nSigned-off-by: A <a@b.invalid>\nCo-authored-by: B\nFixes: #33", "Fix it"),
        ("Fix it. Thanks to John Smith for the report.", "Fix it."),
        ("Do it\n\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\nafter it", "Do it\n\nafter it"),
        ("Use\n\n```python\nf(1)  # one\n```", "Use\n\n```python\nf(1)  # one\n```"),
        ("Closes #1.", ""),
        ("v2.0.0", ""),
    ],
)
def test_examples(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned
    assert search_keys(cleaned) == []


_KEY = st.sampled_from(
    ["#123", "gh-77", "GH-5", "issue 12", "PR #9", ":issue:`3`", "{pr}`4`", "org/repo#44", "!42",
     "https://h.invalid/pull/1", "www.h.invalid/x", "CVE-2023-1234", "deadbee1", "(#9)", "ISSUE_801",
     "0123456789abcdef0123456789abcdef01234567", "[#8](https://h.invalid/8)"]
)  # fmt: skip
_TEXT = st.text(st.sampled_from("ab c.,:;()[]`'\"#-\n*@!/\\<>_0189"), max_size=30)


@given(st.lists(st.one_of(_KEY, _TEXT), max_size=12).map("".join))
def test_no_key_survives_and_cleaning_is_idempotent(text: str) -> None:
    cleaned = clean(text)
    assert search_keys(cleaned) == []
    assert clean(cleaned) == cleaned


@given(st.text(max_size=300))
def test_any_text_is_cleaned(text: str) -> None:
    cleaned = clean(text)
    assert search_keys(cleaned) == [] and cleaned == cleaned.strip("\n ")


def test_title_is_not_said_twice() -> None:
    issue = Issue(kind=IssueKind.commit, title="Fix it", body="Fix it, because it is broken.")
    assert statement_text(issue) == "Fix it, because it is broken."
    assert statement_text(Issue(kind=IssueKind.commit, title="Fix it", body="Why.")) == "Fix it\n\nWhy."
