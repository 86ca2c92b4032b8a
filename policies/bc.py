"""Behaviour cloning by L1 regression of an action chunk: the baseline to beat.

State and images in, one chunk of actions out, no latent, no attention. The image encoder is
a small convolution stack with a spatial softmax (Levine et al. 2016): it reports where in
the image each of its features sits, which is what a reaching task needs, at a cost that a
single CPU core can train. Plain L1 chunks match denoising heads on many unimodal tasks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from policies.family import Batch, Family, Inputs, Shapes


@dataclass(frozen=True)
class BcConfig:
    """Options of the bc family."""

    hidden: int = 512
    """Width of the three hidden layers."""
    features: int = 32
    """Feature maps of the image encoder; each yields one image position."""
    state_noise: float = 0.02
    """Noise on the normalised state while training, so that small drifts are forgiven."""
    mask_padding: bool = False
    """Leave the rows beyond the end of an episode out of the loss. By default they count, as
    the last action repeated: the policy learns to stay when the task is done."""


class SpatialSoftmax(nn.Module):
    """Expected position of each feature map, (B, F, H, W) -> (B, 2F), in [-1, 1]."""

    grid: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        grid = torch.stack([x.reshape(-1), y.reshape(-1)], 1)  # (HW, 2)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        weights = features.flatten(2).softmax(-1)  # (B, F, HW)
        return (weights @ self.grid).flatten(1)


def image_encoder(features: int, height: int, width: int) -> nn.Sequential:
    """One camera, (B, 3, H, W) -> (B, 2 * features)."""
    return nn.Sequential(
        nn.Conv2d(3, features, 8, stride=4, padding=2),
        nn.ReLU(),
        nn.Conv2d(features, features, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(features, features, 3, padding=1),
        SpatialSoftmax(height // 4, width // 4),
    )


class BcNet(Family):
    """The network of the bc family."""

    config_type: ClassVar[type[BcConfig]] = BcConfig

    def __init__(self, shapes: Shapes, config: BcConfig) -> None:
        super().__init__(shapes, config)
        self.encoders = nn.ModuleList(
            image_encoder(config.features, shapes.height, shapes.width)
            for _ in range(shapes.cameras)
        )
        seen = shapes.state + shapes.cameras * 2 * config.features
        widths = [seen, config.hidden, config.hidden, config.hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        layers.append(nn.Linear(config.hidden, shapes.chunk_rows * shapes.action))
        self.head = nn.Sequential(*layers)

    def loss(self, batch: Batch) -> Tensor:
        state = batch.inputs.state
        if self.training:
            state = state + self.config.state_noise * torch.randn_like(state)
        error = (self.plan(batch.inputs._replace(state=state)) - batch.actions).abs().mean(-1)
        if self.config.mask_padding:
            return (error * batch.mask).sum() / batch.mask.sum()
        return error.mean()

    def plan(self, inputs: Inputs) -> Tensor:
        parts = [inputs.state]
        if inputs.images is not None:
            parts += [
                encoder(inputs.images[:, camera]) for camera, encoder in enumerate(self.encoders)
            ]
        flat = cast(Tensor, self.head(torch.cat(parts, 1)))
        return flat.view(-1, self.shapes.chunk_rows, self.shapes.action)
