"""Numbers and times as people read them. Pure functions; templates use them as filters."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

from envfarm.core.base import short

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
NONE = "–"
"""What stands where there is no value."""


def count(value: float | None) -> str:
    """``12,345``; a fraction keeps one decimal."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def duration(seconds: float | None) -> str:
    """``0 s``, ``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 04 h``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def size(number: float | None) -> str:
    """Bytes in binary units: ``3.4 MiB``."""
    if number is None or not math.isfinite(number):
        return NONE
    value, unit = float(number), 0
    while abs(value) >= 1023.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def percent(share: float | None) -> str:
    """A share of one as ``87.5 %``. Never rounds up to a hundred or down to nothing what is neither."""
    if share is None or not math.isfinite(share):
        return NONE
    text = f"{100 * share:.1f}"
    if text == "100.0" and share < 1:
        text = "> 99.9"
    elif text == "0.0" and share > 0:
        text = "< 0.1"
    return f"{text.removesuffix('.0')} %"


def interval(bounds: tuple[float, float] | list[float] | None) -> str:
    """A confidence interval of a share: ``71–94 %``."""
    if bounds is None:
        return NONE
    low, high = (f"{100 * value:.0f}" for value in bounds)
    return f"{low}–{high} %"


def when(moment: datetime | float | None) -> str:
    """``2026-11-24 13:05:09 UTC``. Numbers are epoch seconds."""
    if moment is None:
        return NONE
    if isinstance(moment, int | float):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def words(slug: str) -> str:
    """``tests_mostly_fail`` as ``tests mostly fail``."""
    return str(slug).replace("_", " ")


def figure(cell: object) -> str:
    """A table's cell: whole numbers grouped, others to four digits, text as it is."""
    if isinstance(cell, float):
        return f"{cell:,.4g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def pretty(value: object) -> str:
    """A JSON value, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


FILTERS = {
    "pretty": pretty,
    "figure": figure,
    "count": count,
    "duration": duration,
    "size": size,
    "percent": percent,
    "interval": interval,
    "when": when,
    "words": words,
    "short": short,
}
