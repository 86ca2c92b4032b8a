"""Behaviour cloning by regression: state and images in, actions out, the baseline to beat.

A multilayer perceptron predicts the whole chunk at once, by L1 or squared error; with
``--chunk-rows 1`` it is the classic single-step policy (ALVINN, Pomerleau 1989). Regression
answers with one action where the demonstrations show several: a squared error with their
mean, an absolute error with their median. Plain L1 chunks match denoising heads on many
tasks that have one way to be done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from policies.encoders import ObservationEncoder
from policies.family import Batch, Family, FamilyConfig, Inputs, Losses, Shapes, masked_mean
from policies.layers import mlp


@dataclass(frozen=True)
class BcConfig(FamilyConfig):
    """Options of the bc family."""

    hidden: int = 512
    """Width of the hidden layers."""
    layers: int = 3
    """How many hidden layers."""
    dropout: float = 0.0
    """Share of hidden values that is set to 0 at each training step."""
    error: Literal["l1", "mse"] = "l1"
    """What is made small: the absolute or the squared error."""


class BcNet(Family):
    """The network of the bc family."""

    config_type: ClassVar[type[FamilyConfig]] = BcConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 1.5e-3}

    def __init__(self, shapes: Shapes, config: BcConfig) -> None:
        super().__init__(shapes, config)
        self.observe = ObservationEncoder(shapes, config)
        hidden = [config.hidden] * config.layers
        seen = shapes.history * self.observe.size
        self.head = mlp([seen, *hidden, shapes.chunk_rows * shapes.action], config.dropout)

    def loss(self, batch: Batch) -> Losses:
        wrong = self.plan(batch.inputs) - batch.actions
        error = wrong.square() if self.config.error == "mse" else wrong.abs()
        return {"loss": masked_mean(error, batch.mask)}

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        flat = cast(Tensor, self.head(self.observe(inputs).flatten(1)))
        return flat.view(-1, self.shapes.chunk_rows, self.shapes.action)
