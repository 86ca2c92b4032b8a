"""Reading an Interbotix motor configuration file as an arm model of ours.

Format: interbotix_xs_sdk motor config (``joint_order``, ``sleep_positions``, ``groups``,
``grippers``, ``shadows``, ``motors``), as in interbotix_xsarm_control/config/*.yaml.

The file knows nothing of servo models, of the angles at which the gripper is closed and
open, or of a start pose. Any model that answers the ping is accepted, the start pose is the
sleep pose unless ``hardware.yaml`` gives another, and the gripper's angles must stand there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from teleop.errors import RigError

TICKS_PER_TURN = 4096
TICK_ZERO = 2048

DEFAULT_SERVO = "any"
DEFAULT_ACCELERATION_RAD_S2 = 20.0
"""As in the shipped ``hardware.yaml``; the file has no acceleration limit."""
CURRENT_UNIT_A = 2.69e-3
"""Of register 38 on XM430 and XM540 (ROBOTIS e-manual)."""


def arm_model_from_motor_config(path: Path, own: dict[str, Any]) -> dict[str, Any]:
    """The plain mapping of a ``DynamixelArmModel`` from an Interbotix file.

    Args:
        path: The motor configuration.
        own: What ``hardware.yaml`` adds; its keys win over those read here.

    Raises:
        RigError: the file is absent, is not YAML, or lacks a needed part.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RigError(str(path), [f"{path}: cannot be read: {reason}"]) from None
    try:
        return _model(tree, own)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise RigError(
            str(path), [f"{path}: not a usable Interbotix motor config: {why}"]
        ) from None


def _model(tree: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    motors: dict[str, dict[str, Any]] = tree["motors"]
    grippers: dict[str, dict[str, Any]] = tree.get("grippers") or {}
    shadows: dict[str, list[str]] = {
        joint: list((spec or {}).get("shadow_list", []))
        for joint, spec in (tree.get("shadows") or {}).items()
    }
    arm_joints = [name for name in tree["joint_order"] if name not in grippers]
    sleep = dict(zip(tree["joint_order"], tree["sleep_positions"], strict=True))
    velocity = min(_velocity_rad_s(motors[name]) for name in arm_joints)
    model: dict[str, Any] = {
        "driver": "dynamixel",
        "joints": [_joint(name, motors, shadows.get(name, [])) for name in arm_joints],
        "max_velocity_rad_s": velocity,
        "max_acceleration_rad_s2": DEFAULT_ACCELERATION_RAD_S2,
        "sleep_rad": [float(sleep[name]) for name in arm_joints],
        "start_rad": [float(sleep[name]) for name in arm_joints],
    }
    if len(grippers) > 1:
        raise ValueError(f"it has {len(grippers)} grippers, at most one is supported")
    for name, spec in grippers.items():
        model["gripper"] = _gripper(motors[name], spec, own.get("gripper") or {})
    return model


def _gripper(motor: dict[str, Any], spec: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    if missing := [key for key in ("closed_rad", "open_rad") if key not in own]:
        raise ValueError(
            f"it cannot tell the gripper's angles; add gripper: {{{', '.join(missing)}}} beside it"
        )
    gripper: dict[str, Any] = {
        "id": int(motor["ID"]),
        "servo": DEFAULT_SERVO,
        "reverse": bool(int(motor.get("Drive_Mode", 0)) & 1),
        "horn_radius_m": float(spec["horn_radius"]),
        "arm_length_m": float(spec["arm_length"]),
    }
    if "Current_Limit" in motor:
        gripper["current_limit_a"] = int(motor["Current_Limit"]) * CURRENT_UNIT_A
    return gripper


def _joint(name: str, motors: dict[str, dict[str, Any]], shadow_list: list[str]) -> dict[str, Any]:
    motor = motors[name]
    joint: dict[str, Any] = {
        "name": name,
        "id": int(motor["ID"]),
        "servo": DEFAULT_SERVO,
        "min_rad": _rad(int(motor["Min_Position_Limit"])),
        "max_rad": _rad(int(motor["Max_Position_Limit"])),
        "reverse": bool(int(motor.get("Drive_Mode", 0)) & 1),
    }
    if len(shadow_list) > 1:
        raise ValueError(f"joint {name} has {len(shadow_list)} shadows, at most one is supported")
    for shadow in shadow_list:
        follows = int(motors[shadow].get("Secondary_ID", joint["id"]))
        if follows != joint["id"]:
            raise ValueError(
                f"{shadow} has Secondary_ID {follows}, but {name} has ID {joint['id']}"
            )
        joint["shadow_id"] = int(motors[shadow]["ID"])
        joint["shadow_reverse"] = bool(int(motors[shadow].get("Drive_Mode", 0)) & 1)
    return joint


def _rad(tick: int) -> float:
    return (tick - TICK_ZERO) * 2 * math.pi / TICKS_PER_TURN


def _velocity_rad_s(motor: dict[str, Any]) -> float:
    """Velocity_Limit is in 0.229 rpm (ROBOTIS e-manual)."""
    return float(motor.get("Velocity_Limit", 131)) * 0.229 * 2 * math.pi / 60
