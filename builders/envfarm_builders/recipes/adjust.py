"""What repairs changed about a recipe's steps. Pure: a recipe and its adjustments give the steps that really run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envfarm.core.environment import InstallMode, Recipe, Step

from . import uv

BUILD_CONSTRAINTS = "/tmp/envfarm-build-constraints.txt"
OVERRIDES = "/tmp/envfarm-overrides.txt"


@dataclass(frozen=True)
class Adjustments:
    """The sum of the repairs so far. Each is recorded as a line in ``notes``, in order."""

    mode: InstallMode
    added: tuple[str, ...] = ()
    """Requirements besides the recipe's."""
    dropped: frozenset[str] = frozenset()
    """Normalised names taken out of the dependencies step."""
    overrides: tuple[str, ...] = ()
    """Requirements that replace whatever anybody asks of that distribution."""
    build_requirements: tuple[str, ...] = ()
    """Not empty: the project is built in the environment itself, with these put there first."""
    build_constraints: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    unlocked: bool = False
    """The lock file's versions are not used."""
    uncapped: bool = False
    """No date cut-off."""
    wheels: tuple[str, ...] = ()
    """Distributions never built from source: releases without a wheel do not count."""
    extra: tuple[Step, ...] = ()
    """Steps after all others."""
    ignored: tuple[str, ...] = ()
    """Folders of the tree whose tests cannot even be loaded."""
    notes: tuple[str, ...] = ()

    def noting(self, line: str, **changes: object) -> Adjustments:
        """A copy with ``changes`` and one more line."""
        return replace(self, notes=(*self.notes, line), **changes)  # pyright: ignore[reportArgumentType]


def adjusted_steps(recipe: Recipe, adjustments: Adjustments) -> list[Step]:
    """The recipe's installation steps as adjusted."""
    steps: list[Step] = []
    env = dict(adjustments.env)
    for step in recipe.install:
        if step.name == "venv":
            steps.append(step)
            if adjustments.build_constraints:
                env["UV_BUILD_CONSTRAINT"] = BUILD_CONSTRAINTS
                steps.append(_file_step("build constraints", BUILD_CONSTRAINTS, adjustments.build_constraints))
            if adjustments.overrides:
                steps.append(_file_step("overrides", OVERRIDES, adjustments.overrides))
            continue
        if step.name == "constraints" and adjustments.unlocked:
            continue
        if step.name == "project":
            steps += _project(recipe, step, adjustments, env)
            continue
        if step.name == "dependencies":
            step = step.model_copy(update={"argv": _dependencies(step.argv, adjustments)})
        steps.append(step.model_copy(update={"env": step.env | env}))
    return [*steps, *adjustments.extra]


def _project(recipe: Recipe, step: Step, adjustments: Adjustments, env: dict[str, str]) -> Iterable[Step]:
    name = own_name(recipe)
    if adjustments.mode is InstallMode.wheel:
        yield step.model_copy(update={"argv": uv.install_wheel(name, recipe.version), "env": env})
        yield Step(name="place compiled", argv=uv.place_compiled(name))
        return
    argv = list(step.argv)
    if adjustments.mode is not InstallMode.editable and "--editable" in argv:
        argv.remove("--editable")
    if adjustments.build_requirements:
        requirements = uv.install(adjustments.build_requirements, None)
        yield Step(name="build requirements", argv=requirements, env=env)
        argv[3:3] = ["--no-build-isolation"]
    yield step.model_copy(update={"argv": tuple(argv), "env": step.env | env})
    if adjustments.mode is InstallMode.regular and recipe.rebuild and name:
        yield Step(name="place compiled", argv=uv.place_compiled(name))


def _dependencies(argv: tuple[str, ...], adjustments: Adjustments) -> tuple[str, ...]:
    kept: list[str] = []
    words = iter(argv[3:])
    for word in words:
        if word in _VALUED:
            value = next(words)
            if not _is_dropped(word, value, adjustments):
                kept += [word, value]
        elif name_of(word) not in adjustments.dropped:
            kept.append(word)
    options = ["--override", OVERRIDES] if adjustments.overrides else []
    options += [word for name in adjustments.wheels for word in ("--only-binary", name)]
    editable = adjustments.mode is InstallMode.editable
    rest = kept if editable else [word for word in kept if word != "--editable"]
    return (*argv[:3], *options, *rest, *adjustments.added)


_VALUED = frozenset({"--constraint", "--exclude-newer", "--exclude-newer-package"})


def _is_dropped(option: str, value: str, adjustments: Adjustments) -> bool:
    if option == "--constraint":
        return adjustments.unlocked
    return adjustments.uncapped and not value.endswith(f"={uv.NEVER}")


def own_name(recipe: Recipe) -> str:
    """The project's own normalised name, where the recipe knows it."""
    for step in recipe.install:
        for word in step.argv:
            if word.endswith(f"={uv.NEVER}"):
                return word.removesuffix(f"={uv.NEVER}")
    return ""


def name_of(word: str) -> str:
    """The normalised distribution name of a requirement word; empty for an option, a path or a value."""
    if word.startswith(("-", "/", ".")) or re.match(r"^\d{4}-", word) or word.endswith("=false"):
        return ""
    try:
        return canonicalize_name(Requirement(word).name)
    except InvalidRequirement:
        return ""


def _file_step(name: str, path: str, lines: Iterable[str]) -> Step:
    return Step(name=name, argv=uv.write_file(path, "".join(f"{line}\n" for line in lines)))
