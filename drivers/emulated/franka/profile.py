"""The two Franka Control Interface versions we emulate, as tables.

Little-endian and packed throughout. Numbers and field orders follow the public headers of the
vendor's client libraries (Apache-2.0): version 5 serves the Panda, version 10 the FR3 from
system 5.9 on. Sizes are checked against the unmodified vendor wheels in the tests.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np

JOINTS = 7
FCI_PORT = 1337
"""TCP port of the control interface."""
RobotName = Literal["fr3", "panda"]

HEADER = struct.Struct("<III")
"""Every TCP message: command, id, size with this header."""
CONNECT = struct.Struct("<HH")
"""Payload of a connect: the client's version, the UDP port it wants states on."""
MOVE = struct.Struct("<II")
"""Start of the payload of a move: controller, motion generator."""
COLLISION_BEHAVIOR = struct.Struct("<52d")
"""Thresholds, lower then upper: torque when accelerating, torque, the same two of force."""
TORQUE_CONTACT, TORQUE_COLLISION = slice(14, 21), slice(21, 28)
FORCE_CONTACT, FORCE_COLLISION = slice(40, 46), slice(46, 52)
FRAME = struct.Struct("<16d")
"""A homogeneous transform, column-major."""
LOAD = struct.Struct("<13d")
"""Mass, centre of mass (3), inertia (9)."""


class RobotMode(IntEnum):
    """What the arm is doing; the state carries it."""

    OTHER = 0
    IDLE = 1
    MOVE = 2
    GUIDING = 3
    REFLEX = 4
    USER_STOPPED = 5
    RECOVERY = 6


class Generator(IntEnum):
    """Who makes the motion, as the state reports it."""

    IDLE = 0
    JOINT_POSITION = 1
    JOINT_VELOCITY = 2
    CARTESIAN_POSITION = 3
    CARTESIAN_VELOCITY = 4
    NONE = 5


class Controller(IntEnum):
    """Who turns the motion into torques, as the state reports it."""

    JOINT_IMPEDANCE = 0
    CARTESIAN_IMPEDANCE = 1
    EXTERNAL = 2
    OTHER = 3


ERRORS = (
    "joint_position_limits_violation",
    "cartesian_position_limits_violation",
    "self_collision_avoidance_violation",
    "joint_velocity_violation",
    "cartesian_velocity_violation",
    "force_control_safety_violation",
    "joint_reflex",
    "cartesian_reflex",
    "max_goal_pose_deviation_violation",
    "max_path_pose_deviation_violation",
    "cartesian_velocity_profile_safety_violation",
    "joint_position_motion_generator_start_pose_invalid",
    "joint_motion_generator_position_limits_violation",
    "joint_motion_generator_velocity_limits_violation",
    "joint_motion_generator_velocity_discontinuity",
    "joint_motion_generator_acceleration_discontinuity",
    "cartesian_position_motion_generator_start_pose_invalid",
    "cartesian_motion_generator_elbow_limit_violation",
    "cartesian_motion_generator_velocity_limits_violation",
    "cartesian_motion_generator_velocity_discontinuity",
    "cartesian_motion_generator_acceleration_discontinuity",
    "cartesian_motion_generator_elbow_sign_inconsistent",
    "cartesian_motion_generator_start_elbow_invalid",
    "force_controller_desired_force_tolerance_violation",
    "start_elbow_sign_inconsistent",
    "communication_constraints_violation",
    "power_limit_violation",
    "cartesian_motion_generator_joint_position_limits_violation",
    "cartesian_motion_generator_joint_velocity_limits_violation",
    "cartesian_motion_generator_joint_velocity_discontinuity",
    "cartesian_motion_generator_joint_acceleration_discontinuity",
    "cartesian_position_motion_generator_invalid_frame",
    "controller_torque_discontinuity",
    "joint_p2p_insufficient_torque_for_planning",
    "tau_j_range_violation",
    "instability_detected",
    "joint_move_in_wrong_direction",
    "cartesian_spline_motion_generator_violation",
    "joint_via_motion_generator_planning_joint_limit_violation",
    "base_acceleration_initialization_timeout",
    "base_acceleration_invalid_reading",
)
"""Error flags in the order of the state's bytes."""

_STATE_REALS = (
    *(("O_T_EE", 16), ("O_T_EE_d", 16), ("F_T_EE", 16), ("EE_T_K", 16), ("F_T_NE", 16)),
    *(("NE_T_EE", 16), ("m_ee", 1), ("I_ee", 9), ("F_x_Cee", 3), ("m_load", 1), ("I_load", 9)),
    *(("F_x_Cload", 3), ("elbow", 2), ("elbow_d", 2), ("tau_J", 7), ("tau_J_d", 7)),
    *(("dtau_J", 7), ("q", 7), ("q_d", 7), ("dq", 7), ("dq_d", 7), ("ddq_d", 7)),
    *(("joint_contact", 7), ("cartesian_contact", 6), ("joint_collision", 7)),
    *(("cartesian_collision", 6), ("tau_ext_hat_filtered", 7), ("O_F_ext_hat_K", 6)),
    *(("K_F_ext_hat_K", 6), ("O_dP_EE_d", 6), ("O_ddP_O", 3), ("elbow_c", 2), ("delbow_c", 2)),
    *(("ddelbow_c", 2), ("O_T_EE_c", 16), ("O_dP_EE_c", 6), ("O_ddP_EE_c", 6), ("theta", 7)),
    ("dtheta", 7),
)
"""Real-valued fields of the state with their lengths; names as in the vendor's headers."""


def _state_type(real: str, accelerometers: bool) -> np.dtype[Any]:
    """Layout of the state datagram."""
    reals = list(_STATE_REALS)
    if accelerometers:
        reals += [("accelerometer_top", 18), ("accelerometer_bottom", 18)]
    return np.dtype(
        [("message_id", "<u8")]
        + [(name, real, (length,)) for name, length in reals]
        + [("generator", "u1"), ("controller", "u1")]
        + [("errors", "u1", (len(ERRORS),)), ("last_motion_errors", "u1", (len(ERRORS),))]
        + [("robot_mode", "u1"), ("control_command_success_rate", real)]
    )


def _command_type(torque_finished: bool) -> np.dtype[Any]:
    """Layout of the command datagram."""
    fields: list[Any] = [("message_id", "<u8"), ("q", "<f8", (7,)), ("dq", "<f8", (7,))]
    fields += [("pose", "<f8", (16,)), ("twist", "<f8", (6,)), ("elbow", "<f8", (2,))]
    fields += [("valid_elbow", "u1"), ("motion_finished", "u1"), ("torque", "<f8", (7,))]
    return np.dtype(fields + ([("torque_finished", "u1")] if torque_finished else []))


def _numbered(names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split())}


@dataclass(frozen=True)
class Profile:
    """One version of the interface, and the arm that speaks it."""

    robot: RobotName
    version: int
    commands: dict[str, int]
    """Command name to number."""
    move_status: dict[str, int]
    recovery_status: dict[str, int]
    state_type: np.dtype[Any]
    command_type: np.dtype[Any]
    torque_finished: bool
    """Whether a command can finish its torques apart from its motion."""
    lower_rad: tuple[float, ...]
    upper_rad: tuple[float, ...]
    velocity_limit_rad_s: tuple[float, ...]

    def generator_of(self, wish: int) -> Generator:
        """The mode the state reports for the generator number of a move.

        Raises:
            ValueError: there is no such generator.
        """
        if wish == _NO_GENERATOR:
            return Generator.NONE
        return Generator(wish + 1)


_NO_GENERATOR = 4
"""Asked for by pure torque control since version 7; before, it brought an idle velocity one."""
TORQUE_LIMIT_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
"""Largest joint torques of both arms; published by the manufacturer."""

FR3 = Profile(
    robot="fr3",
    version=10,
    commands=_numbered(
        "connect move stop_move set_collision_behavior set_joint_impedance "
        "set_cartesian_impedance set_guiding_mode set_ee_to_k set_ne_to_ee set_load "
        "automatic_error_recovery get_robot_model"
    ),
    move_status=_numbered(
        "success started preempted preempted_by_safety rejected_by_safety not_possible singular "
        "invalid reflex user_stop input_error aborted"
    ),
    recovery_status=_numbered("success not_possible safety manual reflex user_stop aborted"),
    state_type=_state_type("<f4", accelerometers=True),
    command_type=_command_type(torque_finished=True),
    torque_finished=True,
    lower_rad=(-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.5409, -3.0196),
    upper_rad=(2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196),
    velocity_limit_rad_s=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
)
"""Franka Research 3; limits as the robot's own model states them."""

PANDA = Profile(
    robot="panda",
    version=5,
    commands=_numbered(
        "connect move stop_move get_cartesian_limit set_collision_behavior set_joint_impedance "
        "set_cartesian_impedance set_guiding_mode set_ee_to_k set_ne_to_ee set_load set_filters "
        "automatic_error_recovery load_model_library"
    ),
    move_status=_numbered(
        "success started preempted not_possible singular invalid reflex user_stop input_error "
        "aborted"
    ),
    recovery_status=_numbered("success not_possible manual reflex user_stop aborted"),
    state_type=_state_type("<f8", accelerometers=False),
    command_type=_command_type(torque_finished=False),
    torque_finished=False,
    lower_rad=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    upper_rad=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    velocity_limit_rad_s=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
)
"""Franka Emika Robot (Panda); limits as published in the manufacturer's interface specification."""

PROFILES: dict[RobotName, Profile] = {"fr3": FR3, "panda": PANDA}
