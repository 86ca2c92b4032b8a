"""The One-Euro filter on positions and on rotations.

Casiez, Roussel and Vogel, "1 Euro Filter", CHI 2012: a first-order low-pass whose cutoff rises
with speed, ``fc = min_cutoff + beta * speed``. A hand at rest is smoothed strongly, a fast one
hardly lags.

``beta`` carries a unit, Hz per unit of speed. The 0.007 of textbooks is meant for pixels; in
metres it does nothing and leaves the whole lag of ``min_cutoff``, 0.14 s. Here it is tens per
metre, and fewer per radian, since a hand turns by more radians than it moves by metres.
"""

from __future__ import annotations

import math

import numpy as np

from teleop.messages import FloatArray
from teleop.rotations import length, quaternion_of, quaternion_product, turn_between

RATE_CUTOFF_HZ = 1.0
"""Cutoff of the speed's own low-pass; the authors' value."""
SHORTEST_S = 1e-4
"""Two samples less apart than this tell no speed."""


def part_passed(cutoff_hz: float, dt_s: float) -> float:
    """Share of a step that a first-order low-pass lets through in one sample, 0 ... 1."""
    rise = 2.0 * math.pi * cutoff_hz * dt_s
    return rise / (1.0 + rise)


class _Cutoff:
    """The cutoff that follows a signal's speed."""

    def __init__(self, min_cutoff_hz: float, beta: float) -> None:
        self._min_cutoff_hz = min_cutoff_hz
        self._beta = beta
        self._rate: FloatArray = np.zeros(3)

    def part(self, step: FloatArray, dt_s: float) -> float:
        """Share of the way to the newest sample, given the raw step to it, shape (3,)."""
        rate = step / dt_s
        self._rate = self._rate + part_passed(RATE_CUTOFF_HZ, dt_s) * (rate - self._rate)
        return part_passed(self._min_cutoff_hz + self._beta * length(self._rate), dt_s)


class PositionFilter:
    """Smooths a position, begun at rest.

    Args:
        position_m: Where it begins, shape (3,).
        min_cutoff_hz: Cutoff at rest.
        beta_1_m: Rise of the cutoff, Hz per m/s. One cutoff for all axes, so that the path's
            direction is kept.
    """

    def __init__(self, position_m: FloatArray, min_cutoff_hz: float, beta_1_m: float) -> None:
        self._cutoff = _Cutoff(min_cutoff_hz, beta_1_m)
        self._raw = position_m
        self.value = position_m

    def take(self, position_m: FloatArray, dt_s: float) -> FloatArray:
        """The smoothed position after one more sample, ``dt_s`` later; shape (3,)."""
        dt_s = max(dt_s, SHORTEST_S)
        part = self._cutoff.part(position_m - self._raw, dt_s)
        self._raw = position_m
        self.value = self.value + part * (position_m - self.value)
        return self.value


class RotationFilter:
    """Smooths a rotation on the log map, begun at rest.

    Args:
        quaternion_wxyz: Where it begins, shape (4,).
        min_cutoff_hz: Cutoff at rest.
        beta_1_rad: Rise of the cutoff, Hz per rad/s.
    """

    def __init__(
        self, quaternion_wxyz: FloatArray, min_cutoff_hz: float, beta_1_rad: float
    ) -> None:
        self._cutoff = _Cutoff(min_cutoff_hz, beta_1_rad)
        self._raw = quaternion_wxyz
        self.value = quaternion_wxyz

    def take(self, quaternion_wxyz: FloatArray, dt_s: float) -> FloatArray:
        """The smoothed rotation after one more sample, ``dt_s`` later; shape (4,)."""
        dt_s = max(dt_s, SHORTEST_S)
        part = self._cutoff.part(turn_between(self._raw, quaternion_wxyz), dt_s)
        self._raw = quaternion_wxyz
        step = quaternion_of(part * turn_between(self.value, quaternion_wxyz))
        moved = quaternion_product(step, self.value)
        self.value = moved / length(moved)
        return self.value
