"""A mixture of K distributions over whole action chunks, the head of ``gmm`` and ``bc-rnn-gmm``.

Source: mixture density networks (Bishop 1994) as robomimic uses them (Mandlekar et al. 2021,
``BC_GMM`` and ``BC_RNN_GMM``): 5 modes, softplus scales, almost no noise at evaluation.

Deviations from robomimic:

- One weight per chunk, not per action: a drawn chunk follows one mode from its first row to
  its last.
- The likelihood is tempered. A chunk of 100 rows of 14 joints has 1400 columns, which follow
  each other so closely that they carry the evidence of a few dozen. Multiplied up as if they
  were independent, they give the nearest component everything from the first step on and
  leave the others without a gradient. The mean log-likelihood per column counts as
  ``evidence`` columns instead; chunks with fewer columns are taken exactly.
- The likelihood teaches the weights and the scale, not the means. Each mean learns by plain
  regression from the chunks it answers for (the responsibilities of expectation maximisation).
  By likelihood, an error counts by the inverse square of the scale: a gripper at rest gets a
  scale near its floor, outweighs the moving joints a hundred times, and the motion is never
  learned. After 1,500 steps on insertion the means were wrong by 0.21 of a deviation where a
  regression was wrong by 0.08. (For single Gaussians: Seitzer et al. 2022, "On the pitfalls of
  heteroscedastic uncertainty estimation".)
- While training, a part ``floor`` of the weight is spread evenly, so that a component which
  nobody needed at the first steps can still be pulled to a mode later.
- The loss is divided by what it counts, columns or evidence, so it does not grow with the chunk.
- The components share one mean and differ from it by sums of a few motions, weighed by a code
  per component: each demonstration teaches all of them, and the head stays small.
- The scale is learned per row and column, one for all components, not predicted from the
  observation; robomimic's low-noise evaluation does not draw from it either.
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

CODE = 32
"""Width of a component's code: the number of motions by which components differ. 32, 64 and 128
were equally exact on insertion."""

START = 0.3
"""How far the components' codes start apart. On a fork of 100 rows, 0.1 and 0.3 found both
modes from every seed; 1.0 gave one component everything before the others had moved."""


HASTE = 10.0
"""How much faster the scale moves than a weight, or it would lag behind the errors: an Adam step
is no longer than the learning rate, and the way from 1 to 0.03 is 3.5."""


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


class MixtureHead(nn.Module):
    """From a vector of features to a mixture over chunks."""

    def __init__(self, features: int, shapes: Shapes, config: MixtureConfig) -> None:
        super().__init__()
        self.shapes = shapes
        self.config = config
        components = config.components
        numbers = shapes.chunk_rows * shapes.action
        self.weight = nn.Linear(features, components)
        self.shared = nn.Linear(features, numbers)
        self.code = nn.Linear(features, components * CODE)
        self.motions = nn.Linear(CODE, numbers, bias=False)
        self.spread = nn.Parameter(torch.zeros(shapes.chunk_rows, shapes.action))
        nn.init.zeros_(self.weight.weight)  # all components equally likely at first,
        nn.init.zeros_(self.weight.bias)
        nn.init.normal_(self.code.bias, std=START)  # and their means apart

    def forward(self, features: Tensor) -> Mixture:
        """Shape of ``features``: (B, F)."""
        rows, columns = self.shapes.chunk_rows, self.shapes.action
        components = self.config.components
        code = functional.gelu(self.code(features)).view(-1, components, CODE)
        mean = self.shared(features)[:, None] + self.motions(code)  # (B, M, K * A)
        return Mixture(
            self.weight(features).float().log_softmax(-1),
            mean.view(-1, components, rows, columns).float(),
        )

    def loss(self, mixture: Mixture, batch: Batch) -> Losses:
        """Regression of the means, and the tempered negative log-likelihood per column.

        Returns:
            ``loss``, its two parts ``regression`` and ``surprise``, and ``components``: the
            perplexity of the weights, 1 to M.
        """
        mask = batch.mask.float()
        columns = (mask.sum(-1) * self.shapes.action).clamp(min=1.0)  # (B,)
        away = (batch.actions.float()[:, None] - mixture.mean) * mask[:, None, :, None]
        error = (away.square() if self.config.shape == "gaussian" else away.abs()).flatten(2)
        scale, offset = self._precision()
        with torch.autocast(error.device.type, enabled=False):  # 16 bits would blur the shares
            likelihood = error.detach() @ scale.flatten()  # (B, M)
            likelihood = -(likelihood + (mask @ offset.sum(-1))[:, None]) / columns[:, None]
        evidence = columns.clamp(max=self.config.evidence)
        floor = self.config.floor
        weight = (1 - floor) * mixture.log_weight.exp() + floor / self.config.components
        joint = weight.log() + likelihood * evidence[:, None]
        answers = joint.detach().softmax(-1)  # how much of this chunk each component answers for
        regression = (answers * error.sum(-1)).sum(-1) / columns
        surprise = -joint.logsumexp(-1) / evidence
        entropy = -(mixture.log_weight.exp() * mixture.log_weight).sum(-1)
        return {
            "loss": regression + surprise,
            "regression": regression.detach(),
            "surprise": surprise.detach(),
            "components": entropy.detach().exp(),
        }

    def std(self) -> Tensor:
        """Of every component, in normalised units, shape (K, A)."""
        return functional.softplus(HASTE * self.spread) + self.config.min_std

    def _precision(self) -> tuple[Tensor, Tensor]:
        """The log-density of a number is minus its error times the first, minus the second.

        Both of shape (K, A).
        """
        std = self.std()
        if self.config.shape == "laplace":
            return math.sqrt(2) / std, std.log() + 0.5 * math.log(2)
        return 0.5 / std.square(), std.log() + 0.5 * math.log(2 * math.pi)

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
