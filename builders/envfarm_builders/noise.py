"""Patterns of what does not belong in a statement: search keys, credits, trailers, headings, diffs. Data only."""

from __future__ import annotations

import re

_I = re.IGNORECASE
_M = re.MULTILINE

_ROLES = r"(?:gh-?)?(?:issues?|prs?|pull|gh|bug|ticket|commit|cve|ghsa|user|author|pypi|cpython)"

KEYS: dict[str, re.Pattern[str]] = {
    "link": re.compile(r"\b(?:https?|git|ssh|ftp)://[^\s<>)\]`\"']*|\bwww\.[^\s<>)\]`\"']+", _I),
    "mail": re.compile(r"<[\w.+-]+@[\w-]+(?:\.[\w-]+)+>"),
    "advisory": re.compile(r"\b(?:CVE-\d{4}-\d+|GHSA(?:-[0-9a-z]{4}){3}|PYSEC-\d{4}-\d+)\b", _I),
    # :issue:`12` of reStructuredText and {issue}`12` of MyST; any other role whose text is a number.
    "role": re.compile(
        rf"(?::(?:{_ROLES}):|\{{(?:{_ROLES})\}})`[^`]*`_{{0,2}}"
        r"|(?::[\w.+-]+:|\{[\w.+-]+\})`[#!]?\d[\d\s,#!]*`_{0,2}",
        _I,
    ),
    "number": re.compile(
        # #12, !12, owner/repo#12, word#12
        r"(?<![\w/.])[\w.-]+/[\w.-]+[#!]\d+\b|(?<![\w&])[#!]\d+\b|(?<=[\w)])#\d+\b"
        # issue 12, PR #12, gh-12, pull/12
        r"|\b(?:issues?|bugs?|tickets?|prs?|pulls?|pull[ -]requests?|merge[ -]requests?|discussions?|bpo|gh|lp)"
        r"[\s:/#_-]{0,3}\d+\b",
        _I,
    ),
    # JIRA's keys, only where nothing else looks like them: UTF-8 and SHA-256 are words of prose.
    "key": re.compile(r"(?<=\[)[A-Z][A-Z0-9]+-\d+(?=\])|^\s*[A-Z][A-Z0-9]+-\d+(?=:)", _M),
    "hash": re.compile(r"(?<![\w.])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}(?!\w)|(?<!\w)\d{40}(?!\w)"),
}
"""What could be looked up. None of these survives cleaning."""

LINKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)"), ""),  # an image
    (re.compile(r"\[([^\]\n]*)\]\([^)\n]*\)"), r"\1"),
    (re.compile(r"\[([^\]\n]+)\]\[[^\]\n]*\]"), r"\1"),
    (re.compile(r"`([^`<\n]*?)\s*<[^`>\n]*>`_{1,2}"), r"\1"),
    (re.compile(r"\|(#?\d+)\|_?"), ""),
)
"""Links of Markdown and reStructuredText: their words stay."""

_WORK = r"contributed|patch(?:ed|es)?|reported|implemented|fixed|suggested|written|pr"
_MENTION = r"@[A-Za-z\d][A-Za-z\d-]*(?:\[bot\])?"
CREDITS: tuple[re.Pattern[str], ...] = (
    # (@name), "by @name and @other", at the end of a line or in brackets: "@property" in a sentence is none.
    re.compile(
        rf"\s*[-–—,(\[]*\s*\b(?:thanks(?: to| go to)?|{_WORK}|courtesy|credits?(?: to)?)?\s*"
        rf"(?:\b(?:by|from|of|to|via)\b:?)?\s*(?:{_MENTION}(?:\s*(?:,|and|&)\s*)?)+\s*(?:[)\]]+|(?=[.\s]*$))",
        _I | _M,
    ),
    # "Thanks to First Last for the report", "(patch by First Last)"
    re.compile(
        r"\s*[(\[–—-]?\s*\b(?:[Tt]hanks(?: to)?|[Cc]ontributed by|[Pp]atch(?:es)? (?:by|from)|[Rr]eported by|"
        r"[Cc]ourtesy of|[Ii]mplemented by|[Ww]ritten by|[Bb]y)\b:?"
        r"(?:[ \n]+(?:[A-Z][\w.'’-]*,?|and|&|for|the|report|patch|fix))+[)\].!]*(?=\s*$)",
        _M,
    ),
)

_LEFT = r"\b(?:and|see|also|in|via|fix(?:es|ed)?|closes?|closed|resolves?|refs?|by|from|cf|issues?|prs?|bugs?)\b"
EMPTY = re.compile(rf"[(\[{{]\s*(?:[,;.&/:+]|{_LEFT}|\s)*[)\]}}]|``\s+``", _I)
"""Brackets and quotes that removal left with nothing in them."""
DANGLING = re.compile(
    r"(?:[\s,;:(–—|-]|^)+\b(?:fix(?:es|ed)?|closes?|closed|resolve[sd]?|refs?|see(?: also)?|issues?|prs?|in|via|per|of|"
    r"from|by|for|and|cf)[\s,;:&]*(?=[.)]*\s*$)",
    _I | _M,
)
"""Words that led to what was removed, at the end of a line."""

TRAILER = re.compile(
    r"^\s*(?:signed-off-by|co-authored-by|reviewed-by|acked-by|tested-by|reported-by|suggested-by|helped-by|change-id|"
    r"approved-by|git-svn-id|cc|original-author|committed-by|\(cherry[- ]picked from|cherry-picked from|pr-url|"
    r"differential revision|assisted-by)\b\s*:?.*$",
    _I,
)
LED = re.compile(
    r"^[\s*-]*(?:refs?|references?|see(?: also)?|closes?|closed|fix(?:es|ed)?|resolves?|resolved|related(?: to)?|"
    r"pull[ -]requests?|prs?|issues?|tickets?|backport(?:ed)?(?: of| from)?|part of|follow[- ]?up (?:to|of)|towards|"
    r"full changelog)[\s,.;:&()#*and-]*$",
    _I,
)
"""A line that only led to what was removed: "Fixes" without what."""

DIFF_START = re.compile(r"^(?:diff --git |Index: \S|--- (?:a/|/dev/null)|\+\+\+ (?:b/|/dev/null)|@@ -\d+)")
DIFF_LINE = re.compile(
    r"^(?:[-+ @\\]|diff --git |index [0-9a-f]+|Index: |(?:new|old|deleted) (?:file )?mode |similarity |rename |Binary |"
    r"=+$)"
)

UNDERLINE = re.compile(r"^\s*(?:([=\-~^*#+'\"_.:])\1{2,}|`{4,})\s*$")
_DATE = (
    r"(?:\d{4}[-/.]\d\d?[-/.]\d\d?|\d{1,2}[-/. ](?:\d\d?|[A-Za-z]{3,9})[-/. ,]+\d{4}|"
    r"[A-Za-z]{3,9}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4})"
)
VERSION_LINE = re.compile(
    r"^[\s#=*\[(`<]*(?:[\w.-]+\s+)?"
    r"(?:(?:version|release[sd]?|new in|changes in|bump(?:ed)?(?: version)?(?: to)?|prepare(?: for)?)\b[\s:]*)*"
    r"[\[(`*<]*v?\d+(?:\.\d+)+[\w.+-]*[\])`*>]*[\s:,–—|(\[-]*(?:released?|on|\s)*"
    rf"(?:{_DATE}|un-?released|not yet released|tbd|tba|in development|development|dev|stable)?[\s\])=#*:.]*$",
    _I,
)
"""A heading that names a version, with or without a date."""
RELEASED_LINE = re.compile(
    rf"^[\s#*\[(:_-]*(?:un-?released|release[sd]?(?:\s+date)?|released on|date)?[\s:*\])-]*(?:{_DATE})?[\s\])*_.:]*$",
    _I,
)
DIRECTIVE = re.compile(
    r"^\s*\.\.(?:\s+(?:_[^:]*:.*|version(?:added|changed)::.*|towncrier.*|\[?\w*\]?$|[a-z].*(?<!::)$)|\s*$)"
    r"|^\s*\[[^\]]+\]:\s*\S*\s*$|^\s*<!--.*-->\s*$"
)
"""Markup that is no text: link targets, comments, labels."""
NO_WORDS = re.compile(r"^[\s\W\d_]*$")
