"""What can go wrong with the emulated Franka, by name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from drivers.emulated.franka.profile import RobotMode
from teleop.clock import ns_from_s

if TYPE_CHECKING:
    from drivers.emulated.franka.process import EmulatedFranka

FAULTS = {
    "reflex": "stop for the error flag error=joint_reflex",
    "comm_violation": "stop as after twenty lost packets",
    "user_stop": "the user stop is pressed",
    "user_stop_released": "and released",
    "guiding": "the guiding buttons are squeezed: the arm yields outside of any motion",
    "guiding_released": "and let go",
    "drop_packets": "the next n commands are lost",
    "freeze": "states stop, for s seconds or until thaw",
    "thaw": "states go on",
    "kick": "the client's connection is closed",
    "black_hole": "the interface accepts clients and never says a word",
    "wrong_version": "the interface says it has version=n",
    "busy": "somebody else has the robot: connections are closed at once",
    "fci_off": "the interface is switched off: its port refuses",
    "fci_on": "and on",
    "brakes": "the brakes are locked",
    "brakes_released": "and opened",
    "object": "a thing of width_m is between the fingers; None takes it away",
    "gripper_kick": "the connection to the hand is closed",
    "gripper_freeze": "states of the hand stop until thaw",
    "clear": "all of these faults end; a reflex stays until the client recovers",
}
"""Every fault and what it does."""


def inject(robot: EmulatedFranka, kind: str, **args: Any) -> None:
    """Let a fault happen.

    Raises:
        ValueError: there is no such fault.
    """
    if kind not in FAULTS:
        raise ValueError(f"no such fault: {kind!r}; known: {', '.join(FAULTS)}")
    getattr(_Faults(robot), kind)(**args)


class _Faults:
    """One method for each name in ``FAULTS``."""

    def __init__(self, robot: EmulatedFranka) -> None:
        self._robot = robot
        self._fci = robot.fci
        self._motion = robot.motion

    def reflex(self, error: str = "joint_reflex") -> None:
        self._motion.reflex(error)

    def comm_violation(self) -> None:
        self._motion.reflex("communication_constraints_violation")

    def user_stop(self) -> None:
        self._motion.user_stop(True)

    def user_stop_released(self) -> None:
        self._motion.user_stop(False)

    def guiding(self) -> None:
        self._motion.end("aborted", RobotMode.GUIDING)

    def guiding_released(self) -> None:
        if self._motion.mode is RobotMode.GUIDING:
            self._motion.end("aborted")

    def drop_packets(self, n: int = 25) -> None:
        self._fci.packets_to_drop = n

    def freeze(self, s: float | None = None) -> None:
        self._fci.is_frozen = True
        self._robot.thaw_ns = None if s is None else time.monotonic_ns() + ns_from_s(s)

    def thaw(self) -> None:
        self._fci.is_frozen = self._robot.gripper.is_frozen = False
        self._robot.thaw_ns = None

    def kick(self) -> None:
        self._fci.drop_client()

    def black_hole(self) -> None:
        self._fci.is_black_hole = True

    def wrong_version(self, version: int = 9) -> None:
        self._fci.claimed_version = version

    def busy(self) -> None:
        self._fci.is_busy = True

    def fci_off(self) -> None:
        self._fci.set_active(False)

    def fci_on(self) -> None:
        self._fci.set_active(True)

    def brakes(self) -> None:
        self._robot.lock_brakes(True)

    def brakes_released(self) -> None:
        self._robot.lock_brakes(False)

    def object(self, width_m: float | None = None) -> None:
        self._robot.gripper.object_m = width_m

    def gripper_kick(self) -> None:
        self._robot.gripper.drop_client()

    def gripper_freeze(self) -> None:
        self._robot.gripper.is_frozen = True

    def clear(self) -> None:
        self.thaw()
        self._fci.packets_to_drop = 0
        self._fci.is_black_hole = self._fci.is_busy = False
        self._fci.claimed_version = self._fci.version
        self._fci.set_active(True)
        self._robot.gripper.object_m = None
        self.user_stop_released()
        self.guiding_released()
        self.brakes_released()
