"""Ordered repair rules: a known error in a step's output leads to a known change. Rules are data."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envfarm.core.environment import InstallMode, Recipe, Step
from envfarm.core.errors import BuilderError, Reason

from . import uv
from .adjust import Adjustments, name_of, own_name
from .names import OPTIONS, distribution_for


@dataclass(frozen=True)
class Rule:
    """One row of ``repair_rules.toml``."""

    name: str
    phase: str
    """``install`` or ``collect``."""
    pattern: re.Pattern[str]
    action: str
    value: str = ""
    """Template over the pattern's groups."""
    step: str = ""
    """Only for that step of an installation."""
    toolchain: str = ""
    """Only for interpreters at or above this minor version."""
    last_resort: bool = False
    """Only where no rule before it changed anything."""
    reason: str = ""


@dataclass(frozen=True)
class Failure:
    """What went wrong, as rules see it."""

    phase: str
    step: str
    output: str


@cache
def load_rules() -> tuple[Rule, ...]:
    """The rules, in order. Raises ``BuilderError`` (internal) for a row that cannot be a rule."""
    text = resources.files(__package__ or "envfarm_builders.recipes").joinpath("repair_rules.toml").read_text("utf-8")
    return tuple(_rule(row) for row in tomllib.loads(text)["rule"])


def _rule(row: Mapping[str, Any]) -> Rule:
    try:
        rule = Rule(**{**row, "pattern": re.compile(row["pattern"], re.MULTILINE)})  # pyright: ignore[reportArgumentType]
        if rule.action not in ACTIONS or rule.phase not in {"install", "collect"}:
            raise ValueError(f"no action '{rule.action}' in phase '{rule.phase}'")
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise BuilderError(
            f"Repair rule {row.get('name', row)!r} cannot be used: {error}.",
            reason=Reason.internal,
            phase="repair",
            remedy="Correct it in repair_rules.toml.",
        ) from error
    return rule


def repair(
    recipe: Recipe, adjustments: Adjustments, failure: Failure, declared: frozenset[str] = frozenset()
) -> Adjustments | None:
    """The adjustments after every first-in-order rule that matches and changes something; None where none does.

    An installation takes one change at a time (the next failure may be another one); a collection takes all that its
    output asks for at once. ``declared`` are distribution names that the project's own files, or the metadata of what
    is installed, mention.
    """
    current = adjustments
    for rule in load_rules():
        if rule.phase != failure.phase or (rule.step and rule.step != failure.step) or not _applies(rule, recipe):
            continue
        if rule.last_resort and current is not adjustments:
            break
        for match in rule.pattern.finditer(failure.output):
            groups = {key: value or "" for key, value in match.groupdict().items()}
            changed = ACTIONS[rule.action](_Context(recipe, current, rule, groups, declared, failure.output))
            if changed is None:
                continue
            current = changed
            if failure.phase == "install":
                return current
    return None if current is adjustments else current


def _applies(rule: Rule, recipe: Recipe) -> bool:
    if not rule.toolchain:
        return True
    return tuple(map(int, recipe.toolchain.split("."))) >= tuple(map(int, rule.toolchain.split(".")))


@dataclass(frozen=True)
class _Context:
    recipe: Recipe
    now: Adjustments
    rule: Rule
    groups: dict[str, str]
    declared: frozenset[str]
    output: str

    @property
    def value(self) -> str:
        return self.rule.value.format_map(self.groups)

    def note(self, change: str) -> str:
        return f"repair {self.rule.name}: {change}" + (f" ({self.rule.reason})" if self.rule.reason else "")

    def present(self) -> set[str]:
        """Names asked for already."""
        words = [word for step in self.recipe.install if step.name == "dependencies" for word in step.argv[3:]]
        return {name_of(word) for word in (*words, *self.now.added)} - {""}


def _install(context: _Context) -> Adjustments | None:
    return _add(context, context.value)


def _add(context: _Context, requirement: str) -> Adjustments | None:
    if requirement in context.now.added:
        return None
    name = name_of(requirement)
    if not Requirement(requirement).specifier and name in context.present() - context.now.dropped:
        return None
    return context.now.noting(
        context.note(f"added {requirement}"),
        added=(*context.now.added, requirement),
        dropped=context.now.dropped - {name},
    )


def _install_module(context: _Context) -> Adjustments | None:
    """The distribution that provides a module, by the name map or because the project's files name it."""
    module = context.groups["module"]
    distribution = distribution_for(module)
    if distribution is None and canonicalize_name(module.split(".")[0]) in context.declared:
        distribution = canonicalize_name(module.split(".")[0])
    return _add(context, distribution) if distribution else None


def _install_option(context: _Context) -> Adjustments | None:
    """The plug-ins behind options that pytest does not know."""
    changed = context.now
    for word in context.groups["options"].split():
        for pattern, plugin in OPTIONS.items():
            if re.fullmatch(pattern, word.split("=")[0]):
                changed = _add(replace(context, now=changed), plugin) or changed
    return None if changed is context.now else changed


def _drop(context: _Context) -> Adjustments | None:
    """Take a requirement out, unless the project itself (its own name in the step) is meant."""
    name = canonicalize_name(context.value)
    if name in context.now.dropped or name == "pytest":
        return None
    words = [word for step in context.recipe.install if step.name == "dependencies" for word in step.argv[3:]]
    if name not in {name_of(word) for word in (*words, *context.now.added)} or name == own_name(context.recipe):
        return None
    added = tuple(each for each in context.now.added if name_of(each) != name)
    return context.now.noting(context.note(f"dropped {name}"), dropped=context.now.dropped | {name}, added=added)


def _drop_least(context: _Context) -> Adjustments | None:
    """Of the requirements that a conflict names, take out the one that is least surely needed."""
    named = {canonicalize_name(name) for name in re.findall(r"you require ([\w.-]+)", context.output)}
    words = [word for step in context.recipe.install if step.name == "dependencies" for word in step.argv[3:]]
    order = [name_of(word) for word in (*words, *context.now.added)]
    for name in reversed(order):
        if name in named and (changed := _drop(_with_value(context, name))):
            return changed
    return None


def _wheels(context: _Context) -> Adjustments | None:
    """Only releases with a wheel count for a distribution that does not build here."""
    name = canonicalize_name(context.value)
    if name in context.now.wheels:
        return None
    return context.now.noting(context.note(f"{name} from wheels only"), wheels=(*context.now.wheels, name))


def _with_value(context: _Context, value: str) -> _Context:
    return replace(context, rule=replace(context.rule, value=value))


def _override(context: _Context) -> Adjustments | None:
    if context.value in context.now.overrides:
        return None
    return context.now.noting(
        context.note(f"overrode {context.value}"), overrides=(*context.now.overrides, context.value)
    )


def _regular(context: _Context) -> Adjustments | None:
    if context.now.mode is not InstallMode.editable:
        return None
    return context.now.noting(context.note("installed regularly, not editable"), mode=InstallMode.regular)


def _wheel(context: _Context) -> Adjustments | None:
    """The published wheel of exactly the tree's version, where that and the name are known."""
    name, version = own_name(context.recipe), context.recipe.version
    if context.now.mode is InstallMode.wheel or not name or not version:
        return None
    return context.now.noting(context.note(f"the published wheel {name}=={version} instead"), mode=InstallMode.wheel)


def _build_constraint(context: _Context) -> Adjustments | None:
    if context.value in context.now.build_constraints:
        return None
    constraints = (*context.now.build_constraints, context.value)
    return context.now.noting(context.note(f"build constraint {context.value}"), build_constraints=constraints)


def _build_require(context: _Context) -> Adjustments | None:
    """Build the project in the environment, with what its build script forgot to ask for."""
    wanted = distribution_for(context.groups["module"]) if "module" in context.groups else context.value
    if not wanted or wanted in context.now.build_requirements:
        return None
    base = context.now.build_requirements or ("setuptools<81", "wheel")
    return context.now.noting(context.note(f"build requirement {wanted}"), build_requirements=(*base, wanted))


def _environment(context: _Context) -> Adjustments | None:
    key, _, value = context.value.partition("=")
    if context.now.env.get(key) == value:
        return None
    return context.now.noting(context.note(f"{key}={value} while installing"), env={**context.now.env, key: value})


def _unlock(context: _Context) -> Adjustments | None:
    if context.now.unlocked or not any(step.name == "constraints" for step in context.recipe.install):
        return None
    return context.now.noting(context.note("the lock file's versions given up, resolved by date"), unlocked=True)


def _uncap(context: _Context) -> Adjustments | None:
    if context.now.uncapped or context.recipe.cutoff is None:
        return None
    return context.now.noting(context.note("date cut-off given up"), uncapped=True)


def _stdlib_tests(context: _Context) -> Adjustments | None:
    step = Step(name="stdlib tests", argv=uv.place_stdlib_tests(context.recipe.toolchain))
    if step in context.now.extra:
        return None
    return context.now.noting(context.note("CPython's test.support added"), extra=(*context.now.extra, step))


def _ignore(context: _Context) -> Adjustments | None:
    """Leave a test folder out, unless no other would be left."""
    folder = context.value
    rest = [path for path in context.recipe.test.paths if path != folder and not path.startswith(f"{folder}/")]
    if folder in context.now.ignored or (context.recipe.test.paths and not rest):
        return None
    return context.now.noting(context.note(f"left {folder} out"), ignored=(*context.now.ignored, folder))


def _stop(context: _Context) -> Adjustments | None:
    raise BuilderError(context.value, reason=Reason.install_failed, phase="install", remedy=context.rule.reason)


ACTIONS = {
    "install": _install,
    "install-module": _install_module,
    "install-option": _install_option,
    "drop": _drop,
    "drop-least": _drop_least,
    "wheels": _wheels,
    "override": _override,
    "regular": _regular,
    "wheel": _wheel,
    "build-constraint": _build_constraint,
    "build-require": _build_require,
    "environment": _environment,
    "unlock": _unlock,
    "uncap": _uncap,
    "stdlib-tests": _stdlib_tests,
    "ignore": _ignore,
    "stop": _stop,
}
