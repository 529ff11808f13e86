"""The ladder's rungs between the bandit and held-out packages: one task, then sixteen, by RL alone with drafts on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "rl_ladder.py"


@pytest.mark.slow
def test_rungs_are_climbed_by_rewards_alone() -> None:
    done = subprocess.run([sys.executable, str(BENCH), "--seeds", "1", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rungs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["rung"] for each in rungs] == ["one task", "sixteen tasks"]
    for found in rungs:
        assert found["first"] < 0.2, "random weights know nothing"
        assert found["last"] >= found["bar"][0] and found["greedy"] >= found["bar"][1]
        assert found["max_logprob_gap"] <= 1e-4, "training reads the law that rollouts drew from"
