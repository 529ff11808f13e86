"""The stages of a run, in pipeline order. One module for each part of the chain."""

from __future__ import annotations

from envfarm.farm.stage import Stage

from ..app import App
from ..plan import RunPlan
from ..rungs import STAGES
from .environments import BaseStage, BuildStage
from .history import DraftStage, FilterStage, MineStage
from .play import ReplayStage, RolloutStage
from .synth import MutateStage, ProposeStage
from .tasks import PublishStage, ValidateStage


def make_stages(app: App, run: str, plan: RunPlan) -> dict[str, Stage]:
    """All stages of a run over one object graph."""
    stages: list[Stage] = [
        MineStage(app, run, plan),
        BaseStage(app, run, plan),
        FilterStage(app, run, plan),
        DraftStage(app, run, plan),
        BuildStage(app, run, plan),
        ProposeStage(app, run, plan),
        MutateStage(app, run, plan),
        ValidateStage(app, run, plan),
        PublishStage(app, run, plan),
        ReplayStage(app, run, plan, gold=True),
        ReplayStage(app, run, plan, gold=False),
        RolloutStage(app, run, plan),
    ]
    by_name = {stage.name: stage for stage in stages}
    return {name: by_name[name] for name in STAGES}
