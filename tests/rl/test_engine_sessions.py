"""Memory across turns: what is computed again is what is new, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Request
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.policy import MiMo

from .engine_cases import DENSE, SMALL, made, sample


def engine(policy: MiMo, k: int = 3, **options) -> EmbeddedEngine:
    return EmbeddedEngine(policy, **{"max_context": 4000, "max_draft": k, "adaptive": False, **options})


def suffix(turn: int) -> tuple[int, ...]:
    return tuple(torch.randint(0, 61, (6,), generator=torch.Generator().manual_seed(turn)).tolist())


@pytest.mark.parametrize("k", [0, 3])
def test_two_hundred_turns_compute_hardly_a_prompt_token_twice(k: int) -> None:
    subject, prompt = engine(made(DENSE), k), suffix(0)
    given = reused = 0
    for turn in range(200):
        request = Request(prompt, 4, session="a", seed=turn)
        (found,) = subject.generate([request])
        given, reused = given + len(prompt), reused + found.reused
        if turn % 50 == 49:
            (scored,) = subject.score([sample(request, found)], Sampling())
            assert found.logprobs == pytest.approx(scored[len(prompt) :], abs=1e-4)
        prompt = prompt + found.tokens + suffix(turn + 1)
    assert reused / given >= 0.99


@pytest.mark.parametrize("back", [0, 1, 3, 8, 9, 30])
@pytest.mark.parametrize("k", [0, 3])
def test_a_prompt_that_takes_something_back_gives_what_it_gives_anew(k: int, back: int) -> None:
    policy = made(SMALL)
    subject = engine(policy, k)
    first = tuple(range(40))
    (found,) = subject.generate([Request(first, 12, session="a", seed=1)])
    said = first + found.tokens[:-1]
    prompt = (*said[: len(said) - back], *suffix(back))
    request = Request(prompt, 12, session="a", seed=2)
    (again,) = subject.generate([request])
    (fresh,) = engine(policy, k).generate([request])
    assert again.tokens == fresh.tokens and again.logprobs == pytest.approx(fresh.logprobs, abs=1e-4)
    assert again.reused == (len(said) - back if back <= 8 else 0)
    assert again.routes is not None and fresh.routes is not None and torch.equal(again.routes, fresh.routes)


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    policy = made(DENSE)
    subject, request = engine(policy), Request(tuple(range(20)), 1, Sampling(0.0), session="a")
    assert [subject.generate([request])[0].reused for _ in range(3)] == [0, 19, 19]


def test_answers_to_one_prompt_share_what_is_known_of_it() -> None:
    policy, prompt = made(DENSE), tuple(range(30))
    subject = engine(policy)
    subject.generate([Request(prompt, 1, session="a")])
    asked = [Request((*prompt, 5), 9, session="a", seed=seed) for seed in range(4)]
    found = subject.generate(asked)
    fresh = engine(policy).generate(asked)
    assert [each.reused for each in found] == [30] * 4 or [each.reused for each in found] == [29] * 4
    assert [each.tokens for each in found] == [each.tokens for each in fresh]


def test_what_was_used_longest_ago_is_dropped_first_and_forget_drops_now() -> None:
    subject = engine(made(DENSE), remember=70)
    prompt = tuple(range(30))

    def ask(session: str) -> int:
        return subject.generate([Request(prompt, 1, Sampling(0.0), session=session)])[0].reused

    assert [ask("a"), ask("b"), ask("a"), ask("c")] == [0, 0, 29, 0]
    assert ask("a") == 29 and ask("b") == 0
    subject.forget("b")
    subject.forget("never seen")
    assert ask("b") == 0


def test_an_aborted_turn_is_remembered_too() -> None:
    subject = engine(made(DENSE))

    class Aborting:
        def allowed(self, emitted: object) -> None:
            subject.abort("x")

    prompt = tuple(range(30))
    (found,) = subject.generate([Request(prompt, 50, session="a", id="x", constraint=Aborting())])
    assert found.finish == "abort" and found.tokens
    assert subject.generate([Request((*prompt, *found.tokens, 3), 1, session="a")])[0].reused >= 30
