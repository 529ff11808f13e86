"""What holds a pool back: a rate, a breaker, and patience with a full cluster. Times are monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from envfarm.core.errors import Reason


@dataclass
class Bucket:
    """Tokens come at ``rate`` a second, up to ``burst``."""

    rate: float
    burst: float
    tokens: float = 0.0
    at: float = field(default=float("nan"))

    def take(self, wanted: int, now: float) -> int:
        """How many of ``wanted`` may go now."""
        if self.at != self.at:  # the first call finds it full
            self.tokens = self.burst
        else:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        given = min(wanted, int(self.tokens))
        self.tokens -= given
        return given


@dataclass
class Breaker:
    """Stops the making of boxes that the cluster refuses: closed, then open for ``wait_sec``, then one is tried; each
    failure in a row doubles the wait, up to ``most_sec``. It fails closed: while it is open nothing is made."""

    wait_sec: float = 1.0
    most_sec: float = 60.0
    reason: Reason | None = None
    message: str = ""
    until: float = 0.0
    _wait: float = 0.0

    def failed(self, reason: Reason, message: str, now: float) -> None:
        """A box was refused. Refusals of the same wave count once."""
        if now < self.until:
            return
        self._wait = min(self.most_sec, 2 * self._wait) if self._wait else self.wait_sec
        self.reason, self.message, self.until = reason, message, now + self._wait

    def succeeded(self) -> None:
        """A box was made."""
        self.reason, self.message, self.until, self._wait = None, "", 0.0, 0.0

    def allowed(self, wanted: int, now: float) -> int:
        """How many may be made: all, none, or the one that is tried."""
        if self.reason is None:
            return wanted
        return 0 if now < self.until else min(wanted, 1)

    def retry_sec(self, now: float) -> float:
        """When to come back."""
        return max(0.1, self.until - now)
