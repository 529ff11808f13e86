"""How many requests may be under way: additive increase, multiplicative decrease."""

from __future__ import annotations

import asyncio
from collections import deque


class Throttle:
    """Grows by one for each window of answers, halves at a refusal with 429, at most once for each round trip.

    ``least`` and ``most`` bound it. Waiters are served in order.
    """

    def __init__(self, most: int, *, least: int = 2) -> None:
        self.limit = float(most)
        self._most, self._least = most, least
        self.under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._epoch = 0

    async def enter(self) -> int:
        """Wait for a place; give the epoch back to :meth:`refused`. Every entry is left by :meth:`leave`."""
        while self.under_way >= int(self.limit) or self._waiting:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self.under_way -= 1  # the place was ours already
                    self._wake()
                else:
                    self._waiting.remove(place)
                raise
            return self._epoch
        self.under_way += 1
        return self._epoch

    def answered(self) -> None:
        """An answer that was no refusal."""
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def refused(self, epoch: int) -> None:
        """A request that entered at ``epoch`` was refused for load. Refusals of one round trip count once."""
        if epoch == self._epoch:
            self.limit = max(float(self._least), self.limit / 2)
            self._epoch += 1

    def leave(self) -> None:
        """Hand the place on."""
        self.under_way -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.under_way < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.under_way += 1
                place.set_result(None)
