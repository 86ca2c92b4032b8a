"""Whether a rig may run with the calibration it has, and what of it the drivers take over.

A device is told from another by its *identity*, a few words each: an arm by the model of every
servo and the serial number of its USB adapter, a camera by its source and picture size.

- ``fail``: the numbers would move the wrong arm, or the arm wrongly; the rig must not run.
- ``warn``: it runs, on factory values or on a result that may be stale.
- ``ok``: nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from calibration.arm_joints import faults_of
from calibration.result_values import ArmValues, GripperValues, VrValues
from calibration.results import Result, Results
from teleop.errors import RigError

if TYPE_CHECKING:
    from teleop.rig import Rig

Identity = Mapping[str, str]
Level = Literal["ok", "warn", "fail"]

ADAPTER = "adapter"
"""Key of an arm's identity: serial number of its USB adapter, where the machine shows one."""
_PLACES = (ADAPTER, "source", "address")
"""Keys that an identity may lack: emulated devices are somewhere else in every run."""
GOOD: Mapping[str, Mapping[str, float]] = {
    "arm": {"worst_rad": math.radians(2.0)},
    "camera": {"rms_px": 0.5, "straightness_px": 0.5},
    "hand_eye": {"median_m": 0.003, "median_rad": math.radians(0.5)},
    "vr": {"median_m": 0.010, "median_rad": math.radians(2.0)},
    "latency": {"sigma_s": 0.005},
}
"""Residuals above which a result is worth measuring again, by kind; reasons in
``docs/calibration.md``."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a rig's calibration."""

    level: Level
    words: str


def check_calibration(
    rig: Rig, results: Results, found: Mapping[str, Identity] | None = None
) -> list[Finding]:
    """All that is to be said, the worst first.

    Args:
        rig: As read from its file, before ``arm_overrides``.
        results: Of its folder.
        found: Identities of devices that answered; of others the rig file's word is taken.
    """
    told = identities_of(rig) | {name: dict(identity) for name, identity in (found or {}).items()}
    findings: list[Finding] = []
    for result in results.by_stem.values():
        findings += _device_findings(result, told)
        findings += _value_findings(rig, result)
        findings += _base_findings(result, results)
        findings += _residual_findings(result)
    findings += _missing(rig, results)
    order = {"fail": 0, "warn": 1, "ok": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def identities_of(rig: Rig) -> dict[str, dict[str, str]]:
    """What the rig file tells of each device that can be calibrated."""
    told: dict[str, dict[str, str]] = {}
    for name, arm in rig.arms.items():
        if arm.driver in ("dynamixel", "interbotix"):
            told[name] = _servo_identity(rig.arm_model(name))
        else:
            told[name] = {"address": arm.address} if rig.backend == "hardware" else {}
    for name, camera in rig.cameras.items():
        told[name] = {"size": f"{camera.width}x{camera.height}"}
        if rig.backend == "hardware":
            told[name]["source"] = str(camera.source)
    for name, config in getattr(rig, "inputs", {}).items():
        told[name] = {"driver": config.driver}
    return told


def _servo_identity(model: Any) -> dict[str, str]:
    servos: dict[int, str] = {}
    for joint in model.joints:
        servos[joint.id] = joint.servo
        if joint.shadow_id is not None:
            servos[joint.shadow_id] = joint.servo
    if model.gripper is not None:
        servos[model.gripper.id] = model.gripper.servo
    return {f"servo {i}": servo for i, servo in sorted(servos.items())}


def _device_findings(result: Result, told: Mapping[str, Identity]) -> Iterator[Finding]:
    moves = result.kind in ("arm", "gripper", "vr")
    for device, identity in result.devices.items():
        if device not in told:
            yield Finding("warn", f"{result.stem}: the rig has no {device}; delete the file")
            continue
        differ = [
            f"{key} is {told[device].get(key, 'absent')}, was {value}"
            for key, value in identity.items()
            if _differs(key, value, told[device])
        ]
        differ += [
            f"{key} is {told[device][key]}, was absent"
            for key in told[device]
            if key not in _PLACES and key not in identity
        ]
        if differ:
            words = (
                f"{result.stem} belongs to another {device}: {'; '.join(differ)}; "
                f"calibrate it again or move the file away"
            )
            yield Finding("fail" if moves else "warn", words)


def _differs(key: str, value: str, now: Identity) -> bool:
    if "any" in (value, now.get(key)):  # the rig file takes whatever servo answers
        return False
    if key == ADAPTER and key not in now:  # nobody has looked
        return False
    return now.get(key) != value


def _value_findings(rig: Rig, result: Result) -> Iterator[Finding]:
    if result.kind == "vr" and result.name in rig.inputs:
        guided = result.values_as(VrValues).arm
        arm = rig.arms.get(guided)
        if arm is None or arm.input != result.name:
            yield Finding("warn", f"{result.stem} is not used: it is of {guided}, not guided by it")
        elif given := _given_by_hand(arm, "vr"):
            yield _not_used(result, given)
        return
    if result.name not in rig.arms or result.kind not in ("arm", "gripper"):
        return
    arm, model = rig.arms[result.name], rig.arm_model(result.name)
    if lack := not_taken(arm, result.kind):
        yield Finding("fail", f"{result.stem}: {result.name} takes no {lack}; delete the file")
        return
    if result.kind == "arm":
        offsets = result.values_as(ArmValues).offsets_rad
        joints = {joint.name for joint in model.joints}
        if offsets.keys() != joints:
            other = ", ".join(sorted(offsets.keys() ^ joints))
            yield Finding("fail", f"{result.stem}: its joints are not the arm's ({other})")
        for fault in faults_of(offsets):
            yield Finding("fail", f"{result.stem}: {fault}")
    elif getattr(model, "gripper", None) is None:
        yield Finding("fail", f"{result.stem}: {result.name} has no gripper")
    if given := _given_by_hand(arm, result.kind):
        yield _not_used(result, given)


def _not_used(result: Result, given: Iterable[str]) -> Finding:
    words = f"{result.stem} is not used: the rig file itself gives {', '.join(given)}"
    return Finding("warn", words)


_FIELDS = {
    "arm": ("joint_offsets_rad",),
    "gripper": ("gripper_closed_rad", "gripper_open_rad"),
    "vr": ("operator_yaw_rad",),
}
"""Fields of an arm in the rig file that a kind of result fills."""
_WORDS = {"arm": "joint offsets", "gripper": "gripper angles", "vr": "operator yaw"}
_OPEN: tuple[Any, ...] = (None, {})
"""Their values when the rig file says nothing."""


def not_taken(arm: Any, kind: str) -> str:
    """What an arm of the rig file does not take of a kind of result, in words; else empty.

    Args:
        arm: One of ``Rig.arms``; which fields it has goes by its driver.
        kind: Of the result.
    """
    has_all = all(name in type(arm).model_fields for name in _FIELDS.get(kind, ()))
    return "" if has_all else _WORDS[kind]


def _given_by_hand(arm: Any, kind: str) -> list[str]:
    return [name for name in _FIELDS.get(kind, ()) if getattr(arm, name, None) not in _OPEN]


def _base_findings(result: Result, results: Results) -> Iterator[Finding]:
    for stem, digest in result.based_on.items():
        base = results.by_stem.get(stem)
        if base is None or base.sha256 != digest:
            became = "is gone" if base is None else "was measured again since"
            yield Finding("warn", f"{result.stem}: {stem}, which it rests on, {became}; repeat it")


def _residual_findings(result: Result) -> Iterator[Finding]:
    for key, most in GOOD.get(result.kind, {}).items():
        seen = result.residuals.get(key)
        if isinstance(seen, float | int) and seen > most:
            words = f"{result.stem}: {key} is {seen:.4g}, good ones are below {most:.4g}"
            yield Finding("warn", f"{words}; measure again")


def _missing(rig: Rig, results: Results) -> Iterator[Finding]:
    """Only what the rig uses is missed; an emulated one is as its file says."""
    if rig.backend != "hardware":
        return
    ours = {name: arm for name, arm in rig.arms.items() if arm.driver == "dynamixel"}
    unchecked = [
        name
        for name, arm in ours.items()
        if results.get("arm", name) is None and not _given_by_hand(arm, "arm")
    ]
    if unchecked:
        words = f"{', '.join(unchecked)}: joints not checked, factory zero is used"
        yield Finding("warn", words)
    unmeasured = [
        name
        for name, arm in ours.items()
        if rig.arm_model(name).gripper is not None
        and results.get("gripper", name) is None
        and not _given_by_hand(arm, "gripper")
    ]
    if unmeasured:
        words = f"{', '.join(unmeasured)}: gripper not measured, its model's angles are used"
        yield Finding("warn", words)


def arm_overrides(rig: Rig, results: Results) -> dict[str, dict[str, Any]]:
    """Fields of each arm that the results fill, where it has them and its file leaves them open."""
    fields: dict[str, dict[str, Any]] = {name: {} for name in rig.arms}
    for result in results.by_stem.values():
        if result.kind == "arm" and result.name in fields:
            offsets = result.values_as(ArmValues).offsets_rad
            fields[result.name]["joint_offsets_rad"] = dict(offsets)
        elif result.kind == "gripper" and result.name in fields:
            gripper = result.values_as(GripperValues)
            fields[result.name]["gripper_closed_rad"] = gripper.closed_rad
            fields[result.name]["gripper_open_rad"] = gripper.open_rad
        elif result.kind == "vr":
            vr = result.values_as(VrValues)
            if vr.arm in fields and rig.arms[vr.arm].input == result.name:
                fields[vr.arm]["operator_yaw_rad"] = vr.operator_yaw_rad
    open_fields = {
        name: {
            key: value
            for key, value in given.items()
            if hasattr(rig.arms[name], key) and getattr(rig.arms[name], key) in _OPEN
        }
        for name, given in fields.items()
    }
    return {name: given for name, given in open_fields.items() if given}


def enforced(
    rig: Rig,
    results: Results,
    source: str,
    found: Mapping[str, Identity] | None = None,
    warn: Callable[[str], None] = lambda words: None,
) -> Rig:
    """The rig with its results applied, if none of them forbids it to run.

    Args:
        rig: As read from its file.
        results: Of its folder.
        source: The rig file, for the error.
        found: As for ``check_calibration``.
        warn: Called with every warning.

    Raises:
        RigError: naming all results that would move an arm wrongly.
    """
    findings = check_calibration(rig, results, found)
    if faults := [finding.words for finding in findings if finding.level == "fail"]:
        raise RigError(source, faults)
    for finding in findings:
        if finding.level == "warn":
            warn(finding.words)
    return applied(rig, results)


def applied(rig: Rig, results: Results) -> Rig:
    """The rig as its drivers are to see it: ``arm_overrides`` filled in.

    Check first, or call ``enforced``: a result that fails must not be applied.
    """
    fields = arm_overrides(rig, results)
    arms = {name: arm.model_dump() | fields.get(name, {}) for name, arm in rig.arms.items()}
    return rig.replaced(arms=arms)
