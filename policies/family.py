"""What a network family offers to the trainer and to deployment.

The trainer and the checkpoint know families through this page only. All tensors are
float32 and normalised: states and actions to zero mean and unit deviation per column,
images per channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a policy's inputs and outputs."""

    state: int
    """Columns of the state vector: qpos, then extra inputs."""
    cameras: int
    height: int
    """Pixels; 0 without cameras."""
    width: int
    chunk_rows: int
    action: int


class Inputs(NamedTuple):
    """A batch of B observations."""

    state: Tensor
    """Shape (B, S)."""
    images: Tensor | None
    """Shape (B, C, 3, H, W) over C cameras; None without cameras."""


class Batch(NamedTuple):
    """A batch of B observations with the actions that followed."""

    inputs: Inputs
    actions: Tensor
    """Shape (B, K, A)."""
    mask: Tensor
    """Shape (B, K), 1 where the episode had a row, 0 where its last action was repeated."""


class Family(nn.Module):
    """Base of the network families."""

    config_type: ClassVar[type[Any]]
    """Dataclass of the family's own options, each with a default that works."""

    def __init__(self, shapes: Shapes, config: Any) -> None:
        super().__init__()
        self.shapes = shapes
        self.config = config

    def loss(self, batch: Batch) -> Tensor:
        """What training makes small; a scalar."""
        raise NotImplementedError

    def plan(self, inputs: Inputs) -> Tensor:
        """Normalised actions for deployment, shape (B, K, A)."""
        raise NotImplementedError
