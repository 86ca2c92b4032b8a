"""Small parts that several families are built from."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


def mlp(sizes: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of these widths with GELU between them; the last is linear."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.GELU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    while not isinstance(layers[-1], nn.Linear):
        layers.pop()
    return nn.Sequential(*layers)


def sinusoid(positions: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017) of positions, (N,) -> (N, width).

    ``width`` is even; wavelengths run from 2 pi to ``longest`` times that.
    """
    half = width // 2
    steps = torch.arange(half, device=positions.device)
    frequencies = torch.exp(-math.log(longest) * steps / max(1, half - 1))
    angles = positions[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
