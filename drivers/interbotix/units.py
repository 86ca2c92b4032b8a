"""What an ``interbotix_xs_sdk`` node's numbers mean: its units on one side, SI on the other."""

from __future__ import annotations

import numpy as np

from calibration.joints import gripper_scale
from drivers.base import ArmReading
from drivers.dynamixel import table
from drivers.dynamixel.units import tick_range
from drivers.interbotix.interface import JointStates
from teleop.errors import SafetyError
from teleop.messages import FloatArray
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_interbotix import InterbotixArm

READ_FAILED_RAD = -np.pi
"""Published for every motor when the node could not read them (tick 0)."""
READ_FAILED_TOLERANCE_RAD = 1e-3
AMPERE_PER_MA = 1e-3
WITHIN_TICK = 0.25
"""The node cuts a goal off to whole ticks; a goal this much beyond a tick becomes that one."""


class NodeUnits:
    """Converts for one arm; the order is its joints, then the gripper.

    Args:
        name: The arm's name, for messages.
        arm: Its description; its own gripper calibration comes before the model's.
        model: The description of its kind.
    """

    def __init__(self, name: str, arm: InterbotixArm, model: DynamixelArmModel) -> None:
        self._name = name
        self._count = len(model.joints)
        self._scale = gripper_scale(arm, model)
        ranges = [(joint.min_rad, joint.max_rad) for joint in model.joints]
        if self._scale is not None:
            ends = (self._scale.closed_rad, self._scale.open_rad)
            ranges.append((min(ends), max(ends)))
        self.ranges = [tick_range(low, high) for low, high in ranges]
        """Lowest and highest position of each motor, ticks."""
        self._low, self._high = np.array(self.ranges, float).T
        self._ampere = np.full(len(ranges), np.nan)
        self._order = np.arange(len(ranges))

    def learn(self, order: tuple[int, ...], sensed: FloatArray) -> None:
        """Take the place of each motor in the joint states, and which measure current (or NaN)."""
        self._order = np.array(order)
        self._ampere = AMPERE_PER_MA * sensed

    def goals_rad(self, position_rad: FloatArray, gripper: float | None) -> FloatArray:
        """Goals of the joints, and of the gripper's opening unless None, within the limits.

        Raises:
            SafetyError: a goal is not a finite number, or their count is wrong.
        """
        if len(position_rad) != self._count:
            count = len(position_rad)
            raise SafetyError(f"{self._name}: {count} joint goals for {self._count} joints")
        goals = np.asarray(position_rad, float)
        if gripper is not None and self._scale is not None:
            goals = np.append(goals, self._scale.angle_rad(gripper))
        if not np.isfinite(goals).all():
            raise SafetyError(f"{self._name}: a goal is not a finite number: {goals.tolist()}")
        n = len(goals)
        ticks = np.rint(goals * (1 / table.RAD_PER_TICK)) + table.TICK_ZERO
        ticks = np.minimum(np.maximum(ticks, self._low[:n]), self._high[:n])
        aimed: FloatArray = (ticks - table.TICK_ZERO + WITHIN_TICK) * table.RAD_PER_TICK
        return aimed

    def in_node_order(self, goals_rad: FloatArray) -> list[float]:
        """The goals of all motors as the node's group ``all`` wants them."""
        values = np.empty(len(goals_rad))
        values[self._order] = goals_rad
        return [float(value) for value in values]

    def reading(self, states: JointStates) -> ArmReading | None:
        """A reading; None when the node says that it could not read the motors."""
        position = states.position[self._order]
        if _read_failed(position):
            return None
        velocity = states.velocity[self._order]
        effort = states.effort[self._order] * self._ampere
        if self._scale is None:
            return ArmReading(states.stamp_ns, position, velocity, effort, None, None, None)
        n = self._count
        return ArmReading(
            states.stamp_ns,
            *(position[:n], velocity[:n], effort[:n]),
            gripper=self._scale.opening(float(position[n])),
            gripper_velocity=self._scale.opening_rate(float(velocity[n])),
            gripper_effort=float(effort[n]),
        )


def _read_failed(position_rad: FloatArray) -> bool:
    """The node's two ways of publishing that it could not read."""
    if not np.isfinite(position_rad).all():
        return True
    return bool((np.abs(position_rad - READ_FAILED_RAD) < READ_FAILED_TOLERANCE_RAD).all())
