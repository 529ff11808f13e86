"""Capture: every emitted token is trained once, whatever a harness makes of the conversation."""

from __future__ import annotations

import torch
from envfarm_rl.chains.packing import NO_ROUTE, pack
from envfarm_rl.chains.session import Chain, Session
from envfarm_rl.engine.requests import Emission
from hypothesis import given
from hypothesis import strategies as st


def emission(*tokens: int, version: int = 3, routes: torch.Tensor | None = None) -> Emission:
    return Emission(
        tokens, tuple(-float(t) for t in tokens), tuple((t, 99) for t in tokens), version, "stop", routes=routes
    )


def test_a_chain_keeps_what_the_engine_said_token_for_token() -> None:
    chain = Chain()
    chain.hear([1, 2])
    chain.emit(emission(5, 6))
    chain.hear([7])
    chain.emit(emission(8, version=4))
    chain.hear([9, 9])
    sample = chain.sample()
    assert chain.tokens == [1, 2, 5, 6, 7, 8, 9, 9]
    assert sample.tokens == (1, 2, 5, 6, 7, 8), "nothing is learned from what came after the last action"
    assert sample.action == (False, False, True, True, False, True)
    assert sample.logprobs == (0.0, 0.0, -5.0, -6.0, 0.0, -8.0)
    assert sample.versions == (-1, -1, 3, 3, -1, 4)
    assert sample.supports == (None, None, (5, 99), (6, 99), None, (8, 99))


def test_a_prompt_goes_on_only_from_all_that_was_said() -> None:
    chain = Chain()
    chain.hear([1])
    chain.emit(emission(2, 3))
    assert chain.extends([1, 2, 3]) and chain.extends([1, 2, 3, 4])
    assert not chain.extends([1, 2]) and not chain.extends([1, 2, 4, 4]) and not chain.extends([])


def test_a_fork_takes_what_was_said_before_as_context() -> None:
    session = Session()
    session.turn([1], emission(2, 3))
    session.turn([1, 2, 3, 4], emission(5))
    session.turn([1, 2, 9], emission(6))  # the harness has dropped a token
    session.turn([1, 2, 3, 4, 5, 7], emission(8))  # and comes back to the first chain
    first, second = session.samples()
    assert first.tokens == (1, 2, 3, 4, 5, 7, 8) and first.action_tokens == 4
    assert second.tokens == (1, 2, 9, 6) and second.action == (False, False, False, True)


def test_an_episode_that_overflowed_has_nothing_to_train() -> None:
    session = Session()
    session.turn([1, 2], Emission((), (), (), 0, "context"))
    assert session.samples() == ()


def test_routes_are_those_that_tokens_were_drawn_with() -> None:
    early, late = torch.zeros(3, 2, 1, dtype=torch.uint8), torch.ones(6, 2, 1, dtype=torch.uint8)
    chain = Chain()
    chain.hear([1, 2])
    chain.emit(emission(3, 4, routes=early))
    chain.hear([5])
    chain.emit(emission(6, 7, routes=late))
    routes = chain.sample().routes
    assert routes is not None and routes[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, NO_ROUTE]
    assert pack([chain.sample()], row_tokens=8).nodes == 7


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_every_emitted_token_is_trained_exactly_once(turns: list[tuple[int, int, int, int]]) -> None:
    session, fresh, emitted = Session(), iter(range(100, 10_000)), []
    for pick, cut, heard, said in turns:
        # Go on from some chain, cut at its end as a harness that compacts would: emitted ids tell tokens apart.
        base = session.chains[pick % len(session.chains)].tokens if session.chains else [1]
        prompt = [*base[: max(1, len(base) - cut)], *range(heard)]
        tokens = tuple(next(fresh) for _ in range(said))
        emitted += tokens
        before = {id(chain): list(chain.tokens) for chain in session.chains}
        chain = session.turn(prompt, emission(*tokens))
        assert chain.tokens == [*prompt, *tokens]
        assert all(
            kept.tokens[: len(before[id(kept)])] == before[id(kept)] for kept in session.chains if id(kept) in before
        )
    trained = [
        t for sample in session.samples() for t, action in zip(sample.tokens, sample.action, strict=True) if action
    ]
    assert sorted(trained) == sorted(emitted)
