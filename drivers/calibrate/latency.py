"""``tandem calibrate latency``: how late motion follows commands, and pictures follow motion.

One joint swings by a few degrees in a way that never repeats, cameras watch, and the delays are
where the signals correlate best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from calibration.latency import Delay, delay_of, excitation
from calibration.result_values import LatencyValues
from calibration.results import Result, make_result
from drivers.base import Arm, CameraDevice
from drivers.calibrate.camera import grey_of
from drivers.calibrate.guide import Guide, ask, still_reading
from drivers.identity import identity_of
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig import Rig

THUMBNAIL = (32, 24)
"""Width and height, px, of the pictures that are correlated: averaging removes the noise."""


@dataclass(frozen=True, slots=True)
class LatencyPlan:
    """What is to be measured."""

    arm: str
    joint: str = "waist"
    """The one that swings; cameras must see something move with it."""
    swing_rad: float = 0.12
    seconds: float = 10.0
    cameras: tuple[str, ...] = ()
    made_by: str = ""


def usual_joint(joints: Sequence[str]) -> str:
    """The joint that swings unless another is named: the waist, else the first."""
    return "waist" if "waist" in joints else joints[0]


@dataclass(slots=True)
class _Log:
    """What was sent and seen."""

    command_ns: list[int] = field(default_factory=list)
    command_rad: list[float] = field(default_factory=list)
    state_ns: list[int] = field(default_factory=list)
    state_rad: list[float] = field(default_factory=list)
    frame_ns: dict[str, list[int]] = field(default_factory=dict)
    picture: dict[str, list[FloatArray]] = field(default_factory=dict)


def calibrate_latency(
    plan: LatencyPlan,
    rig: Rig,
    arm: Arm,
    cameras: Mapping[str, CameraDevice],
    clock: Clock,
    guide: Guide,
) -> tuple[Result, dict[str, Delay]]:
    """Swing one joint and compare.

    Args:
        plan: Which arm and joint.
        rig: The rig.
        arm: Connected.
        cameras: Connected, by name: those of the plan.
        clock: Of the devices.
        guide: The operator.

    Returns:
        The result, and the delays: of motion behind commands (``command``), and of each
        camera's stamps behind the arm's, by the camera's name.

    Raises:
        StoppedError: by the operator.
        DeviceError: the arm is blocked, or a signal shows no motion.
    """
    if plan.joint not in arm.joint_names:
        raise DeviceError(f"{plan.arm}: no joint {plan.joint}; it has {', '.join(arm.joint_names)}")
    ask(
        guide,
        f"{plan.arm} will swing its {plan.joint} by {np.degrees(plan.swing_rad):.0f} degrees to "
        f"either side for {plan.seconds:g} s: clear its way; nothing else may move in view",
        plan.arm,
    )
    arm.set_torque(joints=True, gripper=False)
    still_reading(arm, clock, plan.arm)
    log = _swing(plan, rig, arm, cameras, clock)
    # A goal holds until the next one: on the whole it stands for the middle of that time.
    held_ns = ns_from_s(0.5 / rig.rates.arm_hz)
    delays = {
        "command": delay_of(
            np.array(log.state_ns),
            np.array(log.state_rad),
            np.array(log.command_ns) + held_ns,
            np.array(log.command_rad),
            f"{plan.arm} behind its commands",
        )
    }
    for name in cameras:
        delays[name] = delay_of(
            np.array(log.frame_ns[name]),
            np.array(log.picture[name]),
            np.array(log.state_ns),
            np.array(log.state_rad),
            f"{name} behind {plan.arm}",
        )
    return _result(plan, rig, delays), delays


def _swing(
    plan: LatencyPlan, rig: Rig, arm: Arm, cameras: Mapping[str, CameraDevice], clock: Clock
) -> _Log:
    joint = arm.joint_names.index(plan.joint)
    home = arm.read().position_rad.copy()
    spec = rig.arm_model(plan.arm).joints[joint]
    room = min(home[joint] - spec.min_rad, spec.max_rad - home[joint])
    if room < plan.swing_rad:
        raise DeviceError(
            f"{plan.arm}: {plan.joint} is {room:.2f} rad from its limit; move it to the middle"
        )
    log = _Log(frame_ns={name: [] for name in cameras}, picture={name: [] for name in cameras})
    for camera in cameras.values():
        camera.take(clock.now_ns())  # what came before
    period_ns = ns_from_s(1 / rig.rates.arm_hz)
    start_ns = next_ns = clock.now_ns()
    while (elapsed_s := (clock.now_ns() - start_ns) / NS_PER_S) < plan.seconds:
        reading = arm.read()
        log.state_ns.append(reading.stamp_ns)
        log.state_rad.append(float(reading.position_rad[joint]))
        goal = home.copy()
        goal[joint] += plan.swing_rad * float(excitation(elapsed_s))
        arm.write(goal, None)
        log.command_ns.append(clock.now_ns())
        log.command_rad.append(float(goal[joint]))
        _watch(cameras, clock, log)
        next_ns += period_ns
        clock.sleep_until_ns(next_ns)
    arm.write(home, None)
    return log


def _watch(cameras: Mapping[str, CameraDevice], clock: Clock, log: _Log) -> None:
    for name, camera in cameras.items():
        for frame in camera.take(clock.now_ns()):
            small = cv2.resize(grey_of(frame), THUMBNAIL, interpolation=cv2.INTER_AREA)
            log.frame_ns[name].append(frame.stamp_ns)
            log.picture[name].append(np.asarray(small, np.float64).reshape(-1))


def _result(plan: LatencyPlan, rig: Rig, delays: Mapping[str, Delay]) -> Result:
    seen = {name: delay for name, delay in delays.items() if name != "command"}
    values = LatencyValues(
        command_to_motion_s=delays["command"].delay_s,
        camera_to_row_s={name: delay.delay_s for name, delay in seen.items()},
    )
    residuals = {
        "sigma_s": max(delay.sigma_s for delay in delays.values()),
        "correlation": {name: delay.correlation for name, delay in delays.items()},
    }
    devices = {name: identity_of(name, rig) for name in (plan.arm, *seen)}
    return make_result("latency", plan.arm, values, residuals, devices, plan.made_by)


def report(delays: Mapping[str, Delay]) -> list[str]:
    """The result in words."""
    lines = []
    for name, delay in delays.items():
        what = "motion behind command" if name == "command" else f"{name} behind the arm's state"
        lines.append(
            f"{what}: {1e3 * delay.delay_s:+.1f} ms (+- {1e3 * delay.sigma_s:.1f} ms, "
            f"correlation {delay.correlation:.3f})"
        )
    return lines
