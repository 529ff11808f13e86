"""Problems as samples: what a bring-up trains on, and what scores every valid edit of a page in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..chains.logprobs import action_logprobs, run_trunk
from ..chains.packing import pack
from ..engine.sampling import Sampling
from ..policy import MiMo
from ..samples import Sample, Support, is_forced
from ..text.chat import CALL, Piece
from ..text.tokenizer import TinyTokenizer
from ..text.trie import Trie
from .problem import Edit, Problem
from .prompt import answer, opening, valid
from .protocol import State, calls, make


def chosen(prompt: Sequence[int], emitted: Sequence[int], trie: Trie) -> Sample:
    """A sample of one valid answer after ``prompt``, cut after its last real choice: what is forced teaches nothing."""
    supports = [trie.allowed(emitted[:at]) for at in range(len(emitted))]
    free = [not is_forced(support) for support in supports]
    end = max((at + 1 for at, is_free in enumerate(free) if is_free), default=1)
    return _sample(prompt, emitted[:end], supports[:end], free[:end])


def whole_sample(tokenizer: TinyTokenizer, problem: Problem, edit: int) -> Sample:
    """The first answer to the page that makes an edit, every token of it an action as in a rollout."""
    emitted = tokenizer.encode(answer(make(problem, problem.edits[edit])))
    trie = valid(tokenizer, calls(problem, State(runs=0)))
    supports = [trie.allowed(emitted[:at]) for at in range(len(emitted))]
    return _sample(tokenizer.encode(opening(problem)), emitted, supports, [True] * len(emitted))


def _sample(prompt: Sequence[int], emitted: Sequence[int], supports: Sequence[Support], free: Sequence[bool]) -> Sample:
    heard = len(prompt)
    return Sample(
        tokens=(*prompt, *emitted),
        action=(*(False,) * heard, *free),
        logprobs=(0.0,) * (heard + len(emitted)),
        versions=(*(-1,) * heard, *(0 if each else -1 for each in free)),
        supports=(*(None,) * heard, *supports),
    )


def edit_samples(tokenizer: TinyTokenizer, problem: Problem, edits: Sequence[int]) -> list[Sample]:
    """A sample for each of the ``edits`` (indices) as the first answer to the page.

    Equal to :func:`chosen` of whole answers under :func:`~.prompt.valid`, without writing every answer out: before the
    substitution all edits are alike, and after the line number there is no choice left.
    """
    prompt = (*tokenizer.encode(opening(problem)), *tokenizer.encode(_HEAD))
    ends = [_choices(tokenizer, problem, edit) for edit in problem.edits]
    trie = Trie(ends)
    samples = [chosen(prompt, ends[index], trie) for index in edits]
    return [sample for sample in samples if sample.action_tokens]


_HEAD = (CALL, Piece("\n<function=bash>\n<parameter=command>e="))


def _choices(tokenizer: TinyTokenizer, problem: Problem, edit: Edit) -> list[int]:
    """From the substitution to the line number. Quotes stand on both sides, which no token crosses."""
    text = f'{edit.quoted}; sed -i $(({problem.base}+{edit.line}))"'
    ids = tokenizer.encode(text)
    return ids[: next(place for place, token in enumerate(ids) if tokenizer.is_added(token)) + 1]


def edit_logprobs(policy: MiMo, tokenizer: TinyTokenizer, problems: Sequence[Problem]) -> list[Tensor]:
    """For each problem the log-probabilities [edits] with which its valid edits are the first answer; they sum to 1."""
    return edit_laws(policy, tokenizer, problems, (1.0,))[0]


def edit_laws(
    policy: MiMo, tokenizer: TinyTokenizer, problems: Sequence[Problem], temperatures: Sequence[float]
) -> list[list[Tensor]]:
    """:func:`edit_logprobs` at each of the ``temperatures``, from one pass of the trunk. Near 0 an answer's law is
    that of the likeliest token at each choice."""
    samples = [edit_samples(tokenizer, problem, range(len(problem.edits))) for problem in problems]
    longest = max(len(sample.tokens) + sum(sample.action) * 40 for group in samples for sample in group)
    packed = pack([sample for group in samples for sample in group], row_tokens=max(_ROW, longest))
    found: list[list[Tensor]] = []
    with torch.inference_mode():
        packed = packed.to(policy.lm_head.weight.device)
        hidden = run_trunk(policy, packed).hidden
        for temperature in temperatures:
            each = action_logprobs(policy, hidden, packed, Sampling(temperature=temperature)).cpu()
            total = torch.zeros(len(packed.chains)).index_add_(0, packed.sample.cpu(), each)
            found.append(list(total.split([len(group) for group in samples])))
    return found


_ROW = 512
"""Tokens of a packed row, at least."""
