"""What a scripted operator does to the stand-in of an input device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from teleop.messages import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class HandPose:
    """A hand with a controller, in the input's frame: x right, y up, z backwards."""

    position_m: FloatArray
    """Shape (3,)."""
    quaternion_wxyz: FloatArray = field(default_factory=lambda: np.array([1.0, 0.0, 0.0, 0.0]))
    """Shape (4,)."""
    tracked: bool = True
    trigger: float = 0.0
    squeeze: float = 0.0
    stick: FloatArray = field(default_factory=lambda: np.zeros(2))
    """Shape (2,): right and forward."""
    buttons: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class PuckPush:
    """A push on a puck, each axis in [-1, 1]: x forward, y left, z up."""

    linear: FloatArray
    """Shape (3,)."""
    angular: FloatArray
    """Shape (3,)."""
    buttons: frozenset[str] = frozenset()


class StandIn(Protocol):
    """An emulated input device, or several that share one runtime."""

    def start(self) -> None:
        """Serve at the address of the emulated rig.

        Raises:
            DeviceError: a tool it needs is not installed.
        """

    def move(self, name: str, hand: HandPose | PuckPush) -> None:
        """What the operator's hand does with input ``name`` from now on."""

    def close(self) -> None:
        """Stop serving. Never raises."""
