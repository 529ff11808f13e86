"""Examples for the bring-up of a tiny policy: functions of packages with planted bugs, nothing run."""

from __future__ import annotations

import ast
import hashlib
import random
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace

from envfarm_builders.split import source_paths
from envfarm_builders.synth.choose import python_sources
from envfarm_builders.synth.edits import Edit, is_valid, unit_edits
from envfarm_builders.synth.unit import Unit
from envfarm_rl.repair.corpus import Example

from envfarm.core.archive import File

from .pages import fits, function_units, problem

MIN_EDITS, MAX_EDITS = 3, 80
"""Valid edits of a function that makes an example."""
BUGS = (1, 1, 2, 3)
"""How many bugs are planted at once, drawn uniformly: each is an answer of its own to one reading of the page."""


def product_functions(files: Mapping[str, File]) -> Iterator[tuple[str, Unit]]:
    """Path and function, of the package's own code; functions of a length that goes on the page."""
    for path, source in python_sources(files, source_paths(files)).items():
        if "vendor" not in path:
            yield from ((path, unit) for unit in function_units(source) if fits(unit))


def function_digest(unit: Unit) -> str:
    """Digest of a function's syntax tree without its name, docstring and decorators: equal for copies."""
    body = unit.node.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
        body = body[1:]
    dumped = "\n".join(ast.dump(each) for each in (unit.node.args, *body))
    return hashlib.sha256(dumped.encode()).hexdigest()[:16]


def examples(path: str, unit: Unit, *, count: int, seed: int) -> Iterator[Example]:
    """Up to ``count`` examples of a function, the same for the same seed."""
    base = unit.first_line - 1
    healthy = textwrap.dedent("".join(unit.source.lines[base : unit.last_line]))
    whole = _only(healthy)
    if whole is None:
        return
    planted = list(unit_edits(whole))
    if not MIN_EDITS <= len(planted) <= MAX_EDITS:
        return
    digest = function_digest(unit)
    rng = random.Random(f"{seed} {digest}")
    seen: set[str] = set()
    for _ in range(count):
        chosen = _choose(planted, rng.choice(BUGS), rng)
        text = _apply(healthy, chosen)
        if text in seen or not all(is_valid(whole, bug) for bug in chosen) or (mutant := _only(text)) is None:
            continue
        seen.add(text)
        # Whether each would compile is not asked: few would not, and to ask costs four times what all else does.
        edits = list(unit_edits(mutant))
        undone = {_apply(healthy, [each for each in chosen if each is not bug]) for bug in chosen}
        gold = tuple(index for index, edit in enumerate(edits) if edit.source_after in undone)
        if len(gold) == len(chosen) and MIN_EDITS <= len(edits) <= MAX_EDITS:
            yield Example(replace(problem(mutant, edits, path), base=base), gold, digest)


def _choose(planted: list[Edit], count: int, rng: random.Random) -> list[Edit]:
    """Bugs on lines of their own, operators drawn before edits: as tasks are balanced over operators."""
    chosen: list[Edit] = []
    for _ in range(count):
        free = [edit for edit in planted if all(edit.line != other.line for other in chosen)]
        if not free:
            break
        operator = rng.choice(sorted({edit.operator for edit in free}))
        chosen.append(rng.choice([edit for edit in free if edit.operator == operator]))
    return chosen


def _apply(text: str, edits: list[Edit]) -> str:
    for edit in sorted(edits, key=lambda each: -each.start):
        text = text[: edit.start] + edit.mutated + text[edit.start + len(edit.original) :]
    return text


def _only(text: str) -> Unit | None:
    """The function that ``text`` is; None where it is none, or several."""
    found = function_units(text)
    return found[0] if len(found) == 1 else None
