"""One step of training: groups of episodes in, a new policy version out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..algorithms.head_loss import HeadStats, head_loss, head_places
from ..algorithms.policy_loss import LossStats, policy_loss
from ..algorithms.presets import preset
from ..chains.logprobs import action_logprobs, run_trunk
from ..chains.packing import Packed, pack
from ..policy import MiMo
from ..samples import EpisodeGroup
from .batch import Batch, make_batch
from .config import TrainConfig
from .optimisers import Optimisers


class Trainer:
    """Trains ``policy`` in place, whatever the algorithm: that is named in the configuration."""

    def __init__(self, policy: MiMo, config: TrainConfig) -> None:
        self.policy = policy
        self.version = 0
        """Counts updates of the weights, one for each step that had something to train."""
        self._config = config
        self._spec = preset(config.algorithm.name)
        self._optimisers = Optimisers(policy, config.optimiser)

    def step(self, groups: Sequence[EpisodeGroup]) -> dict[str, Any]:
        """Train on the episodes of a step and give its metrics, plain values by name.

        Where nothing can be learned (all episodes masked, no group with a signal) ``skipped`` says why, and weights
        and version stay as they are. Raises ``TrainerError`` for what ``make_batch``, packing, losses and optimisers
        refuse; the policy is then not to be used any more.
        """
        began = time.perf_counter()
        oldest = self.version - self._config.rollout.staleness
        batch = make_batch(groups, kind=self._config.algorithm.advantages, oldest=oldest)
        metrics = {**batch.accounts.metrics(), **_lengths(groups), "skipped": batch.skipped}
        if not batch.skipped:
            metrics |= self._train(batch)
            self.version += 1
        return {**metrics, "version": self.version, "seconds": {"train": time.perf_counter() - began}}

    def state_dict(self) -> dict[str, Any]:
        """All but the weights."""
        return {"version": self.version, "optimisers": self._optimisers.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the weights of the same checkpoint."""
        self.version = state["version"]
        self._optimisers.load_state_dict(state["optimisers"])

    def _train(self, batch: Batch) -> dict[str, Any]:
        algorithm, device = self._config.algorithm, self._config.policy.device
        packed = pack(batch.samples, row_tokens=algorithm.row_tokens)
        rows = max(1, algorithm.micro_tokens // packed.tokens.shape[1])
        parts = [part.to(device) for part in packed.parts(rows)]
        values = torch.tensor(batch.advantages, device=device)
        # Weights change only between epochs: what the first one computes is the law that the step started from.
        prox: list[Tensor] = []
        epochs = [self._epoch(batch, packed, parts, values, prox) for _ in range(algorithm.epochs)]
        first, last = epochs[0], epochs[-1]
        return {
            **last,
            **{name: first[name] for name in ("max_logprob_gap", "kl_behaviour", "ess", "loss")},
            "entropy": -float(packed.behaviour.mean()),
            "trained_samples": len(batch.samples),
            "trained_tokens": len(packed.targets),
            "packing_saved": packed.saved,
        }

    def _epoch(
        self, batch: Batch, packed: Packed, parts: Sequence[Packed], values: Tensor, prox: list[Tensor]
    ) -> dict[str, Any]:
        """One update from gradients summed over ``parts``, by denominators of the whole batch."""
        config, sampling = self._config, self._config.sampling
        per_sample = config.algorithm.response_tokens
        denominator = float(per_sample * len(batch.samples) if per_sample else len(packed.targets))
        places = float(max(1, head_places(batch.samples, len(self.policy.heads)))) if config.heads.online else 0.0
        loss = head_total = 0.0
        stats: LossStats | None = None
        head_stats: HeadStats | None = None
        first = not prox
        for number, part in enumerate(parts):
            hidden = run_trunk(self.policy, part).hidden
            logp = action_logprobs(self.policy, hidden, part, sampling)
            if first:
                prox.append(logp.detach())
            piece, found = policy_loss(
                self._spec, logp=logp, prox=prox[number], behaviour=part.behaviour, advantages=values[part.sample],
                mask=torch.ones_like(part.targets, dtype=torch.bool), sample=part.sample, denominator=denominator,
            )  # fmt: skip
            piece.backward()
            loss, stats = loss + float(piece.detach()), found if stats is None else stats + found
            if config.heads.online:
                piece, seen = head_loss(
                    self.policy, hidden.detach(), part, sampling, config.heads.loss, denominator=places
                )
                if piece.requires_grad:  # a part may have no place that a head is trained at
                    piece.backward()
                head_total, head_stats = (
                    head_total + float(piece.detach()),
                    seen if head_stats is None else head_stats + seen,
                )
        metrics: dict[str, Any] = {"loss": loss, "grad_norm": self._optimisers.step_policy(self.version)}
        if stats is not None:
            metrics |= stats.metrics()
        if head_stats is not None:
            metrics |= {"head_loss": head_total, **head_stats.metrics()}
            metrics["head_grad_norm"] = self._optimisers.step_heads(self.version)
        return metrics


def _lengths(groups: Sequence[EpisodeGroup]) -> dict[str, float]:
    """Tokens that the policy emitted, by episode, masked ones left out."""
    lengths = [
        sum(sample.action_tokens for sample in episode.samples)
        for group in groups
        for episode in group.episodes
        if not episode.outcome.masked
    ]
    return {"response_tokens": sum(lengths) / max(len(lengths), 1), "longest_response": float(max(lengths, default=0))}
