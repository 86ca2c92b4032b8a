"""From windows and observations to normalised tensors: one path for training and deployment."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.augment import Augmenter
from policies.family import Batch, Inputs
from policies.normalisation import ColumnStatistics, ImageStatistics, Statistics
from policies.windows import Windows

PIXEL_MAX = 255.0


class Preprocessor:
    """Normalises on the device; pixels travel there as uint8.

    Args:
        statistics: Of the training data.
        device: Where the tensors go.
        augment: Varies the samples; for training only.
    """

    def __init__(
        self, statistics: Statistics, device: torch.device, augment: Augmenter | None = None
    ) -> None:
        self.device = device
        self._augment = augment
        self._state = _Affine(statistics.state, device)
        self._action = _Affine(statistics.action, device)
        plain = _Pixels(statistics.images, device)
        varies = augment is not None and augment.varies_images
        self._pixels = _VariedPixels(plain, augment) if augment and varies else plain

    def inputs(
        self,
        state: NDArray[np.floating],
        images: NDArray[np.uint8] | None = None,
        text: NDArray[np.floating] | None = None,
    ) -> Inputs:
        """Normalise B observations with their history, oldest first.

        Args:
            state: Shape (B, n, S); rad, m, gripper opening.
            images: Shape (B, n, C, H, W, 3); None, or C = 0, without cameras.
            text: Shape (B, E); None, or E = 0, without an instruction.
        """
        normalised = self._state.forward(self._tensor(state))
        if self._augment is not None:
            normalised = self._augment.state(normalised)
        seen = None
        if images is not None and images.shape[2]:
            pixels = torch.from_numpy(images).to(self.device, non_blocking=True)
            seen = self._pixels.forward(pixels)
        words = None if text is None or not text.shape[1] else self._tensor(text)
        return Inputs(normalised, seen, words)

    def batch(self, windows: Windows) -> tuple[Batch, Tensor]:
        """The windows as a batch, and the weight of each sample, (B,)."""
        batch = Batch(
            self.inputs(windows.state, windows.images, windows.text),
            self._action.forward(self._tensor(windows.actions)),
            self._tensor(windows.mask),
        )
        return batch, self._tensor(windows.weight)

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        floats = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        return floats.to(self.device, non_blocking=True)


class _Affine:
    """The map of a table's columns as tensors."""

    def __init__(self, statistics: ColumnStatistics, device: torch.device) -> None:
        centre, scale = statistics.centre_scale()
        self._centre = torch.from_numpy(centre.astype(np.float32)).to(device)
        self._scale = torch.from_numpy(scale.astype(np.float32)).to(device)

    def forward(self, values: Tensor) -> Tensor:
        return (values - self._centre) / self._scale


class _Pixels:
    """uint8 (B, n, C, H, W, 3) to normalised (B, n, C, 3, H, W), channels last in memory."""

    def __init__(self, statistics: tuple[ImageStatistics, ...], device: torch.device) -> None:
        mean = torch.tensor([image.mean for image in statistics]).reshape(-1, 1, 1, 3)
        std = torch.tensor([image.std for image in statistics]).reshape(-1, 1, 1, 3)
        self._scale = (1 / std).to(device)  # (C, 1, 1, 3), for values of 0..1
        self._shift = (-mean / std).to(device)
        self._memory = _Memory()

    def forward(self, pixels: Tensor) -> Tensor:
        floats = self._floats(pixels)
        self._fill(floats, self._scale / PIXEL_MAX)
        return floats.movedim(-1, 3)

    def unit(self, pixels: Tensor) -> Tensor:
        """The same without normalising, values 0..1, channels first: kornia is faster so."""
        return self._floats(pixels.movedim(-1, 3).contiguous()).mul_(1 / PIXEL_MAX)

    def normalise_(self, images: Tensor) -> Tensor:
        """Images of 0..1, (B, n, C, 3, H, W), normalised in place."""
        scale, shift = (part.movedim(-1, 1) for part in (self._scale, self._shift))
        return images.mul_(scale).add_(shift)

    def _floats(self, pixels: Tensor) -> Tensor:
        if pixels.device.type != "cpu":
            return pixels.float()
        return self._memory.take(tuple(pixels.shape)).copy_(pixels)

    def _fill(self, floats: Tensor, scale: Tensor) -> None:
        """Scale and shift in place, by whole lines: four times faster than by pixels of 3."""
        width = floats.shape[-2]
        lines = floats.view(*floats.shape[:-2], width * 3)
        scale_line, shift_line = (
            part.expand(-1, 1, width, 3).reshape(-1, 1, width * 3) for part in (scale, self._shift)
        )
        torch.addcmul(shift_line, lines, scale_line, out=lines)


class _VariedPixels:
    """The same with augmentation."""

    def __init__(self, pixels: _Pixels, augment: Augmenter) -> None:
        self._pixels = pixels
        self._augment = augment

    def forward(self, pixels: Tensor) -> Tensor:
        return self._pixels.normalise_(self._augment.images(self._pixels.unit(pixels)))


class _Memory:
    """Memory of a batch of images, taken again once no tensor uses it any more.

    The system hands out fresh memory of that size page by page, which costs more than twice
    as much as normalising does.
    """

    def __init__(self) -> None:
        self._array = np.empty(0, np.float32)
        self._user: weakref.ref[NDArray[np.float32]] | None = None

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor with any content."""
        if self._array.shape != shape or (self._user is not None and self._user() is not None):
            self._array = np.empty(shape, np.float32)
        view = self._array[...]  # lives as long as any tensor made of it
        self._user = weakref.ref(view)
        return torch.from_numpy(view)
