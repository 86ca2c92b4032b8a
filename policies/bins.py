"""Binned actions: every number of a chunk is a choice among 256 bins.

Source: RT-1 (Brohan et al. 2022), RT-2 (Brohan et al. 2023) and OpenVLA (Kim et al. 2024):
256 bins of equal width per column between the 1 % and the 99 % quantile of the training
data, learned by cross-entropy. A softmax over bins can hold any number of modes.

Tokens that are drawn independently mix the modes: left for one joint, right for the next. RT-2
and OpenVLA therefore decode token after token. For 100 rows of 14 joints that would be 1400
steps, and from row to row nearly always a copy of the row before. Here the rows are decoded
from coarse to fine: the last row, the first one, then the middle of every gap, given the rows
at both ends of the gap; rows of one depth are decoded together. Within a row the columns follow
each other, each given those before it (NADE, Larochelle and Murray 2011). A chunk of 100 rows
takes 9 rounds of A steps.

Deviations:

- A small network instead of a language model, with outputs of its own for each column.
- Coarse-to-fine order as above. Rows of one depth are independent, given the rows around them:
  where two ways meet at a decoded row, the parts before and after it are chosen separately.
- Training looks at ``train_rows`` rows of each chunk, drawn anew at every step, instead of all;
  each round is as likely to be drawn as any other, because the few coarse rows decide the most.
- The network reads decoded numbers as sines and cosines, not as embedded tokens.
- A drawn bin stands for the mean of the bins around it, weighted by their probability, which
  takes away the rounding (``--refine 0`` gives the bin's centre), and bins of little
  probability beside the likeliest are never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.encoders import ObservationEncoder
from policies.family import Batch, Family, FamilyConfig, Inputs, Losses, Shapes
from policies.layers import mlp, sinusoid

PLACE = 32
"""Width of the embedding of a row's place in the chunk."""
OCTAVES = 6
"""Frequencies that a decoded number is read with; the highest tells a few bins apart."""
NONE = -1
"""In a list of neighbours: there is no such row."""
READ = 1 + 2 * OCTAVES
"""Features of one decoded number."""


@dataclass(frozen=True)
class BinsConfig(FamilyConfig):
    """Options of the bins family."""

    bins: int = 256
    """Bins per column, over [-1, 1]."""
    hidden: int = 512
    """Width of the layers that read the observation."""
    layers: int = 2
    """How many of them."""
    row_hidden: int = 256
    """Width of the layers that decode a row."""
    token_hidden: int = 64
    """Width of the layer that decodes one number."""
    dropout: float = 0.0
    """Share of the trunk's hidden values that is set to 0 at each training step."""
    train_rows: int = 8
    """Rows of a chunk that one training step looks at."""
    choice: Literal["sample", "likeliest"] = "sample"
    """The bin that is taken: drawn by probability, or the likeliest."""
    least_share: float = 0.1
    """Bins below this part of the likeliest one's probability are never drawn."""
    refine: int = 8
    """Bins on each side whose mean, by probability, a drawn bin stands for."""


class Order(NamedTuple):
    """In which order the rows of a chunk are decoded."""

    rounds: list[list[int]]
    """Rows that are decoded together."""
    before: list[int]
    """By row: the nearest earlier row decoded in a round before its own, or NONE."""
    after: list[int]
    """By row: the nearest later one, or NONE."""


def coarse_to_fine(rows: int) -> Order:
    """The last row, the first, then the middle of every gap."""
    before, after = [NONE] * rows, [NONE] * rows
    rounds = [[rows - 1]]
    if rows > 1:
        rounds.append([0])
        after[0] = rows - 1
    gaps = [(0, rows - 1)]
    while gaps := [(low, high) for low, high in gaps if high - low > 1]:
        middles = [(low + high) // 2 for low, high in gaps]
        for middle, (low, high) in zip(middles, gaps, strict=True):
            before[middle], after[middle] = low, high
        rounds.append(middles)
        gaps = [
            part
            for middle, (low, high) in zip(middles, gaps, strict=True)
            for part in ((low, middle), (middle, high))
        ]
    return Order(rounds, before, after)


class BinsNet(Family):
    """The network of the bins family."""

    config_type: ClassVar[type[FamilyConfig]] = BinsConfig
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3, "normalise": "quantile"}
    before: Tensor
    after: Tensor
    place: Tensor
    share: Tensor

    def __init__(self, shapes: Shapes, config: BinsConfig) -> None:
        super().__init__(shapes, config)
        rows, columns = shapes.chunk_rows, shapes.action
        self.order = coarse_to_fine(rows)
        self.register_buffer("before", torch.tensor(self.order.before), persistent=False)
        self.register_buffer("after", torch.tensor(self.order.after), persistent=False)
        place = sinusoid(torch.arange(rows), PLACE)
        self.register_buffer("place", place, persistent=False)
        share = torch.zeros(rows)
        for together in self.order.rounds:
            share[together] = 1 / len(together)
        self.register_buffer("share", share, persistent=False)

        self.observe = ObservationEncoder(shapes, config)
        seen = shapes.history * self.observe.size
        self.trunk = mlp([seen, *[config.hidden] * config.layers], config.dropout)
        width, token = config.row_hidden, config.token_hidden
        self.from_trunk = nn.Linear(config.hidden, width)
        self.from_row = nn.Linear(PLACE + 2 * (columns * READ + 1), width)
        self.row = mlp([width, width, columns * token])
        self.prefix = nn.Parameter(torch.randn(columns, READ, token) / (READ * columns) ** 0.5)
        self.gain = nn.Parameter(torch.ones(columns, token))
        self.out = nn.Parameter(torch.randn(columns, token, config.bins) / token**0.5)
        self.out_bias = nn.Parameter(torch.zeros(columns, 1, config.bins))

    @property
    def bounded(self) -> bool:
        return True

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy per number, in nats; while training, an estimate by some rows."""
        mask = batch.mask.float()
        actions = _held(batch.actions.float().clamp(-1, 1), mask)
        rows = self._rows_to_learn(mask)  # (B, R)
        logits = self._logits(self._condition(batch.inputs), actions, rows)
        target = _take(actions, rows).permute(2, 0, 1)  # (A, B, R)
        bins = self._bin_of(target)
        error = functional.cross_entropy(
            logits.float().flatten(0, 2), bins.flatten(), reduction="none"
        ).view(bins.shape)
        weight = mask.gather(1, rows)
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1.0)
        return {"loss": (error.mean(0) * weight).sum(-1)}

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        condition = self._condition(inputs)
        size = len(condition)
        chunk = condition.new_zeros(
            (size, self.shapes.chunk_rows, self.shapes.action), dtype=torch.float32
        )
        for together in self.order.rounds:
            rows = torch.tensor(together, device=chunk.device).expand(size, -1)
            chunk[:, together] = self._decode(self._tokens(condition, chunk, rows), noise)
        return chunk

    def _condition(self, inputs: Inputs) -> Tensor:
        """What the observation says to every row, (B, row_hidden)."""
        seen = functional.gelu(self.trunk(self.observe(inputs).flatten(1)))
        condition: Tensor = self.from_trunk(seen)
        return condition

    def _tokens(self, condition: Tensor, known: Tensor, rows: Tensor) -> Tensor:
        """Token layers of rows (B, R) before their own numbers, (A, B, R, token)."""
        parts = [self.place[rows]]
        for neighbours in (self.before, self.after):
            neighbour = neighbours[rows]
            there = (neighbour != NONE).float()[..., None]
            read = _read(_take(known, neighbour.clamp(min=0))).flatten(-2)
            parts += [read * there, there]
        hidden = functional.gelu(condition[:, None] + self.from_row(torch.cat(parts, -1)))
        tokens: Tensor = self.row(hidden).unflatten(-1, (self.shapes.action, -1))
        return tokens.permute(2, 0, 1, 3)

    def _logits(self, condition: Tensor, actions: Tensor, rows: Tensor) -> Tensor:
        """Scores of all bins with the true numbers before them, (A, B, R, bins)."""
        tokens = self._tokens(condition, actions, rows)
        read = _read(_take(actions, rows))  # (B, R, A, READ)
        told = torch.einsum("bran,ant->abrt", read, self.prefix)
        before = told.cumsum(0) - told  # of the columns before each one
        hidden = functional.gelu(tokens + self.gain[:, None, None] * before).flatten(1, 2)
        scores = torch.baddbmm(self.out_bias.to(hidden.dtype), hidden, self.out.to(hidden.dtype))
        return scores.view(len(scores), *rows.shape, self.config.bins)

    def _decode(self, tokens: Tensor, noise: torch.Generator | None) -> Tensor:
        """The numbers of rows, one column after the other, (B, R, A)."""
        tokens = tokens.float()
        before = torch.zeros_like(tokens[0])
        numbers: list[Tensor] = []
        for column in range(self.shapes.action):
            hidden = functional.gelu(tokens[column] + self.gain[column] * before)
            scores = hidden @ self.out[column] + self.out_bias[column]
            numbers.append(self._choose(scores.float().softmax(-1), noise))
            before = before + _read(numbers[-1]) @ self.prefix[column]
        return torch.stack(numbers, -1)

    def _choose(self, chance: Tensor, noise: torch.Generator | None) -> Tensor:
        """Numbers in [-1, 1] out of probabilities of bins, (B, R, bins) -> (B, R)."""
        if self.config.choice == "sample":
            likely = chance >= self.config.least_share * chance.amax(-1, keepdim=True)
            source = noise.device if noise is not None else chance.device
            uniform = torch.rand(chance.shape[:-1], generator=noise, device=source)
            ladder = (chance * likely).cumsum(-1)
            height = uniform.to(chance.device)[..., None] * ladder[..., -1:]
            chosen = torch.searchsorted(ladder, height, right=True).squeeze(-1)
            chosen = chosen.clamp(max=self.config.bins - 1)
        else:
            chosen = chance.argmax(-1)
        index = torch.arange(self.config.bins, device=chance.device)
        near = (index - chosen[..., None]).abs() <= self.config.refine
        weight = chance * near
        mean: Tensor = (weight * self._centres(index)).sum(-1) / weight.sum(-1)
        return mean

    def _rows_to_learn(self, mask: Tensor) -> Tensor:
        """Rows for the loss, (B, R): by chance among those that count, or one of each round."""
        if not self.training or mask.shape[1] == 1:
            middles = [together[len(together) // 2] for together in self.order.rounds]
            return torch.tensor(middles, device=mask.device).expand(len(mask), -1)
        counted = mask * self.share
        counted[:, 0] += mask.sum(-1) == 0  # multinomial needs something to draw
        return torch.multinomial(counted, self.config.train_rows, replacement=True)

    def _bin_of(self, numbers: Tensor) -> Tensor:
        bins = self.config.bins
        index: Tensor = ((numbers + 1) / 2 * bins).long().clamp(0, bins - 1)
        return index

    def _centres(self, index: Tensor) -> Tensor:
        centre: Tensor = (index + 0.5) / self.config.bins * 2 - 1
        return centre


def _read(numbers: Tensor) -> Tensor:
    """Features of numbers in [-1, 1], (...) -> (..., READ): near values look different too."""
    octaves = 2.0 ** torch.arange(OCTAVES, device=numbers.device)
    angles = numbers[..., None] * (torch.pi / 2) * octaves
    return torch.cat([numbers[..., None], angles.sin(), angles.cos()], -1)


def _take(actions: Tensor, rows: Tensor) -> Tensor:
    """Rows of a chunk, (B, K, A), (B, R) -> (B, R, A)."""
    return actions.gather(1, rows[..., None].expand(-1, -1, actions.shape[-1]))


def _held(actions: Tensor, mask: Tensor) -> Tensor:
    """The chunk with the last row that counts in place of the padding after it."""
    last = (mask.shape[1] - 1 - mask.flip(1).argmax(1))[:, None]  # (B, 1)
    rows = torch.arange(mask.shape[1], device=mask.device)[None]
    return _take(actions, torch.where(mask > 0, rows, last.expand_as(mask)))
