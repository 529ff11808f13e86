"""How many tokens to draft at each step, from what drafts have earned and what steps have cost."""

from __future__ import annotations

from statistics import median
from typing import Any

from .acceptance import Acceptance

_TIMES = 3
"""Steps on each side of a comparison: those of a trial, and as many of the current length before and after it."""
_SWITCH = 1.03
"""Gain that a change of length must promise."""
_HOPELESS = 0.6
"""A longer draft that promises less than this share of the current speed is not tried."""
_SOON, _PERIOD, _LONGEST = 64, 256, 1024
"""Steps to the next trial: after a change of length, after a trial that told something new, and at most; two trials (of
either side) that did not double them. A trial is 3 steps: in the long run 0.3 to 1.2 % of all."""
_NEW = 0.05
"""Relative change of a length's cost that is news."""
_SLOW, _OUTLIER = 0.05, 1.5
"""Weight of a new time in its mean, and how many times the mean it is believed to be at most."""
_FORGET = 0.995


class _Bucket:
    """What is known of batches of about one size.

    Between trials a change of time is taken to be the machine's or the context's and to be the same for all lengths.
    What one costs beside another comes from trials alone, whose steps lie next to each other in time.
    """

    def __init__(self, max_draft: int) -> None:
        self.seconds = [0.0] * (max_draft + 1)
        """Of a step with so many drafts; 0 where it has not been tried."""
        self.current = self.trial = self.steps = self.turn = 0
        """``trial`` is another length than ``current`` while it is on trial."""
        self.period = _PERIOD
        self.before: list[float] = []
        self.during: list[float] = []
        self.after: list[float] = []

    @property
    def on_trial(self) -> bool:
        return self.trial != self.current

    def begin(self, trial: int) -> None:
        self.trial, self.steps = trial, 0
        self.during, self.after = [], []

    def learn(self, k: int, seconds: float) -> None:
        """Note the time of a step with ``k`` drafts."""
        if k != self.current:
            self.during.append(seconds)
            return
        mean = self.seconds[k] or seconds
        factor = 1 + _SLOW * (min(seconds / mean, _OUTLIER) - 1)
        self.seconds[k] = mean
        self.seconds = [each * factor for each in self.seconds]
        if not self.on_trial:
            self.before = [*self.before, seconds][-_TIMES:]
            return
        self.after.append(seconds)
        if len(self.after) == _TIMES:
            ratio = median(self.during) / median([*self.before, *self.after])
            found, known = self.seconds[k] * ratio, self.seconds[self.trial]
            self._set(self.trial, (known + 2 * found) / 3 if known else found)
            news = abs(found - known) > _NEW * found
            if news:
                self.period = _PERIOD
            elif self.turn % 2 == 0:
                self.period = min(2 * self.period, _LONGEST)
            self.trial = self.current

    def _set(self, k: int, seconds: float) -> None:
        """More drafts never cost less: what is older gives way."""
        self.seconds[k] = seconds
        for other, known in enumerate(self.seconds):
            if known:
                self.seconds[other] = min(known, seconds) if other < k else max(known, seconds)


class DraftLength:
    """Chooses ``k`` of 0..``max_draft`` for each step: the largest expected tokens over measured seconds.

    Expected tokens are ``1 + sum over i <= k of prod over j <= i of a_j`` with ``a_j`` the rate at which depth ``j`` is
    accepted; seconds are those of whole steps (drafting, verification, host), for each size of batch to the nearest
    power of two. The choice rests on steps before, never on the draws of its own, so the law stays exact.
    """

    def __init__(self, max_draft: int) -> None:
        self._max = max_draft
        self._buckets: dict[int, _Bucket] = {}
        self._reached = [2.0] * max_draft
        self._kept = [1.6] * max_draft

    def choose(self, batch: int) -> int:
        """Drafts for each of ``batch`` rows in the next step."""
        bucket = self._buckets.setdefault(batch.bit_length(), _Bucket(self._max))
        if not bucket.on_trial and len(bucket.before) == _TIMES:
            self._reconsider(bucket)
        return bucket.trial if len(bucket.during) < _TIMES else bucket.current

    def observe(self, batch: int, k: int, seconds: float, seen: Acceptance) -> None:
        """Note a step: its time, without what is not of its own, and what it counted."""
        for depth in range(k):
            self._reached[depth] = _FORGET * self._reached[depth] + seen.reached[depth]
            self._kept[depth] = _FORGET * self._kept[depth] + seen.kept[depth]
        self._buckets.setdefault(batch.bit_length(), _Bucket(self._max)).learn(k, seconds)

    def renew(self) -> None:
        """The policy has changed: look around soon."""
        for bucket in self._buckets.values():
            bucket.period = min(bucket.period, _PERIOD)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for :meth:`load_state_dict`."""
        buckets = {str(size): _copied(vars(bucket)) for size, bucket in self._buckets.items()}
        return {"buckets": buckets, "reached": [*self._reached], "kept": [*self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._reached, self._kept = [*state["reached"]], [*state["kept"]]
        self._buckets = {}
        for size, values in state["buckets"].items():
            self._buckets[int(size)] = bucket = _Bucket(self._max)
            vars(bucket).update(_copied(values))

    def _reconsider(self, bucket: _Bucket) -> None:
        """Change to what promises most, or try what is not known or not known well any more."""
        gains = [
            self._expected(k) / seconds if (seconds := self._seconds(bucket, k)) else 0.0 for k in range(self._max + 1)
        ]
        tried = [k for k in range(self._max + 1) if bucket.seconds[k]]
        best = max(tried, key=gains.__getitem__)
        if gains[best] > _SWITCH * gains[bucket.current]:
            bucket.current = bucket.trial = best
            bucket.period, bucket.steps, bucket.before = _SOON, 0, []
            return
        bucket.steps += 1
        hopeful = [k for k in range(self._max + 1) if gains[k] >= _HOPELESS * gains[bucket.current]]
        next_up = len(tried)
        if next_up in hopeful:
            bucket.begin(next_up)
        elif bucket.steps >= bucket.period:
            # A shorter one is always worth a look: it cannot cost more, and its cost may be an old one.
            around = [k for k in (bucket.current + 1, bucket.current - 1) if k in hopeful or 0 <= k < bucket.current]
            bucket.turn += 1
            bucket.begin(around[bucket.turn % len(around)] if around else bucket.current)

    def _seconds(self, bucket: _Bucket, k: int) -> float:
        """Of a step with ``k`` drafts; where that was not tried, those of the two lengths before go on in a line."""
        if bucket.seconds[k] or k == 0:
            return bucket.seconds[k]
        before = self._seconds(bucket, k - 1)
        return before + (max(0.0, before - self._seconds(bucket, k - 2)) if k > 1 else 0.0)

    def _expected(self, k: int) -> float:
        total = chance = 1.0
        for depth in range(k):
            chance *= self._kept[depth] / self._reached[depth]
            total += chance
        return total


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {name: [*value] if isinstance(value, list) else value for name, value in values.items()}
