"""Fading the difference where one plan ends and another begins.

The fade begins and ends without a step of its speed (a cubic), so that arms with a limited
acceleration do not fall behind the command and then have to catch up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from teleop.clock import NS_PER_S
from teleop.messages import FloatArray

PEAK = 1.5
"""Greatest speed of the cubic over its mean."""


class Seams:
    """Per column an offset that is added to the plan and fades to nothing.

    Args:
        shortest_s: Shortest time over which a seam fades.
        fastest_per_s: Shape (A,): fastest fading of each column, rad/s or opening per second;
            a wide seam takes longer.
    """

    def __init__(self, shortest_s: float, fastest_per_s: FloatArray) -> None:
        self._shortest_ns = shortest_s * NS_PER_S
        self._per_ns = fastest_per_s / NS_PER_S
        self.clear()

    def clear(self) -> None:
        """Nothing fades any more."""
        self._offset = np.zeros(len(self._per_ns))
        self._begun_ns = np.zeros(len(self._per_ns))
        self._fade_ns = np.zeros(len(self._per_ns))

    def begin(self, offset: FloatArray, where: NDArray[np.bool_], now_ns: int) -> None:
        """Let some columns fade anew, from these offsets; the others go on fading.

        Args:
            offset: Shape (A,): what is in force now minus the new plan.
            where: Shape (A,): the columns that begin.
            now_ns: The present instant.
        """
        self._offset = np.where(where, offset, self._offset)
        self._begun_ns = np.where(where, now_ns, self._begun_ns)
        fade_ns = np.maximum(self._shortest_ns, PEAK * np.abs(self._offset) / self._per_ns)
        self._fade_ns = np.where(where, fade_ns, self._fade_ns)

    def left(self, now_ns: int) -> FloatArray:
        """What is left of the offsets; shape (A,)."""
        left_ns = np.maximum(self._begun_ns + self._fade_ns - now_ns, 0.0)
        left = left_ns / np.maximum(self._fade_ns, 1.0)
        offset: FloatArray = self._offset * left * left * (3.0 - 2.0 * left)
        return offset
