"""What the driver needs of a vendor's package to control a Franka: the small backend interface.

A link is used by one thread only, except that its states come on a thread of the vendor's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from teleop.messages import FloatArray
from teleop.rig_franka import FrankaLoad, FrankaWall


class Gains(NamedTuple):
    """A spring and a damper per joint."""

    stiffness_nm_rad: FloatArray
    """Shape (7,); zero where the joint is free."""
    damping_nms_rad: FloatArray
    """Shape (7,)."""


@dataclass(frozen=True, slots=True, eq=False)
class JointRanges:
    """The robot's own limits, arrays of shape (7,)."""

    min_rad: FloatArray
    max_rad: FloatArray
    max_velocity_rad_s: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What a robot is told before it is controlled."""

    collision_torque_nm: float
    collision_force_n: float
    load: FrankaLoad | None
    wall: FrankaWall | None
    """None: no soft walls."""
    wall_min_rad: FloatArray
    wall_max_rad: FloatArray


@dataclass(frozen=True, slots=True)
class DeskState:
    """What Desk says of the robot."""

    brakes_open: bool
    operating_mode: str
    """``Execution`` or ``Programming``."""
    fci: str
    """``Active`` or ``Inactive``; empty where the older interface does not tell."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the newest state says beside motion."""

    mode: str
    """``idle``, ``move``, or a key of ``words.MODES``."""
    flags: tuple[str, ...]
    """Error flags that are set now."""
    success_rate: float
    """Share of the last 100 commands that came in time; 0 when none is expected."""


@dataclass(frozen=True, slots=True)
class HandState:
    """One state of the hand."""

    width_m: float
    grasped: bool
    temperature_c: float


class Hand(Protocol):
    """The hand of a Franka."""

    def read(self) -> HandState:
        """The next state, ten times a second.

        Raises:
            DeviceLostError: the connection is gone.
        """

    def begin_open(self, width_m: float, speed_m_s: float) -> None:
        """Begin to open."""

    def begin_close(self, max_width_m: float, speed_m_s: float, force_n: float) -> None:
        """Begin to close on whatever is between the fingers."""

    def is_done(self) -> bool:
        """Whether the motion begun last has ended, however it did."""

    def stop(self) -> None:
        """End the motion begun last.

        Raises:
            DeviceLostError: the connection is gone.
        """

    def release(self) -> None:
        """Let the motion begun last end, then drop the connection. Never raises."""


class FrankaLink(Protocol):
    """One robot through one vendor package."""

    def connect(self) -> None:
        """Connect; may never return when something else answers at the address.

        Raises:
            DeviceError: in words of ``drivers.franka.words``.
        """

    def ranges(self) -> JointRanges:
        """The robot's own limits."""

    def configure(self, settings: Settings) -> None:
        """Tell thresholds, load and walls; only while no control runs.

        Raises:
            DeviceError: the robot refuses.
        """

    def start(self, position_rad: FloatArray, gains: Gains) -> None:
        """Begin to control, pulling towards a pose with these gains.

        Raises:
            DeviceError: the robot takes no commands; the words say why.
        """

    def aim(self, position_rad: FloatArray, velocity_rad_s: FloatArray) -> None:
        """Pull towards a moving pose from the next millisecond on."""

    def set_gains(self, gains: Gains) -> None:
        """Change the gains, smoothly."""

    def soft_stop(self) -> None:
        """Damp the arm to rest, then leave it to the robot's own control.

        Raises:
            DeviceError: it did not end in time.
        """

    @property
    def in_control(self) -> bool:
        """Whether our control runs."""

    def end_of_control(self) -> str:
        """What ended our control, as the vendor's text; empty when it ended as asked."""

    def refresh(self) -> None:
        """Take in what came since the last call; without control, wait for the next state.

        Raises:
            DeviceLostError: the connection is gone.
        """

    def status(self) -> Status:
        """Of the newest state."""

    def recover(self) -> None:
        """Clear the robot's errors.

        Raises:
            DeviceError: the robot refuses.
        """

    def open_hand(self) -> Hand:
        """Connect to the hand; may never return.

        Raises:
            DeviceError: there is none, or it cannot be reached.
        """

    def release(self) -> None:
        """Drop the connection. Never raises."""


def free(damping_nms_rad: FloatArray) -> Gains:
    """No spring at all."""
    return Gains(np.zeros_like(damping_nms_rad), damping_nms_rad)
