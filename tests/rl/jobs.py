"""Running ``envfarm train`` as a user does, and seeing what is left of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TRAIN = (sys.executable, "-m", "envfarm.cli.main", "train")
MARK = "TRAINING_TEST_MARK"
"""A variable that all processes of a test inherit."""

_CONFIG = """
[policy.shape]
vocab_size = 8
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 1
swa_num_attention_heads = 4
swa_num_key_value_heads = 2
head_dim = 8
v_head_dim = 8
partial_rotary_factor = 0.5
sliding_window = 8
num_nextn_predict_layers = 3
hybrid_layer_pattern = [0, 1]
moe_layer_freq = [0, 0]
initializer_range = 0.1

[engine]
max_context = 32

[algorithm]
row_tokens = 64
response_tokens = 2

[rollout]
groups = 4
group_size = 4

[run]
steps = {steps}
checkpoint_every = 2
seed = 1

[source]
path = "envfarm_rl.trainer.digits:Digits"
options = {{base = 3, length = 2}}
"""


class Home:
    """A home with the configuration of a digits run, and the commands on it."""

    def __init__(self, folder: Path, *, steps: int, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "home"
        self.config = folder / "digits.toml"
        self.config.write_text(_CONFIG.format(steps=steps), "utf-8")
        self.mark = str(folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENVFARM_", "RAY_"))}
        self.environ = kept | {"ENVFARM_HOME": str(self.path), "OMP_NUM_THREADS": "1", MARK: self.mark} | variables

    @property
    def folder(self) -> Path:
        return self.path / "train/digits"

    def train(self, *arguments: object, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        command = [*TRAIN, *map(str, arguments)]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=timeout)

    def status(self) -> dict[str, Any]:
        done = self.train("status", "digits", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def started(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """A command under way; it is killed when the block is left."""
        command = [*TRAIN, *map(str, arguments)]
        child = subprocess.Popen(
            command, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()

    def steps(self) -> list[dict[str, Any]]:
        """Records so far, times left out."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [{key: each[key] for key in each if key not in ("seconds", "tokens_per_sec")} for each in found]

    def committed(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").glob("step-*"))

    def processes(self) -> dict[int, str]:
        """Living processes that this home's commands started, by id, with their command lines."""
        return processes(self.mark)


def processes(mark: str) -> dict[int, str]:
    """Living processes that inherited the mark, by id, with their command lines."""
    found: dict[int, str] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal() or int(path.name) == os.getpid():
            continue
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended meanwhile
    return found


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """What the condition gives, once that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come about in {seconds} s")
