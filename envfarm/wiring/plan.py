"""What a run was asked to do: kept with the run, so that a resume does exactly the same."""

from __future__ import annotations

from pydantic import Field

from envfarm.core.base import Noun
from envfarm.core.config import BuildConfig
from envfarm.core.ids import repository_name
from envfarm.core.work import Work

POLICIES = ("oracle", "noop", "random-edit")
"""Scripted policies that a run can play."""


class RunPlan(Noun):
    """The options of a build run."""

    repositories: tuple[str, ...]
    """Refs: ``git:PATH``, ``pypi:NAME``."""
    history: bool = True
    """Mine revision pairs for release and commit tasks."""
    synth: int = Field(default=0, ge=0)
    """Valid mutants wanted of each repository's newest revision."""
    seed: int = 0
    replays: int = Field(default=0, ge=0)
    """Independent passes in which every published task is graded on its gold patch and on an empty one."""
    policies: tuple[str, ...] = ()
    """Policies that play every published task."""
    build: BuildConfig = BuildConfig()

    def first_work(self, run: str) -> list[Work]:
        """The items a run starts from."""
        works: list[Work] = []
        for ref in self.repositories:
            labels = {"run": run, "source": source_of(ref), "repo": repository_name(ref), "payload": {"ref": ref}}
            works.append(Work(stage="base", key=ref, **labels))
            if self.history:
                works.append(Work(stage="mine", key=ref, **labels))
        return works


def source_of(ref: str) -> str:
    """The funnel's label for where a repository comes from."""
    return ref.split(":", 1)[0] if ref.startswith(("git:", "pypi:")) else "git"
