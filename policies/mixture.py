"""A mixture of K distributions over whole action chunks, the head of ``gmm`` and ``bc-rnn-gmm``.

Source: mixture density networks (Bishop 1994) as robomimic uses them (Mandlekar et al. 2021,
``BC_GMM`` and ``BC_RNN_GMM``): 5 modes, softplus scales, almost no noise at evaluation.

Deviations from robomimic:

- One weight per chunk, not per action: a drawn chunk follows one mode from its first row to
  its last. With ``chunk_rows=1`` this is robomimic's mixture.
- The likelihood is tempered. A chunk of 100 rows of 14 joints has 1400 columns, which follow
  each other so closely that they carry the evidence of a few dozen. Multiplied up as if they
  were independent, they give the nearest component everything from the first step on and
  leave the others without a gradient. The mean log-likelihood per column counts as
  ``evidence`` columns instead; chunks with fewer columns are taken exactly.
- While training, a part ``floor`` of the weight is spread evenly, so that a component which
  nobody needed at the first steps can still be pulled to a mode later.
- The loss is per column (divided by the evidence), so it does not grow with the chunk.
- The components' means come out of one shared layer, fed with a code per component: each
  demonstration teaches the motions of all components, and the head stays small.
- The scale is learned per row and column, and moved by the observation per component and
  column, not predicted for each number of the chunk.
- The smallest scale is 0.01 of a normalised column instead of 1e-4: below it, the error on
  training data that was learned by heart would outweigh everything else.
- Gaussian by default; ``shape="laplace"`` makes the error absolute, as in L1 policies.
- Components much lighter than the heaviest are never drawn, and evaluation noise moves a
  chunk as a whole instead of shaking its rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.family import Batch, FamilyConfig, Losses, Shapes

CODE = 128
"""Width of a component's code: a basis of so many motions, of which chunks are sums."""

START = 0.3
"""How far the components' codes start apart. On a fork of 100 rows, 0.1 and 0.3 found both
modes from every seed; 1.0 gave one component everything before the others had moved."""


@dataclass(frozen=True)
class MixtureConfig(FamilyConfig):
    """Options of the families with a mixture head."""

    components: int = 5
    """How many ways to act can be told apart; robomimic's number of modes."""
    shape: Literal["gaussian", "laplace"] = "gaussian"
    """Of a component: squared error from its mean, or absolute error from its median."""
    min_std: float = 0.01
    """Smallest standard deviation, in normalised units."""
    evidence: float = 32.0
    """How many independent columns a chunk counts for when components compete for it."""
    floor: float = 0.1
    """Part of the weight that training spreads evenly over the components."""
    choice: Literal["sample", "likeliest"] = "sample"
    """The component that acts: drawn by weight, or the heaviest."""
    least_share: float = 0.1
    """Components below this part of the heaviest one's weight are never drawn."""
    evaluation_std: float = 1e-4
    """Noise on a planned chunk, in normalised units; robomimic's low-noise evaluation."""


class Mixture(NamedTuple):
    """A batch of mixtures of M components, in float32."""

    log_weight: Tensor
    """Shape (B, M), normalised."""
    mean: Tensor
    """Shape (B, M, K, A)."""
    std: Tensor
    """Shape (B, M, K, A)."""


class MixtureHead(nn.Module):
    """From a vector of features to a mixture over chunks."""

    def __init__(self, features: int, shapes: Shapes, config: MixtureConfig) -> None:
        super().__init__()
        self.shapes = shapes
        self.config = config
        components = config.components
        self.weight = nn.Linear(features, components)
        self.code = nn.Linear(features, components * CODE)
        self.motion = nn.Linear(CODE, shapes.chunk_rows * shapes.action)
        self.spread = nn.Linear(features, components * shapes.action)
        self.row_spread = nn.Parameter(torch.zeros(shapes.chunk_rows, shapes.action))
        nn.init.zeros_(self.weight.weight)  # all components equally likely at first,
        nn.init.zeros_(self.weight.bias)
        nn.init.normal_(self.code.bias, std=START)  # and their means apart

    def forward(self, features: Tensor) -> Mixture:
        """Shape of ``features``: (B, F)."""
        rows, columns = self.shapes.chunk_rows, self.shapes.action
        components = self.config.components
        code = functional.gelu(self.code(features)).view(-1, components, CODE)
        mean = self.motion(code).view(-1, components, rows, columns).float()
        moved = self.spread(features).float().view(-1, components, 1, columns)
        std = functional.softplus(self.row_spread + moved) + self.config.min_std
        return Mixture(self.weight(features).float().log_softmax(-1), mean, std)

    def loss(self, mixture: Mixture, batch: Batch) -> Losses:
        """Tempered negative log-likelihood per column, and how many components are in use.

        Returns:
            ``loss`` and ``components``: the perplexity of the weights, 1 to M.
        """
        mask = batch.mask.float()
        columns = (mask.sum(-1) * self.shapes.action).clamp(min=1.0)  # (B,)
        each = log_density(mixture, batch.actions.float(), self.config.shape)
        mean = (each * mask[:, None, :, None]).sum((-1, -2)) / columns[:, None]  # (B, M)
        evidence = columns.clamp(max=self.config.evidence)
        floor = self.config.floor
        weight = (1 - floor) * mixture.log_weight.exp() + floor / self.config.components
        joint = weight.log() + mean * evidence[:, None]
        entropy = -(mixture.log_weight.exp() * mixture.log_weight).sum(-1)
        return {
            "loss": -joint.logsumexp(-1) / evidence,
            "components": entropy.detach().exp(),
        }

    def draw(self, mixture: Mixture, noise: torch.Generator | None) -> Tensor:
        """A chunk of one component each, shape (B, K, A)."""
        device = mixture.mean.device
        source = noise.device if noise is not None else device
        score = mixture.log_weight
        if self.config.choice == "sample":
            # Gumbel's trick: with the same noise again, a component that was chosen stays
            # chosen while its weight grows, so the plans of an episode agree.
            weight = score.exp()
            light = weight < self.config.least_share * weight.amax(-1, keepdim=True)
            uniform = torch.rand(score.shape, generator=noise, device=source).to(device)
            tiny = torch.finfo(torch.float32).tiny
            gumbel = -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()
            score = (score + gumbel).masked_fill(light, -math.inf)
        chosen = score.argmax(-1)
        chunk = mixture.mean[torch.arange(len(chosen), device=device), chosen]
        shift = torch.randn((len(chunk), 1, chunk.shape[-1]), generator=noise, device=source)
        return chunk + self.config.evaluation_std * shift.to(device)


def log_density(mixture: Mixture, actions: Tensor, shape: str) -> Tensor:
    """Log-density of every number of a chunk under every component.

    Args:
        mixture: B mixtures.
        actions: Shape (B, K, A).
        shape: ``gaussian`` or ``laplace``, both with the mixture's standard deviation.

    Returns:
        Shape (B, M, K, A).
    """
    away = (actions[:, None] - mixture.mean) / mixture.std
    if shape == "laplace":
        return -math.sqrt(2) * away.abs() - mixture.std.log() - 0.5 * math.log(2)
    return -0.5 * away.square() - mixture.std.log() - 0.5 * math.log(2 * math.pi)
