"""Statistics of the training data, and the maps they define."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from teleop.errors import PolicyError
from teleop.messages import FloatArray

STD_FLOOR = 1e-2
"""Columns that hardly move are divided by this: 0.01 rad or 1 % of a gripper's stroke. Without
a floor, sensor noise of a resting joint would look like motion."""
EXPLODING = 1e3
"""A value this many deviations from the mean is broken data, not motion."""


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """Mean, deviation and range of each column of a table."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Never below ``STD_FLOOR``."""
    low: tuple[float, ...]
    high: tuple[float, ...]

    def normalise(self, values: FloatArray) -> FloatArray:
        """To zero mean and unit deviation; shape (..., C)."""
        normalised: FloatArray = (values - np.asarray(self.mean)) / np.asarray(self.std)
        return normalised

    def restore(self, values: FloatArray) -> FloatArray:
        """The inverse of ``normalise``."""
        restored: FloatArray = values * np.asarray(self.std) + np.asarray(self.mean)
        return restored


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Mean and deviation of each colour channel of one camera, in units of 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Statistics:
    """All that is needed to normalise a policy's inputs and restore its outputs."""

    state: ColumnStatistics
    """qpos, then the extra inputs."""
    action: ColumnStatistics
    images: tuple[ImageStatistics, ...]
    """Per camera, in the contract's order."""


def column_statistics(table: FloatArray, what: str) -> ColumnStatistics:
    """Statistics over the rows of a table of shape (N, C).

    Raises:
        PolicyError: a column holds NaN or a value far outside the others.
    """
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise PolicyError(f"{what}: column {column} is not finite in row {row} of the data")
    mean, std = table.mean(0), np.maximum(table.std(0), STD_FLOOR)
    worst = np.abs(table - mean).max(0) / std
    if (worst > EXPLODING).any():
        column = int(worst.argmax())
        raise PolicyError(
            f"{what}: column {column} holds a value {worst[column]:.0f} deviations from its mean; "
            "look for it with 'tandem inspect --validate'"
        )
    return ColumnStatistics(
        tuple(mean.tolist()),
        tuple(std.tolist()),
        tuple(table.min(0).tolist()),
        tuple(table.max(0).tolist()),
    )


def image_statistics(images: NDArray[np.uint8], samples: int = 500) -> ImageStatistics:
    """Channel statistics over at most ``samples`` evenly spaced images of (N, H, W, 3)."""
    chosen = images[:: max(1, len(images) // samples)].reshape(-1, 3) / np.float32(255)
    mean = chosen.mean(0, dtype=np.float64)
    std = np.maximum(chosen.std(0, dtype=np.float64), STD_FLOOR)
    return ImageStatistics(
        (float(mean[0]), float(mean[1]), float(mean[2])),
        (float(std[0]), float(std[1]), float(std[2])),
    )
