"""``tandem calibrate arm``: compares an arm's joints with another arm, or with a known pose.

By default the factory zero stays: the result says how far it is off in each joint. ``apply``
makes offsets of that, which the driver then adds to every reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.arm_joints import (
    LEAST_MOTION_RAD,
    JointsFit,
    faults_of,
    fit_joints,
    turns_beyond,
)
from calibration.result_values import ArmValues
from calibration.results import Result, make_result
from drivers.base import Arm
from drivers.calibrate.guide import Guide, ask, still_reading
from drivers.identity import identity_of
from teleop.clock import Clock
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig import Rig

POSES = (
    "asleep: both folded up, resting on themselves",
    "upright: upper arm vertical, forearm level, gripper level and straight ahead",
    "forward: gripper tip on the table, straight ahead, as far out as it reaches",
    "turned left: as upright, waist a quarter turn left, wrist rolled a quarter turn left",
    "turned right: as upright, waist a quarter turn right, wrist rolled a quarter turn right",
    "rolled: forearm an eighth of a turn left, gripper pointing down",
)
"""Poses between them move every joint by more than is needed to tell its direction."""


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """What is to be calibrated."""

    name: str
    reference: str | None = None
    """The arm that is taken for true; None for ``known_rad``."""
    known_rad: Mapping[str, Sequence[float]] | None = None
    """True joint angles of named poses, such as a jig's."""
    poses: Sequence[str] = POSES
    apply: bool = False
    """Take over the offsets of the joints that moved, instead of only reporting them."""
    made_by: str = ""


def calibrate_arm(
    plan: ArmPlan, rig: Rig, arm: Arm, reference: Arm | None, clock: Clock, guide: Guide
) -> tuple[Result, JointsFit]:
    """Have the arm and its reference put into the same poses, and compare.

    Both arms are connected; they are limp from the first pose on.

    Raises:
        StoppedError: by the operator.
        DeviceError: the poses were all the same, or a joint turns the wrong way, was wound up,
            or sits on the wrong spline; nothing is to be saved.
    """
    _let_go(plan, [arm] if reference is None else [arm, reference], guide)
    readings: list[FloatArray] = []
    truths: list[FloatArray] = []
    known = plan.known_rad
    for name in plan.poses if known is None else known:
        whom = plan.name if plan.reference is None else f"{plan.name} and {plan.reference}"
        if not guide.ready(f"put {whom} into this pose and hold still: {name}"):
            break
        readings.append(still_reading(arm, clock, plan.name).position_rad)
        if known is not None:
            truths.append(np.array(known[name], np.float64))
        elif reference is not None:
            truths.append(still_reading(reference, clock, str(plan.reference)).position_rad)
        guide.say(_pose_words(arm.joint_names, readings[-1] - truths[-1]))
    if not readings:
        raise DeviceError(f"{plan.name}: no pose was compared; nothing was saved")
    fit = fit_joints(arm.joint_names, np.array(readings), np.array(truths), plan.name)
    _refuse(plan, rig, fit, np.array(readings))
    return _result(plan, rig, fit), fit


def _let_go(plan: ArmPlan, arms: Sequence[Arm], guide: Guide) -> None:
    if plan.reference is None and not plan.known_rad:
        raise DeviceError(f"{plan.name}: name a reference arm, or give poses with known angles")
    names = plan.name if plan.reference is None else f"{plan.name} and {plan.reference}"
    ask(guide, f"hold {names}: limp from now on", plan.name)
    for arm in arms:
        if failures := arm.torque_off():
            raise DeviceError(f"{plan.name}: {'; '.join(failures)}; torque does not go off")


def _pose_words(joints: Sequence[str], gap_rad: FloatArray) -> str:
    degrees = np.degrees(gap_rad)
    return ", ".join(f"{n} {d:+.1f}" for n, d in zip(joints, degrees, strict=True)) + " degrees"


def _refuse(plan: ArmPlan, rig: Rig, fit: JointsFit, readings: FloatArray) -> None:
    if len(fit.unmoved_joints) == len(fit.joints):
        same = "only one pose was compared" if len(readings) == 1 else "the poses were all the same"
        raise DeviceError(
            f"{plan.name}: {same}; nothing was saved; calibrate again and move every joint by "
            f"{np.degrees(LEAST_MOTION_RAD):.0f} degrees or more between poses"
        )
    faults = []
    for j, joint in enumerate(rig.arm_model(plan.name).joints):
        turns = turns_beyond(float(np.median(readings[:, j])), joint.min_rad, joint.max_rad)
        if turns or joint.name in fit.wound_joints:
            count = turns or fit.turns[j]
            faults.append(
                f"{joint.name} is wound up by {count:+d} turn: turn it back by hand, or switch "
                "the arm's power off and on"
            )
    model = rig.arms[plan.name].model
    for name in fit.reversed_joints:
        faults.append(f"{name} turns the other way: change its reverse in arm_models.{model}")
    if plan.apply:
        offsets = dict(zip(fit.joints, map(float, _found(fit)), strict=True))
        faults += faults_of(offsets)
    if faults:
        raise DeviceError(f"{plan.name}: {'; '.join(faults)}; then calibrate again")


def _found(fit: JointsFit) -> FloatArray:
    """Shape (J,): offsets to take over; 0 for joints that moved too little."""
    return np.where(np.array(fit.sign) == 0, 0.0, fit.offset_rad)


def _result(plan: ArmPlan, rig: Rig, fit: JointsFit) -> Result:
    before = _applied_now(plan, rig, fit)
    found = _found(fit) if plan.apply else np.zeros(len(fit.joints))
    # An arm that was read with offsets in force has the old ones in its readings.
    offsets = {n: float(o + b) for n, o, b in zip(fit.joints, found, before, strict=True)}
    taken = plan.apply & (np.array(fit.sign) != 0)
    left = np.where(taken, fit.residual_rad, fit.factory_residual_rad)
    values = ArmValues(
        offsets_rad=offsets,
        reference=plan.reference or "known poses",
        poses=len(left),
    )
    residuals = {
        "worst_rad": float(np.abs(left).max()),
        "rms_rad": dict(zip(fit.joints, _rms(left), strict=True)),
        "factory_offset_ticks": dict(zip(fit.joints, fit.offset_ticks, strict=True)),
    }
    devices = {plan.name: identity_of(plan.name, rig)}
    return make_result("arm", plan.name, values, residuals, devices, plan.made_by)


def _applied_now(plan: ArmPlan, rig: Rig, fit: JointsFit) -> FloatArray:
    """Offsets that the driver of the arm adds already."""
    given = getattr(rig.arms[plan.name], "joint_offsets_rad", {})
    return np.array([given.get(name, 0.0) for name in fit.joints])


def _rms(residual_rad: FloatArray) -> list[float]:
    return [float(v) for v in np.sqrt((residual_rad**2).mean(axis=0))]


def report(fit: JointsFit, applied: bool) -> list[str]:
    """The comparison in words, a line per joint."""
    lines = ["joint            off by          spread of the poses"]
    for j, name in enumerate(fit.joints):
        spread = np.degrees(np.abs(fit.residual_rad[:, j]).max())
        off = -np.degrees(fit.offset_rad[j])
        unsure = "" if fit.sign[j] else "  (moved too little to tell its direction)"
        ticks = -fit.offset_ticks[j]
        lines.append(f"{name:<14} {off:+6.2f} deg {ticks:+5d} ticks   {spread:5.2f} deg{unsure}")
    if not applied:
        return [*lines, "the factory zero is kept"]
    but = f", but not of {', '.join(fit.unmoved_joints)}" if fit.unmoved_joints else ""
    return [*lines, f"offsets are in force from now on{but}"]
