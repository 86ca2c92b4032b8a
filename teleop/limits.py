"""The last line before the servos: what of a command may pass in this tick.

The limiter owns a *setpoint*: position and velocity of the trajectory the servos are being
sent. Each tick moves the setpoint toward the command as far as every limit allows:

- the command is clamped joint by joint to its range; the others are not dropped;
- the setpoint's speed and acceleration are bounded, and it moves at most ``max_step_rad``
  per tick, however late the tick is;
- it brakes early enough to stop at its target and before the end of its range.

A command that moves within the limits is followed without lag: braking is planned relative
to the command's own velocity. So a command at rest is never overshot, and one that stops
quicker than the acceleration limit allows is overshot by at most ``v**2 / (2 a)``, inside
the joint's range in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING

import numpy as np

from teleop.errors import SafetyError
from teleop.messages import FloatArray

if TYPE_CHECKING:
    from teleop.rig import ArmModel, Safety

GRIPPER_SPEED_UP_S = 0.05
"""Time in which a gripper may go from rest to its full rate; bounds its acceleration.

Our own choice: an XM430 reaches its no-load speed within that, so it costs no closing time.
"""

LONGEST_TICK_S = 0.1
"""A longer pause between ticks earns no further motion in the tick after it."""

SAME_RAD = 1e-9
"""Differences below this (far below a servo's 1.5 mrad) do not count as limited."""


class Limited(IntFlag):
    """Which limits changed a command; bits of ``ArmApplied.limited``."""

    NONE = 0
    POSITION = 1
    """A joint was asked beyond its range."""
    VELOCITY = 2
    ACCELERATION = 4
    STEP = 8
    """A joint was asked further away than one tick may take it."""
    GRIPPER = 16
    """The gripper was asked beyond closed or open, or faster than it may move."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmLimits:
    """Limits of one arm; arrays have shape (J,)."""

    joint_names: tuple[str, ...]
    min_rad: FloatArray
    max_rad: FloatArray
    max_velocity_rad_s: FloatArray
    max_acceleration_rad_s2: FloatArray
    max_step_rad: float
    gripper_velocity_1_s: float | None
    """Full strokes per second; None for an arm without gripper."""


@dataclass(frozen=True, slots=True, eq=False)
class Setpoint:
    """What may be sent to the servos in this tick."""

    position_rad: FloatArray
    """Shape (J,)."""
    gripper: float | None
    limited: Limited


def limits_of(model: ArmModel, safety: Safety) -> ArmLimits:
    """The limits that a rig description gives an arm of this model."""
    joints = model.joints
    return ArmLimits(
        joint_names=tuple(joint.name for joint in joints),
        min_rad=np.array([joint.min_rad for joint in joints]),
        max_rad=np.array([joint.max_rad for joint in joints]),
        max_velocity_rad_s=np.array(
            [joint.max_velocity_rad_s or model.max_velocity_rad_s for joint in joints]
        ),
        max_acceleration_rad_s2=np.array(
            [joint.max_acceleration_rad_s2 or model.max_acceleration_rad_s2 for joint in joints]
        ),
        max_step_rad=safety.max_step_rad,
        gripper_velocity_1_s=None if model.gripper is None else model.gripper.max_velocity_1_s,
    )


def check_command(joint_names: Sequence[str], position_rad: FloatArray, gripper: float) -> None:
    """Refuse what is not a pose of this arm at all.

    Raises:
        SafetyError: wrong number of joints, or a value that is NaN or infinite.
    """
    if position_rad.shape != (len(joint_names),):
        raise SafetyError(
            f"command of shape {position_rad.shape} for {len(joint_names)} joints "
            f"({', '.join(joint_names)}); send one angle per joint"
        )
    finite = np.isfinite(position_rad)
    if not finite.all():
        bad = ", ".join(
            f"{name} = {value}"
            for name, value, good in zip(joint_names, position_rad, finite, strict=True)
            if not good
        )
        raise SafetyError(f"command with {bad}; every joint needs a finite angle in rad")
    if not np.isfinite(gripper):
        raise SafetyError(f"command with gripper = {gripper}; it needs an opening of 0 to 1")


class JointLimiter:
    """Shapes one arm's commands; call ``limit`` or ``hold`` once per tick.

    Internally the gripper is one more column after the joints, with range 0 ... 1.
    """

    def __init__(self, limits: ArmLimits) -> None:
        self.limits = limits
        self._joints = len(limits.joint_names)
        rate = limits.gripper_velocity_1_s
        self._has_gripper = rate is not None
        tail = () if rate is None else (rate,)
        self._low = np.append(limits.min_rad, (0.0,) * len(tail))
        self._high = np.append(limits.max_rad, (1.0,) * len(tail))
        self._top_speed = np.append(limits.max_velocity_rad_s, tail)
        self._acceleration = np.append(
            limits.max_acceleration_rad_s2, [r / GRIPPER_SPEED_UP_S for r in tail]
        )
        self._max_step = np.append(
            np.full(self._joints, limits.max_step_rad), (np.inf,) * len(tail)
        )
        self._position = np.clip(np.zeros(self._joints + len(tail)), self._low, self._high)
        self._velocity = np.zeros_like(self._position)
        self._target = self._position
        self._target_velocity = np.zeros_like(self._position)

    @property
    def position_rad(self) -> FloatArray:
        """The present setpoint, shape (J,)."""
        return self._position[: self._joints]

    @property
    def gripper(self) -> float | None:
        """The present setpoint of the gripper, 0 closed ... 1 open."""
        return float(self._position[-1]) if self._has_gripper else None

    def reset(self, position_rad: FloatArray, gripper: float | None) -> None:
        """Put the setpoint, at rest, where the arm was measured.

        A pose outside the range is taken as it is: the setpoint may then only move inward.
        """
        self._position = self._columns(position_rad, gripper)
        self._velocity = np.zeros_like(self._position)
        self._target = self._position
        self._target_velocity = np.zeros_like(self._position)

    def limit(
        self,
        position_rad: FloatArray,
        gripper: float,
        dt_s: float,
        max_velocity_rad_s: float = np.inf,
    ) -> Setpoint:
        """Move the setpoint toward a command.

        Args:
            position_rad: Wanted joint angles, shape (J,).
            gripper: Wanted opening; ignored by an arm without gripper.
            dt_s: Time since the last call.
            max_velocity_rad_s: A further cap on joint speed (engaging); a faster setpoint
                slows down to it within the acceleration limit.

        Raises:
            SafetyError: the command is no pose of this arm; the setpoint has not moved.
        """
        check_command(self.limits.joint_names, position_rad, gripper)
        dt_s = min(max(dt_s, 1e-6), LONGEST_TICK_S)
        wanted = self._columns(position_rad, gripper)
        target = np.minimum(np.maximum(wanted, self._low), self._high)
        gain = self._acceleration * dt_s
        target_velocity = self._follow_target(target, gain, dt_s)
        start, speed = self._position, self._velocity
        error = target - start
        ahead = error - target_velocity * dt_s
        velocity = target_velocity + np.copysign(self._stopping_speed(np.abs(ahead), gain), ahead)
        self._advance(velocity, gain, dt_s, max_velocity_rad_s)
        return self._setpoint(self._limited(wanted, target, error, speed, gain, dt_s))

    def hold(self, dt_s: float) -> Setpoint:
        """Slow down to rest within the acceleration limit, then stay."""
        if self._velocity.any():
            dt_s = min(max(dt_s, 1e-6), LONGEST_TICK_S)
            self._advance(np.zeros_like(self._velocity), self._acceleration * dt_s, dt_s, np.inf)
        self._target = self._position
        self._target_velocity = np.zeros_like(self._position)
        return self._setpoint(Limited.NONE)

    def _columns(self, position_rad: FloatArray, gripper: float | None) -> FloatArray:
        columns = np.empty_like(self._position)
        columns[: self._joints] = position_rad
        if self._has_gripper:
            columns[-1] = self._position[-1] if gripper is None else gripper
        return columns

    def _follow_target(self, target: FloatArray, gain: FloatArray, dt_s: float) -> FloatArray:
        """The command's own velocity, as far as the limits could follow it; shape as setpoint.

        A change faster than the speed limit is a jump, not a motion, and counts as rest.
        """
        raw = (target - self._target) / dt_s
        raw[np.abs(raw) > self._top_speed] = 0.0
        old = self._target_velocity
        self._target_velocity = np.minimum(np.maximum(raw, old - gain), old + gain)
        self._target = target
        return self._target_velocity

    def _stopping_speed(self, distance: FloatArray, gain: FloatArray) -> FloatArray:
        """The highest speed for this tick after which braking still ends within ``distance``.

        Solves ``v dt + v**2 / (2 a) = distance`` with ``gain = a dt``; holds for any later dt.
        """
        stop: FloatArray = np.sqrt(gain * gain + 2.0 * self._acceleration * distance) - gain
        return stop

    def _advance(self, velocity: FloatArray, gain: FloatArray, dt_s: float, cap: float) -> None:
        """Move the setpoint with the wanted velocity, as far as it may."""
        start, speed = self._position, self._velocity
        top = np.minimum(self._top_speed, self._max_step / dt_s)
        if cap != np.inf:
            slowed = np.maximum(cap, np.abs(speed[: self._joints]) - gain[: self._joints])
            top[: self._joints] = np.minimum(top[: self._joints], slowed)
        velocity = np.minimum(np.maximum(velocity, speed - gain), speed + gain)
        # Room to the end of the range; none, never negative, for a setpoint outside of it.
        room = np.where(velocity > 0.0, self._high - start, start - self._low)
        top = np.minimum(top, self._stopping_speed(np.maximum(room, 0.0), gain))
        velocity = np.minimum(np.maximum(velocity, -top), top)
        moved = start + velocity * dt_s
        self._position = np.minimum(
            np.maximum(moved, np.minimum(self._low, start)), np.maximum(self._high, start)
        )
        self._velocity = velocity

    def _limited(
        self,
        wanted: FloatArray,
        target: FloatArray,
        error: FloatArray,
        speed: FloatArray,
        gain: FloatArray,
        dt_s: float,
    ) -> Limited:
        """Why the setpoint is not where it was wanted; ``error`` and ``speed`` before the tick."""
        off = np.abs(wanted - self._position) > SAME_RAD
        if not off.any():
            return Limited.NONE
        joints = slice(0, self._joints)
        flags = Limited.NONE
        if self._has_gripper and off[-1]:
            flags |= Limited.GRIPPER
        if off[joints].any():
            asked = error[joints] / dt_s
            if (wanted != target)[joints].any():
                flags |= Limited.POSITION
            if (np.abs(error) > self._max_step)[joints].any():
                flags |= Limited.STEP
            if (np.abs(asked) > self._top_speed[joints]).any():
                flags |= Limited.VELOCITY
            if (np.abs(asked - speed[joints]) > gain[joints]).any():
                flags |= Limited.ACCELERATION
        return flags

    def _setpoint(self, limited: Limited) -> Setpoint:
        # No copy needed: each tick makes a new position array and never writes to an old one.
        return Setpoint(self.position_rad, self.gripper, limited)
