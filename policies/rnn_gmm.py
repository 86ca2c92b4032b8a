"""A recurrent network over the recent past with a mixture head.

Source: robomimic's BC-RNN-GMM (Mandlekar et al. 2021): an LSTM of two layers of 400 over ten
rows, five modes. The head and its deviations are described in ``policies.mixture``.

Deviations from robomimic:

- The hidden state is computed anew from the window of the last ``history`` observations at
  every plan, in training and in deployment alike. robomimic carries it from step to step and
  sets it to zero every ten steps, so its policy sees one to ten rows of past, depending on
  when it is asked. Ours always sees as many as it was trained on and needs no reset.
- The loss is that of the last row of the window; robomimic adds up all ten, of which the
  early ones have seen less.
- Chunks of any length; ``--chunk-rows 1`` is robomimic's single action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from policies.encoders import ObservationEncoder
from policies.family import Batch, Family, FamilyConfig, Inputs, Losses, Shapes
from policies.mixture import Mixture, MixtureConfig, MixtureHead


@dataclass(frozen=True)
class RnnGmmConfig(MixtureConfig):
    """Options of the bc-rnn-gmm family."""

    hidden: int = 400
    """Width of the LSTM."""
    layers: int = 2
    """Layers of the LSTM."""


class RnnGmmNet(Family):
    """The network of the bc-rnn-gmm family."""

    config_type: ClassVar[type[FamilyConfig]] = RnnGmmConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "history": 10}

    def __init__(self, shapes: Shapes, config: RnnGmmConfig) -> None:
        super().__init__(shapes, config)
        self.observe = ObservationEncoder(shapes, config)
        self.lstm = nn.LSTM(self.observe.size, config.hidden, config.layers, batch_first=True)
        self.head = MixtureHead(config.hidden, shapes, config)

    def mixture(self, inputs: Inputs) -> Mixture:
        """What may be done next, and how likely each way is."""
        past, _ = self.lstm(self.observe(inputs))  # (B, n, hidden)
        mixture: Mixture = self.head(past[:, -1])
        return mixture

    def loss(self, batch: Batch) -> Losses:
        return self.head.loss(self.mixture(batch.inputs), batch)

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        return self.head.draw(self.mixture(inputs), noise)
