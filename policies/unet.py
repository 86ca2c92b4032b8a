"""One-dimensional U-Net over the rows of an action chunk, conditioned by FiLM.

Source: the CNN denoiser of Diffusion Policy (Chi et al. 2023): residual blocks of kernel 5 with
GroupNorm of 8 groups and Mish, each scaled and shifted by the condition (FiLM, Perez et al.
2018), halving the rows at every level but the last.

Deviations:

- Convolutions are written as one matrix product over windows of rows. PyTorch's convolution
  reorders the weights at every call, which at batch 1 takes longer than the product itself.
- FiLM multiplies by ``1 + scale``, so that a fresh network passes its features on.
- Rows are doubled by a convolution of 3 rows with two outputs per row, of which the
  transposed convolution of 4 rows is a special case.
- A chunk of any length: rows are padded with zeros to a multiple inside and cut off again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from policies.layers import sinusoid
from teleop.errors import PolicyError

GROUPS = 8
KERNEL = 5
TIME_WIDTH = 256
"""Sizes of Chi et al. 2023: norm groups, rows of a convolution, embedding of the noise level."""


class RowConvolution(nn.Module):
    """Convolution over rows, (B, C, L) -> (B, C', ceil(L / stride)), zeros beyond the ends."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        shaped = nn.Linear(before * kernel, after)
        self.weight = shaped.weight
        self.bias = shaped.bias

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        if self.kernel > 1 or self.stride > 1:
            side = self.kernel // 2
            x = F.pad(x, (side, side)).unfold(2, self.kernel, self.stride)  # (B, C, L', k)
            x = x.transpose(2, 3).flatten(1, 2)  # (B, C k, L')
        rows = x.shape[-1]
        windows = x.transpose(0, 1).reshape(-1, batch * rows)  # (C k, B L')
        out = torch.matmul(self.weight, windows) + self.bias[:, None]
        return out.view(-1, batch, rows).transpose(0, 1)


class DoubledRows(nn.Module):
    """(B, C, L) -> (B, C, 2 L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = RowConvolution(channels, 2 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows = x.shape
        pairs = self.convolution(x).reshape(batch, channels, 2, rows)
        return cast(Tensor, pairs.transpose(2, 3).reshape(batch, channels, 2 * rows))


class ResidualBlock(nn.Module):
    """Two convolutions with the condition between them, and a shortcut."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.first = RowConvolution(before, after, KERNEL)
        self.first_norm = nn.GroupNorm(GROUPS, after)
        self.film = nn.Linear(condition, 2 * after)
        self.second = RowConvolution(after, after, KERNEL)
        self.second_norm = nn.GroupNorm(GROUPS, after)
        self.shortcut = RowConvolution(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = F.mish(self.first_norm(self.first(x)))
        scale, shift = self.film(condition)[..., None].chunk(2, 1)
        hidden = hidden * (1 + scale) + shift
        hidden = F.mish(self.second_norm(self.second(hidden)))
        return cast(Tensor, hidden + self.shortcut(x))


class Level(nn.Module):
    """Two residual blocks at one resolution."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ResidualBlock(before, after, condition), ResidualBlock(after, after, condition)]
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, condition)
        return x


class UnetDenoiser(nn.Module):
    """A noisy chunk, its noise level and what was seen -> the network's target for the chunk."""

    def __init__(self, action: int, seen: int, sizes: Sequence[int]) -> None:
        """Make one for actions of ``action`` columns and an observation of ``seen`` columns.

        Args:
            action: A.
            seen: F.
            sizes: Channels of each level, from full resolution down.

        Raises:
            PolicyError: no sizes, or one that is no multiple of ``GROUPS``.
        """
        super().__init__()
        if not sizes or any(size % GROUPS or size < GROUPS for size in sizes):
            raise PolicyError(
                f"unet_sizes {tuple(sizes)}: every level needs a multiple of {GROUPS} channels, "
                "for the groups of its norm; give for example 64 128 256"
            )
        self.multiple = 2 ** (len(sizes) - 1)
        self.embed_time = nn.Sequential(
            nn.Linear(TIME_WIDTH, 4 * TIME_WIDTH), nn.Mish(), nn.Linear(4 * TIME_WIDTH, TIME_WIDTH)
        )
        condition = TIME_WIDTH + seen
        widths = [action, *sizes]
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(Level(before, after, condition) for before, after in pairs)
        self.shrink = nn.ModuleList(RowConvolution(size, size, 3, 2) for size in sizes[:-1])
        self.middle = Level(sizes[-1], sizes[-1], condition)
        self.up = nn.ModuleList(
            Level(2 * after, before, condition) for before, after in reversed(pairs[1:])
        )
        self.stretch = nn.ModuleList(DoubledRows(size) for size in reversed(sizes[:-1]))
        self.last = RowConvolution(sizes[0], sizes[0], KERNEL)
        self.last_norm = nn.GroupNorm(GROUPS, sizes[0])
        self.out = RowConvolution(sizes[0], action, 1)

    def forward(self, chunk: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        """Shapes (B, K, A), (B,) in 0 ... 1, (B, F) -> (B, K, A)."""
        rows = chunk.shape[1]
        level = self.embed_time(sinusoid(1000 * time, TIME_WIDTH))
        condition = F.mish(torch.cat([level, seen], -1))
        x = F.pad(chunk.transpose(1, 2), (0, -rows % self.multiple))
        skipped = []
        for depth, block in enumerate(self.down):
            x = block(x, condition)
            skipped.append(x)
            if depth < len(self.shrink):
                x = self.shrink[depth](x)
        x = self.middle(x, condition)
        for block, stretch in zip(self.up, self.stretch, strict=True):
            x = stretch(block(torch.cat([x, skipped.pop()], 1), condition))
        x = self.out(F.mish(self.last_norm(self.last(x))))
        return cast(Tensor, x.transpose(1, 2)[:, :rows])
