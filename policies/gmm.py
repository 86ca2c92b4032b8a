"""A mixture density network: several ways to act, each with its weight, from an MLP.

Source: robomimic's BC-GMM (Mandlekar et al. 2021). The head and its deviations are described
in ``policies.mixture``. Deviations of the trunk: three layers of 512 instead of two of 1024,
GELU instead of ReLU, so that it is the ``bc`` family's network with another head; the
learning rate is higher than robomimic's 1e-4, with the trainer's warm-up and cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from policies.encoders import ObservationEncoder
from policies.family import Batch, Family, FamilyConfig, Inputs, Losses, Shapes
from policies.layers import mlp
from policies.mixture import Mixture, MixtureConfig, MixtureHead


@dataclass(frozen=True)
class GmmConfig(MixtureConfig):
    """Options of the gmm family."""

    hidden: int = 512
    """Width of the hidden layers."""
    layers: int = 3
    """How many hidden layers."""
    dropout: float = 0.0
    """Share of hidden values that is set to 0 at each training step."""


class GmmNet(Family):
    """The network of the gmm family."""

    config_type: ClassVar[type[FamilyConfig]] = GmmConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3}

    def __init__(self, shapes: Shapes, config: GmmConfig) -> None:
        super().__init__(shapes, config)
        self.observe = ObservationEncoder(shapes, config)
        seen = shapes.history * self.observe.size
        self.trunk = mlp([seen, *[config.hidden] * config.layers], config.dropout)
        self.head = MixtureHead(config.hidden, shapes, config)

    def mixture(self, inputs: Inputs) -> Mixture:
        """What may be done next, and how likely each way is."""
        mixture: Mixture = self.head(functional.gelu(self.trunk(self.observe(inputs).flatten(1))))
        return mixture

    def loss(self, batch: Batch) -> Losses:
        return self.head.loss(self.mixture(batch.inputs), batch)

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        return self.head.draw(self.mixture(inputs), noise)
