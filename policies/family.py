"""What a network family offers to the trainer and to deployment.

The trainer, the studies and the checkpoint know families through this page only. All tensors
are float32 and normalised: states and actions by the family's choice of map (see
``policies.normalisation``), images per channel.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from teleop.errors import PolicyError

EncoderName = Literal["small", "resnet18"]
NormName = Literal["group", "frozen_batch"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a policy's inputs and outputs."""

    state: int
    """Columns of the state vector, S: qpos, then extra inputs."""
    action: int
    """Columns of an action, A."""
    chunk_rows: int
    """Rows of an action chunk, K."""
    history: int = 1
    """Observations that the policy sees at once, n: the present one is the last."""
    cameras: int = 0
    """C."""
    height: int = 0
    """Pixels, H; 0 without cameras."""
    width: int = 0
    """Pixels, W."""
    text: int = 0
    """Size of the instruction's embedding, E; 0 without."""


class Inputs(NamedTuple):
    """A batch of B observations, each with its history, oldest first."""

    state: Tensor
    """Shape (B, n, S)."""
    images: Tensor | None = None
    """Shape (B, n, C, 3, H, W); None without cameras."""
    text: Tensor | None = None
    """Shape (B, E): the embedded instruction; None without."""


class Batch(NamedTuple):
    """A batch of B observations with the actions that followed."""

    inputs: Inputs
    actions: Tensor
    """Shape (B, K, A). Row 0 belongs to the present observation."""
    mask: Tensor
    """Shape (B, K), 1 where a row counts, 0 where it is padding beyond the episode's end."""


Losses = dict[str, Tensor]
"""By name, each of shape (B,). ``loss`` is what training makes small; others are logged."""


@dataclass(frozen=True)
class FamilyConfig:
    """Options that every family has; a family's own config extends it."""

    encoder: EncoderName = "small"
    """Image encoder: a small convolution stack with spatial softmax, or ResNet-18."""
    norm: NormName = "group"
    """Norms of the ResNet; ``frozen_batch`` is what pretrained weights need."""
    small_norm: bool = False
    """GroupNorm in the small encoder. On the demo's images it did harm: bc 18/20 with it and 20/20
    without, act 11/20 and 16/20."""
    features: int = 32
    """Feature maps that the encoder reports the image position of, per camera."""
    share_encoder: bool = False
    """One image encoder for all cameras instead of one each."""


class Limits(NamedTuple):
    """Least and largest value of an option, both included, and the two in words."""

    low: float
    high: float
    words: str


COUNT = Limits(1, math.inf, "1 or more")
AMOUNT = Limits(0, sys.float_info.max, "0 or more, and finite")
PART = Limits(0, math.nextafter(1, 0), "0 or more and below 1")

LIMITS: Mapping[str, Limits] = {
    **dict.fromkeys(("features", "hidden", "row_hidden", "token_hidden", "width"), COUNT),
    **dict.fromkeys(("feedforward", "latent", "heads", "layers", "components"), COUNT),
    **dict.fromkeys(("latent_layers", "decoder_layers", "rows_per_token"), COUNT),
    **dict.fromkeys(("train_rows", "train_steps", "inference_steps"), COUNT),
    **dict.fromkeys(("negatives", "candidates"), COUNT),
    **dict.fromkeys(("encoder_layers", "refine", "iterations"), AMOUNT),
    **dict.fromkeys(("kl_weight", "clip", "evaluation_std", "first_noise", "noise_decay"), AMOUNT),
    **dict.fromkeys(("dropout", "floor"), PART),
    "bins": Limits(2, math.inf, "2 or more"),
    "evidence": Limits(1, sys.float_info.max, "1 or more, and finite"),
    "least_share": Limits(0, 1, "between 0 and 1"),
    "min_std": Limits(sys.float_info.min, sys.float_info.max, "above 0, and finite"),
}
"""Of every family's numbers, by the option's name: it means the same in all of them."""


def check_config(family: str, config: FamilyConfig) -> None:
    """Refuse numbers that no network can be trained with.

    Raises:
        PolicyError: names the option.
    """
    for name, value in asdict(config).items():
        if name in LIMITS and not LIMITS[name].low <= value <= LIMITS[name].high:
            option = name.replace("_", "-")
            raise PolicyError(f"{family} --{option} {value:.12g}: must be {LIMITS[name].words}")


class Family(nn.Module):
    """Base of the network families."""

    config_type: ClassVar[type[FamilyConfig]]
    """Dataclass of the family's own options, each with a default that works."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """The family's defaults for options of the trainer (``policies.train.TrainArgs``)."""

    def __init__(self, shapes: Shapes, config: Any) -> None:
        super().__init__()
        self.shapes = shapes
        self.config = config

    @property
    def bounded(self) -> bool:
        """Whether actions must lie in [-1, 1]: plans are cut off there. ``range`` keeps all of the
        training data inside, ``quantile`` all but its outermost hundredths; others are refused."""
        return False

    def loss(self, batch: Batch) -> Losses:
        """Losses per sample. Padding rows (mask 0) must not change them."""
        raise NotImplementedError

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        """Normalised actions for deployment, shape (B, K, A).

        Args:
            inputs: The observations.
            noise: Source of all randomness of a sampling family; None uses torch's own.
        """
        raise NotImplementedError


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the rows that count and over columns: (B, K, A), (B, K) -> (B,).

    Divides by the number of counted values, not by K: the published ACT code averages padding
    into its denominator, which makes the ends of episodes count less.
    """
    counted = mask.sum(-1).clamp(min=1.0) * error.shape[-1]
    return (error * mask[..., None]).sum((-1, -2)) / counted
