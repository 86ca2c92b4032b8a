"""What ``interbotix_xs_sdk`` offers, whatever the transport: states in, commands and services out.

The topics, services and fields are the same in ROS 1 (noetic) and ROS 2 (humble); source:
Interbotix/interbotix_ros_core and interbotix_xs_driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from teleop.errors import DeviceError
from teleop.messages import FloatArray

Target = tuple[Literal["group", "single"], str]
"""A group of the node's motor configuration, or one motor."""
ALL: Target = ("group", "all")
"""The group that every node has: all motors that are not shadows."""

STATES = "joint_states"
GROUP_COMMAND = "commands/joint_group"
SINGLE_COMMAND = "commands/joint_single"

FIRST_STATE_S = 3.0
"""Longest wait for the first joint states after a connection: 300 of their periods."""

REGISTERS_S = 2.0
"""Longest wait for a service that reads or writes a register of each motor: the node's library
takes 10 ms for a write and at most 34 ms for a read that nobody answers."""
MODES_S = 5.0
"""The same for operating modes, some six writes for each of at most nine motors."""
REBOOT_S = 15.0
"""The same for rebooting: the node's library waits a second for each motor."""


class RefusedError(DeviceError):
    """The node refused a request: it knows no such group or motor."""


@dataclass(frozen=True, slots=True, eq=False)
class JointStates:
    """One message of the node."""

    stamp_ns: int
    """When it arrived here; its own stamp is of another clock."""
    names: tuple[str, ...]
    """All motors that are not shadows, then the gripper's two fingers."""
    position: FloatArray
    """rad; fingers in m."""
    velocity: FloatArray
    effort: FloatArray
    """mA, or 0.1 % times 2.69 where the servo has no current sensor."""


@dataclass(frozen=True, slots=True)
class RobotInfo:
    """The node's answer about a group or motor; the gripper appears as its left finger."""

    mode: str
    joint_names: tuple[str, ...]
    joint_ids: tuple[int, ...]
    lower_rad: tuple[float, ...]
    """From the robot's URDF; empty where the node was started without one."""
    upper_rad: tuple[float, ...]
    groups: tuple[str, ...]
    """The names of all groups, when asked for ``all``."""


class XsTransport(Protocol):
    """A connection to one node. Once lost it stays lost; a new object is made to try again."""

    def open(self) -> None:
        """Connect, and wait until commands would be heard.

        Raises:
            DeviceError: in words, what is absent and what to do.
            MissingExtraError: a package is not installed.
        """

    def newest(self) -> JointStates | None:
        """The newest joint states; None before the first. Never waits."""

    def lost(self) -> str:
        """What has gone since ``open``, in words; empty while all stands. Never waits."""

    def send(self, topic: str, values: Mapping[str, Any]) -> None:
        """Publish a command, once, without waiting; a node that comes later never sees it.

        Raises:
            DeviceLostError: nobody takes commands any more.
        """

    def call(self, service: str, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Call a service and wait for its answer. Any thread may call.

        Raises:
            RefusedError: the node refused the request.
            DeviceError: no answer in time.
            DeviceLostError: the node has gone.
        """

    def close(self) -> None:
        """Hang up. Never raises."""


class XsSdk:
    """The node's services by their meaning; each method raises as ``XsTransport.call`` does."""

    def __init__(self, transport: XsTransport) -> None:
        self._transport = transport

    def info(self, target: Target) -> RobotInfo:
        """What the node says of a group or motor."""
        answer = self._transport.call("get_robot_info", _named(target), REGISTERS_S)
        return RobotInfo(
            mode=str(answer["mode"]),
            joint_names=tuple(answer["joint_names"]),
            joint_ids=tuple(answer["joint_ids"]),
            lower_rad=tuple(answer["joint_lower_limits"]),
            upper_rad=tuple(answer["joint_upper_limits"]),
            groups=tuple(answer["name"]),
        )

    def torque(self, target: Target, on: bool) -> None:
        """Switch torque. The node does not say whether the motors obeyed."""
        self._transport.call("torque_enable", {**_named(target), "enable": on}, REGISTERS_S)

    def reboot(self, target: Target) -> None:
        """Restart the motors of a group that report an error; they are limp afterwards."""
        request = {**_named(target), "enable": False, "smart_reboot": True}
        self._transport.call("reboot_motors", request, REBOOT_S)

    def set_mode(self, target: Target, mode: str) -> None:
        """Set the operating mode, with profiles by velocity and without limit.

        Torque goes off and, whatever it was before, **on** in the end.
        """
        request = {
            **_named(target),
            "mode": mode,
            "profile_type": "velocity",
            "profile_velocity": 0,
            "profile_acceleration": 0,
        }
        self._transport.call("set_operating_modes", request, MODES_S)

    def registers(self, target: Target, register: str) -> list[int]:
        """A register of each motor, in the order of the group, up to the first that is silent."""
        request = {**_named(target), "reg": register, "value": 0}
        answer = self._transport.call("get_motor_registers", request, REGISTERS_S)
        return [int(value) for value in answer["values"]]

    def set_register(self, motor: str, register: str, value: int) -> None:
        """Write a register of one motor. The node does not say whether it took it."""
        request = {**_named(("single", motor)), "reg": register, "value": value}
        self._transport.call("set_motor_registers", request, REGISTERS_S)


def _named(target: Target) -> dict[str, Any]:
    kind, name = target
    return {"cmd_type": kind, "name": name}
