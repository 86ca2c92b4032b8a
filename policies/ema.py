"""A moving average of the weights, which is what gets deployed.

Weights of the last step depend on the last batches; their average acts more steadily. The
average's memory grows as training goes on: decay ``1 - (1 + t)^-power`` after t steps, with
power 0.75 as Chi et al. 2023, reaches 0.999 at 10,000 steps.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def decay_at(step: int, power: float, low: float, high: float) -> float:
    """How much of the average is kept at an update; ``step`` counts from 0."""
    kept: float = 1.0 - (1.0 + step) ** -power
    return min(max(kept, low), high)


class Average:
    """The averaged twin of a network."""

    def __init__(
        self,
        network: nn.Module,
        power: float,
        after: int = 0,
        low: float = 0.0,
        high: float = 0.9999,
    ) -> None:
        """Begin with a copy of the network.

        Args:
            network: Its buffers are followed, not averaged.
            power: Exponent of the decay.
            after: Updates during which the average is a mere copy.
            low: Smallest decay.
            high: Largest decay.
        """

        def mix(kept: Any, new: Any, updates: Tensor | int) -> None:
            step = int(updates) - after
            decay = 0.0 if step <= 0 else decay_at(step, power, low, high)
            torch._foreach_lerp_(kept, new, 1.0 - decay)

        self._twin = AveragedModel(network, multi_avg_fn=mix).eval()

    @property
    def network(self) -> nn.Module:
        """The twin, in evaluation mode."""
        return self._twin.module

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one optimiser step's weights in."""
        self._twin.update_parameters(network)

    def state_dict(self) -> dict[str, Tensor]:
        """Averaged weights and the count of updates."""
        return cast("dict[str, Tensor]", self._twin.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""
        self._twin.load_state_dict(state)
