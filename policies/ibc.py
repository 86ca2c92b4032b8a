"""Implicit behaviour cloning (Florence et al. 2021): the action is where an energy is lowest.

A network rates pairs of observation and action. Training shows it the demonstrated action
among uniformly drawn ones and asks which it is (InfoNCE, a cross-entropy). Inference is a
search without derivatives: draw actions, keep them in proportion to exp(-energy), shake them
by noise that shrinks, and at last take the best. An energy can have several minima and sharp
edges, which regression cannot.

The family is here for comparison. It is unstable: the loss can fall while the policy gets
worse (Chi et al. 2023 discuss why).

Its chunk is a single row by default, because the negatives are uniform: an arm pair has 14
columns, so a chunk of 16 rows has 224, and no draw out of [-1, 1]^224 ever comes near the
demonstration. Telling it from such negatives is easy and teaches nothing about which of
two similar chunks is right. Up to about 8 rows can be tried.

Deviations from github.com/google-research/ibc:

- Uniform negatives and derivative-free search only; no Langevin sampling, which is theirs for
  many dimensions, and so no gradient penalty.
- Uniform over [-1, 1] of the data's range, without the margin of 5 % around it.
- The search ends with the best candidate, never one drawn in proportion.
- Smaller: 256 wide with 3 hidden layers, and 1024 candidates in the search.
- GELU instead of ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.deployment import DeployOptions
from policies.encoders import ObservationEncoder
from policies.family import Batch, Family, FamilyConfig, Inputs, Losses, Shapes
from policies.layers import mlp


@dataclass(frozen=True)
class IbcConfig(FamilyConfig):
    """Options of the ibc family."""

    hidden: int = 256
    """Width of the hidden layers."""
    layers: int = 3
    """How many hidden layers."""
    negatives: int = 256
    """Wrong actions beside each demonstrated one in training."""
    candidates: int = 1024
    """Actions that the search carries."""
    iterations: int = 3
    """Rounds of keeping and shaking candidates."""
    first_noise: float = 0.33
    """Deviation of the first round's shaking, actions being in [-1, 1]; 0.33 as published."""
    noise_decay: float = 0.5
    """Factor on it from round to round."""


class IbcNet(Family):
    """The network of the ibc family. Needs actions in [-1, 1]: ``normalise="range"``."""

    config_type: ClassVar[type[FamilyConfig]] = IbcConfig
    recipe: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-3,
        "batch_size": 64,
        "chunk_rows": 1,
        "history": 2,
        "normalise": "range",
        "padding": "mask",
        "deployment": DeployOptions.for_chunk(1),
    }

    def __init__(self, shapes: Shapes, config: IbcConfig) -> None:
        super().__init__(shapes, config)
        self.observe = ObservationEncoder(shapes, config)
        seen = shapes.history * self.observe.size
        self.read_observation = nn.Linear(seen, config.hidden)
        self.read_action = nn.Linear(shapes.chunk_rows * shapes.action, config.hidden)
        self.rate = nn.Sequential(nn.GELU(), mlp([*[config.hidden] * config.layers, 1]))

    @property
    def bounded(self) -> bool:
        return True

    def loss(self, batch: Batch) -> Losses:
        """InfoNCE; ``missed`` is 1 where a negative was rated better than the demonstration."""
        right = batch.actions[:, None]
        wrong = self._draw(len(right), self.config.negatives, right.device, None)
        # Padding is 0 in right and wrong alike, so that it cannot tell them apart.
        choices = torch.cat([right, wrong], 1) * batch.mask[:, None, :, None]
        ratings = -self.energy(self._seen(batch.inputs), choices)
        first = torch.zeros(len(right), dtype=torch.int64, device=right.device)
        missed = (ratings.argmax(1) != 0).float()
        return {
            "loss": functional.cross_entropy(ratings, first, reduction="none"),
            "missed": missed,
        }

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        seen = self._seen(inputs)
        config: IbcConfig = self.config
        choices = self._draw(len(seen), config.candidates, seen.device, noise)
        deviation = config.first_noise
        for _ in range(config.iterations):
            kept = (-self.energy(seen, choices)).softmax(1)
            drawn = torch.multinomial(kept, config.candidates, replacement=True, generator=noise)
            choices = _take(choices, drawn)
            shake = torch.randn(choices.shape, generator=noise, device=choices.device)
            choices = (choices + deviation * shake).clamp(-1, 1)
            deviation *= config.noise_decay
        best = self.energy(seen, choices).argmin(1, keepdim=True)
        return _take(choices, best)[:, 0]

    def energy(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Energies in float32: observations (B, hidden), chunks (B, N, K, A) -> (B, N).

        The first layer is linear in both, so the observation passes through it only once.
        """
        hidden = seen[:, None] + self.read_action(actions.flatten(2))
        return cast(Tensor, self.rate(hidden)).squeeze(-1).float()

    def _seen(self, inputs: Inputs) -> Tensor:
        return cast(Tensor, self.read_observation(self.observe(inputs).flatten(1)))

    def _draw(
        self, size: int, count: int, device: torch.device, noise: torch.Generator | None
    ) -> Tensor:
        shape = (size, count, self.shapes.chunk_rows, self.shapes.action)
        return 2 * torch.rand(shape, generator=noise, device=device) - 1


def _take(choices: Tensor, index: Tensor) -> Tensor:
    """(B, N, K, A) and which of the N (B, M) -> (B, M, K, A)."""
    return choices.gather(1, index[:, :, None, None].expand(-1, -1, *choices.shape[2:]))
