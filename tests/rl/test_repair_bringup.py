"""Batches of a bring-up: tensors alone, made here or by other processes, with the losses that they carry."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from envfarm_rl.chains.logprobs import token_logprobs
from envfarm_rl.chains.packing import pack
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.policy import MiMo
from envfarm_rl.repair.bringup import Item, encode_example
from envfarm_rl.repair.corpus import Example, read_examples, write_examples
from envfarm_rl.repair.feed import Feed
from envfarm_rl.repair.loss import PageBatch, bringup_loss, collate
from envfarm_rl.repair.recipe import BringupRecipe, CorpusSection, StepsSection, read_recipe
from envfarm_rl.repair.shipped import shipped_checkpoint
from envfarm_rl.repair.train import Bringup
from envfarm_rl.text.tokenizer import load_tokenizer

from envfarm.wiring.repair.corpus import examples
from envfarm.wiring.repair.pages import function_units

SOURCE = """
def clamp{n}(value, low={n}, high=None, strict=False):
    if high is not None and value > high:
        return high - {n} if strict else high
    if value < low and not strict:
        return low
    return value + {n} - 1
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "a.zst"
    units = (unit for n in range(2, 12) for unit in function_units(SOURCE.format(n=n)))
    assert write_examples(path, (each for unit in units for each in examples("pkg/a.py", unit, count=6, seed=1))) > 40
    return path


def recipe(**steps: object) -> BringupRecipe:
    return BringupRecipe(
        shape={**read_recipe().shape, "hidden_size": 32, "intermediate_size": 48},
        corpus=CorpusSection(train=("a",), held_out=("b",)),
        training=StepsSection(**{"steps": 4, "head_steps": 2, "tokens": 1024, **steps}),  # type: ignore[arg-type]
    )


def items(corpus: Path, episodes: float = 0.3) -> Iterator[Item]:
    tokenizer, rng = load_tokenizer(shipped_checkpoint() / "tokenizer.json"), random.Random(0)
    for example in itertools.islice(read_examples(corpus), 24):
        found = encode_example(tokenizer, example, rng, max_tokens=400, episodes=episodes)
        if found:
            yield found


def test_who_sees_whom_survives_as_one_number_for_each_node(corpus: Path) -> None:
    made = list(items(corpus))
    assert max(len(item.samples) for item in made) > 1
    samples = [sample for item in made for sample in item.samples]
    packed = pack(samples, row_tokens=max(item.tokens + 48 * (len(item.samples) - 1) for item in made))
    assert torch.equal(collate(made).allowed(), packed.allowed)


def test_the_loss_of_answers_is_that_of_the_trainers_law(corpus: Path) -> None:
    made = list(items(corpus))
    tokenizer = load_tokenizer(shipped_checkpoint() / "tokenizer.json")
    policy = MiMo(recipe().config(tokenizer.size)).initialise(torch.Generator().manual_seed(0))
    samples = [sample for item in made for sample in item.samples]
    packed = pack(samples, row_tokens=1024)
    with torch.no_grad():
        loss = bringup_loss(policy, collate(made), (1, 2))
        rewarded, mixed = (bringup_loss(policy, collate(made), (1, 2), reward=share) for share in (1.0, 0.75))
        each = torch.zeros(len(samples)).index_add(0, packed.sample, token_logprobs(policy, packed, Sampling()))
    torch.testing.assert_close(loss.answer, -each.mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rewarded.answer, -4 * each.exp().mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed.answer, loss.answer / 4 + 3 * rewarded.answer / 4)
    assert torch.equal(rewarded.page, loss.page) and torch.equal(rewarded.mark, loss.mark)
    assert abs(float(loss.mark) - 0.693) < 0.05 and abs(float(loss.page) - torch.tensor(tokenizer.size).log()) < 0.3


def test_other_processes_make_the_same_batches(corpus: Path) -> None:
    tokenizer = shipped_checkpoint() / "tokenizer.json"
    for heads in (False, True):
        here, there = (
            itertools.islice(Feed([corpus], tokenizer, recipe().training, workers, 100).batches(3, 1, heads=heads), 40)
            for workers in (0, 2)
        )
        chunks = set[int]()
        for (number, place, a), (other, at, b) in zip(here, there, strict=True):
            assert (number, place) == (other, at)
            chunks.add(number)
            if isinstance(a, PageBatch) and isinstance(b, PageBatch):
                assert torch.equal(a.tokens, b.tokens) and torch.equal(a.within, b.within)
                assert torch.equal(a.owner, b.owner)
            else:
                assert a == b


def test_more_bringup_moves_the_trunk_and_saves_nothing(corpus: Path, tmp_path: Path) -> None:
    run = Bringup(recipe(), [corpus], [], tmp_path, pages=0)
    before = run.policy.lm_head.weight.detach().clone()
    assert run.extend(8.0, share=0.1, seed=0) > 0
    assert not torch.equal(before, run.policy.lm_head.weight) and not (tmp_path / "state.pt").exists()


def test_an_example_without_a_choice_teaches_nothing(corpus: Path) -> None:
    tokenizer = load_tokenizer(shipped_checkpoint() / "tokenizer.json")
    example: Example = next(each for each in read_examples(corpus) if len(each.gold) == 1)
    assert encode_example(tokenizer, example, random.Random(0), max_tokens=8, episodes=0.0) is None
