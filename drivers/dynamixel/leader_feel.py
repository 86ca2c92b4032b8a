"""What the motors of a leader add to the hand that guides it: which current, at which reading.

Nothing here moves an arm that is held, and nothing here is needed: an arm with no feel is limp.
Each part is a torque, divided by the motor's torque per ampere and capped by itself; then a motor
stops adding to a motion that is already fast. What slows a motion down is left alone: a falling
arm is to be caught, not let go.

A servo's velocity is a mean over some 90 ms, so no part is a damper: the gears damp enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from calibration.joints import GripperScale, gripper_scale
from drivers.base import ArmReading
from teleop.errors import MissingExtraError, RigError
from teleop.kinematic_models import kinematic_model_file
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel, LeaderFeel, ServoJoint
from teleop.teleop_node import joint_order

if TYPE_CHECKING:
    import mujoco

LEAST_KG: Final = 0.2
"""A model whose joints carry less has no masses: the smallest arm of these weighs over 1 kg."""


class Weight:
    """The torque that carries an arm of a MuJoCo model, its base upright.

    Args:
        model: A model of ``teleop/models`` by name, or the path of an MJCF file.
        joint_names: Joints of the arm; others stay at their zero.

    Raises:
        MissingExtraError: MuJoCo is not installed.
        RigError: the model has no such joint, or no masses.
        UnknownNameError: there is no such model.
    """

    def __init__(self, model: str, joint_names: Sequence[str]) -> None:
        try:
            import mujoco
        except ImportError as error:
            raise MissingExtraError("mujoco", "ik", "gravity compensation") from error
        path = kinematic_model_file(model)
        try:
            self._model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise RigError(str(path), [f"not a MuJoCo model: {error}"]) from error
        known = [self._model.joint(i).name for i in range(self._model.njnt)]
        if absent := [name for name in joint_names if name not in known]:
            raise RigError(str(path), [f"has no joint {name!r}" for name in absent])
        self._forward = mujoco.mj_forward
        self._data: mujoco.MjData = mujoco.MjData(self._model)
        joints = [self._model.joint(name) for name in joint_names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints], dtype=np.intp)
        self._dof = np.array([joint.dofadr[0] for joint in joints], dtype=np.intp)
        carried = self._model.body_subtreemass[[joint.bodyid[0] for joint in joints]]
        if carried.max() < LEAST_KG:
            raise RigError(str(path), ["has no masses, so gravity cannot be compensated by it"])

    def torque_nm(self, position_rad: FloatArray) -> FloatArray:
        """Shape (J,): what its motors need to hold it still at this pose, shape (J,)."""
        self._data.qpos[self._qpos] = position_rad
        self._forward(self._model, self._data)
        return np.asarray(self._data.qfrc_bias[self._dof])


class Feel:
    """The currents of one leader, as its ``feel`` in the rig description asks for.

    Args:
        feel: What is asked for.
        joints: The leader's joints.
        weight: Its weight; needed for gravity compensation.
        range_rad: Shape (2, J), the lowest and highest angles that it and its follower share;
            needed for the barrier.
        gripper: Its gripper's angles; needed for the spring.
    """

    def __init__(
        self,
        feel: LeaderFeel,
        joints: Sequence[ServoJoint],
        weight: Weight | None,
        range_rad: FloatArray | None,
        gripper: GripperScale | None,
    ) -> None:
        self._feel = feel
        self._weight = weight
        self._gripper = gripper
        self._count = len(joints)
        self.nothing: FloatArray = np.zeros(self._count + (gripper is not None))
        """No current anywhere: joints, then the gripper if there is one."""
        if feel.gravity is not None:
            caps = feel.gravity.max_current_a
            self._weight_cap_a = np.array([caps.get(joint.name, 0.0) for joint in joints])
        if feel.barrier is not None and range_rad is not None:
            self._low_rad = range_rad[0] + feel.barrier.margin_rad
            self._high_rad = range_rad[1] - feel.barrier.margin_rad

    def current_a(self, reading: ArmReading, nm_per_a: FloatArray) -> FloatArray:
        """The current of each motor, joints and then the gripper; always finite.

        Args:
            reading: The arm as it is now; one that is not of finite numbers asks for nothing.
            nm_per_a: Torque of each joint per ampere of its motors; NaN where no current can be
                asked for.
        """
        n = self._count
        current, rate = self.nothing.copy(), self.nothing.copy()
        rate[:n] = reading.velocity_rad_s
        if self._gripper is not None:
            current[n] = self._opening_nm(reading.gripper) / nm_per_a[n]
            rate[n] = (reading.gripper_velocity or 0.0) * self._gripper.stroke_rad
        seen = (reading.position_rad, rate, reading.gripper or 0.0)
        if not all(np.isfinite(values).all() for values in seen):
            return self.nothing
        current[:n] += self._carrying_a(reading.position_rad, nm_per_a[:n])
        current[:n] += self._pushing_back_a(reading.position_rad, nm_per_a[:n])
        current[np.isnan(nm_per_a)] = 0.0
        current *= self._left_at(rate, current)
        return current if np.isfinite(current).all() else self.nothing

    def _carrying_a(self, position_rad: FloatArray, nm_per_a: FloatArray) -> FloatArray:
        gravity = self._feel.gravity
        if gravity is None or self._weight is None:
            return self.nothing[: self._count]
        torque_nm = gravity.gain * gravity.mass_scale * self._weight.torque_nm(position_rad)
        return _capped(torque_nm / nm_per_a, self._weight_cap_a)

    def _pushing_back_a(self, position_rad: FloatArray, nm_per_a: FloatArray) -> FloatArray:
        barrier = self._feel.barrier
        if barrier is None:
            return self.nothing[: self._count]
        below = np.maximum(self._low_rad - position_rad, 0.0)
        above = np.maximum(position_rad - self._high_rad, 0.0)
        torque_nm = barrier.stiffness_nm_rad * (below - above)
        return _capped(torque_nm / nm_per_a, barrier.max_current_a)

    def _opening_nm(self, opening: float | None) -> float:
        """Torque of the gripper's spring along the servo's angle."""
        spring = self._feel.gripper_spring
        if spring is None or self._gripper is None or opening is None:
            return 0.0
        torque_nm = spring.stiffness_nm_rad * (spring.rest_opening - opening)
        torque_nm *= self._gripper.stroke_rad
        return float(np.clip(torque_nm, -spring.max_torque_nm, spring.max_torque_nm))

    def _left_at(self, rate_rad_s: FloatArray, current: FloatArray) -> FloatArray:
        """What speed leaves of each current, 0 ... 1; all of it where it brakes."""
        cutoff = self._feel.cutoff_rad_s
        left = np.clip(2.0 * (1.0 - np.abs(rate_rad_s) / cutoff), 0.0, 1.0)
        return np.where(current * rate_rad_s > 0.0, left, 1.0)


def _capped(current_a: FloatArray, cap_a: FloatArray | float) -> FloatArray:
    return np.minimum(np.maximum(current_a, -cap_a), cap_a)


def feel_of(name: str, rig: Rig) -> Feel | None:
    """The feel that a rig gives an arm; None for most arms.

    Raises:
        MissingExtraError: it compensates gravity, and MuJoCo is not installed.
        RigError: the arm's model cannot be weighed.
    """
    arm, model = rig.arms[name], rig.arm_model(name)
    if not isinstance(arm, DynamixelArm) or not isinstance(model, DynamixelArmModel):
        return None
    if arm.feel is None:
        return None
    weight = None
    if arm.feel.gravity is not None and model.kinematics is not None:
        weight = Weight(model.kinematics, [joint.name for joint in model.joints])
    range_rad = None if arm.feel.barrier is None else _shared_range(name, rig)
    return Feel(arm.feel, model.joints, weight, range_rad, gripper_scale(arm, model))


def _shared_range(leader: str, rig: Rig) -> FloatArray:
    """Shape (2, J): what both a leader and the arm that follows it can reach, leader's order."""
    follower = next(name for name, arm in rig.arms.items() if arm.leader == leader)
    mine, theirs = rig.arm_model(leader).joints, rig.arm_model(follower).joints
    low = np.array([joint.min_rad for joint in mine])
    high = np.array([joint.max_rad for joint in mine])
    for joint, column in zip(theirs, joint_order(rig, leader, follower), strict=True):
        low[column] = max(low[column], joint.min_rad)
        high[column] = min(high[column], joint.max_rad)
    return np.array([low, high])
