"""Checkpoints of a run: all that a resumed one needs, committed at once, and believed only if every digest holds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from envfarm.core.durable import sync
from envfarm.core.errors import Reason, TrainerError
from envfarm.core.failpoints import failpoint

from ..policy import MiMo, load_policy, save_policy
from ..samples import Episode, EpisodeGroup, Outcome, Sample
from .metrics import replace_text, unwritable

MANIFEST, STATE, POLICY, LATEST = "manifest.json", "state.pt", "policy", "latest"


@dataclass(frozen=True, slots=True)
class Found:
    """A stable checkpoint."""

    folder: Path
    step: int
    note: str
    """One sentence: which one it is, and which newer ones were passed over and why."""

    def policy(self) -> MiMo:
        """Its policy, heads included. Raises as ``load_policy``."""
        return load_policy(self.folder / POLICY)

    def state(self) -> dict[str, Any]:
        """What was saved beside it."""
        with torch.serialization.safe_globals([EpisodeGroup, Episode, Sample, Outcome]):
            return torch.load(self.folder / STATE, weights_only=True)


class Checkpoints:
    """The checkpoints in ``folder``, the last ``keep`` of them."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def save(self, step: int, policy: MiMo, state: dict[str, Any]) -> Path:
        """Commit one: staged, synced, described by digests, renamed; then ``latest`` names it, and the oldest goes.

        ``state`` holds plain values, tensors and episode groups. Raises ``TrainerError`` (disk_full,
        checkpoint_unwritable), after which earlier checkpoints are as they were.
        """
        target = self._folder / f"step-{step:08}"
        staging = self._folder / f".{target.name}"
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            self._stage(staging, step, policy, state)
            failpoint("train.checkpoint.before_rename")
            if target.exists():  # one that was found corrupt, or resume would have begun there
                shutil.rmtree(target)
            staging.rename(target)
            sync(self._folder)
        except OSError as error:
            raise unwritable(target, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        failpoint("train.checkpoint.after_rename")
        replace_text(self._folder / LATEST, target.name + "\n")
        failpoint("train.checkpoint.before_prune")
        # Later ones were passed over as damaged: they are nobody's to count on, and not ours to take away.
        for old in [each for each in self._newest_first() if each.name <= target.name][self._keep :]:
            shutil.rmtree(old)
        return target

    def newest(self) -> Found | None:
        """The newest stable one, which ``latest`` then names; None where none was ever committed. Raises
        ``TrainerError`` (checkpoint_corrupt) where there are some and none is stable."""
        passed: list[str] = []
        for folder in self._newest_first():
            why = _unstable(folder)
            if not why:
                # A process may have died before it said so, or the one it named is damaged.
                replace_text(self._folder / LATEST, folder.name + "\n")
                step = int(folder.name.removeprefix("step-"))
                return Found(folder, step, " ".join([*passed, f"Resumed from {folder.name}."]))
            passed.append(f"{folder.name} was passed over: {why}.")
        if passed:
            raise TrainerError(
                f"No checkpoint in {self._folder} can be used. {' '.join(passed)}",
                reason=Reason.checkpoint_corrupt,
                phase="resume",
                remedy="Copy one back, or start a new run.",
            )
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"), reverse=True)

    def _stage(self, staging: Path, step: int, policy: MiMo, state: dict[str, Any]) -> None:
        save_policy(policy, staging / POLICY)
        failpoint("train.checkpoint.after_policy")
        try:
            with (staging / STATE).open("wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch's own word, said while it met the disk's: that one tells more
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        failpoint("train.checkpoint.after_state")
        digests = {str(path.relative_to(staging)): _digest(path) for path in _files(staging)}
        (staging / MANIFEST).write_text(json.dumps({"step": step, "sha256": digests}, indent=1) + "\n", "utf-8")
        for path in (*_files(staging), staging / POLICY, staging):
            sync(path)


def _unstable(folder: Path) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    try:
        expected: dict[str, str] = json.loads((folder / MANIFEST).read_text("utf-8"))["sha256"]
        missing = [name for name in expected if not (folder / name).is_file()]
        differing = [name for name, digest in expected.items() if not missing and _digest(folder / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # the boundary to a damaged disk
        return f"its manifest or files cannot be read ({error})"
    if missing:
        return f"{missing[0]} is missing"
    return f"{differing[0]} is not what was written" if differing else ""


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_file()))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
