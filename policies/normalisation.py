"""Statistics of the training data, and the maps they define.

A map is affine per column, so its inverse is exact: ``normalise(x) = (x - centre) / scale``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from teleop.messages import FloatArray

MapName = Literal["standard", "range", "quantile"]
"""``standard``: zero mean, unit deviation. ``range``: smallest and largest value to -1 and 1.
``quantile``: the 1st and 99th percentile to -1 and 1, so that few wild values do not squeeze
the others; nothing is clipped."""

STD_FLOOR = 1e-2
"""Columns that hardly move are divided by this: 0.01 rad or 1 % of a gripper's stroke. Without
a floor, sensor noise of a resting joint would look like motion."""
EXPLODING = 100.0
"""A value so many spreads from the median is broken data, not motion. The spread is that of
the middle 98 %: a deviation grows with the very value that is looked for."""
SPREAD_FLOOR = 0.1
"""Least spread for that, so that nothing within 10 rad or 10 m is called broken in a column
that rests nearly always."""
LEVELS = 256
"""Values of a pixel."""


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """The map of each column of a table, and what it is made from."""

    map: MapName
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Never below ``STD_FLOOR``."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    q01: tuple[float, ...]
    """1st percentile."""
    q99: tuple[float, ...]
    """99th percentile."""

    def centre_scale(self) -> tuple[FloatArray, FloatArray]:
        """Each of shape (C,); the scale is never below ``STD_FLOOR``."""
        if self.map == "standard":
            return np.asarray(self.mean), np.asarray(self.std)
        low, high = (self.low, self.high) if self.map == "range" else (self.q01, self.q99)
        bottom, top = np.asarray(low), np.asarray(high)
        return (top + bottom) / 2, np.maximum((top - bottom) / 2, STD_FLOOR)

    def normalise(self, values: FloatArray) -> FloatArray:
        """Through the map; shape (..., C)."""
        centre, scale = self.centre_scale()
        normalised: FloatArray = (values - centre) / scale
        return normalised

    def restore(self, values: FloatArray) -> FloatArray:
        """The inverse of ``normalise``."""
        centre, scale = self.centre_scale()
        restored: FloatArray = values * scale + centre
        return restored

    def constant(self) -> tuple[int, ...]:
        """Columns that do not move by more than ``STD_FLOOR`` in all."""
        moved = np.asarray(self.high) - np.asarray(self.low)
        return tuple(int(column) for column in np.flatnonzero(moved <= STD_FLOOR))


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


def fault(table: FloatArray) -> tuple[int, int, str] | None:
    """The worst value of a table of shape (N, C) that makes its statistics useless.

    Returns:
        Its row and column and what is wrong with it, in words; None when all is well.
    """
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        return int(row), int(column), f"is {table[row, column]}; leave this episode out"
    median = np.median(table, axis=0)
    q01 = np.quantile(table, 0.01, axis=0, method="higher")  # without the outermost value itself
    q99 = np.quantile(table, 0.99, axis=0, method="lower")
    far = np.abs(table - median) / np.maximum(q99 - q01, SPREAD_FLOOR)
    row, column = np.unravel_index(int(far.argmax()), far.shape)
    if far[row, column] <= EXPLODING:
        return None
    words = (
        f"reaches {table[row, column]:.4g}, while 98 % of the data lie in "
        f"{q01[column]:.4g} to {q99[column]:.4g}; leave this episode out"
    )
    return int(row), int(column), words


def column_statistics(table: FloatArray, map: MapName = "standard") -> ColumnStatistics:
    """Statistics over the rows of a table of shape (N, C), all finite."""
    q01, q99 = np.quantile(table, (0.01, 0.99), axis=0)
    return ColumnStatistics(
        map=map,
        mean=_floats(table.mean(0)),
        std=_floats(np.maximum(table.std(0), STD_FLOOR)),
        low=_floats(table.min(0)),
        high=_floats(table.max(0)),
        q01=_floats(q01),
        q99=_floats(q99),
    )


def image_statistics(images: Sequence[NDArray[np.uint8]]) -> ImageStatistics:
    """Channel statistics over some images, each of shape (H, W, 3)."""
    counts = np.zeros((3, LEVELS))
    for image in images:
        for channel in range(3):
            some = image[::2, ::2, channel].reshape(-1)  # every fourth pixel tells as much
            counts[channel] += np.bincount(some, minlength=LEVELS)
    share = counts / counts.sum(1, keepdims=True)
    levels = np.arange(LEVELS) / (LEVELS - 1)
    mean = share @ levels
    std = np.maximum(np.sqrt(share @ levels**2 - mean**2), STD_FLOOR)
    return ImageStatistics(
        (float(mean[0]), float(mean[1]), float(mean[2])),
        (float(std[0]), float(std[1]), float(std[2])),
    )


def _floats(values: FloatArray) -> tuple[float, ...]:
    return tuple(values.tolist())
