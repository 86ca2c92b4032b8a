"""``tandem calibrate vr``: where a headset's or base station's frame is, seen from an arm.

A controller or tracker is fixed to the gripper (held by it, or strapped on), and the limp arm is
put into a dozen poses by hand. How the controller sits does not matter: it is found as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from calibration.frames import FrameFit, frame_from_points, frame_from_poses
from calibration.poses import nearest_rotation, pose, rotation_from_quaternion
from calibration.result_values import VrValues
from calibration.results import Result, make_result
from drivers.base import Arm, HandReading, InputDevice
from drivers.calibrate.guide import CYCLE_S, Guide, ask, still_reading
from drivers.calibrate.hand_eye import Forward, transform_of
from drivers.identity import identity_of
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rig_inputs import OpenVrInput, WebXrInput

POSE_INPUTS = (OpenVrInput, WebXrInput)
"""Kinds of inputs that tell where they are."""
WATCH_S = 0.4
FEWEST_READINGS = 10
"""Over ``WATCH_S``: VR devices give 50 to 100 a second."""
STEADY_M = 0.003
"""Tracking noise of a controller at rest is below 1 mm; hands that shake are not at rest."""
MOST_LEFT_OUT = 3
"""Poses in a row: after as many, holding the arm elsewhere does not help."""
TILT_SUSPICIOUS_RAD = math.radians(5)


@dataclass(frozen=True, slots=True)
class VrPlan:
    """What is to be calibrated."""

    input: str
    arm: str
    poses: int = 12
    touch: bool = False
    """The tracked point is held to the tool's tip anew in each pose: only positions are used, as
    is best for bare hands, whose fingertip is tracked well and their rotation is not."""
    made_by: str = ""


def calibrate_vr(
    plan: VrPlan,
    rig: Rig,
    arm: Arm,
    device: InputDevice,
    tool_pose: Forward,
    clock: Clock,
    guide: Guide,
) -> tuple[Result, FrameFit]:
    """Pair poses of the tool with poses of the controller fixed to it.

    Args:
        plan: Which input and arm.
        rig: The rig.
        arm: Connected.
        device: Connected; serves the input.
        tool_pose: The arm's forward kinematics.
        clock: Of the devices.
        guide: The operator.

    Raises:
        StoppedError: by the operator.
        DeviceError: the controller is not tracked in ``MOST_LEFT_OUT`` poses in a row, too few
            poses, or no second axis of rotation.
    """
    how = (
        f"keep the tracked point of {plan.input} at the tool's tip in every pose"
        if plan.touch
        else f"fix the controller {plan.input} to the gripper so that it cannot slip"
    )
    ask(guide, f"{how}; hold {plan.arm}: limp from now on", plan.input)
    # A gripper that holds the controller goes on holding it.
    arm.set_torque(joints=False, gripper=arm.has_gripper and not plan.touch)
    tools: list[FloatArray] = []
    hands: list[FloatArray] = []
    left_out = 0
    turn = "turned by 30 degrees and more from the ones before, about all axes"
    while len(tools) < plan.poses and guide.ready(
        f"pose {len(tools) + 1} of {plan.poses}: hold {plan.arm} still, {turn}", arm.read
    ):
        reading = still_reading(arm, clock, plan.arm)
        try:
            hands.append(_hand(plan, arm, device, clock))
        except DeviceError as error:
            left_out += 1
            if left_out == MOST_LEFT_OUT:
                raise DeviceError(
                    f"{error}; {left_out} poses in a row were left out, nothing was saved"
                ) from None
            guide.say(f"{error}; this pose is left out")
            continue
        left_out = 0
        tools.append(tool_pose(reading.position_rad))
    if plan.touch:
        points = [np.array(poses).reshape(-1, 4, 4)[:, :3, 3] for poses in (tools, hands)]
        fit = frame_from_points(points[0], points[1], plan.input)
    else:
        fit = frame_from_poses(tools, hands, plan.input)
    return _result(plan, rig, fit), fit


def _hand(plan: VrPlan, arm: Arm, device: InputDevice, clock: Clock) -> FloatArray:
    """Mean pose (4, 4) of the controller over a moment.

    Raises:
        DeviceError: not tracked, silent or moving.
    """
    device.take(clock.now_ns())  # what came before is of another pose
    end_ns = clock.now_ns() + ns_from_s(WATCH_S)
    seen: list[HandReading] = []
    while clock.now_ns() < end_ns:
        arm.read()
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(CYCLE_S))
        new = device.take(clock.now_ns()).get(plan.input, ())
        seen += [reading for reading in new if isinstance(reading, HandReading)]
    tracked = [reading for reading in seen if reading.tracked]
    if len(tracked) < FEWEST_READINGS or len(tracked) < len(seen):
        raise DeviceError(
            f"{plan.input}: tracked in {len(tracked)} of {len(seen)} readings; "
            "nothing may stand between it and the headset or base stations"
        )
    places = np.array([reading.position_m for reading in tracked])
    if np.linalg.norm(places - places.mean(axis=0), axis=1).max() > STEADY_M:
        raise DeviceError(f"{plan.input}: moved while it was read; hold the arm still")
    turns = sum(rotation_from_quaternion(reading.quaternion_wxyz) for reading in tracked)
    return pose(nearest_rotation(np.asarray(turns)), places.mean(axis=0))


def _result(plan: VrPlan, rig: Rig, fit: FrameFit) -> Result:
    held = fit.controller_in_tool
    values = VrValues(
        arm=plan.arm,
        frame_in_base=transform_of(fit.frame_in_base),
        controller_in_tool=None if held is None else transform_of(held),
        operator_yaw_rad=fit.heading_rad,
    )
    kept = list(fit.kept)
    turned = np.zeros(1) if fit.residual_rad is None else fit.residual_rad[kept]
    residuals = {
        "median_m": float(np.median(fit.residual_m[kept])),
        "worst_m": float(fit.residual_m[kept].max()),
        "median_rad": float(np.median(turned)),
        "worst_rad": float(turned.max()),
        "tilt_rad": fit.tilt_rad,
        "poses": len(kept),
        "poses_left_out": len(fit.residual_m) - len(kept),
    }
    devices = {name: identity_of(name, rig) for name in (plan.input, plan.arm)}
    return make_result("vr", plan.input, values, residuals, devices, plan.made_by)


def report(fit: FrameFit) -> list[str]:
    """The result in words."""
    kept = list(fit.kept)
    at = ", ".join(f"{v:+.3f}" for v in fit.frame_in_base[:3, 3])
    lines = [
        f"origin of the VR frame in the base: {at} m; its forward direction heads "
        f"{math.degrees(fit.heading_rad):+.1f} degrees (operator_yaw_rad {fit.heading_rad:.3f})",
        f"the poses agree within {1e3 * float(np.median(fit.residual_m[kept])):.1f} mm "
        f"(median of {len(kept)})",
    ]
    if fit.tilt_rad > TILT_SUSPICIOUS_RAD:
        lines.append(
            f"the two frames' verticals differ by {math.degrees(fit.tilt_rad):.1f} degrees: is the "
            "arm's base level, and the floor of the VR system calibrated?"
        )
    return lines
