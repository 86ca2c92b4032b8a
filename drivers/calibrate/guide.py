"""What all calibration procedures share: the operator, standing still, and slow moves."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Protocol, TextIO

import numpy as np

from drivers.base import Arm, ArmReading
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.motion import Ramp

KEEP_ALIVE_S = 0.05
CYCLE_S = 0.02
"""Between commands of a move: well within a follower's bus watchdog (0.2 s)."""
STILL_RAD = 0.006
"""Four ticks of a servo: no joint, and no gripper, may move further while it is read."""
STILL_FOR_S = 0.3
STILL_WITHIN_S = 5.0
BLOCKED_RAD = 0.25
"""Further behind its goal than any load makes a servo: something is in the way."""
SLOW_RAD_S = 0.4


class StoppedError(DeviceError):
    """The operator ended a procedure; nothing was saved."""


def nothing() -> None:
    """What goes on while nothing has to."""


class Guide(Protocol):
    """The operator, at the terminal or in a test."""

    def say(self, text: str) -> None:
        """Tell."""

    def ready(self, text: str, meanwhile: Callable[[], object] = nothing) -> bool:
        """Ask for something to be done, or whether it may begin; False to end the procedure early.

        Args:
            text: What.
            meanwhile: Called ten times a second or more until the answer: a follower with any
                torque on stops by itself when its bus falls silent.
        """


GO_ON = ("", "y", "yes")
STOP = ("n", "no", "q", "quit")


class TerminalGuide:
    """The operator at a terminal: Enter goes on, ``q`` ends the procedure.

    ``y`` and ``yes``, ``n``, ``no`` and ``quit`` do as well; anything else is asked again.

    Args:
        keys: Where answers are read, a line each; its end ends the procedure.
        out: Where words go.
    """

    def __init__(self, keys: TextIO, out: TextIO) -> None:
        self._keys = keys
        self._out = out

    def say(self, text: str) -> None:
        """See ``Guide``."""
        self._out.write(f"{text}\n")
        self._out.flush()

    def ready(self, text: str, meanwhile: Callable[[], object] = nothing) -> bool:
        """See ``Guide``."""
        self._out.write(f"> {text}\n")
        while True:
            self._out.write("  [Enter: go on, q: stop] ")
            self._out.flush()
            while not select.select([self._keys], [], [], KEEP_ALIVE_S)[0]:
                meanwhile()
            line = self._line()
            answer = line.strip().lower()
            if not line.endswith("\n") or answer in STOP:
                return False
            if answer in GO_ON:
                return True

    def _line(self) -> str:
        # Past the stream's buffer, which would keep a second line from ``select``.
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._keys.fileno(), 1)):
            line += byte
        return line.decode("utf-8", "replace")


def ask(guide: Guide, text: str, what: str) -> None:
    """Ask for something without which the procedure cannot go on.

    Raises:
        StoppedError: the operator does not want to.
    """
    if not guide.ready(text):
        raise StoppedError(f"{what}: stopped; nothing was saved")


def still_reading(arm: Arm, clock: Clock, name: str) -> ArmReading:
    """Mean of the readings over a moment of standing still; waits for it.

    Raises:
        DeviceError: it does not come to rest, or cannot be read.
    """
    give_up_ns = clock.now_ns() + ns_from_s(STILL_WITHIN_S)
    kept: list[ArmReading] = []
    while not kept or kept[-1].stamp_ns - kept[0].stamp_ns < ns_from_s(STILL_FOR_S):
        reading = arm.read()
        if kept and not _alike(kept[0], reading):
            kept.clear()
        kept.append(reading)
        if clock.now_ns() > give_up_ns:
            raise DeviceError(
                f"{name}: still moving after {STILL_WITHIN_S:g} s; hold or support it quietly"
            )
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(CYCLE_S))
    grippers = [reading.gripper for reading in kept if reading.gripper is not None]
    last = kept[-1]
    return ArmReading(
        last.stamp_ns,
        np.mean([reading.position_rad for reading in kept], axis=0),
        last.velocity_rad_s,
        last.effort,
        float(np.mean(grippers)) if grippers else None,
        last.gripper_velocity,
        last.gripper_effort,
    )


def _alike(one: ArmReading, other: ArmReading) -> bool:
    moved = np.append(
        other.position_rad - one.position_rad, (other.gripper or 0.0) - (one.gripper or 0.0)
    )
    return bool(np.abs(moved).max() <= STILL_RAD)


def move_to(arm: Arm, clock: Clock, goal_rad: FloatArray, name: str) -> None:
    """Move an arm that holds slowly to a pose, and wait until it is there.

    Raises:
        DeviceError: it is blocked: the arm holds where it is.
    """
    reading = arm.read()
    gripper = 0.0 if reading.gripper is None else reading.gripper
    ramp = Ramp(reading.position_rad, goal_rad, SLOW_RAD_S, gripper=(gripper, gripper))
    start_ns = clock.now_ns()
    while True:
        elapsed_s = (clock.now_ns() - start_ns) / NS_PER_S
        wanted, _ = ramp.at(elapsed_s)
        arm.write(wanted, None)
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(CYCLE_S))
        reading = arm.read()
        behind = np.abs(reading.position_rad - wanted)
        if behind.max() > BLOCKED_RAD:
            arm.write(reading.position_rad, None)
            joint = arm.joint_names[int(behind.argmax())]
            raise DeviceError(
                f"{name}: {joint} is {behind.max():.2f} rad behind its goal; "
                "free its way and begin again"
            )
        if elapsed_s > ramp.duration_s + 0.2:
            return
