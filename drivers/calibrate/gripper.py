"""``tandem calibrate gripper``: the servo angles at which a gripper is closed and open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from calibration.joints import GripperScale, gripper_scale
from calibration.result_values import GripperValues
from calibration.results import Result, make_result
from drivers.base import Arm
from drivers.calibrate.guide import CYCLE_S, Guide, ask, still_reading
from drivers.identity import identity_of
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import DeviceError
from teleop.rig import Rig

BEYOND_RAD = 0.6
"""How far past the configured ends the stops are looked for."""
SPEED_RAD_S = 0.4
STALLED_RAD = 0.08
"""Behind its goal by this much, and not moving, is a stop: at the current limit of a gripper the
goal runs away from it, while free it follows within 0.02 rad at this speed."""
STALLED_S = 0.3
STALLED_RAD_S = 0.05
CLEARANCE_RAD = 0.05
"""From the open stop, so that an open gripper does not press against it all day."""
LEAST_STROKE_RAD = 0.3


@dataclass(frozen=True, slots=True)
class GripperPlan:
    """What is to be calibrated."""

    name: str
    by_hand: bool = False
    """The operator closes and opens it; else its motor does, which needs current control."""
    made_by: str = ""


def widened(rig: Rig, name: str) -> Rig:
    """The rig with room beyond the gripper's ends, for the driver that looks for its stops.

    Raises:
        DeviceError: the arm has no gripper servo of ours.
    """
    scale = _scale_of(rig, name)
    way = 1.0 if scale.stroke_rad > 0 else -1.0
    ends = {
        "gripper_closed_rad": scale.closed_rad - way * BEYOND_RAD,
        "gripper_open_rad": scale.open_rad + way * BEYOND_RAD,
    }
    arms = {n: arm.model_dump() | (ends if n == name else {}) for n, arm in rig.arms.items()}
    return rig.replaced(arms=arms)


def calibrate_gripper(plan: GripperPlan, rig: Rig, arm: Arm, clock: Clock, guide: Guide) -> Result:
    """Find the two angles.

    Args:
        plan: Which arm and how.
        rig: The rig that ``arm`` was opened with: ``widened``.
        arm: Connected.
        clock: Paces the motion.
        guide: The operator.

    Raises:
        StoppedError: by the operator.
        DeviceError: no stop was found, or the gripper cannot be moved gently by its motor.
    """
    scale = _scale_of(rig, plan.name)
    if plan.by_hand:
        closed, opened = _by_hand(plan, arm, clock, guide, scale)
        force = "the operator's hand"
    else:
        _need_current_control(plan, rig)
        closed, opened = _by_motor(plan, arm, clock, guide, scale)
        force = "the gripper's motor"
    if abs(opened - closed) < LEAST_STROKE_RAD:
        raise DeviceError(
            f"{plan.name}: gripper moved by {abs(opened - closed):.2f} rad only; "
            "take out what it holds and calibrate again"
        )
    values = GripperValues(closed_rad=closed, open_rad=opened)
    nominal = gripper_scale_of_model(rig, plan.name)
    residuals = {
        "closed_from_model_rad": closed - nominal.closed_rad,
        "open_from_model_rad": opened - nominal.open_rad,
        "moved_by": force,
    }
    devices = {plan.name: identity_of(plan.name, rig)}
    return make_result("gripper", plan.name, values, residuals, devices, plan.made_by)


def gripper_scale_of_model(rig: Rig, name: str) -> GripperScale:
    """The angles that the arm's model gives.

    Raises:
        DeviceError: the arm has no gripper servo of ours.
    """
    model: Any = rig.arm_model(name)
    _scale_of(rig, name)
    return GripperScale(model.gripper.closed_rad, model.gripper.open_rad)


def _scale_of(rig: Rig, name: str) -> GripperScale:
    arm, model = rig.arms[name], rig.arm_model(name)
    if getattr(getattr(model, "gripper", None), "closed_rad", None) is None:
        raise DeviceError(f"{name}: it has no gripper servo whose angles could be calibrated")
    return cast(GripperScale, gripper_scale(cast(Any, arm), cast(Any, model)))


def _need_current_control(plan: GripperPlan, rig: Rig) -> None:
    gripper = cast(Any, rig.arm_model(plan.name)).gripper
    if gripper.operating_mode != "current_based_position" or gripper.current_limit_a is None:
        raise DeviceError(
            f"{plan.name}: its gripper servo has no current limit and would press with all its "
            "force; calibrate it by hand (--by-hand)"
        )


def _by_hand(
    plan: GripperPlan, arm: Arm, clock: Clock, guide: Guide, scale: GripperScale
) -> tuple[float, float]:
    ask(guide, f"hold {plan.name}: limp from now on", plan.name)
    if failures := arm.torque_off():
        raise DeviceError(f"{plan.name}: {'; '.join(failures)}; torque does not go off")
    angles = []
    for end in ("close", "open"):
        ask(guide, f"{end} the gripper of {plan.name} as far as it goes and hold it", plan.name)
        angles.append(_angle(scale, still_reading(arm, clock, plan.name).gripper, plan))
    return angles[0], angles[1]


def _by_motor(
    plan: GripperPlan, arm: Arm, clock: Clock, guide: Guide, scale: GripperScale
) -> tuple[float, float]:
    ask(
        guide,
        f"the gripper of {plan.name} will close and open by itself: nothing between its fingers",
        plan.name,
    )
    arm.set_torque(joints=False, gripper=True)
    try:
        way = 1.0 if scale.stroke_rad > 0 else -1.0
        closed = _stop(plan, arm, clock, scale, -way)
        guide.say(f"closed at {closed:+.4f} rad")
        opened = _stop(plan, arm, clock, scale, way)
        guide.say(f"open stop at {opened:+.4f} rad")
    finally:
        arm.set_torque(joints=False, gripper=False)
    return closed, opened - way * CLEARANCE_RAD


def _stop(plan: GripperPlan, arm: Arm, clock: Clock, scale: GripperScale, way: float) -> float:
    """Drive the gripper until it goes no further; returns its angle there."""
    reading = arm.read()
    goal = _angle(scale, reading.gripper, plan)
    stalled_since_ns: int | None = None
    last_ns = clock.now_ns()
    end = scale.open_rad if (scale.stroke_rad > 0) == (way > 0) else scale.closed_rad
    while True:
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(CYCLE_S))
        now_ns = clock.now_ns()
        reading = arm.read()
        angle = _angle(scale, reading.gripper, plan)
        rate = (reading.gripper_velocity or 0.0) * scale.stroke_rad
        if (goal - angle) * way > STALLED_RAD and abs(rate) < STALLED_RAD_S:
            stalled_since_ns = now_ns if stalled_since_ns is None else stalled_since_ns
            if now_ns - stalled_since_ns > ns_from_s(STALLED_S):
                return angle
        else:
            stalled_since_ns = None
            goal += way * SPEED_RAD_S * (now_ns - last_ns) / NS_PER_S
        last_ns = now_ns
        if (goal - end) * way > 0:
            raise DeviceError(
                f"{plan.name}: gripper reached {angle:+.2f} rad without a stop; "
                "is its horn mounted at the mark?"
            )
        arm.write(reading.position_rad, scale.opening(goal))


def _angle(scale: GripperScale, opening: float | None, plan: GripperPlan) -> float:
    if opening is None:
        raise DeviceError(f"{plan.name}: the driver reports no gripper")
    return scale.angle_rad(opening)
