"""What an arm's registers mean: ticks and servo units on one side, SI units on the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.joints import gripper_scale
from drivers.base import ArmReading
from drivers.dynamixel import table
from drivers.dynamixel.codec import RecordArray
from drivers.dynamixel.table import ServoModel
from teleop.errors import SafetyError
from teleop.messages import FloatArray
from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel

MOTION = (table.PRESENT_CURRENT, table.PRESENT_VELOCITY, table.PRESENT_POSITION)
"""One block of 10 bytes, 126 ... 135."""


class ArmUnits:
    """Converts for one arm; the order is its joints, then the gripper.

    Args:
        name: The arm's name, for messages.
        arm: Its description; its own gripper calibration comes before the model's, and its
            joints' offsets are added to what the servos report.
        model: The description of its kind.
    """

    def __init__(self, name: str, arm: DynamixelArm, model: DynamixelArmModel) -> None:
        self._name = name
        self._count = len(model.joints)
        self._scale = gripper_scale(arm, model)
        self.gripper_range_rad = (0.0, 0.0)
        """Servo angle closed and open."""
        offsets = [arm.joint_offsets_rad.get(joint.name, 0.0) for joint in model.joints]
        self.joint_ranges_rad = [
            (joint.min_rad - offset, joint.max_rad - offset)
            for joint, offset in zip(model.joints, offsets, strict=True)
        ]
        """Limits of each joint as its servo counts."""
        ranges = list(self.joint_ranges_rad)
        if self._scale is not None:
            self.gripper_range_rad = (self._scale.closed_rad, self._scale.open_rad)
            ranges.append((min(self.gripper_range_rad), max(self.gripper_range_rad)))
            offsets.append(0.0)
        self._offset_rad = np.array(offsets)
        limits = [tick_range(low, high) for low, high in ranges]
        self._low, self._high = np.array(limits, np.float64).T
        self._ampere = np.full(len(ranges), np.nan)

    def learn(self, models: list[ServoModel]) -> None:
        """Take the current unit of each servo; NaN where it has no sensor."""
        units = [model.current_unit_a for model in models]
        self._ampere = np.array([np.nan if unit is None else unit for unit in units])

    def goal_ticks(self, position_rad: FloatArray, gripper: float | None) -> NDArray[np.int32]:
        """Goals of the joints, and of the gripper's opening unless None, within the limits.

        Raises:
            SafetyError: a goal is not a finite number, or their count is wrong.
        """
        n = self._count
        if len(position_rad) != n:
            raise SafetyError(f"{self._name}: {len(position_rad)} joint goals for {n} joints")
        goal = np.empty(n if gripper is None or self._scale is None else n + 1)
        goal[:n] = position_rad - self._offset_rad[:n]
        if gripper is not None and self._scale is not None:
            goal[n] = self._scale.angle_rad(gripper)
        if not np.isfinite(goal).all():
            raise SafetyError(f"{self._name}: a goal is not a finite number: {goal.tolist()}")
        return self.within_limits(np.rint(goal * (1 / table.RAD_PER_TICK)) + table.TICK_ZERO)

    def within_limits(self, ticks: NDArray[np.float64]) -> NDArray[np.int32]:
        """Positions, each moved to its limit where it is beyond."""
        n = len(ticks)
        held: FloatArray = np.minimum(np.maximum(ticks, self._low[:n]), self._high[:n])
        return held.astype(np.int32)

    def reading(self, records: RecordArray, stamp_ns: int) -> ArmReading:
        """A reading from the records of a ``MOTION`` block."""
        angle = (records[table.PRESENT_POSITION.name] - table.TICK_ZERO) * table.RAD_PER_TICK
        angle += self._offset_rad
        rate = records[table.PRESENT_VELOCITY.name] * table.RAD_S_PER_UNIT
        effort = records[table.PRESENT_CURRENT.name] * self._ampere
        if self._scale is None:
            return ArmReading(stamp_ns, angle, rate, effort, None, None, None)
        n = self._count
        return ArmReading(
            stamp_ns,
            *(angle[:n], rate[:n], effort[:n]),
            gripper=self._scale.opening(float(angle[n])),
            gripper_velocity=self._scale.opening_rate(float(rate[n])),
            gripper_effort=float(effort[n]),
        )


def tick_range(min_rad: float, max_rad: float) -> tuple[int, int]:
    """Position limits in ticks, within the one turn that position mode has."""
    low, high = table.tick_from_rad(min_rad), table.tick_from_rad(max_rad)
    return max(0, low), min(table.TICKS_PER_TURN - 1, high)
