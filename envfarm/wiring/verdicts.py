"""The verdict cache over the store."""

from __future__ import annotations

from dataclasses import dataclass

from envfarm.core.verdict import Verdict
from envfarm.store import Store, queries


@dataclass
class StoredVerdicts:
    """Answers the grader from verdicts that stand, and keeps new ones. Counts hits and misses of this process."""

    store: Store
    hits: int = 0
    misses: int = 0

    def get(self, task_digest: str, submission_digest: str, grader: str) -> Verdict | None:
        """The verdict that stands, marked as cached."""
        found = queries.verdict_for(self.store, task_digest, submission_digest, grader)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, verdict: Verdict) -> None:
        """Keep a verdict; the first that scores stands."""
        with self.store.begin() as tx:
            tx.put_verdict(verdict)
