"""What drafts by the policy's own heads are worth: adaptive drafting against the same engine without drafts.

    python bench/mtp.py [--corpus DIR] [--checkpoint DIR] [--sizes 1 8 32] [--json]

A policy of mimo-tiny's widths and 12 layers is trained on whole episodes (kept in ``--checkpoint``; a small corpus is
built where none is given). Then every assistant turn of held-out episodes is generated again from its prefix, in the
full tool-call form, without a mask, at temperature 1, up to the end of the turn or 64 tokens, for each size of batch by
two engines in turn: same prompts, same seeds, which of them begins changes from round to round.

Bars, for each size: the median ratio of tokens a second while decoding at least 0.98, and at least 85 % of the limit,
the largest ``tau(k) / (r(k + 1) + k c)`` over k, whose parts are measured: ``tau`` tokens of a verification with k
drafts, ``r`` a pass of the trunk over k + 1 tokens of each sequence, ``c`` a pass of one head, both over a pass of the
trunk over one. ``o`` is what a step takes beside them. Decoding is everything but running prompts, through the trunk
and, with drafts, through the heads (their last window alone). Beside the ratio stand those with the heads' part of
prompts counted as decoding, and with all of the prompts. Seconds are processor time of the one thread, which on a quiet
machine is what a clock shows, and on a busy one leaves out who else was running; the ratio by the clock is printed too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from envfarm_rl.engine.acceptance import Acceptance
from envfarm_rl.engine.batch import Batch, Row
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Emission, Request
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.engine.sessions import as_tokens
from envfarm_rl.repair.prompt import stop
from torch import Tensor

from bench.mtp_policy import SMALL, Subject, Told, prepare
from envfarm.core.stats import bootstrap

SIZES = (1, 2, 4, 8, 16, 32)
MOST = 64
"""Tokens of a turn."""
DRAFTS = 3
BINS = (0.05, 0.5, 2.0)
"""Entropies (nats) that divide positions."""
NEVER_BELOW, OF_LIMIT = 0.98, 0.85
_WARM = 2
_SEEDS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """Some requests by one engine: tokens, and seconds of decoding."""

    tokens: int
    wall: float
    cpu: float
    heads_cpu: float
    """Beside it, of heads over prompts."""


class Fixed:
    """Stands where an engine chooses the number of drafts."""

    def __init__(self, k: int) -> None:
        self._k = k

    def choose(self, batch: int) -> int:
        return self._k

    def observe(self, *_: object) -> None: ...


class Timed(EmbeddedEngine):
    """Decodes after prompts that its trunk remembers, and keeps the seconds of its steps."""

    wall = cpu = 0.0
    heads_wall = heads_cpu = 0.0
    """Seconds that heads ran over prompts, of the last run."""
    prompt_cpu = 0.0
    """Seconds that the trunk took for prompts, for each of their tokens."""
    full: list[float]
    """Seconds of the steps of the last run in which no place was empty."""
    made: Sequence[Emission] = ()
    """By the last run."""

    def prime(self, requests: Sequence[Request]) -> None:
        """Run the trunk over the prompts, once for all runs."""
        began = time.process_time()
        self._max_batch, self.full = 16, []
        self.generate([replace(request, max_tokens=1) for request in requests])
        self.prompt_cpu = (time.process_time() - began) / sum(len(request.prompt) for request in requests)
        self._primed = {each.session: self._sessions.get(each.session) for each in requests}

    def timed(self, requests: Sequence[Request], size: int, drafts: int | None = None) -> Run:
        """Generate, ``size`` at a time; with ``drafts``, so many at each step."""
        self.wall = self.cpu = self.heads_wall = self.heads_cpu = 0.0
        self.full = []
        self._max_batch = size
        for request in requests:
            # What a turn wrote over its prompt cannot be taken back: begin from where the prompt ends again.
            session, kept = request.session, self._primed[request.session]
            assert session is not None and kept is not None, "it was not primed with that request"
            self._sessions.put(session, kept)
        adaptive = self._length
        if drafts is not None:
            self._length = Fixed(drafts)  # pyright: ignore[reportAttributeAccessIssue]
        self.made = self.generate(requests)
        self._length = adaptive
        return Run(sum(len(each.tokens) for each in self.made), self.wall, self.cpu, self.heads_cpu)

    def _step(self, batch: Batch) -> None:
        rows, spent = len(batch.rows), (self.heads_wall, self.heads_cpu)
        wall, cpu = time.perf_counter(), time.process_time()
        super()._step(batch)
        cpu = time.process_time() - cpu - (self.heads_cpu - spent[1])
        self.wall += time.perf_counter() - wall - (self.heads_wall - spent[0])
        self.cpu += cpu
        if rows == self._max_batch:
            self.full.append(cpu)

    def _catch_up(self, batch: Batch, k: int) -> bool:
        wall, cpu = time.perf_counter(), time.process_time()
        late = super()._catch_up(batch, k)
        if not late:  # else it made good what steps without drafts left undone: that is decoding
            self.heads_wall += time.perf_counter() - wall
            self.heads_cpu += time.process_time() - cpu
        return late


@dataclass(frozen=True, slots=True)
class Cost:
    """What passes take at one size of batch, in milliseconds of processor time."""

    trunk: tuple[float, ...]
    """Over 1, 2, ... tokens of each sequence, with ``lm_head``."""
    head: float
    """One of three heads, with ``lm_head``, over as many positions as a step usually adds."""

    def r(self, k: int) -> float:
        return self.trunk[k] / self.trunk[0]

    @property
    def c(self) -> float:
        return self.head / self.trunk[0]

    def limits(self, tau: Sequence[float]) -> list[float]:
        return [each / (self.r(k) + k * self.c) for k, each in enumerate(tau)]


def turns(held_out: Sequence[Told], ends: frozenset[int], count: int) -> list[Request]:
    """A request for each of ``count`` assistant turns, drawn without order."""
    found = [
        Request(told.tokens[:first], MOST, Sampling(), stop=ends, seed=1000 * index + turn, session=f"{index} {turn}")
        for index, told in enumerate(held_out)
        for turn, (first, _) in enumerate(told.turns)
    ]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    return [found[place] for place in order[:count]]


def compare(engines: Sequence[Timed], size: int, requests: Sequence[Request], rounds: int) -> list[tuple[Run, Run]]:
    """Rounds of (with drafts, without) after two to warm up; which begins changes, and so do prompts and seeds."""
    count, found = max(8, 2 * size), []
    for number in range(-_WARM, rounds):
        if number == 0:
            engines[0].acceptance = Acceptance(DRAFTS)
        at = (number + _WARM) * count
        part = [requests[(at + place) % len(requests)] for place in range(count)]
        part = [replace(each, seed=each.seed + 1_000_000 * number) for each in part]
        runs: dict[int, Run] = {}
        for which in (0, 1) if number % 2 else (1, 0):
            runs[which] = engines[which].timed(part, size)
        if number >= 0:
            found.append((runs[0], runs[1]))
    return found


def lengths(engine: Timed, requests: Sequence[Request]) -> list[Acceptance]:
    """What is counted with 0, 1, ... drafts at each step over the same requests, each with several seeds."""
    engine.timed(requests, 16, DRAFTS)  # for the draft temperature
    found: list[Acceptance] = []
    for k in range(DRAFTS + 1):
        engine.acceptance = Acceptance(DRAFTS)
        for again in range(_SEEDS):
            engine.timed([replace(each, seed=each.seed + 10_000_000 * again) for each in requests], 16, k)
        found.append(engine.acceptance)
    return found


@torch.inference_mode()
def costs(engine: Timed, size: int, requests: Sequence[Request], count: int, repeats: int) -> Cost:
    """Medians over ``size`` prompts of passes in the order that steps make them: the trunk over one token again and
    again, and for each k the trunk over k + 1 in turn with the heads, those over ``count`` positions as they come
    between two drafts. What a pass takes depends on what ran before it: caches hold that. Rounds of all are
    interleaved."""
    policy, chosen = engine.policy, [requests[place % len(requests)] for place in range(size)]
    prompts = [as_tokens(each.prompt) for each in chosen]
    batch = Batch(policy, size, max(map(len, prompts)) + MOST, max_draft=DRAFTS, spare=DRAFTS + 8)
    rows = zip(chosen, prompts, strict=True)
    batch.join([(Row(request, at, prompt, MOST, ""), None) for at, (request, prompt) in enumerate(rows)])
    known, heads, memory = batch.lengths[:size] - 1, policy.heads, batch.memory

    def trunk(tokens: int) -> None:
        policy.logits(batch.run(0, known, torch.full((size,), tokens)))

    def draft() -> None:
        positions, states = memory.begin_head(0, known - count, torch.full((size,), count))
        places = heads[0].places(positions)
        for depth, head in enumerate(heads):
            embedded = batch.embedded(0, positions, depth)
            policy.lm_head(head(states, embedded, places, memory.heads[depth], last=True))

    def seconds(run: Callable[[], object]) -> float:
        began = time.process_time()
        run()
        return time.process_time() - began

    over: list[list[float]] = [[] for _ in range(DRAFTS + 1)]
    heads_over: list[float] = []
    for number in range(repeats + 1):
        for k in range(DRAFTS + 1):
            for again in range(3):
                took = seconds(partial(trunk, k + 1)), seconds(draft) if k else 0.0
                if number and again:  # the first of a kind finds the caches of another
                    over[k].append(took[0])
                    if k:
                        heads_over.append(took[1])
    return Cost(tuple(1000 * median(each) for each in over), 1000 * median(heads_over) / DRAFTS)


@torch.inference_mode()
def by_entropy(engine: Timed, requests: Sequence[Request]) -> list[tuple[int, tuple[float, ...], float]]:
    """For each bin of the entropy of the next token but one, the first that is drafted: positions, mean ``sum min(p,
    q)`` at each depth, mean expected tokens of a verification there. Over what the policy itself says."""
    policy = engine.policy
    engine.timed(requests, 16)
    kept: list[list[Tensor]] = [[] for _ in range(len(BINS) + 1)]
    for request, emission in zip(requests, engine.made, strict=True):
        if len(emission.tokens) < DRAFTS + 1:
            continue
        tokens = torch.tensor([*request.prompt, *emission.tokens])[None]
        hidden = policy.trunk(tokens).hidden
        first, length = len(request.prompt), tokens.shape[1]
        # a verification with all drafts inside the turn, its first place that of the prompt's last token
        at = torch.arange(first - 2, length - 1 - DRAFTS)
        target = policy.logits(hidden[0]).softmax(-1)
        positions = torch.arange(length)[None]
        overlap: list[Tensor] = []
        for depth, head in enumerate(policy.heads):
            end = length - 1 - depth
            out = head(hidden[:, :end], policy.embed(tokens[:, 1 + depth :]), positions[:, :end])
            law = policy.lm_head(out[0, at]).softmax(-1)
            overlap.append(torch.minimum(law, target[at + 1 + depth]).sum(-1))
        table = torch.stack(overlap, 1)
        entropy = torch.special.entr(target[at + 1]).sum(-1)
        bins = torch.bucketize(entropy, torch.tensor(BINS))
        for number, rows in enumerate(kept):
            rows.append(table[bins == number])
    found: list[tuple[int, tuple[float, ...], float]] = []
    for rows in kept:
        table = torch.cat(rows)
        expected = 1 + table.cumprod(1).sum(1)
        found.append((len(table), tuple(table.mean(0).tolist()), float(expected.mean())))
    return found


def shares(acceptance: Acceptance) -> list[float]:
    """Of verifications with 0, 1, ... drafts."""
    reached = [acceptance.verifications, *acceptance.offered, 0]
    return [(here - there) / max(acceptance.verifications, 1) for here, there in itertools.pairwise(reached)]


def measure(subject: Subject, given: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Print all; whether every bar holds."""
    policy = subject.policy
    requests = turns(subject.held_out, stop(subject.tokenizer), given.turns)
    engines = [Timed(policy, max_context=1024, max_draft=k) for k in (DRAFTS, 0)]
    for engine in engines:
        engine.prime(requests)
    counted = lengths(engines[0], requests)
    ahead = sum(len(each.prompt) for each in requests) / counted[0].emitted
    tau, last = [each.accepted_length for each in counted], counted[-1]
    say(f"{len(requests)} turns of {len(subject.held_out)} held-out episodes, prompts of "
        f"{sum(len(each.prompt) for each in requests) / len(requests):.0f} tokens; tau(0..{DRAFTS}) {row(tau)}, "
        f"survival {row(last.survival)}, conditional {row(last.conditional)}")  # fmt: skip
    for number, (count, overlap, expected) in enumerate(by_entropy(engines[1], requests)):
        low, high = (0.0, *BINS)[number], (*BINS, float("inf"))[number]
        if count:
            say(f"  entropy {low} to {high} nats: {count} places, overlap {row(overlap)}, tokens {expected:.2f}")
    held = True
    for size in given.sizes:
        cost = costs(engines[0], size, requests, round(max(tau)), given.repeats)
        steps = step_ms(engines[0], size, requests)
        found = compare(engines, size, requests, given.rounds)
        limits = cost.limits(tau)
        ratios = [speed(fast) / speed(plain) for fast, plain in found]
        _, low, high = bootstrap(ratios)
        ratio, limit = median(ratios), max(limits)
        fine = ratio >= NEVER_BELOW and ratio >= OF_LIMIT * limit
        held &= fine
        acceptance = engines[0].acceptance
        result = {
            "size": size, "ratio": ratio, "interval": (low, high), "limit": limit, "share": ratio / limit,
            "tokens_per_cpu_sec": median(speed(run) for run, _ in found),
            "plain_tokens_per_cpu_sec": median(speed(run) for _, run in found),
            "ratio_wall": median(a.tokens / a.wall / (b.tokens / b.wall) for a, b in found),
            "ratio_with_prompts": with_prompts(engines, found, ahead),
            "ratio_with_heads_over_prompts": with_prompts(engines, found, 0.0),
            "r": [cost.r(k) for k in range(DRAFTS + 1)], "c": cost.c,
            "o": [(each - cost.trunk[k] - k * cost.head) / cost.trunk[0] for k, each in enumerate(steps)],
            "limits": limits, "chosen": shares(acceptance), "accepted_length": acceptance.accepted_length,
            "step_ms": steps, "holds": fine,
        }  # fmt: skip
        if given.json:
            print(json.dumps(result), flush=True)
            continue
        say(f"B {size}: {result['tokens_per_cpu_sec']:.0f} against {result['plain_tokens_per_cpu_sec']:.0f} tokens/s, "
            f"ratio {ratio:.2f} [{low:.2f}, {high:.2f}], wall {result['ratio_wall']:.2f}, "
            f"with the heads' part of prompts {result['ratio_with_heads_over_prompts']:.2f}, "
            f"with prompts {result['ratio_with_prompts']:.2f}\n"
            f"    limit {limit:.2f} (k = 0..{DRAFTS}: {row(limits)}), reached {ratio / limit:.0%}; "
            f"r {row(result['r'])}, c {cost.c:.2f}, o {row(result['o'])}, steps {row(steps)} ms\n"
            f"    drafts chosen 0..{DRAFTS}: {row(result['chosen'])}, accepted length "
            f"{acceptance.accepted_length:.2f}{'' if fine else '   BELOW A BAR'}")  # fmt: skip
    return held


def step_ms(engine: Timed, size: int, requests: Sequence[Request]) -> list[float]:
    """Median milliseconds of a whole step with 0, 1, ... drafts, all rows busy."""
    part = [replace(requests[place % len(requests)], max_tokens=24, stop=frozenset()) for place in range(size)]
    found: list[float] = []
    for k in range(DRAFTS + 1):
        engine.timed(part, size, k)
        found.append(1000 * median(engine.full))
    return found


def speed(run: Run) -> float:
    """Tokens for a second of processor time."""
    return run.tokens / run.cpu


def with_prompts(engines: Sequence[Timed], found: Sequence[tuple[Run, Run]], ahead: float) -> float:
    """The ratio over whole turns, with ``ahead`` tokens of prompt for each that is emitted: trunk and heads over
    those; 0 leaves the trunk's part out."""
    whole = [
        [1 / speed(run) + run.heads_cpu / run.tokens + engine.prompt_cpu * ahead for run in pair]
        for engine, pair in ((engines[place], [each[place] for each in found]) for place in (0, 1))
    ]
    return median(plain / fast for fast, plain in zip(*whole, strict=True))


def row(values: Sequence[float]) -> str:
    """Numbers in a line."""
    return " ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder with train/*.zst and held_out/*.zst")
    parser.add_argument("--checkpoint", type=Path, help="folder in which the trained policy is kept")
    parser.add_argument("--trunk-steps", type=int, default=170)
    parser.add_argument("--head-steps", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=120, help="held-out episodes")
    parser.add_argument("--turns", type=int, default=64, help="of those episodes, to be generated")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=20, help="passes of each kind that are timed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()

    def say(text: str) -> None:
        print(
            f"[{time.perf_counter() - began:.0f} s] {text}", file=sys.stderr if given.json else sys.stdout, flush=True
        )

    with tempfile.TemporaryDirectory() as scratch:
        corpus = given.corpus or Path(scratch) / "corpus"
        if given.corpus is None:
            from envfarm.wiring.repair.bringup import build_corpus

            build_corpus(SMALL, corpus, Path(scratch) / "cache", workers=2, say=say)
        subject = prepare(
            corpus, given.checkpoint or Path(scratch) / "policy", trunk_steps=given.trunk_steps,
            head_steps=given.head_steps, episodes=given.episodes, say=say,
        )  # fmt: skip
        held = measure(subject, given, say)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
