"""Statements out of commit messages."""

from __future__ import annotations

import re
from typing import Protocol, runtime_checkable

from envfarm.core.ports import Repository
from envfarm.core.source import Commit, Issue, IssueKind

from ..intent import housekeeping
from ..statement import clean

_MERGE = re.compile(r"^Merge (pull request|branch|remote-tracking branch|tag|commit|PR|MR)\b.*", re.IGNORECASE)
_SAYS_LITTLE = 80
"""Characters of a merge's own text below which what it merged is read too."""


@runtime_checkable
class MergedHistory(Protocol):
    """What a repository may offer beyond the port: the messages behind a merge."""

    def merged(self, base: str, fix: str) -> tuple[str, ...]: ...


class CommitMessageSource:
    """Reads the message of the fixing commit. For the merge of a request, that is its own title and text; where those
    say little, the messages of the commits it brought in follow, less upkeep and one-word ones."""

    def issue(self, repository: Repository, base: Commit, fix: Commit) -> Issue | None:
        lines = fix.message.strip().splitlines()
        is_merge = bool(lines and _MERGE.match(lines[0]))
        while lines and (_MERGE.match(lines[0]) or not lines[0].strip()):
            lines.pop(0)
        text = "\n".join(lines)
        if is_merge and len(clean(text)) < _SAYS_LITTLE and isinstance(repository, MergedHistory):
            told = [message for message in repository.merged(base.id, fix.id) if _tells(message)]
            text = "\n\n".join(filter(None, [text, *told]))
        title, _, body = text.strip().partition("\n")
        return Issue(kind=IssueKind.commit, title=title.strip(), body=body.strip(), reference=fix.id) if title else None


def _tells(message: str) -> bool:
    first = message.partition("\n")[0]
    is_file_edit = re.fullmatch(r"(?:Update|Create|Delete|Rename) \S+", first)
    return len(first.split()) > 2 and not is_file_edit and not housekeeping(message) and not _MERGE.match(first)
