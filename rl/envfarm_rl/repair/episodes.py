"""Whole episodes for the bring-up: a wrong edit, its test run, the way back, the right edit, its run, the end.

No test was run: what tools say is made up in the form in which they say it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from envfarm.core.rollout import ToolCall

from ..samples import Sample, Support, is_forced
from ..text.tokenizer import TinyTokenizer
from .corpus import Example
from .problem import Problem
from .prompt import answer, heard, opening, valid
from .protocol import FINISH, REVERT, State, calls, make, run_test
from .world import SILENT

RUNS = 4
_FAILURES = (
    "AssertionError: assert {a} == {b}",
    "assert {a} == {b}",
    "AssertionError: {a} != {b}",
    "TypeError: unsupported operand type(s): '{a}' and '{b}'",
    "IndexError: list index out of range",
    "KeyError: '{a}'",
    "ValueError: {a}",
    "Failed: DID NOT RAISE <class '{a}'>",
    "AttributeError: '{a}' object has no attribute '{b}'",
    "assert False + where False = {a}({b})",
)


def with_test(problem: Problem, rng: random.Random) -> Problem:
    """The problem with a test that may be run and what it said, in the form that real ones have."""
    words = [word for _, text in problem.lines for word in text.replace("(", " ").split() if word.isidentifier()]
    a, b = (rng.choice(words or ["x"]) if rng.random() < 0.5 else str(rng.randrange(20)) for _ in range(2))
    name = problem.name.rpartition(".")[2].strip("_") or "call"
    module = problem.path.rpartition("/")[2].removesuffix(".py")
    return replace(
        problem,
        failure=rng.choice(_FAILURES).format(a=a, b=b) if rng.random() < 0.8 else "",
        shown_test=f"tests/test_{module}.py::test_{name}",
    )


def episode_sample(tokenizer: TinyTokenizer, example: Example, rng: random.Random) -> Sample:
    """One episode of an example with one bug. Right edits and right steps are trained; wrong edits are context."""
    problem = with_test(example.problem, rng)
    done = _Transcript(tokenizer, problem)
    for call, said, right in script(problem, example.gold[0], rng):
        done.call(call, said, trained=right)
    return done.sample()


def script(problem: Problem, gold: int, rng: random.Random) -> Iterator[tuple[ToolCall, str, bool]]:
    """Each call of an episode, what is said to it, and whether it was right: none, one or two wrong edits with their
    test runs and ways back, then the right edit, its run, and the end (to which nothing is said)."""
    wrong = [index for index in range(len(problem.edits)) if index != gold]
    rng.shuffle(wrong)
    for index in wrong[: rng.choice((0, 1, 1, 2))]:
        yield make(problem, problem.edits[index]), SILENT, False
        yield run_test(problem), f"1 failed in {rng.uniform(0.01, 0.9):.2f}s\n{SILENT}", True
        yield REVERT, SILENT, True
    yield make(problem, problem.edits[gold]), SILENT, True
    yield run_test(problem), f"1 passed in {rng.uniform(0.01, 0.9):.2f}s\n{SILENT}", True
    yield FINISH, "", True


class _Transcript:
    def __init__(self, tokenizer: TinyTokenizer, problem: Problem) -> None:
        self._tokenizer, self._problem = tokenizer, problem
        self._state = State(runs=RUNS)
        self._tokens = tokenizer.encode(opening(problem))
        self._action = [False] * len(self._tokens)
        self._supports: list[Support] = [None] * len(self._tokens)

    def call(self, call: ToolCall, said: str, *, trained: bool) -> None:
        emitted = self._tokenizer.encode(answer(call))
        trie = valid(self._tokenizer, calls(self._problem, self._state))
        for place, token in enumerate(emitted):
            support = trie.allowed(emitted[:place])
            self._tokens.append(token)
            self._supports.append(support)
            self._action.append(trained and not is_forced(support))
        self._state = self._state.after(call, self._problem)
        if said:
            self._hear(self._tokenizer.encode(heard(said)))

    def _hear(self, ids: list[int]) -> None:
        self._tokens += ids
        self._action += [False] * len(ids)
        self._supports += [None] * len(ids)

    def sample(self) -> Sample:
        end = max(place + 1 for place, action in enumerate(self._action) if action)
        action = tuple(self._action[:end])
        return Sample(
            tokens=tuple(self._tokens[:end]),
            action=action,
            logprobs=(0.0,) * end,
            versions=tuple(0 if each else -1 for each in action),
            supports=tuple(self._supports[:end]),
        )
