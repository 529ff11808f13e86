"""Small statistics, stated with their formula."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def wilson(k: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of ``k`` successes in ``n`` trials; 95 % by default. ``(0, 1)`` for no trials.

    Centre ``(p + z²/2n) / (1 + z²/n)``, half width ``z / (1 + z²/n) * sqrt(p(1-p)/n + z²/4n²)`` with ``p = k/n``.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials")
    if n == 0:
        return 0.0, 1.0
    p = k / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(values: Sequence[float], *, resamples: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the 2.5 % and 97.5 % quantiles of the means of ``resamples`` draws with replacement: give one value for
    each independent unit (a task, say, whatever was averaged within it). ``(0, 0, 0)`` for no values."""
    if not values:
        return 0.0, 0.0, 0.0
    rng, count = random.Random(seed), len(values)
    means = sorted(sum(rng.choices(values, k=count)) / count for _ in range(resamples))
    return sum(values) / count, means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]
