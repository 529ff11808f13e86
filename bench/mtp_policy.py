"""The policy that ``bench/mtp.py`` measures: mimo-tiny's widths, 12 layers, three heads, trained on whole episodes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from envfarm_rl.algorithms.head_loss import HeadLossKind, head_loss, head_places
from envfarm_rl.chains.logprobs import run_trunk
from envfarm_rl.chains.packing import pack
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.policy import MiMo, from_hub, load_policy, save_policy
from envfarm_rl.repair.corpus import Example, decode, read_examples, read_lines
from envfarm_rl.repair.episodes import script, with_test
from envfarm_rl.repair.prompt import answer, heard, opening
from envfarm_rl.repair.recipe import CorpusSection, read_recipe
from envfarm_rl.repair.train import make_tokenizer
from envfarm_rl.samples import Sample
from envfarm_rl.text.tokenizer import TinyTokenizer, load_tokenizer
from envfarm_rl.trainer.optimisers import OptimiserConfig, Optimisers
from torch.nn import functional as F

LAYERS = 12
LONGEST = 448
"""Tokens of the longest episode that is trained on or measured."""
STEP_TOKENS = 2048
"""Padded tokens of a step."""
SMALL = CorpusSection(train=("attrs", "click", "jmespath", "packaging", "tabulate"), held_out=("toolz", "funcy"))
"""What is built where no corpus is given."""


@dataclass(frozen=True, slots=True)
class Told:
    """One episode as tokens, and where the assistant's turns lie in it."""

    tokens: tuple[int, ...]
    turns: tuple[tuple[int, int], ...]
    """First token and end of each, the end-of-turn token included."""
    wrong: tuple[bool, ...]
    """Whether a turn makes a wrong edit: those are context, and not learned."""


def tell(tokenizer: TinyTokenizer, example: Example, rng: random.Random) -> Told:
    """The episode of an example, as the bring-up plays them."""
    problem = with_test(example.problem, rng)
    tokens = tokenizer.encode(opening(problem))
    turns: list[tuple[int, int]] = []
    wrong: list[bool] = []
    for call, said, right in script(problem, example.gold[0], rng):
        first = len(tokens)
        tokens += tokenizer.encode(answer(call))
        turns.append((first, len(tokens)))
        wrong.append(not right)
        tokens += tokenizer.encode(heard(said))
    return Told(tuple(tokens[: turns[-1][1]]), tuple(turns), tuple(wrong))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured, and on what."""

    policy: MiMo
    tokenizer: TinyTokenizer
    held_out: tuple[Told, ...]


def prepare(
    corpus: Path, folder: Path, *, trunk_steps: int, head_steps: int, episodes: int, say: Callable[[str], None]
) -> Subject:
    """The policy in ``folder``; what is not there of it yet is trained and kept: tokenizer, trunk, heads."""
    held = next(corpus / name for name in ("held_out", "held") if (corpus / name).is_dir())
    lines = [line for path in sorted((corpus / "train").glob("*.zst")) for line in read_lines(path)]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        make_tokenizer(lines, 2048, 0).save(folder / "tokenizer.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    if not (folder / "trunk").is_dir():
        shape = {**read_recipe().shape, "num_hidden_layers": LAYERS, "moe_layer_freq": [0] * LAYERS}
        # the released pattern: global first and at every sixth layer
        del shape["hybrid_layer_pattern"]
        policy = MiMo(from_hub({**shape, "vocab_size": tokenizer.size})).initialise(torch.Generator().manual_seed(0))
        train_trunk(policy, batches(tokenizer, lines, seed=1), trunk_steps, say)
        save_policy(policy, folder / "trunk")
    if not (folder / "policy").is_dir():
        policy = load_policy(folder / "trunk")
        train_heads(policy, batches(tokenizer, lines, seed=2), head_steps, say)
        save_policy(policy, folder / "policy")
    rng = random.Random(3)
    examples = [each for path in sorted(held.glob("*.zst")) for each in read_examples(path)]
    found = islice(drawn(tokenizer, rng.sample(examples, len(examples)), rng), episodes)
    return Subject(load_policy(folder / "policy").requires_grad_(False), tokenizer, tuple(found))


def drawn(tokenizer: TinyTokenizer, examples: Iterable[Example], rng: random.Random) -> Iterator[Told]:
    """An episode of each example that has one bug, those that are not too long."""
    for example in examples:
        if len(example.gold) == 1 and len((told := tell(tokenizer, example, rng)).tokens) <= LONGEST:
            yield told


def batches(tokenizer: TinyTokenizer, lines: Sequence[bytes], *, seed: int) -> Iterator[list[Told]]:
    """Without end: episodes of like length together, about :data:`STEP_TOKENS` padded tokens each."""
    rng = random.Random(seed)
    while True:
        part = sorted(
            drawn(tokenizer, (decode(rng.choice(lines)) for _ in range(256)), rng), key=lambda told: len(told.tokens)
        )
        found: list[list[Told]] = [[]]
        for told in part:
            if (len(found[-1]) + 1) * len(told.tokens) > STEP_TOKENS:
                found.append([])
            found[-1].append(told)
        rng.shuffle(found)
        yield from found


def train_trunk(policy: MiMo, data: Iterator[list[Told]], steps: int, say: Callable[[str], None]) -> None:
    """Plain next-token loss over whole episodes, the answers that make wrong edits left out."""
    optimisers = Optimisers(
        policy,
        OptimiserConfig(lr=4e-3, lr_heads=2e-3, warmup=20, decay_from=steps // 3, total=steps, final=0.05),
    )
    for step, batch in zip(range(steps), data, strict=False):
        tokens = torch.zeros(len(batch), max(len(told.tokens) for told in batch), dtype=torch.long)
        learned = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, told in enumerate(batch):
            tokens[row, : len(told.tokens)] = torch.tensor(told.tokens)
            learned[row, : len(told.tokens)] = True
            for (first, end), wrong in zip(told.turns, told.wrong, strict=True):
                learned[row, first:end] = not wrong
        # padding is on the right, where no earlier token sees it
        states = policy.trunk(tokens).hidden[:, :-1][learned[:, 1:]]
        loss = F.cross_entropy(policy.logits(states), tokens[:, 1:][learned[:, 1:]])
        loss.backward()
        optimisers.step_policy(step)
        if step % 20 == 0 or step == steps - 1:
            say(f"trunk, step {step} of {steps}: loss {float(loss.detach()):.3f}")


def train_heads(policy: MiMo, data: Iterator[list[Told]], steps: int, say: Callable[[str], None]) -> None:
    """Soft cross-entropy for the first third, then the expected loss of drafts; on every token that the assistant
    says, since it is the trunk's own law that is taught."""
    optimisers = Optimisers(
        policy,
        OptimiserConfig(lr=4e-3, lr_heads=2e-3, warmup=20, decay_from=steps // 3, total=steps, final=0.05),
    )
    for step, batch in zip(range(steps), data, strict=False):
        samples = [as_sample(told) for told in batch]
        packed = pack(samples, row_tokens=max(len(sample.tokens) for sample in samples))
        with torch.no_grad():
            hidden = run_trunk(policy, packed).hidden
        kind = HeadLossKind.soft_cross_entropy if step < steps // 3 else HeadLossKind.e2e_tv
        places = head_places(samples, len(policy.heads))
        loss, stats = head_loss(policy, hidden, packed, Sampling(), kind, denominator=float(places))
        loss.backward()
        optimisers.step_heads(step)
        if step % 20 == 0 or step == steps - 1:
            told = ", ".join(f"{name} {value:.3f}" for name, value in stats.metrics().items())
            say(f"heads, step {step} of {steps}: loss {float(loss.detach()):.3f}, {told}")


def as_sample(told: Told) -> Sample:
    """The assistant's tokens as actions."""
    count = len(told.tokens)
    action = [False] * count
    for first, end in told.turns:
        action[first:end] = [True] * (end - first)
    return Sample(told.tokens, tuple(action), (0.0,) * count, (-1,) * count, (None,) * count)
