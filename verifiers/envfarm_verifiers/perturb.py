"""Wrong values that look like right ones: source text of a constant -> source text of another of its kind."""

from __future__ import annotations

import ast
import string
from random import Random

RARE_TYPES = ("complex", "memoryview", "slice", "bytearray", "frozenset", "range")
"""Built-in types that a value under test hardly ever has."""
RARE_ERRORS = (
    "ZeroDivisionError",
    "BufferError",
    "EOFError",
    "BlockingIOError",
    "ConnectionResetError",
    "InterruptedError",
)
"""Built-in errors that a call under test hardly ever raises, none a parent of another."""


def constant(text: str, rng: Random) -> str | None:
    """Source of a different constant of the same kind; None where there is no good one."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # f-strings and the like: nothing to perturb
        return None
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        moved = value + rng.choice((-1, 1)) * rng.randint(1, max(3, abs(value) // 3))
        return str(moved if value < 0 or moved >= 0 else value + abs(value - moved))
    if isinstance(value, float):
        moved = round(value * rng.choice((0.25, 0.5, 0.75)) + rng.randint(1, 9) + 0.5, 3)
        return repr(moved if moved != value else moved + 1.5)
    if isinstance(value, str):
        return _string(text, value, rng)
    if isinstance(value, bytes):
        return repr(_word(value.decode("latin-1"), rng).encode("latin-1"))
    if value is None:
        return rng.choice(("0", "''", "()", "-1", "[]", "'none'"))
    return None


def absent(text: str, rng: Random) -> str | None:
    """Like :func:`constant`, for a value that is looked for in another: one that is not there by chance either."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # nothing to perturb
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value + rng.randint(10_007, 99_991))
    if isinstance(value, str) and len(value) < 8:
        at = rng.randrange(len(value) + 1)
        return repr(value[:at] + "".join(rng.choices(string.ascii_lowercase, k=4)) + value[at:])
    return constant(text, rng)


def unrelated(rng: Random) -> str:
    """A value that no expression under test gives by chance."""
    number = rng.randint(10_007, 9_999_991)
    word = "".join(rng.choices(string.ascii_lowercase, k=9))
    return rng.choice((str(number), repr(word), f"({number},)", f"[{word!r}]", f"{{{word!r}: {number}}}"))


def _string(text: str, value: str, rng: Random) -> str:
    """Perturbed inside its own quotes where that is safe, so that the style stays."""
    quote = text[:1]
    plain = quote in "'\"" and text[-1:] == quote and text[1:-1] == value and quote not in value
    changed = _word(value, rng)
    if plain and not set(changed) & set("\\\n\r" + quote):
        return quote + changed + quote
    return repr(changed)


def _word(value: str, rng: Random) -> str:
    """One letter or digit replaced by another; letters put in where there is none."""
    places = [index for index, char in enumerate(value) if char.isascii() and char.isalnum()]
    if not places:
        at = rng.randrange(len(value) + 1)
        return value[:at] + "".join(rng.choices(string.ascii_lowercase, k=3)) + value[at:]
    at = rng.choice(places)
    old = value[at]
    pool = string.digits if old.isdigit() else string.ascii_lowercase if old.islower() else string.ascii_uppercase
    return value[:at] + rng.choice([char for char in pool if char != old]) + value[at + 1 :]
