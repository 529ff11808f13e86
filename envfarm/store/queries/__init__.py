"""Reads, each named by the question it answers. Lists are paged; an item that is not there is None."""

from .events import events, quarantined
from .nouns import (
    candidate,
    environment,
    environment_for_recipe,
    environments,
    recipe,
    rollout,
    rollouts,
    task,
    task_row,
    tasks,
    validation,
    validations,
    verdict_for,
    verdicts,
)
from .progress import environment_success, funnel, reasons, repositories, runs

__all__ = [
    "candidate",
    "environment",
    "environment_for_recipe",
    "environment_success",
    "environments",
    "events",
    "funnel",
    "quarantined",
    "reasons",
    "recipe",
    "repositories",
    "rollout",
    "rollouts",
    "runs",
    "task",
    "task_row",
    "tasks",
    "validation",
    "validations",
    "verdict_for",
    "verdicts",
]
