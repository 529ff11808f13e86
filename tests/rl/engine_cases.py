"""Policies small enough to enumerate or to know, and what their laws are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from envfarm_rl.engine.requests import Constraint, Emission, Request
from envfarm_rl.engine.sampling import Sampling, law
from envfarm_rl.policy import GLOBAL, WINDOW, MiMo, MiMoConfig
from envfarm_rl.samples import Sample
from torch import Tensor

SMALL = MiMoConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=1, swa_num_attention_heads=4, swa_num_key_value_heads=2, head_dim=12,
    v_head_dim=8, sliding_window=5, n_routed_experts=4, num_experts_per_tok=2, initializer_range=0.12,
    hybrid_layer_pattern=(GLOBAL, WINDOW, WINDOW, GLOBAL),
)  # fmt: skip
DENSE = SMALL.model_copy(update={"moe_layer_freq": (0, 0), "hybrid_layer_pattern": (GLOBAL, WINDOW),
                                 "num_hidden_layers": 2})  # fmt: skip
V = 4
TINY = DENSE.model_copy(update={"vocab_size": V, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8,
                                "num_attention_heads": 2, "swa_num_attention_heads": 2, "v_head_dim": 4,
                                "initializer_range": 0.5})  # fmt: skip


def made(config: MiMoConfig, seed: int = 3) -> MiMo:
    return MiMo(config).initialise(torch.Generator().manual_seed(seed)).requires_grad_(False)


def prompts(count: int, longest: int, vocabulary: int = 61, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    return [tuple(torch.randint(0, vocabulary, (int(n),), generator=generator).tolist()) for n in lengths]


def counting(config: MiMoConfig, sharpness: float = 0.25, flatness: float = 1.0) -> MiMo:
    """A policy that mostly counts upwards, and whose heads know: what follows a token is its successor. What attention
    and FFN add disturbs it. ``flatness`` spoils the heads' scale, and with it their law but not their order."""
    policy = made(config)
    width = config.hidden_size
    tokens = torch.randn(config.vocab_size, width, generator=torch.Generator().manual_seed(1))
    policy.model.embed_tokens.weight.copy_(tokens)
    policy.lm_head.weight.copy_(sharpness * tokens.roll(1, 0))
    for name, weight in policy.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_(6.0)
    for head in policy.heads:
        head.eh_proj.weight[:, :width].copy_(torch.eye(width))
        head.final_layernorm.weight.fill_(1 / flatness)
    return policy


class Bounded:
    """Never the token before; the third one is even. Its answer depends on what was emitted and drafted."""

    def allowed(self, emitted: Sequence[int]) -> tuple[int, ...] | None:
        if not emitted:
            return None
        return tuple(t for t in range(V) if t != emitted[-1] and not (len(emitted) == 2 and t % 2))


def joint(
    policy: MiMo, prompt: tuple[int, ...], length: int, sampling: Sampling, constraint: Constraint | None = None
) -> Tensor:
    """Probability of every sequence of ``length`` tokens after ``prompt``, [V ** length], from plain passes."""
    total = torch.ones(1, dtype=torch.float64)
    for done in range(length):
        before = list(itertools.product(range(V), repeat=done))
        logits = policy(torch.tensor([prompt + each for each in before]))[:, -1]
        allowed = torch.ones(len(before), V, dtype=torch.bool)
        for row, each in enumerate(before):
            if constraint is not None and (support := constraint.allowed(each)) is not None:
                allowed[row] = torch.isin(torch.arange(V), torch.tensor(support))
        total = (total[:, None] * law(logits, sampling, allowed).double()).flatten()
    return total


def sample(request: Request, emission: Emission) -> Sample:
    """The chain of one generation."""
    before, after = len(request.prompt), len(emission.tokens)
    return Sample(
        request.prompt + emission.tokens,
        (False,) * before + (True,) * after,
        (0.0,) * before + emission.logprobs,
        (-1,) * before + (emission.version,) * after,
        (None,) * before + emission.supports,
        emission.routes,
    )
