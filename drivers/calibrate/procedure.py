"""``tandem calibrate``: opens the devices of one procedure, runs it, keeps the result.

The rig's earlier results are in force meanwhile, as they are in every job.
"""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from calibration.board import Board
from calibration.poses import pose, rotation_from_quaternion
from calibration.result_values import Kind
from calibration.results import Result, Results, folder_of, load_results, write_result
from calibration.rules import check_calibration, enforced, not_taken
from drivers.base import Arm, CameraDevice
from drivers.calibrate import arm as calibrate_arm
from drivers.calibrate import camera as calibrate_camera
from drivers.calibrate import gripper as calibrate_gripper
from drivers.calibrate import hand_eye as calibrate_hand_eye
from drivers.calibrate import latency as calibrate_latency
from drivers.calibrate import vr as calibrate_vr
from drivers.calibrate.guide import Guide
from drivers.identity import identities_found
from drivers.registry import open_arm, open_camera, open_input
from teleop.clock import Clock, MonotonicClock
from teleop.errors import DeviceError, RigError, TandemError, UnknownNameError
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rig_files import load_rig
from teleop.rig_inputs import nodes_of


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What the command line asks for; an option that the kind does not use is refused."""

    kind: Kind
    name: str
    """The arm, the camera (``camera``, ``hand_eye``) or the input (``vr``)."""
    hardware: Path
    emulate: bool = False
    arm: str | None = None
    """``hand_eye`` and ``vr``: the arm that moves."""
    reference: str | None = None
    """``arm``: the one to compare with; its partner in the rig file when not given."""
    apply: bool = False
    """``arm``: take the offsets over."""
    by_hand: bool = False
    """``gripper`` and ``hand_eye``."""
    beside: bool = False
    """``hand_eye``: the camera stands beside the arm."""
    touch: bool = False
    """``vr``: the tracked point is held to the tool's tip."""
    cameras: tuple[str, ...] = ()
    """``latency``: those that watch the arm."""
    joint: str | None = None
    """``latency``: the one that swings; the waist, or else the first, when not given."""
    board: Board = field(default_factory=Board)
    """``camera`` and ``hand_eye``."""
    picture: Path | None = None
    """``camera``: where the coverage is drawn."""
    made_by: str = ""
    """The operator; else the rig file's, else the user's login."""


_USED_BY: Mapping[str, tuple[str, tuple[Kind, ...]]] = {
    "arm": ("--arm", ("hand_eye", "vr")),
    "reference": ("--reference", ("arm",)),
    "apply": ("--apply", ("arm",)),
    "by_hand": ("--by-hand", ("gripper", "hand_eye")),
    "beside": ("--beside", ("hand_eye",)),
    "touch": ("--touch", ("vr",)),
    "cameras": ("--cameras", ("latency",)),
    "joint": ("--joint", ("latency",)),
    "board": ("--columns, --rows, --square-mm", ("camera", "hand_eye")),
    "picture": ("--picture", ("camera",)),
}
"""Flags of an option, and the kinds that use it."""
PICTURES = (".png", ".jpg")
_ZERO_OF_OTHERS = {
    "franka": "its maker calibrates the arm and its hand, nothing is left to do here",
    "interbotix": "its zero belongs to its ROS node, set it there",
}
"""Why an arm's driver takes nothing, and what to do."""


def run(options: CalibrateOptions, guide: Guide) -> Path:
    """Calibrate and write the result; returns its file.

    Raises:
        TandemError: of an option that the kind does not use, the rig file, the devices, or the
            procedure; nothing was written.
    """
    _refuse_surplus(options)
    rig = load_rig(options.hardware)
    if options.kind in _CHECKS:
        _CHECKS[options.kind](options, rig)
    with contextlib.ExitStack() as stack:
        if options.emulate:
            from drivers.emulated_rig import emulated_rig

            rig, _ = stack.enter_context(emulated_rig(rig, _shown(options, rig)))
            if options.kind in ("arm", "vr") or options.by_hand:
                guide.say("note: nobody at the emulated rig puts limp arms anywhere")
        folder = folder_of(options.hardware, rig.backend)
        results = load_results(folder)
        rig = _in_force(options, rig, results)
        task = _Task(options, rig, results, guide, MonotonicClock(), stack)
        result = _PROCEDURES[options.kind](task)
    path = write_result(result, folder)
    guide.say(f"written: {path}")
    fresh = load_results(folder)
    for finding in check_calibration(load_rig(options.hardware), fresh):
        if result.stem in finding.words:
            guide.say(f"{finding.level}: {finding.words}")
    return path


def _in_force(options: CalibrateOptions, rig: Rig, results: Results) -> Rig:
    """The rig with its results, as every job sees it.

    The one that is about to be measured again may be of another device; it is left out then.
    """
    stem = f"{options.kind}_{options.name}"
    found = identities_found(rig)
    own = {name: result for name, result in results.by_stem.items() if name == stem}
    findings = check_calibration(rig, Results(results.folder, own), found)
    if any(finding.level == "fail" for finding in findings):
        others = {name: r for name, r in results.by_stem.items() if name != stem}
        results = Results(results.folder, others)
    return enforced(rig, results, str(options.hardware), found)


def _refuse_surplus(options: CalibrateOptions) -> None:
    default = CalibrateOptions(options.kind, options.name, options.hardware)
    surplus = [
        f"{flags} (of {' and '.join(kinds).replace('_', '-')})"
        for name, (flags, kinds) in _USED_BY.items()
        if options.kind not in kinds and getattr(options, name) != getattr(default, name)
    ]
    if surplus:
        kind = options.kind.replace("_", "-")
        raise TandemError(f"calibrate {kind} does not use {', '.join(surplus)}; leave that out")


def _shown(options: CalibrateOptions, rig: Rig) -> dict[str, object]:
    """Who shows the board at the emulated rig, as options of the emulator."""
    if options.kind not in ("camera", "hand_eye"):
        return {}
    from drivers.emulated.camera.board import BoardJob

    if options.kind == "camera":
        return BoardJob(options.board, options.name, "held").options()
    place: Literal["gripper", "stand"] = "gripper" if options.beside else "stand"
    arm = _moving_arm(options, rig)
    return BoardJob(options.board, options.name, place, arm).options()


def _moving_arm(options: CalibrateOptions, rig: Rig) -> str:
    """The arm of a hand-eye or VR calibration; the only one if there is one only."""
    if options.arm is not None:
        if options.arm not in rig.arms:
            raise UnknownNameError("arm", options.arm, rig.arms)
        return options.arm
    guided = [n for n, arm in rig.acting.items() if arm.input == options.name]
    candidates = guided or list(rig.acting)
    if len(candidates) != 1:
        names = ", ".join(rig.acting) or "none"
        raise DeviceError(f"{options.name}: name the arm that moves (--arm): {names}")
    return candidates[0]


def _check_arm(options: CalibrateOptions, rig: Rig) -> None:
    """Whether there is such an arm, and it takes what is to be measured."""
    if options.name not in rig.arms:
        raise UnknownNameError("arm", options.name, rig.arms)
    arm = rig.arms[options.name]
    if lack := not_taken(arm, options.kind):
        why = _ZERO_OF_OTHERS.get(arm.driver, "nothing is left to do here")
        raise DeviceError(f"{options.name}: the driver {arm.driver} takes no {lack}; {why}")


def _reference(options: CalibrateOptions, rig: Rig) -> str:
    """The arm to compare with."""
    _check_arm(options, rig)
    reference = options.reference or rig.arms[options.name].leader
    if reference is None:
        raise DeviceError(f"{options.name}: name the arm to compare with (--reference)")
    if reference not in rig.arms:
        raise UnknownNameError("arm", reference, rig.arms)
    if reference == options.name:
        raise DeviceError(
            f"{options.name} cannot be compared with itself; name another arm (--reference)"
        )
    return reference


def _node(options: CalibrateOptions, rig: Rig) -> str:
    """The node that serves the input of a VR calibration."""
    if options.name not in rig.inputs:
        raise UnknownNameError("input", options.name, rig.inputs)
    config = rig.inputs[options.name]
    if not isinstance(config, calibrate_vr.POSE_INPUTS):
        raise DeviceError(
            f"{options.name}: the driver {config.driver} tells no pose; "
            "name an input of openvr or webxr"
        )
    return next(node for node, served in nodes_of(rig.inputs).items() if options.name in served)


def _check_camera(options: CalibrateOptions, rig: Rig) -> None:
    """Whether there is such a camera, and its picture can be drawn afterwards."""
    if options.name not in rig.cameras:
        raise UnknownNameError("camera", options.name, rig.cameras)
    picture = options.picture
    if picture is not None and (picture.suffix not in PICTURES or not picture.parent.is_dir()):
        raise DeviceError(
            f"--picture {picture}: give a file of {' or '.join(PICTURES)} in a folder that exists"
        )


_CHECKS: Mapping[Kind, Callable[[CalibrateOptions, Rig], object]] = {
    "arm": _reference,
    "gripper": _check_arm,
    "camera": _check_camera,
    "hand_eye": _check_camera,
    "vr": _node,
}
"""What is looked at before any device, or an emulation, starts."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A procedure and all it works with."""

    options: CalibrateOptions
    rig: Rig
    results: Results
    guide: Guide
    clock: Clock
    stack: contextlib.ExitStack

    @property
    def made_by(self) -> str:
        return self.options.made_by or self.rig.operator.name or getpass.getuser()

    def arm(self, name: str, rig: Rig | None = None) -> Arm:
        arm = open_arm(name, rig or self.rig, self.clock, None)
        arm.connect()
        self.stack.callback(arm.close)
        return arm

    def camera(self, name: str) -> CameraDevice:
        camera = open_camera(name, self.rig, self.clock, None)
        camera.connect()
        self.stack.callback(camera.close)
        return camera


def _arm(task: _Task) -> Result:
    options, rig = task.options, task.rig
    reference = _reference(options, rig)
    plan = calibrate_arm.ArmPlan(options.name, reference, apply=options.apply, made_by=task.made_by)
    arm, other = task.arm(options.name), task.arm(reference)
    result, fit = calibrate_arm.calibrate_arm(plan, rig, arm, other, task.clock, task.guide)
    _say(task, calibrate_arm.report(fit, options.apply))
    return result


def _gripper(task: _Task) -> Result:
    name = task.options.name
    rig = calibrate_gripper.widened(task.rig, name)
    plan = calibrate_gripper.GripperPlan(name, task.options.by_hand, task.made_by)
    arm = task.arm(name, rig)
    result = calibrate_gripper.calibrate_gripper(plan, rig, arm, task.clock, task.guide)
    _say(task, [f"{key} {value:+.4f}" for key, value in result.values.items()])
    return result


def _camera(task: _Task) -> Result:
    options = task.options
    plan = calibrate_camera.CameraPlan(
        options.name, options.board, picture=options.picture, made_by=task.made_by
    )
    camera = task.camera(options.name)
    result, fit = calibrate_camera.calibrate_camera(plan, task.rig, camera, task.clock, task.guide)
    _say(task, calibrate_camera.report(fit))
    return result


def _hand_eye(task: _Task) -> Result:
    options = task.options
    name = _moving_arm(options, task.rig)
    plan = calibrate_hand_eye.HandEyePlan(
        options.name,
        name,
        "eye_to_hand" if options.beside else "eye_in_hand",
        options.board,
        by_hand=options.by_hand,
        made_by=task.made_by,
    )
    forward = forward_of(task.rig, name)
    camera, arm = task.camera(options.name), task.arm(name)
    result, fit = calibrate_hand_eye.calibrate_hand_eye(
        plan, task.rig, task.results, arm, camera, forward, task.clock, task.guide
    )
    _say(task, calibrate_hand_eye.report(fit))
    return result


def _vr(task: _Task) -> Result:
    options, name = task.options, _moving_arm(task.options, task.rig)
    plan = calibrate_vr.VrPlan(options.name, name, touch=options.touch, made_by=task.made_by)
    forward = forward_of(task.rig, name)
    device = open_input(_node(options, task.rig), task.rig, task.clock)
    device.connect()
    task.stack.callback(device.close)
    arm = task.arm(name)
    result, fit = calibrate_vr.calibrate_vr(
        plan, task.rig, arm, device, forward, task.clock, task.guide
    )
    _say(task, calibrate_vr.report(fit))
    return result


def _latency(task: _Task) -> Result:
    options = task.options
    cameras = {name: task.camera(name) for name in options.cameras}
    arm = task.arm(options.name)
    joint = options.joint or calibrate_latency.usual_joint(arm.joint_names)
    plan = calibrate_latency.LatencyPlan(
        options.name, joint, cameras=options.cameras, made_by=task.made_by
    )
    result, delays = calibrate_latency.calibrate_latency(
        plan, task.rig, arm, cameras, task.clock, task.guide
    )
    _say(task, calibrate_latency.report(delays))
    return result


_PROCEDURES: dict[Kind, Callable[[_Task], Result]] = {
    "arm": _arm,
    "gripper": _gripper,
    "camera": _camera,
    "hand_eye": _hand_eye,
    "vr": _vr,
    "latency": _latency,
}


def forward_of(rig: Rig, arm: str) -> calibrate_hand_eye.Forward:
    """An arm's forward kinematics.

    Raises:
        RigError: its model names no kinematics.
        MissingExtraError: the packages for kinematics are not installed.
    """
    model: Any = rig.arm_model(arm)
    if model.kinematics is None:
        where = f"arm_models.{rig.arms[arm].model}.kinematics"
        raise RigError(rig.name, [f"{where}: missing; this calibration needs to know the arm"])
    from teleop.kinematics import ArmKinematics

    kinematics = ArmKinematics.of(model)

    def forward(position_rad: FloatArray) -> FloatArray:
        tool = kinematics.forward(position_rad)
        return pose(rotation_from_quaternion(tool.quaternion_wxyz), tool.position_m)

    return forward


def _say(task: _Task, lines: list[str]) -> None:
    for line in lines:
        task.guide.say(line)
