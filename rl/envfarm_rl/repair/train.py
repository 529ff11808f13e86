"""The bring-up itself: tokenizer, trunk, MTP heads, in steps that a resumed run takes up where they stopped."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon

from envfarm.core.errors import Reason, TrainerError

from ..algorithms.head_loss import HeadLossKind, head_loss, head_places
from ..chains.logprobs import run_trunk
from ..chains.packing import pack
from ..engine.sampling import Sampling
from ..policy import MiMo, save_policy
from ..samples import Sample
from ..text.chat import CALL, END
from ..text.tokenizer import TinyTokenizer, load_tokenizer, train_tokenizer
from ..trainer.optimisers import group_parameters
from .corpus import Example, decode, read_examples, read_lines
from .encode import edit_logprobs
from .feed import Feed
from .loss import PageBatch, bringup_loss
from .problem import LINES
from .prompt import page
from .recipe import BringupRecipe, StepsSection
from .texts import FORMS

_CHUNK = 500
"""Examples encoded at once, at least; enough for several batches of like length."""
_TEXTS = 40_000
"""Pages that the tokenizer is trained on."""
_FINAL = 0.05
"""Share of the peak rate at the end."""
_LOOKS = 250, 16
"""Steps between two looks at held-out pages, at least, and about how many of them in all."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a policy ranks valid edits of pages with one bug, none run: over ``pages``, and those with many edits."""

    pages: int
    greedy: float
    """Share where the right edit is the likeliest."""
    sampled: float
    """Mean probability of the right edit."""
    chance: float
    """Mean of one over the number of valid edits."""
    pages_9: int
    greedy_9: float
    sampled_9: float
    chance_9: float


def ranking(policy: MiMo, tokenizer: TinyTokenizer, examples: Sequence[Example]) -> Ranking:
    """Score every valid edit of every page. ``_9`` are the pages with nine or more."""
    rows: list[tuple[bool, float, int]] = []
    for start in range(0, len(examples), 16):
        part = examples[start : start + 16]
        scores = edit_logprobs(policy, tokenizer, [example.problem for example in part])
        for example, score in zip(part, scores, strict=True):
            (gold,) = example.gold
            rows.append((int(score.argmax()) == gold, float(score[gold].exp()), len(score)))
    many = [row for row in rows if row[2] >= 9]
    return Ranking(len(rows), *_means(rows), len(many), *_means(many))


def _means(rows: Sequence[tuple[bool, float, int]]) -> tuple[float, float, float]:
    count = max(len(rows), 1)
    return (sum(r[0] for r in rows) / count, sum(r[1] for r in rows) / count, sum(1 / r[2] for r in rows) / count)


def make_tokenizer(lines: Sequence[bytes], vocabulary: int, seed: int) -> TinyTokenizer:
    """Trained on a sample of the corpus and on the form of answers."""
    rng = random.Random(seed)
    chosen = [decode(line) for line in rng.sample(lines, min(_TEXTS // 4, len(lines)))]
    texts = (f"{page(each.problem)}{each.problem.command(each.problem.edits[each.gold[0]])}" for each in chosen)
    return train_tokenizer([*texts, *FORMS * 300], vocabulary=vocabulary, lines=LINES)


class Bringup:
    """Trains in ``folder``: ``tokenizer.json``, ``state.pt`` and ``curve.jsonl``, one line for each look at held-out
    pages. Made again in the same folder it goes on from the last state."""

    def __init__(
        self,
        recipe: BringupRecipe,
        train: Sequence[Path],
        held_out: Sequence[Path],
        folder: Path,
        *,
        pages: int = 400,
        every: int = 0,
        device: str = "cpu",
        workers: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.recipe, self.folder, self._say, self._device = recipe, folder, say, device
        self._every = every or max(_LOOKS[0], self.steps // _LOOKS[1])
        folder.mkdir(parents=True, exist_ok=True)
        steps = recipe.training
        if not any(read_lines(path) for path in train):
            raise TrainerError(
                "The corpus holds no example.",
                reason=Reason.checkpoint_missing,
                phase="bringup",
                remedy="Name packages whose functions have valid edits.",
            )
        path = folder / "tokenizer.json"
        if not path.exists():
            lines = [line for file in train for line in read_lines(file)]
            make_tokenizer(lines, recipe.tokenizer.vocabulary, steps.seed).save(path)
        self.tokenizer = load_tokenizer(path)
        self._feed = Feed(train, path, steps, workers, max(_CHUNK, steps.tokens // 8))
        single = [each for file in held_out for each in read_examples(file) if len(each.gold) == 1]
        random.Random(steps.seed).shuffle(single)
        short = (each for each in single if len(self.tokenizer.encode(page(each.problem))) < steps.longest - 40)
        self._held_out = [each for each, _ in zip(short, range(pages), strict=False)]
        policy = MiMo(recipe.config(self.tokenizer.size)).initialise(torch.Generator().manual_seed(steps.seed))
        self.policy = policy.to(device)
        groups = group_parameters(self.policy)
        rest = [*groups.tables.values(), *groups.vectors.values()]
        self._optimisers = {
            "muon": (Muon(list(groups.matrices.values()), weight_decay=0.0, momentum=0.95), steps.muon),
            "adamw": (AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0), steps.adamw),
            "heads": (AdamW(list(groups.heads.values()), betas=(0.9, 0.95), weight_decay=0.0), steps.head_rate),
        }
        self._trunk = [*groups.matrices.values(), *rest]
        self._heads = list(groups.heads.values())
        self.done = 0
        """Steps of trunk and heads together."""
        self._chunk, self._place = 0, 0
        self._resume()

    @property
    def steps(self) -> int:
        """Of trunk and heads together."""
        return self.recipe.training.steps + self.recipe.training.head_steps

    def run(self) -> None:
        """To the last step."""
        steps, running = self.recipe.training, list[dict[str, float]]()
        for heads, end, step in ((False, steps.steps, self._trunk_step), (True, self.steps, self._head_step)):
            if self.done >= end:
                continue
            with contextlib.closing(self._feed.batches(self._chunk, self._place, heads=heads)) as fed:
                for self._chunk, place, batch in fed:
                    running.append(step(batch))  # type: ignore[arg-type]
                    self._place = place + 1
                    self.done += 1
                    if self.done % 25 == 0:
                        self._say(f"step {self.done} of {self.steps}: {_mean(running)}")
                        running.clear()
                    if self.done % self._every == 0 or self.done == end:
                        self._look()
                        self._save()
                    if self.done == end:
                        break
            running.clear()

    def extend(self, seconds: float, *, share: float, seed: int, reward: float = 0.0) -> int:
        """Go on with the trunk for so many seconds, at rates that fall from a share of the peak to nothing, on examples
        of another order; the steps taken. ``reward`` is that of :func:`~.loss.bringup_loss`. Nothing is saved."""
        begin, taken = time.perf_counter(), 0
        for _, _, batch in self._feed.batches(1_000_000 * (seed + 1), 0):
            left = 1 - (time.perf_counter() - begin) / seconds
            if left <= 0:
                break
            self._trunk_step(batch, share * left, reward)  # type: ignore[arg-type]
            taken += 1
        return taken

    def export(self, folder: Path) -> None:
        """Write the checkpoint: weights in half precision, ``config.json``, ``tokenizer.json``."""
        save_policy(copy.deepcopy(self.policy).cpu().half(), folder)
        self.tokenizer.save(folder / "tokenizer.json")

    def _trunk_step(self, batch: PageBatch, share: float | None = None, reward: float = 0.0) -> dict[str, float]:
        steps = self.recipe.training
        ends = self.tokenizer.control(END.text), self.tokenizer.control(CALL.text)
        with torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=steps.half):
            loss = bringup_loss(self.policy, batch.to(self._device), ends, reward=reward)
        (loss.answer + steps.page * loss.page + steps.mark * loss.mark).backward()
        nn.utils.clip_grad_norm_(self._trunk, 1.0)
        self._step(("muon", "adamw"), rate(self.done, steps.steps, steps) if share is None else share)
        return {name: float(getattr(loss, name).detach()) for name in ("answer", "page", "mark")}

    def _head_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        places = head_places(samples, len(self.policy.heads))
        packed = pack(samples, row_tokens=max(len(sample.tokens) for sample in samples)).to(self._device)
        with torch.no_grad():
            hidden = run_trunk(self.policy, packed).hidden
        early = self.done - self.recipe.training.steps < self.recipe.training.head_steps // 3
        kind = HeadLossKind.soft_cross_entropy if early else HeadLossKind.e2e_tv
        loss, stats = head_loss(self.policy, hidden, packed, Sampling(), kind, denominator=float(max(places, 1)))
        if loss.requires_grad:  # answers without a choice teach nothing
            loss.backward()
        nn.utils.clip_grad_norm_(self._heads, 1.0)
        steps = self.recipe.training
        self._step(("heads",), rate(self.done - steps.steps, steps.head_steps, steps))
        return {"head_loss": float(loss.detach()), **stats.metrics()}

    def _step(self, names: Sequence[str], scale: float) -> None:
        for name in names:
            optimiser, peak = self._optimisers[name]
            for group in optimiser.param_groups:
                group["lr"] = peak * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def _look(self) -> None:
        found = ranking(self.policy, self.tokenizer, self._held_out)
        with (self.folder / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.done, **asdict(found)}) + "\n")
        self._say(
            f"held out, {found.pages} pages: likeliest right {found.greedy:.1%}, drawn right {found.sampled:.1%}, "
            f"chance {found.chance:.1%}; nine edits and more: {found.greedy_9:.1%}, {found.sampled_9:.1%}, "
            f"{found.chance_9:.1%}"
        )

    def _save(self) -> None:
        state: dict[str, Any] = {
            "recipe": self.recipe.model_dump(mode="json"),
            "policy": self.policy.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, (optimiser, _) in self._optimisers.items()},
            "done": self.done,
            "chunk": self._chunk,
            "place": self._place,
        }
        scratch = self.folder / ".state.pt"
        torch.save(state, scratch)
        scratch.replace(self.folder / "state.pt")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location=self._device)
        if state["recipe"] != self.recipe.model_dump(mode="json"):
            raise TrainerError(
                f"{self.folder} holds a bring-up by another recipe.",
                reason=Reason.checkpoint_mismatch,
                phase="bringup",
                remedy="Give another folder, or remove this one.",
            )
        self.policy.load_state_dict(state["policy"])
        for name, (optimiser, _) in self._optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.done, self._chunk, self._place = state["done"], state["chunk"], state["place"]


def rate(step: int, steps: int, recipe: StepsSection) -> float:
    """Share of the peak at ``step`` (from 0) of ``steps``: linear warm-up, the peak, linear decay to a twentieth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    left = (steps - step) / (recipe.decay * steps)
    return max(_FINAL, min(1.0, left))


def _mean(rows: Sequence[dict[str, float]]) -> str:
    return ", ".join(f"{name} {sum(row[name] for row in rows) / len(rows):.3f}" for name in rows[0])
