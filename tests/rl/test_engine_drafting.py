"""What heads remember of accepted and refused drafts, and the temperature at which they draft."""

from __future__ import annotations

import pytest
import torch
from envfarm_rl.engine.batch import Batch
from envfarm_rl.engine.drafting import GRID, DraftTemperature, overlaps
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Request
from envfarm_rl.engine.sampling import Sampling, law
from envfarm_rl.policy import MiMo
from torch import Tensor

from .engine_cases import DENSE, counting, made, prompts


def engine(policy: MiMo, k: int = 3, **options) -> EmbeddedEngine:
    return EmbeddedEngine(policy, **{"max_context": 400, "max_draft": k, "adaptive": False, **options})


class Recorder:
    """Keeps the keys and values of one pass: what a fresh computation gives."""

    def extend(self, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.keys, self.values = keys[0], values[0]
        return keys, values, positions


def held(tensor: Tensor, positions: Tensor) -> Tensor:
    """Of a saved layer [groups, slots, dim]: a ring where it is shorter than the positions."""
    return tensor[:, positions % tensor.shape[1]]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_after_rejections_all_keys_and_values_are_those_of_a_fresh_pass(k: int) -> None:
    policy = made(DENSE)
    subject = engine(policy, k)
    asked = [Request(each, 25, seed=seed, session=str(seed)) for seed, each in enumerate(prompts(10, 20))]
    found = subject.generate(asked)
    assert subject.acceptance.conditional[0] < 0.9, "nothing was rejected"
    for request, emission in zip(asked, found, strict=True):
        tokens = torch.tensor(request.prompt + emission.tokens)[None]
        kept = subject._sessions.get(request.session)
        assert kept is not None and torch.equal(kept.tokens, tokens[0, :-1])
        trunk = [Recorder() for _ in DENSE.hybrid_layer_pattern]
        hidden = policy.trunk(tokens, caches=trunk).hidden
        layers = [(recorder, len(kept.tokens)) for recorder in trunk]
        for j, head in enumerate(policy.heads[:k]):
            recorder, length = Recorder(), tokens.shape[1] - 1 - j
            head(hidden[:, :length], policy.embed(tokens[:, 1 + j :]), torch.arange(length)[None], recorder)
            layers.append((recorder, kept.caught[j]))
            assert kept.caught[j] >= len(kept.tokens) - j - 4
        for place, (recorder, length) in enumerate(layers):
            positions = torch.arange(max(0, length - DENSE.window + 1), length)
            for saved, fresh in zip(
                kept.state[2 * place : 2 * place + 2], (recorder.keys, recorder.values), strict=True
            ):
                assert (held(saved, positions) - fresh[:, positions]).abs().max() <= 1e-5


def test_taking_refused_drafts_for_good_would_be_noticed() -> None:
    # The bug of vllm issue 48892: a later head keeps what it computed from drafts that were refused.
    policy = made(DENSE)
    tokens = torch.tensor([[5, 9, 11, 40, 2, 33]])
    refused = tokens.clone()
    refused[0, -1] = 7
    hidden, stale, fresh = policy.trunk(tokens).hidden, Recorder(), Recorder()
    for recorder, given in ((stale, refused), (fresh, tokens)):
        policy.heads[1](hidden[:, :4], policy.embed(given[:, 2:]), torch.arange(4)[None], recorder)
    assert (stale.keys - fresh.keys).abs().max() > 1e-3


@pytest.mark.parametrize("lengths", [(0, 3), (3, 0, 1, 2), (1, 3)])
def test_heads_that_were_not_asked_for_a_while_draft_as_if_they_had_been(lengths: tuple[int, ...]) -> None:
    policy, prompt = made(DENSE), tuple(range(30))

    class Planned:
        """A length for each step, and none of the measuring."""

        def __init__(self) -> None:
            self.steps = 0

        def choose(self, batch: int) -> int:
            self.steps += 1
            return lengths[self.steps // 8 % len(lengths)]

        def observe(self, *_: object) -> None: ...

    subject = engine(policy, 3)
    subject._length = Planned()  # pyright: ignore[reportAttributeAccessIssue]
    (found,) = subject.generate([Request(prompt, 60, Sampling(0.0), session="a")])
    (plain,) = engine(policy, 0).generate([Request(prompt, 60, Sampling(0.0))])
    assert found.tokens == plain.tokens
    kept = subject._sessions.get("a")
    assert kept is not None
    tokens = torch.tensor(prompt + found.tokens)[None]
    hidden = policy.trunk(tokens).hidden
    for j, head in enumerate(policy.heads):
        recorder, length = Recorder(), tokens.shape[1] - 1 - j
        head(hidden[:, :length], policy.embed(tokens[:, 1 + j :]), torch.arange(length)[None], recorder)
        # What was caught up with last is right as far back as a window from there.
        positions = torch.arange(kept.caught[j] - DENSE.window + 2, kept.caught[j])
        place = 2 * (len(DENSE.hybrid_layer_pattern) + j)
        assert (held(kept.state[place], positions) - recorder.keys[:, positions]).abs().max() <= 1e-5


@pytest.mark.parametrize(("lengths", "late"), [((3,), 0), ((0, 3), 1)])
def test_heads_catch_up_before_the_clock_of_a_step_and_say_whether_rows_had_begun(
    lengths: tuple[int, ...], late: int
) -> None:
    class Watching:
        """Eight steps of each length."""

        steps = 0

        def choose(self, batch: int) -> int:
            return lengths[min(self.steps // 8, len(lengths) - 1)]

        def observe(self, batch: int, k: int, seconds: float, seen: object) -> None:
            self.steps += 1

    class Told(EmbeddedEngine):
        behind: list[int]
        told: list[bool]

        def _catch_up(self, batch: Batch, k: int) -> bool:
            self.told.append(super()._catch_up(batch, k))
            self.behind.append(int(batch.behind(k).max()))
            return self.told[-1]

    subject = Told(made(DENSE), max_context=400, max_draft=3, max_batch=2)
    subject.behind, subject.told = [], []
    subject._length = watching = Watching()  # pyright: ignore[reportAttributeAccessIssue]
    subject.generate([Request(tuple(range(20)), 15, seed=seed) for seed in range(6)])
    assert watching.steps > 16 and len(subject.told) > 8 and subject.told.count(True) == late
    assert max(subject.behind) <= 4, "what is left is what a step adds"


def test_the_draft_temperature_with_the_largest_overlap_is_chosen_from_the_past() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 30, generator=generator)
    for truth in (0.5, 1.0, 1.5):
        subject = DraftTemperature(1)
        target = law(logits / truth, Sampling())
        found = overlaps(logits, target, Sampling(), None)
        assert GRID[int(found.argmax())] == truth and found.max() / 400 == pytest.approx(1.0, abs=1e-5)
        by_hand = [float(torch.minimum(law(logits, Sampling(each)), target).sum()) for each in GRID]
        assert found.tolist() == pytest.approx(by_hand, rel=1e-4)
        subject._add(0, found, 400)
        assert subject.factors == [1.0], "before it is told to choose"
        subject.choose()
        assert subject.factors == [truth]


def test_one_hot_drafts_are_chosen_where_the_policy_is_sure_and_the_head_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 30, generator=generator)
    target = law(40 * torch.nn.functional.one_hot(logits.argmax(-1), 30).float(), Sampling())
    assert GRID[int(overlaps(logits, target, Sampling(), None).argmax())] == 0.0


def test_a_few_rows_are_not_enough_to_choose_by_and_the_state_is_plain() -> None:
    subject = DraftTemperature(2)
    subject._add(1, torch.arange(len(GRID)).float(), 8)
    subject.choose()
    assert subject.factors == [1.0, 1.0]
    other = DraftTemperature(2)
    other.load_state_dict(subject.state_dict())
    assert other.state_dict() == subject.state_dict()


def test_tuning_raises_acceptance_of_heads_that_are_too_flat() -> None:
    subject = engine(counting(DENSE, sharpness=0.6, flatness=6.0), 1)
    asked = [Request(each, 90, seed=seed) for seed, each in enumerate(prompts(60, 10))]
    rates = []
    for _ in range(3):
        subject.acceptance = type(subject.acceptance)(1)
        subject.generate(asked)
        rates.append(subject.acceptance.conditional[0])
    assert subject.state_dict()["temperature"]["factors"][0] <= 0.5
    assert rates[2] > rates[0] + 0.2
