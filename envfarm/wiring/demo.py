"""What the demo does: real packages with small, quick suites, and many of their releases."""

from __future__ import annotations

from envfarm.core.config import BuildConfig

from .plan import POLICIES, RunPlan

PACKAGES = ("voluptuous", "funcy", "xmltodict", "schema", "python-slugify")
"""The small set: the chain in minutes on two cores. None that pytest itself stands on (pluggy, iniconfig, packaging):
the runner loads pytest before the tree is on the import path, so their editable installs are not found."""

FULL = (
    *PACKAGES, "cachetools", "tinydb", "inflection", "tabulate", "parse", "itsdangerous", "toolz", "boltons",
    "marshmallow", "sqlparse", "semver",
)  # fmt: skip
"""The large set."""

SYNTH, SYNTH_FULL = 9, 14
"""Valid mutants wanted of each package: none can hold more than its share of the whole."""
REVISIONS, REVISIONS_FULL = 3, 8
"""Releases of each package that are looked at for release tasks."""


def demo_plan(packages: tuple[str, ...], build: BuildConfig, *, seed: int) -> RunPlan:
    """Release tasks and mutants of each package, two replays, and every scripted policy."""
    full = len(packages) > len(PACKAGES)
    return RunPlan(
        repositories=tuple(f"pypi:{name}" for name in packages),
        synth=SYNTH_FULL if full else SYNTH,
        seed=seed,
        replays=2,
        policies=POLICIES,
        build=build.model_copy(update={"limit": build.limit or (REVISIONS_FULL if full else REVISIONS)}),
    )
