"""The networks inside the diffusion and flow families: a noisy chunk in, a cleaner one out.

Two of them, by ``--denoiser``: the U-Net of ``policies.unet``, and here a transformer whose
tokens are a few rows of the chunk each. A plain perceptron over the flattened chunk does not
learn this: a chunk of 100 rows of 14 columns has 1,400 values of noise to pass through, so it
needs tokens along time, or a width beyond all those values.

The observation is one vector, read by a perceptron once per chunk. It conditions by scale and
shift of every layer's norm (adaLN of DiT, Peebles and Xie 2023), together with the noise level,
and by a sum with the tokens, each with weights of its own. Unlike a prefix token, it reaches
every layer without attention having to find it, and costs products per sample, not per token;
the U-Net's FiLM does the same.

Deviations from DiT and from the transformer of Diffusion Policy:

- A token holds ``rows_per_token`` rows (a patch, as in DiT's images): cost falls by that much.
- The sum with the tokens, in neither: it is what a regression's last layer would say, so the
  attention layers need not rebuild the trajectory from scales and shifts.
- Norms without gates, with small random weights instead of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from policies.family import FamilyConfig, Shapes
from policies.layers import mlp, sinusoid
from policies.unet import UnetDenoiser
from teleop.errors import PolicyError

DenoiserName = Literal["transformer", "unet"]
RECIPE: dict[str, Any] = {
    "normalise": "range",
    "batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 200,
}
"""Defaults of the trainer's options for families that denoise."""


@dataclass(frozen=True)
class DenoiserConfig(FamilyConfig):
    """Options of every family that denoises."""

    denoiser: DenoiserName = "transformer"
    """A transformer over groups of rows, or a one-dimensional U-Net."""
    width: int = 128
    """Transformer: columns of a token."""
    layers: int = 3
    """Transformer: how many layers."""
    heads: int = 4
    """Transformer: attention heads of a layer."""
    hidden: int = 512
    """Transformer: width of the perceptron that reads the observation, once per chunk."""
    rows_per_token: int = 10
    """Transformer: rows of the chunk that share a token; fewer are finer and slower."""
    unet_sizes: tuple[int, ...] = (64, 128, 256)
    """U-Net: channels of its levels. Diffusion Policy: 256 512 1024 from states, 512 1024 2048
    from images; a CPU trains only small ones."""


class Layer(nn.Module):
    """Self-attention and a perceptron, each behind a norm that the condition sets."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.think = mlp([width, 4 * width, width])

    def forward(self, x: Tensor, scales: Tensor) -> Tensor:
        """(B, N, W) and (B, 4 W) -> (B, N, W)."""
        mix_scale, mix_shift, think_scale, think_shift = scales[:, None].chunk(4, -1)
        x = x + self._attend(_norm(x) * (1 + mix_scale) + mix_shift)
        return x + cast(Tensor, self.think(_norm(x) * (1 + think_scale) + think_shift))

    def _attend(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.mix(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])  # (B, h, N, W / h)
        return cast(Tensor, self.mixed(seen.transpose(1, 2).reshape(batch, tokens, width)))


class TransformerDenoiser(nn.Module):
    """A noisy chunk, its noise level and what was seen -> the network's target for the chunk."""

    def __init__(self, shapes: Shapes, config: DenoiserConfig, seen: int) -> None:
        super().__init__()
        width = config.width
        if width % config.heads or width % 2:
            raise PolicyError(
                f"width {width} does not divide into {config.heads} heads; "
                "choose a multiple of twice the heads"
            )
        if config.rows_per_token < 1:
            raise PolicyError(f"rows_per_token is {config.rows_per_token}; give 1 or more")
        self.width = width
        self.rows = min(config.rows_per_token, shapes.chunk_rows)
        tokens = -(-shapes.chunk_rows // self.rows)
        self.embed = nn.Linear(self.rows * shapes.action, width)
        self.place = nn.Parameter(sinusoid(torch.arange(tokens), width))  # (N, W)
        self.embed_time = mlp([width, width, width])
        self.embed_seen = mlp([seen, config.hidden, config.hidden, config.hidden])
        self.recall = nn.Linear(config.hidden, tokens * width)
        self.condition = nn.Linear(config.hidden, width)
        self.layers = nn.ModuleList(Layer(width, config.heads) for _ in range(config.layers))
        self.scales = nn.Linear(width, (4 * config.layers + 2) * width)
        self.out = nn.Linear(width, self.rows * shapes.action)
        # Small, not zero as in DiT: the condition has to have a gradient at the first step.
        for part in (self.scales, self.out):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)

    def forward(self, chunk: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        """Shapes (B, K, A), (B,) in 0 ... 1, (B, F) -> (B, K, A)."""
        batch, rows, columns = chunk.shape
        padded = F.pad(chunk, (0, 0, 0, -rows % self.rows))
        known = F.gelu(self.embed_seen(seen))  # (B, hidden)
        x = self.embed(padded.reshape(batch, -1, self.rows * columns)) + self.place
        x = x + self.recall(known).view(x.shape)
        level = self.embed_time(sinusoid(1000 * time, self.width))
        condition = F.silu(level + self.condition(known))
        last = 2 * self.width
        scales = self.scales(condition)
        for layer, part in zip(
            self.layers, scales[:, last:].chunk(len(self.layers), -1), strict=True
        ):
            x = layer(x, part)
        scale, shift = scales[:, None, :last].chunk(2, -1)
        x = self.out(_norm(x) * (1 + scale) + shift)
        return cast(Tensor, x.reshape(batch, -1, columns)[:, :rows])


def make_denoiser(shapes: Shapes, config: DenoiserConfig, seen: int) -> nn.Module:
    """The denoiser that the options ask for, conditioned on ``seen`` columns.

    Called with a chunk (B, K, A), its noise level (B,) in 0 ... 1 and a condition (B, seen).

    Raises:
        PolicyError: sizes that do not go together.
    """
    if config.denoiser == "unet":
        return UnetDenoiser(shapes.action, seen, config.unet_sizes)
    return TransformerDenoiser(shapes, config, seen)


def starting_noise(
    batch: int, shapes: Shapes, noise: torch.Generator | None, device: torch.device
) -> Tensor:
    """Standard normal chunks, (B, K, A), drawn where the generator lives."""
    source = noise.device if noise is not None else device
    size = (batch, shapes.chunk_rows, shapes.action)
    return torch.randn(size, generator=noise, device=source).to(device)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
