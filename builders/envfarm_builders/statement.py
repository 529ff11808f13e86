"""From what somebody wrote about a change to what an agent may read: prose without search keys.

Numbers of issues, hashes and links would let an agent look the answer up; diffs are the answer; trailers, headings of
versions and credits are noise. What remains is the text of the task.
"""

from __future__ import annotations

import re

from envfarm.core.source import Issue

_I = re.IGNORECASE

KEYS: dict[str, re.Pattern[str]] = {
    "link": re.compile(r"\b(?:https?|git|ssh|ftp)://[^\s<>)\]`\"']*|\bwww\.[^\s<>)\]`\"']+", _I),
    "mail": re.compile(r"<[\w.+-]+@[\w-]+(?:\.[\w-]+)+>"),
    "advisory": re.compile(r"\b(?:CVE-\d{4}-\d+|GHSA(?:-[0-9a-z]{4}){3}|PYSEC-\d{4}-\d+)\b", _I),
    "role": re.compile(r":(?:gh-?)?(?:issues?|prs?|pull|gh|bug|ticket|commit|cve|ghsa|user|author|pypi|cpython):`[^`]*`_{0,2}", _I),
    "number": re.compile(
        r"(?:(?<![\w/.])[\w.-]+/[\w.-]+)?(?<![\w&])[#!]\d+\b|(?<=[\w)])#\d{2,}\b"
        r"|\b(?:issues?|bugs?|tickets?|prs?|pulls?|pull[ -]requests?|merge[ -]requests?|discussions?|bpo|gh|lp)"
        r"[\s:/#-]{0,3}\d+\b",
        _I,
    ),
    "key": re.compile(r"(?<=\[)[A-Z][A-Z0-9]+-\d+(?=\])|^\s*[A-Z][A-Z0-9]+-\d+(?=:)", re.MULTILINE),
    "hash": re.compile(r"(?<![\w.])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}(?!\w)|(?<!\w)\d{40}(?!\w)"),
}
"""What could be looked up. None of these survives :func:`clean`."""

_LINKS = (
    (re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)"), ""),  # an image
    (re.compile(r"\[([^\]\n]*)\]\([^)\n]*\)"), r"\1"),
    (re.compile(r"\[([^\]\n]+)\]\[[^\]\n]*\]"), r"\1"),
    (re.compile(r"`([^`<\n]*?)\s*<[^`>\n]*>`_{1,2}"), r"\1"),
    (re.compile(r"\|(#?\d+)\|_?"), ""),
)
_CREDIT = re.compile(
    r"\s*[-–—,(\[]*\s*\b(?:thanks(?: to| go to)?|contributed|patch(?:ed)?|reported|implemented|fixed|suggested|written|pr|"
    r"courtesy|credits?(?: to)?)?\s*(?:\b(?:by|from|of|to|via)\b:?)?\s*"
    r"(?:(?:@[A-Za-z\d][A-Za-z\d-]*(?:\[bot\])?)(?:\s*(?:,|and|&)\s*)?)+\s*(?:[)\]]+|(?=[.\s]*$))",
    _I | re.MULTILINE,
)
_NAMED_CREDIT = re.compile(
    r"\s*[(\[–—-]?\s*\b(?:[Tt]hanks(?: to)?|[Cc]ontributed by|[Pp]atch(?:es)? by|[Rr]eported by|[Cc]ourtesy of|"
    r"[Ii]mplemented by|[Pp]atch from|[Ww]ritten by)\b:?"
    r"(?:[ \n]+(?:[A-Z][\w.'’-]*,?|and|&|for|the|report|patch|fix))+[)\].!]*(?=\s|$)"
)
_EMPTY = re.compile(
    r"[(\[{]\s*(?:[,;.&/:+]|\b(?:and|see|also|in|via|fix(?:es|ed)?|closes?|closed|resolves?|refs?|by|from|cf|issues?|prs?|bugs?)\b|\s)*"
    r"[)\]}]|``\s+``",
    _I,
)
_DANGLING = re.compile(
    r"(?:[\s,;:(–—|-]|^)+\b(?:fix(?:es|ed)?|closes?|closed|resolves?d?|refs?|see(?: also)?|issues?|prs?|in|via|per|of|from|by|for|and|cf)"
    r"[\s,;:&]*(?=[.)]*\s*$)",
    _I | re.MULTILINE,
)
_TRAILER = re.compile(
    r"^\s*(?:signed-off-by|co-authored-by|reviewed-by|acked-by|tested-by|reported-by|suggested-by|helped-by|change-id|"
    r"approved-by|git-svn-id|cc|original-author|committed-by|\(cherry[- ]picked from|cherry-picked from|pr-url|"
    r"differential revision|conflicts|assisted-by)\b\s*:?.*$",
    _I,
)
_KEYED_LINE = re.compile(
    r"^\s*[-*]?\s*(?:refs?|references?|see(?: also)?|closes?|closed|fix(?:es|ed)?|resolves?|resolved|related(?: to)?|"
    r"pull[ -]requests?|prs?|issues?|tickets?|backport(?:ed)?(?: of| from)?|part of|follow[- ]?up (?:to|of)|towards)"
    r"[\s,.;:&()#and-]*$",
    _I,
)
_DIFF_START = re.compile(r"^(?:diff --git |Index: \S|--- (?:a/|/dev/null)|\+\+\+ (?:b/|/dev/null)|@@ -\d+)")
_DIFF_LINE = re.compile(r"^(?:[-+ @\\]|diff --git |index [0-9a-f]+|Index: |(?:new|old|deleted) (?:file )?mode |similarity |rename |Binary |=+$)")
_UNDERLINE = re.compile(r"^\s*(?:([=\-~^*#+'\"_.:])\1{2,}|`{4,})\s*$")
_DATE = r"(?:\d{4}[-/.]\d\d?[-/.]\d\d?|\d{1,2}[-/. ](?:\d\d?|[A-Za-z]{3,9})[-/. ,]+\d{4}|[A-Za-z]{3,9}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4})"
_VERSION_LINE = re.compile(
    rf"^[\s#=*\[(`<]*(?:[\w.-]+\s+)?(?:(?:version|release[sd]?|new in|changes in|bump(?:ed)?(?: version)?(?: to)?|prepare(?: for)?)\b[\s:]*)*"
    rf"[\[(`*<]*v?\d+(?:\.\d+)+[\w.+-]*[\])`*>]*[\s:,–—|(\[-]*(?:released?|on|\s)*(?:{_DATE}|un-?released|not yet released|tbd|tba|"
    rf"in development|development|dev|stable)?[\s\])=#*:.]*$",
    _I,
)
_RELEASED_LINE = re.compile(rf"^[\s#*\[(:_-]*(?:un-?released|release[sd]?(?:\s+date)?|released on|date)?[\s:*\])-]*(?:{_DATE})?[\s\])*_.:]*$", _I)
_DIRECTIVE = re.compile(r"^\s*\.\.(?:\s+(?:_[^:]*:.*|version(?:added|changed)::.*|towncrier.*|\[?\w*\]?$|[a-z].*(?<!::)$)|\s*$)|^\s*\[[^\]]+\]:\s*\S*\s*$|^\s*<!--.*-->\s*$")
_CATEGORY_ONLY = re.compile(r"^[\s\W\d_]*$")


def statement_text(issue: Issue) -> str:
    """The cleaned text of an issue; '' when nothing remains."""
    title, body = issue.title.strip(), issue.body.strip()
    return clean(body if title in body else f"{title}\n\n{body}")


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
    text = "".join(char for char in text.replace("\r\n", "\n").replace("\t", "    ") if char == "\n" or char.isprintable())
    lines = _without_noise(_without_diffs(text.split("\n")))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n ")


def _without_diffs(lines: list[str]) -> list[str]:
    kept: list[str] = []
    inside = False
    for line in lines:
        if _DIFF_START.match(line):
            inside = True
        elif inside and not _DIFF_LINE.match(line):
            inside = False
        if not inside:
            kept.append(line)
    return kept


def _without_noise(lines: list[str]) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if line.strip() and (
            _TRAILER.match(line)
            or _VERSION_LINE.match(line)
            or _RELEASED_LINE.match(line)
            or _DIRECTIVE.match(line)
            or _UNDERLINE.match(line)
        ):
            continue
        cleaned = _inline(line)
        if cleaned != line and (_CATEGORY_ONLY.match(cleaned) or _KEYED_LINE.match(cleaned)):
            continue  # nothing but a bullet, or "Fixes" without what
        kept.append(cleaned)
    return kept


def _inline(line: str) -> str:
    cleaned = line
    for pattern, replacement in _LINKS:
        cleaned = pattern.sub(replacement, cleaned)
    for pattern in KEYS.values():
        cleaned = pattern.sub("", cleaned)
    cleaned = _NAMED_CREDIT.sub("", _CREDIT.sub("", cleaned))
    if cleaned == line:
        return line.rstrip()
    indent = line[: len(line) - len(line.lstrip(" "))]
    for _ in range(3):
        cleaned = _DANGLING.sub("", _EMPTY.sub("", cleaned))
    cleaned = re.sub(r" {2,}", " ", cleaned.strip())
    cleaned = re.sub(r"\s+([.,;:!?)\]])", r"\1", cleaned)
    cleaned = re.sub(r"([,;:(\[–—-]\s*)+([.)]?)$", r"\2", cleaned)
    return (indent + cleaned).rstrip()
