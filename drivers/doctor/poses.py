"""The doctor's look at where an arm is: joints within their limits, gripper within its range."""

from __future__ import annotations

import numpy as np

from calibration.joints import finger_distance_m, gripper_scale
from drivers.base import ArmReading
from drivers.doctor.checks import Check
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_franka import FrankaArm

POSE_MARGIN_RAD = 0.15
"""An arm at rest hangs a little beyond its limits."""
OPENING_MARGIN = 0.15
"""Fingers give way: a gripper squeezed or spread by hand reads beyond 0 and 1."""


def pose_check(name: str, reading: ArmReading, rig: Rig) -> Check:
    """Whether joints read within their limits and the gripper within its calibrated range.

    Args:
        name: The arm.
        reading: What it read just now.
        rig: The rig.
    """
    thing = f"{name} pose"
    joints = rig.arm_model(name).joints
    low = np.array([joint.min_rad for joint in joints]) - POSE_MARGIN_RAD
    high = np.array([joint.max_rad for joint in joints]) + POSE_MARGIN_RAD
    angles = reading.position_rad
    beyond = [
        f"{joint.name} at {angle:.2f} rad ({joint.min_rad:g} to {joint.max_rad:g})"
        for joint, angle, out in zip(joints, angles, (angles < low) | (angles > high), strict=True)
        if out
    ]
    if beyond:
        remedy = "check limits and drive modes in the rig file, and how the horn is mounted"
        if isinstance(rig.arms[name], FrankaArm):
            remedy = "guide it back by hand, or widen its limits in the rig file"
        return Check("warn", thing, f"beyond its limits: {', '.join(beyond)}", remedy)
    if reading.gripper is None:
        return Check("ok", thing, "all joints within their limits")
    seen = f"gripper opening {reading.gripper:.2f}{_fingers(name, rig, reading.gripper)}"
    if not -OPENING_MARGIN <= reading.gripper <= 1 + OPENING_MARGIN:
        remedy = (
            f"0 is closed, 1 open: run tandem calibrate gripper {name}, or set "
            f"gripper_closed_rad and gripper_open_rad of {name}"
        )
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, f"all joints within their limits, {seen}")


def _fingers(name: str, rig: Rig, opening: float) -> str:
    """How far apart the fingers should be seen; empty when the crank is not described."""
    arm, model = rig.arms[name], rig.arm_model(name)
    if isinstance(arm, FrankaArm) or not isinstance(model, DynamixelArmModel):
        return ""
    gripper, scale = model.gripper, gripper_scale(arm, model)
    if gripper is None or scale is None or not gripper.horn_radius_m or not gripper.arm_length_m:
        return ""
    angle = scale.angle_rad(opening)
    half_m = finger_distance_m(angle, gripper.horn_radius_m, gripper.arm_length_m)
    return f", fingers {2000 * half_m:.0f} mm apart"
