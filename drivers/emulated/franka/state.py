"""The state datagram of the emulated Franka: built once, refreshed every millisecond."""

from __future__ import annotations

from typing import Any

import numpy as np

from drivers.emulated.franka.arm import EmulatedArm
from drivers.emulated.franka.model import (
    IDENTITY,
    Transform,
    hand_on_flange,
    pose_at,
    product,
)
from drivers.emulated.franka.motion import MotionControl
from drivers.emulated.franka.profile import ERRORS, Generator, Profile

HAND_MASS_KG = 0.73
HAND_COM_M = (-0.01, 0.0, 0.03)
HAND_INERTIA = (0.001, 0.0, 0.0, 0.0, 0.0025, 0.0, 0.0, 0.0, 0.0017)
"""The manufacturer's hand as Desk describes it."""
GRAVITY_M_S2 = (0.0, 0.0, -9.81)
ELBOW_SIGN = -1.0
"""Sign of the fourth joint, whose whole range is negative."""


class StateDatagram:
    """Keeps the datagram's bytes; a client's frames and load live here."""

    def __init__(self, profile: Profile, arm: EmulatedArm, motion: MotionControl) -> None:
        self._arm = arm
        self._motion = motion
        self._record = np.zeros((), profile.state_type)
        self._fields: dict[str, Any] = {
            name: self._record[name] for name in profile.state_type.names or ()
        }
        self._bytes = memoryview(self._record.reshape(1).view("u1"))  # type: ignore[arg-type]
        self._flags: tuple[object, ...] = ()
        self._nominal = hand_on_flange()
        for frame in ("EE_T_K", "NE_T_EE"):
            self._fields[frame][:] = IDENTITY
        self._fields["F_T_NE"][:] = self._nominal
        self._fields["m_ee"][:] = HAND_MASS_KG
        self._fields["F_x_Cee"][:] = HAND_COM_M
        self._fields["I_ee"][:] = HAND_INERTIA
        if "O_ddP_O" in self._fields:
            self._fields["O_ddP_O"][:] = GRAVITY_M_S2
        for elbow in ("elbow", "elbow_d", "elbow_c"):
            self._fields[elbow][1] = ELBOW_SIGN
        self.set_tool(IDENTITY)

    def set_tool(self, tool: Transform) -> None:
        """End effector in the nominal end effector's frame."""
        self._motion.tool = product(self._nominal, tool)
        self._fields["NE_T_EE"][:] = tool
        self._fields["F_T_EE"][:] = self._motion.tool

    def set_stiffness_frame(self, frame: Transform) -> None:
        """Stiffness frame in the end effector's."""
        self._fields["EE_T_K"][:] = frame

    def set_load(self, mass_kg: float, com_m: Transform, inertia: Transform) -> None:
        """What is held, in the flange frame."""
        self._fields["m_load"][:] = mass_kg
        self._fields["F_x_Cload"][:] = com_m
        self._fields["I_load"][:] = inertia

    def refresh(self, time_ms: int) -> memoryview:
        """The bytes of the present state; good until the next call."""
        arm, fields = self._arm, self._fields
        self._record["message_id"] = time_ms
        fields["q"][:] = fields["theta"][:] = arm.q
        fields["dq"][:] = fields["dtheta"][:] = arm.dq
        fields["q_d"][:] = arm.goal
        fields["dq_d"][:] = arm.goal_speed
        fields["ddq_d"][:] = arm.goal_acceleration
        fields["tau_J"][:] = arm.sensed_nm
        fields["tau_J_d"][:] = arm.commanded_nm
        # The robot reports what its sensors feel beyond its model: the push with its sign turned.
        fields["tau_ext_hat_filtered"][:] = -arm.outside_nm
        fields["joint_contact"][:] = np.abs(arm.outside_nm) > self._motion.contact_nm
        pose = pose_at(arm.q.tolist(), self._motion.tool).end_effector
        fields["O_T_EE"][:] = fields["O_T_EE_d"][:] = pose
        in_space = self._motion.generator is Generator.CARTESIAN_POSITION
        fields["O_T_EE_c"][:] = self._motion.commanded_pose if in_space else pose
        fields["O_dP_EE_c"][:] = fields["O_dP_EE_d"][:] = self._motion.commanded_twist
        fields["O_ddP_EE_c"][:] = self._motion.commanded_acceleration
        for elbow in ("elbow", "elbow_d", "elbow_c"):
            fields[elbow][0] = arm.q[2]
        self._refresh_modes()
        return self._bytes

    def _refresh_modes(self) -> None:
        motion = self._motion
        self._record["control_command_success_rate"] = motion.success_rate
        modes = (motion.mode, motion.generator, motion.controller)
        flags = (*modes, motion.errors, motion.last_motion_errors)
        if flags == self._flags:
            return
        self._flags = flags
        self._record["robot_mode"] = motion.mode
        self._record["generator"] = motion.generator
        self._record["controller"] = motion.controller
        self._fields["errors"][:] = [error in motion.errors for error in ERRORS]
        self._fields["last_motion_errors"][:] = [
            error in motion.last_motion_errors for error in ERRORS
        ]
        self._fields["joint_collision"][:] = motion.collided
