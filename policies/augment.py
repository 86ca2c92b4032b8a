"""Augmentation of training samples, by kornia.

Images are shifted by a few pixels (a random crop of the image with its border repeated, as in
DrQ, Kostrikov et al. 2020) and their colours varied; states get noise, so that the policy has
seen being slightly off the demonstrated path. All frames of one sample's history change alike,
each camera for itself. Randomness is torch's global one, which the trainer seeds per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from teleop.errors import MissingExtraError


@dataclass(frozen=True)
class AugmentOptions:
    """How training samples are varied; 0 leaves them as they are."""

    shift_px: int = 4
    """Images are shifted by up to this many pixels of training resolution, either way. On a
    CPU this costs about 5 ms for 480x640 pixels."""
    colour: float = 0.0
    """Brightness, contrast and saturation are changed by up to this share, either way."""
    state_noise: float = 0.02
    """Deviation of the noise on normalised states."""


class Augmenter:
    """Varies samples of a batch, each for itself.

    Args:
        options: What to vary and how much.
    """

    def __init__(self, options: AugmentOptions) -> None:
        self._options = options
        self._colour: Any = None
        if options.colour:
            share = options.colour
            self._colour = _kornia().ColorJitter(share, share, share, p=1.0)

    @property
    def varies_images(self) -> bool:
        """Whether images are changed at all."""
        return bool(self._options.shift_px or self._options.colour)

    def state(self, state: Tensor) -> Tensor:
        """Normalised states of shape (B, n, S) with noise."""
        if not self._options.state_noise:
            return state
        return state + self._options.state_noise * torch.randn_like(state)

    def images(self, images: Tensor) -> Tensor:
        """Images of shape (B, n, C, 3, H, W), values 0..1, shifted and coloured."""
        batch, past, cameras, channels, height, width = images.shape
        views = images.transpose(1, 2)  # (B, C, n, 3, H, W)
        if pixels := self._options.shift_px:
            crop = _kornia().RandomCrop((height, width), padding=pixels, padding_mode="replicate")
            stacked = views.reshape(batch * cameras, past * channels, height, width)
            views = crop(stacked).view(batch, cameras, past, channels, height, width)
        if self._colour is not None:
            tall = views.transpose(2, 3).reshape(batch * cameras, channels, past * height, width)
            coloured = self._colour(tall).view(batch, cameras, channels, past, height, width)
            views = coloured.transpose(2, 3)
        return views.transpose(1, 2)


def _kornia() -> Any:
    try:
        import kornia.augmentation  # takes half a second to import
    except ModuleNotFoundError as error:
        raise MissingExtraError("kornia", "train", "image augmentation") from error
    return kornia.augmentation
