"""``envfarm build`` killed at failpoints and resumed: the bench, with few kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "kill_resume.py"


@pytest.mark.slow
@pytest.mark.registry
def test_what_is_killed_and_resumed_ends_as_if_nothing_had_been():
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--kills", "4", "--seed", "1", "--json"],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr or ran.stdout
    figures = json.loads(ran.stdout)
    assert figures["kills"] >= 4 and figures["kinds_of_failpoint_hit"] >= 8
    assert not (figures["lost"] or figures["duplicated"] or figures["different_rounds"] or figures["left_over"])
