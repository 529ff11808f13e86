"""What is generated follows the policy's law, whoever else is in the batch and however much was drafted."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Sequence

import pytest
import torch
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Request
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.policy import MiMo

from envfarm.core.errors import ConfigError, EngineError, Reason

from .engine_cases import DENSE, SMALL, counting, made, prompts, sample


def engine(policy: MiMo, k: int = 3, **options) -> EmbeddedEngine:
    return EmbeddedEngine(policy, **{"max_context": 400, "max_draft": k, "adaptive": False, **options})


@pytest.fixture(scope="module")
def small() -> MiMo:
    return made(DENSE)


@pytest.fixture(scope="module")
def mixture() -> MiMo:
    return made(SMALL)


@pytest.fixture(scope="module")
def counts() -> MiMo:
    return counting(DENSE)


@pytest.mark.parametrize("kind", ["random", "counting"])
def test_the_likeliest_tokens_are_the_same_with_and_without_drafts(kind: str, small: MiMo, counts: MiMo) -> None:
    policy = small if kind == "random" else counts
    asked = [Request(each, 8, Sampling(0.0)) for each in prompts(1000, 8)]
    plain = engine(policy, 0).generate(asked)
    for k in (1, 3):
        subject = engine(policy, k)
        found = subject.generate(asked)
        assert [each.tokens for each in found] == [each.tokens for each in plain]
        assert all(logprob == 0.0 for each in found for logprob in each.logprobs)
        if kind == "counting":
            assert 1.3 < subject.acceptance.accepted_length < k + 0.9, "drafts both taken and refused"


@pytest.mark.parametrize("k", [0, 3])
def test_what_is_logged_is_what_a_plain_pass_gives(k: int, mixture: MiMo) -> None:
    asked = [Request(each, 20, Sampling(0.8, top_k=30), seed=seed) for seed, each in enumerate(prompts(60, 40))]
    subject = engine(mixture, k, max_batch=16)
    chains = [sample(*pair) for pair in zip(asked, subject.generate(asked), strict=True)]
    for scored in (chains, [dataclasses.replace(each, routes=None) for each in chains]):
        for chain, logprobs in zip(chains, subject.score(scored, Sampling(0.8, top_k=30)), strict=True):
            assert chain.logprobs == pytest.approx(logprobs, abs=1e-4)
            assert chain.routes is not None and chain.routes.shape == (len(chain.tokens) - 1, 3, 2)


def test_logging_the_drafts_law_would_be_noticed(counts: MiMo) -> None:
    # What a bug that logs log q instead of log p would log of the first token, after a prompt it was drafted for.
    prompt = tuple(range(5, 15))
    request = Request(prompt, 1, seed=4)
    (found,) = engine(counts, 1).generate([request])
    hidden = counts.trunk(torch.tensor([prompt])).hidden[:, :-1]
    out = counts.heads[0](hidden, counts.embed(torch.tensor([prompt[1:]])), torch.arange(9)[None])
    wrong = float(counts.lm_head(out[0, -1]).log_softmax(-1)[found.tokens[0]])
    (scored,) = engine(counts).score([sample(request, found)], Sampling())
    assert abs(found.logprobs[0] - scored[-1]) <= 1e-4 < abs(wrong - scored[-1])


def test_replaying_other_routes_gives_other_logprobs(mixture: MiMo) -> None:
    request = Request(prompts(1, 1)[0], 20)
    subject = engine(mixture)
    chain = sample(request, subject.generate([request])[0])
    assert chain.routes is not None
    other = dataclasses.replace(chain, routes=(chain.routes + 1) % SMALL.n_routed_experts)
    one, two = (torch.tensor(each) for each in subject.score([chain, other], Sampling()))
    assert (one - two).abs().max() > 1e-2


@pytest.mark.parametrize("k", [0, 2])
def test_draws_do_not_depend_on_who_else_is_in_the_batch(k: int, small: MiMo) -> None:
    asked = [
        Request(each, 3 + seed % 9, Sampling((0.0, 0.7, 1.0)[seed % 3]), seed=seed)
        for seed, each in enumerate(prompts(30, 30))
    ]
    together = engine(small, k, max_batch=7).generate(asked)
    for place in (0, 5, 11, 29):
        (alone,) = engine(small, k).generate([asked[place]])
        assert alone.tokens == together[place].tokens
        assert alone.logprobs == pytest.approx(together[place].logprobs, abs=1e-4)
    assert len({each.tokens for each in engine(small, k).generate([dataclasses.replace(asked[2], seed=s)
                                                                   for s in range(20)])}) > 15  # fmt: skip


class Fixed:
    """One sequence only: its last token is to be a stop token, after which nothing is asked."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tuple(tokens)

    def allowed(self, emitted: Sequence[int]) -> tuple[int, ...]:
        if tuple(emitted) != self.tokens[: len(emitted)] or len(emitted) >= len(self.tokens):
            raise ValueError(f"{emitted} is no part of {self.tokens}")
        return (self.tokens[len(emitted)],)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_what_leaves_no_choice_costs_no_verification(k: int, small: MiMo) -> None:
    target = (5, 17, 3, 9, 44, 2, 60)
    asked = [Request(each, 50, stop=frozenset({60}), constraint=Fixed(target)) for each in prompts(9, 20)]
    subject = engine(small, k)
    for found in subject.generate([*asked, Request((1, 2), 30)])[:9]:
        assert found.tokens == target and found.finish == "stop"
        assert found.logprobs == (0.0,) * 7 and found.supports == tuple((token,) for token in target)
    assert subject.acceptance.survival == () if k == 0 else min(subject.acceptance.survival) > 0.3


def test_a_constraint_that_allows_nothing_is_named(small: MiMo) -> None:
    class Nothing:
        def allowed(self, emitted: Sequence[int]) -> tuple[int, ...]:
            return ()

    with pytest.raises(EngineError, match="allows no token after 0") as caught:
        engine(small).generate([Request((1,), 3, constraint=Nothing(), id="a")])
    assert caught.value.reason is Reason.usage


@pytest.mark.parametrize("k", [0, 3])
def test_each_way_to_finish(k: int, small: MiMo) -> None:
    subject = engine(small, k, max_context=20)
    found = subject.generate([
        Request((1,) * 21, 5), Request((1,) * 20, 5), Request((1,) * 17, 5, seed=1), Request((1,), 5),
        Request((1,), 0), Request((1,), 50, stop=frozenset(range(61))), Request((1,) * 15, 5),
    ])  # fmt: skip
    assert [(each.finish, len(each.tokens)) for each in found] == [
        ("context", 0), ("context", 0), ("context", 3), ("length", 5), ("length", 0), ("stop", 1), ("length", 5),
    ]  # fmt: skip


def test_nothing_asked_nothing_given(small: MiMo) -> None:
    assert engine(small).generate([]) == []


@pytest.mark.parametrize("prompt", [(), (61,), (-1, 3)])
def test_a_prompt_that_is_none_is_refused(prompt: tuple[int, ...], small: MiMo) -> None:
    with pytest.raises(EngineError, match="holds no token, or one outside") as caught:
        engine(small).generate([Request((1,), 2), Request(prompt, 2)])
    assert caught.value.reason is Reason.usage


class Aborting:
    """Calls ``act`` when a request has emitted ``after`` tokens: a way to act at a known moment of a batch."""

    def __init__(self, act, after: int) -> None:
        self.act, self.after = act, after

    def allowed(self, emitted: Sequence[int]) -> None:
        if len(emitted) == self.after:
            thread = threading.Thread(target=self.act)
            thread.start()
            thread.join()


@pytest.mark.parametrize("k", [0, 3])
def test_an_abort_ends_one_request_at_the_next_step_with_what_it_has(k: int, small: MiMo) -> None:
    subject = engine(small, k, max_batch=2)

    def act() -> None:
        for each in ("b", "c", "unknown"):
            subject.abort(each)

    asked = [
        Request((1, 2), 40, constraint=Aborting(act, 10), id="a", seed=1), Request((3, 4), 40, id="b", seed=2),
        Request((5,), 40, id="c"), Request((6,), 4, id="d"),
    ]  # fmt: skip
    found = subject.generate(asked)
    assert [each.finish for each in found] == ["length", "abort", "abort", "length"]
    assert 5 <= len(found[1].tokens) <= 20 and found[2].tokens == () and len(found[3].tokens) == 4
    whole = engine(small, k).generate([dataclasses.replace(asked[1], id="")])[0]
    assert whole.tokens[: len(found[1].tokens)] == found[1].tokens
    # An id that was aborted once is free again.
    assert subject.generate([asked[2]])[0].finish == "length"


def test_weights_are_replaced_and_conversations_forgotten() -> None:
    first, second = made(SMALL, 3), made(SMALL, 4)
    subject = engine(first)
    request = Request(tuple(range(30)), 5, session="a")
    assert subject.generate([request])[0].version == 0
    subject.update_weights(7, second)
    found = subject.generate([request])[0]
    assert (found.version, found.reused) == (7, 0)
    assert found.tokens == engine(second).generate([request])[0].tokens
    assert subject.generate([request])[0].reused > 0


@pytest.mark.parametrize("change", ["name", "shape"])
def test_weights_of_another_policy_are_refused_and_change_nothing(change: str) -> None:
    policy = made(SMALL)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    other = {name: tensor + 1 for name, tensor in before.items()}
    taken = other.pop("lm_head.weight")
    if change == "shape":
        other["lm_head.weight"] = taken[:-1]
    with pytest.raises(EngineError, match=r"'lm_head.weight' first") as caught:
        engine(policy).update_weights(1, other)
    assert caught.value.reason is Reason.checkpoint_mismatch
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


def test_a_policy_that_has_diverged_is_named() -> None:
    policy = made(DENSE)
    policy.lm_head.weight[3] = float("nan")
    with pytest.raises(EngineError, match="not numbers") as caught:
        engine(policy).generate([Request((1, 2), 3)])
    assert caught.value.reason is Reason.engine_failed


def test_broken_heads_cost_speed_and_nothing_else() -> None:
    policy, whole = made(DENSE), made(DENSE)
    policy.heads[0].final_layernorm.weight.fill_(float("nan"))
    asked = [Request(each, 12, Sampling(0.0)) for each in prompts(20, 10)]
    found = engine(policy).generate(asked)
    assert [each.tokens for each in found] == [each.tokens for each in engine(whole, 0).generate(asked)]


@pytest.mark.parametrize("wrong", [{"max_draft": 4}, {"max_draft": -1}, {"max_context": 0}, {"max_batch": 0}])
def test_an_engine_that_cannot_be_is_refused(wrong: dict[str, int], small: MiMo) -> None:
    with pytest.raises(ConfigError, match="cannot be"):
        engine(small, **wrong)


def test_capabilities_and_state(small: MiMo) -> None:
    subject = engine(small, 3, adaptive=True)
    subject.generate([Request(each, 30, seed=seed) for seed, each in enumerate(prompts(8, 8))])
    other = engine(small, 3, adaptive=True)
    other.load_state_dict(subject.state_dict())
    assert other.state_dict() == subject.state_dict() != engine(small, 3, adaptive=True).state_dict()
    assert subject.capabilities().speculation and not engine(small, 0).capabilities().speculation
    assert subject.capabilities().max_context == 400


@pytest.mark.parametrize("k", [0, 3])
def test_a_group_with_one_prompt_gets_what_each_would_get_alone(k: int, mixture: MiMo) -> None:
    asked = [
        Request(prompt, 12, Sampling(0.8), seed=10 * place + index)
        for place, prompt in enumerate(prompts(4, 40, seed=2))
        for index in range(5)
    ]
    random.Random(0).shuffle(asked)
    together = engine(mixture, k).generate(asked)
    alone = [engine(mixture, k).generate([request])[0] for request in asked]
    for request, one, other in zip(asked, together, alone, strict=True):
        assert one.tokens == other.tokens and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.routes is not None and other.routes is not None and torch.equal(one.routes, other.routes)
        assert one.reused in (0, len(request.prompt) - 1)
    # The trunk ran over each prompt once.
    assert sum(one.reused == 0 for one, request in zip(together, asked, strict=True) if len(request.prompt) > 1) == 4
