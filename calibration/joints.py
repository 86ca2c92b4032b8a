"""What a gripper servo's angle means: opening (0 closed ... 1 open) and finger distance.

Angles and openings are related linearly by two measured angles. The finger distance follows
from the crank that drives the fingers of the Interbotix arms and is not linear in the angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel
    from teleop.rig_interbotix import InterbotixArm


@dataclass(frozen=True, slots=True)
class GripperScale:
    """Two servo angles of one arm's gripper; either may be the larger."""

    closed_rad: float
    open_rad: float

    def __post_init__(self) -> None:
        if self.closed_rad == self.open_rad:
            raise ValueError(f"gripper closed and open at the same angle, {self.open_rad} rad")

    @property
    def stroke_rad(self) -> float:
        """Signed angle from closed to open."""
        return self.open_rad - self.closed_rad

    def opening(self, angle_rad: float) -> float:
        """Opening at a servo angle; outside 0 ... 1 when the calibration does not fit."""
        return (angle_rad - self.closed_rad) / self.stroke_rad

    def angle_rad(self, opening: float) -> float:
        """Servo angle of an opening."""
        return self.closed_rad + opening * self.stroke_rad

    def opening_rate(self, rate_rad_s: float) -> float:
        """Change of the opening, 1/s, at a servo rate."""
        return rate_rad_s / self.stroke_rad


def gripper_scale(
    arm: DynamixelArm | InterbotixArm, model: DynamixelArmModel
) -> GripperScale | None:
    """An arm's scale: its own calibration before its model's; None without a gripper."""
    gripper = model.gripper
    if gripper is None:
        return None
    closed, opened = arm.gripper_closed_rad, arm.gripper_open_rad
    return GripperScale(
        closed_rad=gripper.closed_rad if closed is None else closed,
        open_rad=gripper.open_rad if opened is None else opened,
    )


def finger_distance_m(angle_rad: float, horn_radius_m: float, arm_length_m: float) -> float:
    """Distance of one finger from the gripper's middle, as the Interbotix driver computes it.

    Source: Interbotix xs_sdk, linear position of the gripper: a horn of radius r turned by the
    servo pushes a rod of length a, so ``r sin(angle) + sqrt(a**2 - (r cos(angle))**2)``.

    Raises:
        ValueError: the rod is shorter than the horn, so the crank cannot turn.
    """
    if arm_length_m < horn_radius_m:
        raise ValueError(
            f"gripper rod of {arm_length_m} m is shorter than its horn of {horn_radius_m} m"
        )
    along = horn_radius_m * math.cos(angle_rad)
    return horn_radius_m * math.sin(angle_rad) + math.sqrt(arm_length_m**2 - along**2)
