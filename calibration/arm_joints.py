"""Zero and direction of an arm's joints, from poses in which the true angles are known.

The truth comes from another arm that was put into the same pose, or from a mechanical reference.
By default an arm keeps the factory zero of its servos (0 rad at the middle tick, the zero of the
maker's URDF); the comparison then only says how far that is off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from teleop.errors import DeviceError
from teleop.messages import FloatArray

TURN_RAD = 2 * math.pi
TICKS_PER_TURN = 4096
"""Of the Dynamixel X series (ROBOTIS e-manual)."""
HOMING_OFFSET_MAX_TICKS = 1024
"""Largest offset that a servo takes in register 20 in position mode (ROBOTIS e-manual), and
beyond which a horn was mounted on the wrong spline."""
LEAST_MOTION_RAD = 0.15
"""Between poses, for a joint's direction to be told."""
WRONG_WAY = -0.5
"""Slope below which a joint turns the other way; hands put arms alike within a few degrees."""


@dataclass(frozen=True, slots=True, eq=False)
class JointsFit:
    """What the poses say of J joints. Angle = sign * reading + offset."""

    joints: tuple[str, ...]
    offset_rad: FloatArray
    """Shape (J,): add this to what the arm reports."""
    sign: tuple[int, ...]
    """1, or -1 where the servo turns the other way; 0 where the joint moved too little to tell."""
    turns: tuple[int, ...]
    """Whole turns by which the readings are off: the joint was wound up."""
    factory_residual_rad: FloatArray
    """Shape (P, J): reading minus truth with the factory zero, within half a turn."""
    residual_rad: FloatArray
    """Shape (P, J): what the offsets leave."""

    @property
    def offset_ticks(self) -> tuple[int, ...]:
        """The offsets in servo ticks, as register 20 (homing offset) would hold them."""
        return tuple(round(float(o) * TICKS_PER_TURN / TURN_RAD) for o in self.offset_rad)

    @property
    def reversed_joints(self) -> tuple[str, ...]:
        """Joints whose drive mode in the rig file is the wrong one."""
        return tuple(n for n, sign in zip(self.joints, self.sign, strict=True) if sign < 0)

    @property
    def unmoved_joints(self) -> tuple[str, ...]:
        """Joints that moved too little to tell their direction: no offset is to be taken over."""
        return tuple(n for n, sign in zip(self.joints, self.sign, strict=True) if not sign)

    @property
    def wound_joints(self) -> tuple[str, ...]:
        """Joints that read whole turns off."""
        return tuple(n for n, turns in zip(self.joints, self.turns, strict=True) if turns)


def fit_joints(
    joints: Sequence[str], reading_rad: FloatArray, truth_rad: FloatArray, arm: str
) -> JointsFit:
    """Offsets and directions of an arm's joints.

    Args:
        joints: J names.
        reading_rad: Shape (P, J), what the arm reported in each pose.
        truth_rad: Shape (P, J), the true angles.
        arm: Its name, for messages.

    Raises:
        DeviceError: no pose, or arrays that do not fit the joints.
    """
    shape = (len(reading_rad), len(joints))
    if shape[0] == 0 or reading_rad.shape != shape or truth_rad.shape != shape:
        raise DeviceError(
            f"{arm}: {reading_rad.shape} readings and {truth_rad.shape} true angles "
            f"for {len(joints)} joints"
        )
    sign = tuple(_sign(reading_rad[:, j], truth_rad[:, j]) for j in range(shape[1]))
    signed = reading_rad * np.where(np.array(sign) < 0, -1.0, 1.0)
    gaps = truth_rad - signed
    offset = np.array([_circular_median(gaps[:, j]) for j in range(shape[1])])
    turns = np.rint(np.median(signed + offset - truth_rad, axis=0) / TURN_RAD).astype(int)
    return JointsFit(
        joints=tuple(joints),
        offset_rad=offset,
        sign=sign,
        turns=tuple(int(n) for n in turns),
        factory_residual_rad=within_half_turn(reading_rad - truth_rad),
        residual_rad=within_half_turn(signed + offset - truth_rad),
    )


def within_half_turn(angle_rad: FloatArray) -> FloatArray:
    """The same directions in -pi ... pi."""
    return np.asarray(angle_rad - TURN_RAD * np.rint(angle_rad / TURN_RAD))


def turns_beyond(position_rad: float, min_rad: float, max_rad: float) -> int:
    """Whole turns by which a reading lies outside its joint's limits; 0 when none bring it in.

    A servo counts on past a full turn while it has power, and forgets the turns without it.
    """
    if min_rad <= position_rad <= max_rad:
        return 0
    turns = round((position_rad - (min_rad + max_rad) / 2) / TURN_RAD)
    slack = math.radians(10)  # of a limp arm that rests beyond its soft limit
    inside = min_rad - slack <= position_rad - turns * TURN_RAD <= max_rad + slack
    return turns if inside else 0


def faults_of(offsets_rad: Mapping[str, float]) -> list[str]:
    """Why a set of offsets must not be used; empty when it may."""
    limit_rad = HOMING_OFFSET_MAX_TICKS * TURN_RAD / TICKS_PER_TURN
    return [
        f"{joint} is {offset:+.2f} rad off its mark, over a quarter turn: its horn is on wrong"
        for joint, offset in offsets_rad.items()
        if not abs(offset) <= limit_rad
    ]


def _sign(reading: FloatArray, truth: FloatArray) -> int:
    """Direction by the slope of truth over reading; 0 when the joint did not move enough."""
    # Angles from the first pose on, so that a turn between two arms does no harm.
    moved = within_half_turn(reading - reading[0])
    wanted = within_half_turn(truth - truth[0])
    if np.ptp(moved) < LEAST_MOTION_RAD or np.ptp(wanted) < LEAST_MOTION_RAD:
        return 0
    centred = moved - moved.mean()
    slope = float(centred @ (wanted - wanted.mean()) / (centred @ centred))
    return -1 if slope < WRONG_WAY else 1


def _circular_median(angles_rad: FloatArray) -> float:
    """The median direction, -pi ... pi: whole turns between the angles do not count."""
    middle = math.atan2(float(np.sin(angles_rad).mean()), float(np.cos(angles_rad).mean()))
    away = within_half_turn(angles_rad - middle)
    return float(within_half_turn(np.array(middle + np.median(away))))
