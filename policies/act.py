"""Action chunking with transformers (ACT, Zhao et al. 2023).

A conditional variational autoencoder of action chunks. In training an encoder reads the state
and the demonstrated chunk and squeezes what the observation does not tell, the operator's way
of doing it, into a latent vector; a transformer then reads that latent, the states and the
feature maps of all cameras, and answers K learned queries with the K rows of the chunk. The
loss is the L1 error plus the divergence of the latent from N(0, I). At deployment the latent
is zero, the middle of the prior: ACT is deterministic and does not sample.

The defaults are a small network that learns from states in minutes on a CPU. The published
configuration (83.9 million parameters with one camera) is

    --encoder resnet18 --norm frozen_batch --share-encoder --width 512 --heads 8
    --feedforward 3200 --latent-layers 4 --encoder-layers 4 --decoder-layers 7 --rows-per-token 1
    --dropout 0.1 --chunk-rows 100 --learning-rate 1e-5 --weight-decay 1e-4 --batch-size 8
    --schedule constant

with ImageNet weights for the ResNet; LeRobot's has ``--decoder-layers 1``.

Deviations from github.com/tonyzhaozh/act:

- The actions come from the last decoder layer. The published code takes them from the first
  and never trains the other six.
- The L1 error is averaged over the rows that count, not over padding.
- No head predicts padding: the published one has no loss.
- Images carry a learned mark of their camera and age, and each camera has an encoder of its
  own unless ``share_encoder``; the published cameras are told apart by their pixels alone.
- Rows of a chunk may share a token (``rows_per_token``), which makes a small network cheap.
- Several observations (``history``) and an instruction are further tokens.
- With the small encoder, 4x4 cells of its feature maps make one token.
- Validation (evaluation mode) decodes the zero latent, as deployment does, not a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.encoders import CameraEncoders
from policies.family import Batch, Family, FamilyConfig, Inputs, Losses, Shapes, masked_mean
from policies.layers import sinusoid
from teleop.errors import PolicyError

TOKEN_STRIDE = 16
"""Pixels from one image token to the next, unless the encoder's own stride is longer."""


@dataclass(frozen=True)
class ActConfig(FamilyConfig):
    """Options of the act family."""

    width: int = 128
    """Width of the tokens; a multiple of 4 and of ``heads``."""
    heads: int = 4
    """Attention heads; the published network has 8."""
    feedforward: int = 512
    """Width of the feed-forward layers."""
    latent_layers: int = 1
    """Layers of the encoder that squeezes a chunk into the latent; used in training only."""
    encoder_layers: int = 2
    """Layers over the observation's tokens."""
    decoder_layers: int = 2
    """Layers over the chunk's rows."""
    rows_per_token: int = 5
    """Rows of a chunk that share one token; the published network has a token for each."""
    latent: int = 32
    """Size of the latent."""
    kl_weight: float = 10.0
    """Weight of the latent's divergence from N(0, I) beside the L1 error."""
    dropout: float = 0.0
    """Share of values that is set to 0 at each training step. The published network has 0.1,
    which takes half of a small network's time on a CPU."""
    pre_norm: bool = False
    """Normalise before each sublayer instead of after it."""


PUBLISHED = ActConfig(
    encoder="resnet18",
    norm="frozen_batch",
    share_encoder=True,
    width=512,
    heads=8,
    feedforward=3200,
    latent_layers=4,
    encoder_layers=4,
    decoder_layers=7,
    rows_per_token=1,
    dropout=0.1,
)
"""The published network (tonyzhaozh/act); its code gives the output of the first decoder layer."""


class Attention(nn.Module):
    """Multi-head attention whose queries, keys and values are given apart."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, W), (B, M, W), (B, M, W) -> (B, L, W); ``mask`` (B, M), True where it counts."""
        mixed = functional.scaled_dot_product_attention(
            self._split(self.query(query)),
            self._split(self.key(key)),
            self._split(self.value(value)),
            None if mask is None else mask[:, None, None],
            self.dropout if self.training else 0.0,
        )
        return cast(Tensor, self.out(mixed.transpose(1, 2).flatten(2)))

    def _split(self, tokens: Tensor) -> Tensor:
        size, length, width = tokens.shape
        heads = tokens.view(size, length, self.heads, width // self.heads)
        return heads.transpose(1, 2)  # (B, heads, L, W / heads)


class Layer(nn.Module):
    """Self-attention, attention to a memory where there is one, and a feed-forward network.

    Positions are added to queries and keys of every layer, not to values, as in DETR.
    """

    def __init__(self, config: ActConfig, reads_memory: bool) -> None:
        super().__init__()
        width = config.width
        self.pre_norm = config.pre_norm
        self.self_attention = Attention(config)
        self.memory_attention = Attention(config) if reads_memory else None
        self.feedforward = nn.Sequential(
            nn.Linear(width, config.feedforward),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if reads_memory else 2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """(B, L, W) -> (B, L, W); ``memory`` is the values (B, M, W) and keys (B, M, W)."""

        def attend(h: Tensor) -> Tensor:
            placed = h + positions
            return cast(Tensor, self.self_attention(placed, placed, h, mask))

        x = self._residual(x, 0, attend)
        if self.memory_attention is not None and memory is not None:
            read, (values, keys) = self.memory_attention, memory
            x = self._residual(x, 1, lambda h: read(h + positions, keys, values, None))
        return self._residual(x, -1, self.feedforward)

    def _residual(self, x: Tensor, norm: int, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        normalise = self.norms[norm]
        if self.pre_norm:
            return cast(Tensor, x + self.dropout(sublayer(normalise(x))))
        return cast(Tensor, normalise(x + self.dropout(sublayer(x))))


class Stack(nn.Module):
    """Layers one after the other."""

    def __init__(self, config: ActConfig, layers: int, reads_memory: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, reads_memory) for _ in range(layers))
        last = config.pre_norm or reads_memory
        self.norm = nn.LayerNorm(config.width) if last else nn.Identity()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        for layer in self.layers:
            x = layer(x, positions, mask, memory)
        return cast(Tensor, self.norm(x))


def tokens_of(shapes: Shapes, config: ActConfig) -> int:
    """How many tokens a chunk takes."""
    return math.ceil(shapes.chunk_rows / config.rows_per_token)


class LatentEncoder(nn.Module):
    """Squeezes a chunk into mean and log-variance of the latent."""

    positions: Tensor

    def __init__(self, shapes: Shapes, config: ActConfig) -> None:
        super().__init__()
        width = config.width
        self.summary = nn.Parameter(torch.randn(1, 1, width))
        self.read_state = nn.Linear(shapes.state, width)
        self.rows = config.rows_per_token
        self.read_action = nn.Linear(self.rows * shapes.action, width)
        self.stack = Stack(config, config.latent_layers)
        self.head = nn.Linear(width, 2 * config.latent)
        tokens = torch.arange(1 + shapes.history + tokens_of(shapes, config))
        self.register_buffer("positions", sinusoid(tokens, width), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, float32, each (B, latent)."""
        state = batch.inputs.state
        size, history = state.shape[:2]
        summary = self.summary.expand(size, -1, -1)
        beyond = -batch.actions.shape[1] % self.rows
        counted = functional.pad(batch.mask > 0, (0, beyond)).view(size, -1, self.rows)
        shown = batch.actions * (batch.mask > 0)[..., None]  # padding rows tell nothing
        grouped = functional.pad(shown, (0, 0, 0, beyond)).view(size, counted.shape[1], -1)
        tokens = [summary, self.read_state(state), self.read_action(grouped)]
        known = batch.mask.new_ones(size, 1 + history, dtype=torch.bool)
        mask = torch.cat([known, counted.any(-1)], 1)
        seen = self.stack(torch.cat(tokens, 1), self.positions, mask)[:, 0]
        mean, log_variance = self.head(seen).float().chunk(2, -1)
        return mean, log_variance


class ImageTokens(nn.Module):
    """The cameras' feature maps as tokens with their places."""

    def __init__(self, shapes: Shapes, config: ActConfig) -> None:
        super().__init__()
        self.encoders = CameraEncoders(shapes, config)
        encoder = self.encoders.of(0)
        high, wide = shapes.height // encoder.stride, shapes.width // encoder.stride
        cells = max(1, min(TOKEN_STRIDE // encoder.stride, high, wide))
        self.project = nn.Conv2d(encoder.channels, config.width, cells, stride=cells)
        self.marks = nn.Parameter(torch.zeros(shapes.history, shapes.cameras, 1, config.width))
        """Learned per age and camera: images of the same place differ by it."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, C, 3, H, W) -> tokens (B, n C h w, W) and positions (1, n C h w, W)."""
        size, history, cameras = images.shape[:3]
        tokens = []
        for camera in range(cameras):
            maps = self.encoders.of(camera)(images[:, :, camera].flatten(0, 1))
            cells = self.project(maps).permute(0, 2, 3, 1)  # (B n, h, w, W)
            tokens.append(cells.reshape(size, history, -1, cells.shape[-1]))
        places = places_in_image(*cells.shape[1:]).to(cells.device)
        positions = self.marks + places  # (n, C, h w, W)
        return torch.stack(tokens, 2).flatten(1, 3), positions.flatten(0, 2)[None]


def places_in_image(height: int, width: int, size: int) -> Tensor:
    """Sinusoidal embedding of each cell's row and column, (height width, size), as in DETR.

    Rows and columns are scaled to (0, 2 pi]; the first half of the columns tells the row.
    """
    rows = sinusoid(torch.arange(1, height + 1) * (2 * math.pi / height), size // 2)
    columns = sinusoid(torch.arange(1, width + 1) * (2 * math.pi / width), size // 2)
    grid = [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)]
    return torch.cat(grid, -1).flatten(0, 1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, exp(log_variance)) from N(0, I), (B, L) -> (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


class ActNet(Family):
    """The network of the act family.

    Raises:
        PolicyError: the width does not divide by 4 and by the number of heads.
    """

    config_type: ClassVar[type[FamilyConfig]] = ActConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 5e-4, "padding": "mask"}

    def __init__(self, shapes: Shapes, config: ActConfig) -> None:
        super().__init__(shapes, config)
        width = config.width
        if width % 4 or width % config.heads:
            raise PolicyError(
                f"act: width {width} with {config.heads} heads; "
                "choose a width that divides by 4 and by the number of heads"
            )
        self.latent_encoder = LatentEncoder(shapes, config)
        self.read_latent = nn.Linear(config.latent, width)
        self.read_state = nn.Linear(shapes.state, width)
        self.read_text = nn.Linear(shapes.text, width) if shapes.text else None
        self.read_images = ImageTokens(shapes, config) if shapes.cameras else None
        vectors = 1 + shapes.history + bool(shapes.text)
        self.vector_positions = nn.Parameter(torch.randn(1, vectors, width))
        self.encoder = Stack(config, config.encoder_layers)
        self.queries = nn.Parameter(torch.randn(1, tokens_of(shapes, config), width))
        self.decoder = Stack(config, config.decoder_layers, reads_memory=True)
        self.head = nn.Linear(width, config.rows_per_token * shapes.action)

    def loss(self, batch: Batch) -> Losses:
        mean, log_variance = self.latent_encoder(batch)
        latent = torch.zeros_like(mean)
        if self.training:
            latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        wrong = (self.decode(batch.inputs, latent) - batch.actions).abs()
        l1 = masked_mean(wrong, batch.mask)
        kl = divergence(mean, log_variance)
        return {"loss": l1 + self.config.kl_weight * kl, "l1": l1, "kl": kl}

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        size = len(inputs.state)
        return self.decode(inputs, inputs.state.new_zeros(size, self.config.latent))

    def decode(self, inputs: Inputs, latent: Tensor) -> Tensor:
        """The chunk of a latent (B, latent): float32, (B, K, A)."""
        tokens = [self.read_latent(latent)[:, None], self.read_state(inputs.state)]
        if self.read_text is not None and inputs.text is not None:
            tokens.append(self.read_text(inputs.text)[:, None])
        positions: Tensor = self.vector_positions
        if self.read_images is not None and inputs.images is not None:
            image_tokens, places = self.read_images(inputs.images)
            tokens.append(image_tokens)
            positions = torch.cat([positions, places], 1)
        memory = self.encoder(torch.cat(tokens, 1), positions)
        asked = memory.new_zeros(len(memory), *self.queries.shape[1:])
        answers = self.decoder(asked, self.queries, memory=(memory, memory + positions))
        rows = self.head(answers).float().unflatten(-1, (self.config.rows_per_token, -1))
        return cast(Tensor, rows.flatten(1, 2)[:, : self.shapes.chunk_rows])
