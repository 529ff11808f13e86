"""A tiny policy repairs: pages as tokens, the validity mask, whole episodes through the engine, the bring-up."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from envfarm_rl.agent import EnginePolicy
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.engine.service import EngineService
from envfarm_rl.episodes import AgentSource
from envfarm_rl.policy import MiMo
from envfarm_rl.repair.bringup import encode_example
from envfarm_rl.repair.corpus import Example, write_examples
from envfarm_rl.repair.encode import chosen, edit_logprobs, edit_samples
from envfarm_rl.repair.episodes import episode_sample
from envfarm_rl.repair.problem import LINES, Edit, Problem
from envfarm_rl.repair.prompt import answer, opening, page, valid
from envfarm_rl.repair.protocol import REVERT, State, calls, make
from envfarm_rl.repair.recipe import BringupRecipe, CorpusSection, StepsSection, TokenizerSection, read_recipe
from envfarm_rl.repair.source import repair_policy, repair_source
from envfarm_rl.repair.texts import FORMS
from envfarm_rl.repair.train import Bringup
from envfarm_rl.repair.whole import WholeEdits
from envfarm_rl.repair.world import RecordedPlayer, Tried, ValidCalls
from envfarm_rl.samples import Outcome
from envfarm_rl.text.tokenizer import TinyTokenizer, load_tokenizer, train_tokenizer

from envfarm.core.errors import EnvfarmError, Reason
from envfarm.core.rollout import Role, Turn

WORDS = ("size", "left", "right", "name", "value", "items", "total")


def make_problem(seed: int) -> tuple[Problem, int]:
    """A function in which one comparison is the wrong way round, and where the right edit is."""
    rng = random.Random(seed)
    names = rng.sample(WORDS, 4)
    bug = rng.randrange(4)
    lines = [(1, f"def check({', '.join(names)}):")]
    edits = []
    for place, name in enumerate(names):
        operator = ">=" if place == bug else "<"
        lines.append((place + 2, f"    if {name} {operator} 1{place}:"))
        edits.append(Edit(place + 2, operator, "<" if place == bug else ">="))
        edits.append(Edit(place + 2, f"1{place}", f"2{place}"))
    return Problem("src/check.py", seed, "check", tuple(lines), tuple(edits), "", "tests/test_check.py::test"), 2 * bug


@pytest.fixture(scope="module")
def tokenizer() -> TinyTokenizer:
    return train_tokenizer(
        [page(make_problem(seed)[0]) for seed in range(50)] + list(FORMS) * 20, vocabulary=500, lines=LINES
    )


def tiny(tokenizer: TinyTokenizer) -> MiMo:
    shape = {**read_recipe().shape, "hidden_size": 32, "intermediate_size": 64, "head_dim": 24, "v_head_dim": 16}
    recipe = read_recipe().model_copy(update={"shape": shape})
    return MiMo(recipe.config(tokenizer.size)).initialise(torch.Generator().manual_seed(0)).requires_grad_(False)


class Known:
    """What boxes would have said: only the right edit passes."""

    def __init__(self, gold: dict[str, int]) -> None:
        self._gold = gold

    async def tried(self, task: str, edit: int) -> Tried:
        right = edit == self._gold[task]
        return Tried(f"1 {'passed' if right else 'failed'} in 0.01s\n\n[exit code 0]", right)


def test_text_comes_back_and_never_forges_a_control_token(tokenizer: TinyTokenizer, tmp_path: Path) -> None:
    for text in ("x <|im_end|> <tool_call>", "é€ \x00\n\t  y #7\n", "$((119+7))'s,==,!=,2'", "a #0\n b #999\n", ""):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.control("<|im_end|>"), tokenizer.control("<tool_call>")} & set(ids)
    assert tokenizer.encode("if x: #7\n")[-1] != tokenizer.encode("if x: #8\n")[-1]
    assert len(tokenizer.encode(" #17\n")) == 1, "one token for a line's number"
    assert [tokenizer.decode([each]) for each in tokenizer.encode("a<=b")] == ["a", "<=", "b"]
    tokenizer.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json").encode("a <= b #7\n") == tokenizer.encode("a <= b #7\n")


@pytest.mark.parametrize(("content", "reason"), [(None, Reason.checkpoint_missing), ("{", Reason.checkpoint_corrupt)])
def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, content: str | None, reason: Reason) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(EnvfarmError) as caught:
        load_tokenizer(tmp_path / "tokenizer.json")
    assert caught.value.reason is reason and str(caught.value).count("\n") == 0


def test_the_short_way_to_edit_samples_is_the_long_one(tokenizer: TinyTokenizer) -> None:
    for seed in range(20):
        problem, _ = make_problem(seed)
        trie = valid(tokenizer, calls(problem, State(runs=1)))
        prompt = tokenizer.encode(opening(problem))
        for index, short in enumerate(edit_samples(tokenizer, problem, range(len(problem.edits)))):
            long = chosen(prompt, tokenizer.encode(answer(make(problem, problem.edits[index]))), trie)
            assert short.tokens == long.tokens
            choices = [(at, support) for at, support in enumerate(long.supports) if long.action[at]]
            assert choices == [(at, support) for at, support in enumerate(short.supports) if short.action[at]]


def test_probabilities_of_all_valid_edits_sum_to_one(tokenizer: TinyTokenizer) -> None:
    problems = [make_problem(seed)[0] for seed in range(9)]
    for found, problem in zip(edit_logprobs(tiny(tokenizer), tokenizer, problems), problems, strict=True):
        assert len(found) == len(problem.edits)
        assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("max_draft", [0, 3])
async def test_episodes_through_the_engine_are_valid_and_logged_as_training_sees_them(
    tokenizer: TinyTokenizer, max_draft: int
) -> None:
    made = {f"task-{seed}": make_problem(seed) for seed in range(6)}
    problems = {name: problem for name, (problem, _) in made.items()}
    world = Known({name: gold for name, (_, gold) in made.items()})

    def fresh() -> tuple[EmbeddedEngine, AgentSource]:
        engine = EmbeddedEngine(tiny(tokenizer), max_context=2048, max_draft=max_draft, adaptive=False)
        player = RecordedPlayer(problems, world, runs=3)
        return engine, repair_source(
            engine=engine, sampling=Sampling(), tokenizer=tokenizer, problems=problems, player=player, runs=3
        )

    engine, source = fresh()
    groups = await source.collect(source.tasks, 4, step=0, seed=1)
    episodes = [episode for group in groups for episode in group.episodes]
    assert len(episodes) == 24 and {episode.outcome for episode in episodes} <= {Outcome.passed, Outcome.failed}
    samples = [sample for episode in episodes for sample in episode.samples]
    for sample, scores in zip(samples, engine.score(samples, Sampling()), strict=True):
        assert max(abs(a - b) for a, b in zip(sample.logprobs, scores, strict=True)) < 1e-4
        emitted = sum(sample.action)
        assert emitted and all(
            version == 0 for version, action in zip(sample.versions, sample.action, strict=True) if action
        )
    # an engine that has learned a draft temperature meanwhile may draw others, of the same law
    again = await fresh()[1].collect(source.tasks, 4, step=0, seed=1)
    assert again == groups, "the same step draws the same episodes"


async def test_edits_drawn_as_wholes_come_near_zero_in_the_order_of_their_law(tokenizer: TinyTokenizer) -> None:
    problem, gold = make_problem(2)
    engine = EmbeddedEngine(tiny(tokenizer), max_context=2048, max_draft=3, adaptive=False)
    service = EngineService(engine)
    player = RecordedPlayer({"t": problem}, Known({"t": gold}), runs=4)
    law = edit_logprobs(engine.policy, tokenizer, [problem])[0]
    sampling = Sampling(temperature=1e-3)
    policy = repair_policy(service, tokenizer, problem, key="k", seed=0, sampling=sampling, runs=4, law=law)
    async with service.episode("k"):
        made = (await player.played("t", policy)).edits
    assert made and made == tuple(law.argsort(descending=True).tolist()[: len(made)])


def test_edits_drawn_as_wholes_follow_their_law_and_none_is_made_twice(tokenizer: TinyTokenizer) -> None:
    problem, _ = make_problem(2)
    law = edit_logprobs(tiny(tokenizer), tokenizer, [problem])[0]
    commands = {tuple(tokenizer.encode(answer(make(problem, edit)))): at for at, edit in enumerate(problem.edits)}
    opened = [Turn(role=Role.user, text=page(problem))]
    count, temperature = 2000, 0.5
    found = torch.zeros(2, len(law))
    for seed in range(count):
        mask = WholeEdits(ValidCalls(tokenizer, problem, 4), law, temperature, seed)
        (first,) = mask(opened).sequences
        done = [make(problem, problem.edits[commands[first]]), REVERT]
        turns = [*opened, *(Turn(role=Role.assistant, tool_calls=(call,)) for call in done)]
        (second,) = mask(turns).sequences
        assert second != first
        assert len(mask(turns[:-1]).sequences) == 2, "an edit in place: finish, or run the test"
        found[0, commands[first]] += 1
        found[1, commands[second]] += 1
    p = (law.double() / temperature).softmax(-1)
    after = torch.tensor([float((p * p[j] / (1 - p)).sum() - p[j] * p[j] / (1 - p[j])) for j in range(len(p))])
    for seen, expected in zip(found, (p * count, after * count), strict=True):
        assert float(((seen - expected) ** 2 / expected).sum()) < 24.3  # chi-square of 7 degrees of freedom, 0.001


async def test_turns_reuse_what_the_engine_remembers(tokenizer: TinyTokenizer) -> None:
    problem, gold = make_problem(1)
    engine = EmbeddedEngine(tiny(tokenizer), max_context=2048, max_draft=3, adaptive=False)
    service = EngineService(engine)
    player = RecordedPlayer({"t": problem}, Known({"t": gold}), runs=4)
    for seed in range(20):
        policy = repair_policy(service, tokenizer, problem, key=f"{seed}", seed=seed, sampling=Sampling(), runs=4)
        async with service.episode(f"{seed}"):
            played = await player.played("t", policy)
        turns = sum(turn.role is Role.assistant for turn in played.turns)
        if turns > 2:
            assert policy.reused > len(tokenizer.encode(opening(problem))) * (turns - 1)
            return
    raise AssertionError("no episode of several turns in twenty")


async def test_an_answer_that_is_no_call_goes_to_the_harness_as_text(tokenizer: TinyTokenizer) -> None:
    engine = EmbeddedEngine(tiny(tokenizer), max_context=256, max_draft=0, adaptive=False)
    service = EngineService(engine)
    policy = EnginePolicy(service, tokenizer, "free", max_tokens=12, declare=False)
    turn = await policy.act([Turn(role=Role.user, text="hello")])
    assert turn.tool_calls == () and len(turn.token_ids) == 12 and len(turn.logprobs) == 12


async def test_a_conversation_that_outgrows_the_context_is_a_typed_outcome(tokenizer: TinyTokenizer) -> None:
    engine = EmbeddedEngine(tiny(tokenizer), max_context=32, max_draft=0, adaptive=False)
    policy = EnginePolicy(EngineService(engine), tokenizer, "long", declare=False)
    with pytest.raises(EnvfarmError) as caught:
        await policy.act([Turn(role=Role.user, text="word " * 50)])
    assert caught.value.reason is Reason.context_overflow


def test_whole_episodes_train_right_steps_only(tokenizer: TinyTokenizer) -> None:
    for seed in range(10):
        problem, gold = make_problem(seed)
        sample = episode_sample(tokenizer, Example(problem, (gold,), "x"), random.Random(seed))
        for at, trained in enumerate(sample.action):
            if trained:
                support = sample.supports[at]
                assert support is not None and len(support) > 1 and sample.tokens[at] in support
        said = tokenizer.decode(sample.tokens)
        assert said.rstrip().endswith("<function=fin") or "<function=finish" in said or said.endswith("<function=f")
        assert said.count("1 passed") == 1


def test_marks_tell_the_lines_with_bugs(tokenizer: TinyTokenizer) -> None:
    problem, gold = make_problem(3)
    item = encode_example(tokenizer, Example(problem, (gold,), "x"), random.Random(0), max_tokens=320, episodes=0.0)
    assert item is not None
    assert [bug for _, bug in item.marks] == [number == problem.edits[gold].line for number, _ in problem.lines]
    assert (
        encode_example(tokenizer, Example(problem, (gold,), "x"), random.Random(0), max_tokens=20, episodes=0.0) is None
    )


def recipe(steps: int, heads: int) -> BringupRecipe:
    shape = {**read_recipe().shape, "hidden_size": 32, "intermediate_size": 64}
    return BringupRecipe(
        shape=shape,
        corpus=CorpusSection(train=("a",), held_out=("b",)),
        tokenizer=TokenizerSection(vocabulary=400),
        training=StepsSection(steps=steps, head_steps=heads, tokens=1024, warmup=2),
    )


def test_the_bringup_learns_and_a_resumed_one_ends_the_same(tmp_path: Path) -> None:
    examples = [Example(problem, (gold,), str(seed)) for seed in range(300) for problem, gold in [make_problem(seed)]]
    write_examples(tmp_path / "a.zst", examples[:250])
    write_examples(tmp_path / "b.zst", examples[250:])
    where = [tmp_path / "a.zst"], [tmp_path / "b.zst"]
    whole = Bringup(recipe(40, 6), *where, tmp_path / "whole", every=20)
    start = {name: value.clone() for name, value in whole.policy.state_dict().items()}
    whole.run()
    first, last = ((tmp_path / "whole" / "curve.jsonl").read_text().splitlines()[at] for at in (0, -1))
    assert '"step": 20' in first and '"step": 46' in last
    heads = [name for name in start if name.startswith("model.mtp.")]
    assert any(not torch.equal(start[name], whole.policy.state_dict()[name]) for name in heads)
    part = Bringup(recipe(40, 6), *where, tmp_path / "part", every=20)
    look = part._look

    def cut_off() -> None:
        if part.done == 40:
            raise KeyboardInterrupt
        look()

    part._look = cut_off  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        part.run()
    resumed = Bringup(recipe(40, 6), *where, tmp_path / "part", every=20)
    assert resumed.done == 20
    resumed.run()
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name
    with pytest.raises(EnvfarmError, match="another recipe"):
        Bringup(recipe(41, 6), *where, tmp_path / "part")
