"""``tandem calibrate hand-eye``: where a camera is, on an arm's tool or beside the arm.

The board lies still and the camera moves with the tool (eye in hand), or the gripper holds the
board and the camera stands still (eye to hand). The arm moves itself through small changes of
the pose that it was put into, or is put into poses by hand.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np

from calibration.board import Board, Corners
from calibration.cameras import Intrinsics
from calibration.hand_eye import HandEyeFit, HandEyeView, Where, solve
from calibration.result_values import CameraValues, HandEyeValues, Transform
from calibration.results import Result, Results, make_result
from drivers.base import Arm, CameraDevice
from drivers.calibrate.camera import grey_of
from drivers.calibrate.guide import CYCLE_S, Guide, ask, move_to, still_reading
from drivers.identity import identity_of
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rotations import quaternion_of_matrix

Forward = Callable[[FloatArray], FloatArray]
"""From joint angles, rad, to the pose (4, 4) of the tool in the base."""

FEWEST_CORNERS = 12
"""Of a view: fewer pin the board's tilt too loosely."""
ENOUGH_VIEWS = 15
SETTLE_S = 0.3
JOINT_SIGMA_RAD = 2 * math.pi / 4096 / math.sqrt(12)
"""Of a servo's reading: anywhere within its tick of 1/4096 turn (ROBOTIS e-manual)."""
FRAME_WITHIN_S = 2.0
LIMIT_MARGIN_RAD = 0.05


@dataclass(frozen=True, slots=True)
class HandEyePlan:
    """What is to be calibrated."""

    camera: str
    arm: str
    where: Where = "eye_in_hand"
    board: Board = field(default_factory=Board)
    views: int = 25
    by_hand: bool = False
    """The operator puts the limp arm into each pose; else it moves itself."""
    reach_rad: float = 0.15
    """How far the first three joints move to either side; the wrist moves up to four times as
    far."""
    made_by: str = ""


def calibrate_hand_eye(
    plan: HandEyePlan,
    rig: Rig,
    results: Results,
    arm: Arm,
    camera: CameraDevice,
    tool_pose: Forward,
    clock: Clock,
    guide: Guide,
) -> tuple[Result, HandEyeFit]:
    """Look at the board from many poses of the arm.

    Args:
        plan: What is calibrated and how.
        rig: The rig.
        results: Of the rig: the camera's intrinsics are among them.
        arm: Connected.
        camera: Connected.
        tool_pose: The arm's forward kinematics.
        clock: Paces the motion.
        guide: The operator.

    Raises:
        StoppedError: by the operator.
        DeviceError: no intrinsics, the arm is blocked, or too few views show the board.
    """
    lens = intrinsics_of(results, plan.camera, rig)
    placer = _poses_by_hand if plan.by_hand else _poses_by_motor
    views: list[HandEyeView] = []
    with contextlib.closing(placer(plan, rig, arm, clock, guide)) as poses:
        for _ in poses:
            joints_rad, corners = _look(plan, arm, camera, clock)
            if len(corners.ids) < FEWEST_CORNERS:
                guide.say(f"{len(corners.ids)} corners seen, {FEWEST_CORNERS} are needed: left out")
                continue
            views.append(view_of(joints_rad, corners, tool_pose))
            guide.say(f"view {len(views)} of {plan.views}, {len(corners.ids)} corners")
            if len(views) == plan.views:
                break
    if len(views) < min(plan.views, ENOUGH_VIEWS):
        raise DeviceError(
            f"{plan.camera}: the board was seen well in {len(views)} poses, {ENOUGH_VIEWS} are "
            "needed; begin from a pose that shows it whole and in the middle"
        )
    fit = solve(plan.where, views, lens, plan.camera)
    return _result(plan, rig, results, fit), fit


def view_of(joints_rad: FloatArray, corners: Corners, tool_pose: Forward) -> HandEyeView:
    """What the arm and the camera saw, and how uncertain the arm is of it."""
    moved = [tool_pose(joints_rad + JOINT_SIGMA_RAD * axis) for axis in np.eye(len(joints_rad))]
    return HandEyeView(tool_pose(joints_rad), corners, moved)


def intrinsics_of(results: Results, camera: str, rig: Rig) -> Intrinsics:
    """A camera's measured intrinsics.

    Raises:
        DeviceError: never measured, or at another picture size.
    """
    result = results.get("camera", camera)
    if result is None:
        raise DeviceError(
            f"{camera}: its intrinsics are not known; run: tandem calibrate camera {camera}"
        )
    values = result.values_as(CameraValues)
    config = rig.cameras[camera]
    if (values.width, values.height) != (config.width, config.height):
        raise DeviceError(
            f"{camera}: calibrated at {values.width}x{values.height}, now it runs at "
            f"{config.width}x{config.height}; run: tandem calibrate camera {camera}"
        )
    matrix, distortion = np.array(values.matrix), np.array(values.distortion)
    return Intrinsics(values.width, values.height, matrix, distortion)


def _poses_by_hand(
    plan: HandEyePlan, rig: Rig, arm: Arm, clock: Clock, guide: Guide
) -> Generator[None]:
    ask(guide, f"hold {plan.arm}: limp from now on", plan.camera)
    # A gripper that holds the board goes on holding it.
    arm.set_torque(joints=False, gripper=plan.where == "eye_to_hand" and arm.has_gripper)
    turn = "turn the tool differently each time, by 30 degrees and more, about all axes"
    text = f"put {plan.arm} into a new pose with the board in view, still; {turn}"
    while guide.ready(text, arm.read):
        still_reading(arm, clock, plan.arm)
        yield


def _poses_by_motor(
    plan: HandEyePlan, rig: Rig, arm: Arm, clock: Clock, guide: Guide
) -> Generator[None]:
    reach = math.degrees(plan.reach_rad)
    ask(
        guide,
        f"{plan.arm} will move by itself, up to {reach:.0f} degrees in its first joints and "
        f"{4 * reach:.0f} in its wrist: clear its way, keep the emergency switch at hand",
        plan.camera,
    )
    arm.set_torque(joints=True, gripper=plan.where == "eye_to_hand" and arm.has_gripper)
    home = still_reading(arm, clock, plan.arm).position_rad
    joints = rig.arm_model(plan.arm).joints
    low = np.array([joint.min_rad for joint in joints]) + LIMIT_MARGIN_RAD
    high = np.array([joint.max_rad for joint in joints]) - LIMIT_MARGIN_RAD
    blocked = True
    try:
        for change in pose_changes(len(joints), plan.reach_rad, 3 * plan.views):
            move_to(arm, clock, np.clip(home + change, low, high), plan.arm)
            still_reading(arm, clock, plan.arm)
            blocked = False
            yield
            blocked = True
    finally:
        if not blocked:
            move_to(arm, clock, home, plan.arm)


def pose_changes(joints: int, reach_rad: float, count: int) -> Iterator[FloatArray]:
    """Changes of the joints (J,) that turn the tool about all axes, none like another.

    A low-discrepancy sequence (R. Roberts' generalised golden ratio) fills the box evenly,
    however many of them turn out to be usable.
    """
    scale = np.full(joints, reach_rad)
    scale[3:] *= [2.5, 4.0, 4.0, 2.5][: joints - 3] if joints > 3 else []
    golden = 2.0
    for _ in range(40):
        golden = (1 + golden) ** (1 / (joints + 1))
    step = golden ** -np.arange(1, joints + 1)
    for k in range(1, count + 1):
        yield scale * (2 * ((0.5 + k * step) % 1.0) - 1)


def _look(
    plan: HandEyePlan, arm: Arm, camera: CameraDevice, clock: Clock
) -> tuple[FloatArray, Corners]:
    """Joint angles, and the board in a picture taken meanwhile; the arm stands still.

    Raises:
        DeviceError: no new picture comes, or the arm is gone.
    """
    from_ns = clock.now_ns() + ns_from_s(SETTLE_S)
    give_up_ns = from_ns + ns_from_s(FRAME_WITHIN_S)
    joints_rad: list[FloatArray] = []
    while clock.now_ns() < give_up_ns:
        reading = arm.read()  # silence on its bus would let go of it
        if reading.stamp_ns >= from_ns:
            joints_rad.append(reading.position_rad)
        fresh = [f for f in camera.take(clock.now_ns()) if f.stamp_ns >= from_ns]
        if fresh and joints_rad:
            return np.mean(joints_rad, axis=0), plan.board.detect(grey_of(fresh[-1]))
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(CYCLE_S))
    raise DeviceError(f"{plan.camera}: no new picture within {FRAME_WITHIN_S:g} s")


def _result(plan: HandEyePlan, rig: Rig, results: Results, fit: HandEyeFit) -> Result:
    values = HandEyeValues(
        where=plan.where,
        arm=plan.arm,
        camera=transform_of(fit.camera),
        board=transform_of(fit.board),
    )
    kept = list(fit.kept)
    residuals = {
        "median_m": float(np.median(fit.residual_m[kept])),
        "worst_m": float(fit.residual_m[kept].max()),
        "median_rad": float(np.median(fit.residual_rad[kept])),
        "worst_rad": float(fit.residual_rad[kept].max()),
        "rms_px": fit.rms_px,
        "sigma_m": fit.sigma_m,
        "sigma_rad": fit.sigma_rad,
        "views": len(kept),
        "views_left_out": len(fit.residual_m) - len(kept),
    }
    devices = {name: identity_of(name, rig) for name in (plan.camera, plan.arm)}
    bases = (results.get("camera", plan.camera), results.get("arm", plan.arm))
    based_on = {base.stem: base.sha256 for base in bases if base is not None}
    return make_result("hand_eye", plan.camera, values, residuals, devices, plan.made_by, based_on)


def transform_of(pose: FloatArray) -> Transform:
    """A pose (4, 4) as it is stored."""
    x, y, z = (float(v) for v in pose[:3, 3])
    w, i, j, k = (float(v) for v in quaternion_of_matrix(pose))
    return Transform(position_m=(x, y, z), quaternion_wxyz=(w, i, j, k))


def report(fit: HandEyeFit) -> list[str]:
    """The result in words."""
    kept = list(fit.kept)
    frame = "tool" if fit.where == "eye_in_hand" else "base"
    at = ", ".join(f"{1e3 * v:+.1f}" for v in fit.camera[:3, 3])
    left_out = len(fit.residual_m) - len(kept)
    return [
        f"camera in the {frame}: {at} mm (+- {1e3 * fit.sigma_m:.1f} mm, "
        f"+- {math.degrees(fit.sigma_rad):.2f} degrees)",
        f"the views agree within {1e3 * float(np.median(fit.residual_m[kept])):.1f} mm and "
        f"{math.degrees(float(np.median(fit.residual_rad[kept]))):.2f} degrees (median of "
        f"{len(kept)}" + (f", {left_out} left out)" if left_out else ")"),
    ]
