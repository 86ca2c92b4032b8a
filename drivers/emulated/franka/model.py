"""Kinematics of the emulated Franka arm, and the models it hands to its clients.

The arm is described once, by its modified Denavit-Hartenberg parameters as the manufacturer
publishes them (Panda and FR3 share them); the URDF (FR3) and the model library (Panda) are
generated from the same numbers, without meshes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drivers.emulated.c_library import c_library
from drivers.emulated.franka.profile import TORQUE_LIMIT_NM, Profile
from teleop.messages import FloatArray

DH_A_M = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
DH_D_M = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
DH_TWIST_QUARTERS = (0, -1, 1, 1, -1, 1, 1)
"""Twist about x before each joint, in quarter turns."""
FLANGE_M = 0.107
HAND_TURN_RAD, HAND_LENGTH_M = -math.pi / 4, 0.1034
"""How the manufacturer's hand sits on the flange: turned about z, fingertips ahead of it."""
LINK_MASS_KG = 0.05
"""The emulated joints do not feel each other, and the models say so: links of next to no mass."""

_COS = tuple(1 - abs(quarters) for quarters in DH_TWIST_QUARTERS)
_SIN = DH_TWIST_QUARTERS
_OFFSETS = tuple((a, -d * s, d * c) for a, d, c, s in zip(DH_A_M, DH_D_M, _COS, _SIN, strict=True))
_STEPS = tuple(zip(_COS, _SIN, _OFFSETS, strict=True))

Transform = tuple[float, ...]
"""Homogeneous, 16 numbers, column-major, as on the wire."""
IDENTITY: Transform = tuple(np.eye(4).ravel().tolist())


class Pose(NamedTuple):
    """Where the arm is at some joint angles, in the base frame."""

    end_effector: Transform
    joint_axes: list[tuple[float, float, float]]
    joint_origins_m: list[tuple[float, float, float]]


def hand_on_flange() -> Transform:
    """End effector in the flange frame with the manufacturer's hand mounted."""
    c, s = math.cos(HAND_TURN_RAD), math.sin(HAND_TURN_RAD)
    return (c, s, 0.0, 0.0, -s, c, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, HAND_LENGTH_M, 1.0)


def product(a: Transform, b: Transform) -> Transform:
    """The transform ``a`` after ``b``."""
    product = np.reshape(b, (4, 4)) @ np.reshape(a, (4, 4))  # of the transposes
    return tuple(product.ravel().tolist())


def pose_at(q_rad: Sequence[float], tool: Transform) -> Pose:
    """Forward kinematics, written out in floats: it runs at 1 kHz in the interpreter.

    Args:
        q_rad: the seven joint angles.
        tool: end effector in the flange frame.
    """
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0
    x = y = z = 0.0
    axes, origins = [], []
    for angle, (ca, sa, (px, py, pz)) in zip(q_rad, _STEPS, strict=True):
        c, s = math.cos(angle), math.sin(angle)
        m10, m11 = s * ca, c * ca
        m20, m21 = s * sa, c * sa
        x, y, z = (
            x + r00 * px + r01 * py + r02 * pz,
            y + r10 * px + r11 * py + r12 * pz,
            z + r20 * px + r21 * py + r22 * pz,
        )
        r00, r01, r02, r10, r11, r12, r20, r21, r22 = (
            *(
                r00 * c + r01 * m10 + r02 * m20,
                r01 * m11 - r00 * s + r02 * m21,
                r02 * ca - r01 * sa,
            ),
            *(
                r10 * c + r11 * m10 + r12 * m20,
                r11 * m11 - r10 * s + r12 * m21,
                r12 * ca - r11 * sa,
            ),
            *(
                r20 * c + r21 * m10 + r22 * m20,
                r21 * m11 - r20 * s + r22 * m21,
                r22 * ca - r21 * sa,
            ),
        )
        axes.append((r02, r12, r22))
        origins.append((x, y, z))
    x, y, z = x + FLANGE_M * r02, y + FLANGE_M * r12, z + FLANGE_M * r22
    columns = []
    for tx, ty, tz, one in (tool[0:4], tool[4:8], tool[8:12], tool[12:16]):
        columns += [
            r00 * tx + r01 * ty + r02 * tz + x * one,
            r10 * tx + r11 * ty + r12 * tz + y * one,
            r20 * tx + r21 * ty + r22 * tz + z * one,
            one,
        ]
    return Pose(tuple(columns), axes, origins)


def jacobian(pose: Pose) -> FloatArray:
    """End effector twist (linear, then angular) per joint velocity, shape (6, 7)."""
    axes = np.array(pose.joint_axes)  # (7, 3)
    arms = np.array(pose.end_effector[12:15]) - np.array(pose.joint_origins_m)  # (7, 3)
    stacked: FloatArray = np.vstack([np.cross(axes, arms).T, axes.T])
    return stacked


_SPEED_OFFSET_RAD_S = (0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35)
_DECELERATION_RAD_S2 = (6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0)
"""Position-dependent speed limits of the FR3, from the model the manufacturer publishes."""


def robot_urdf(profile: Profile) -> bytes:
    """The arm without meshes, as a version 10 server sends it."""
    inertia = '<inertia ixx="1e-4" ixy="0" ixz="0" iyy="1e-4" iyz="0" izz="1e-4"/>'
    mass = f'<inertial><origin xyz="0 0 0"/><mass value="{LINK_MASS_KG}"/>{inertia}</inertial>'
    parts = [f'<?xml version="1.0"?><robot name="{profile.robot}"><link name="base"/>']
    parts += [f'<link name="link{i}">{mass}</link>' for i in range(8)]
    parts += [
        '<joint name="base_joint" type="fixed"><parent link="base"/><child link="link0"/></joint>',
        '<link name="link8"/><joint name="joint8" type="fixed"><parent link="link7"/>'
        f'<child link="link8"/><origin xyz="0 0 {FLANGE_M}"/></joint>',
    ]
    for i, (twist, (x, y, z)) in enumerate(zip(DH_TWIST_QUARTERS, _OFFSETS, strict=True)):
        parts.append(
            f'<joint name="joint{i + 1}" type="revolute">'
            f'<origin rpy="{twist * math.pi / 2} 0 0" xyz="{x} {y} {z}"/>'
            f'<parent link="link{i}"/><child link="link{i + 1}"/><axis xyz="0 0 1"/>'
            f'<limit effort="{TORQUE_LIMIT_NM[i]}" lower="{profile.lower_rad[i]}" '
            f'upper="{profile.upper_rad[i]}" velocity="{profile.velocity_limit_rad_s[i]}"/>'
            f'<position_based_velocity_limits deceleration_limit="{_DECELERATION_RAD_S2[i]}" '
            f'velocity_offset="{_SPEED_OFFSET_RAD_S[i]}"/></joint>'
        )
    return "".join([*parts, "</robot>"]).encode()


SOURCE = Path(__file__).with_name("model.c")


def model_library() -> Path:
    """The model library of a version 5 server, compiled when first needed.

    Raises:
        DeviceError: there is no C compiler, or it failed.
    """
    numbers = {"DH_A_M": DH_A_M, "DH_D_M": DH_D_M, "DH_TWIST_QUARTERS": DH_TWIST_QUARTERS}
    lines = [f"#define {name} {{{', '.join(map(str, row))}}}" for name, row in numbers.items()]
    header = "\n".join([*lines, f"#define FLANGE_M {FLANGE_M}", ""])
    flags = ("-O2", "-lm")
    return c_library("emulated Panda", SOURCE, flags, {"franka_model.h": header})
