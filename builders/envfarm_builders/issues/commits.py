"""Statements out of commit messages."""

from __future__ import annotations

import re

from envfarm.core.ports import Repository
from envfarm.core.source import Commit, Issue, IssueKind

_MERGE = re.compile(r"^Merge (pull request|branch|remote-tracking branch|tag|commit|PR|MR)\b.*", re.IGNORECASE)


class CommitMessageSource:
    """Reads the message of the fixing commit. For the merge of a request, that is its own title and text."""

    def issue(self, repository: Repository, base: Commit, fix: Commit) -> Issue | None:
        lines = fix.message.strip().splitlines()
        while lines and (_MERGE.match(lines[0]) or not lines[0].strip()):
            lines.pop(0)
        if not lines:
            return None
        title, body = lines[0].strip(), "\n".join(lines[1:]).strip()
        return Issue(kind=IssueKind.commit, title=title, body=body, reference=fix.id)
