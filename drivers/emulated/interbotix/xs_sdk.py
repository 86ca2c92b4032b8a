"""What an ``interbotix_xs_sdk`` node does with its bus, without any ROS.

Written from the node's behaviour (Interbotix/interbotix_ros_core, noetic, and the ROBOTIS
workbench library below it), its hazards with it: starting switches all torque off, changing an
operating mode switches it on, failures of single writes go unsaid, every write to a register
holds everything else up for 10 ms, and a failed reading is published as tick 0 of every motor.

A configuration is an Interbotix motor configuration and a mode configuration as plain mappings,
with ``urdf_limits`` added to the first: lower and upper, rad, by joint.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calibration.joints import finger_distance_m
from drivers.dynamixel import table
from drivers.dynamixel.bus import DynamixelBus, Servo
from drivers.dynamixel.codec import GroupReader, GroupWrite
from drivers.dynamixel.port import ServoPort
from drivers.dynamixel.table import Register
from drivers.dynamixel.units import MOTION
from teleop.errors import DeviceError, DeviceLostError

log = logging.getLogger(__name__)

WRITE_PAUSE_S = 0.01
"""``usleep`` before every register write in the workbench library."""
REBOOT_PAUSE_S = 1.0
"""Its wait after every reboot."""
READ_TIMEOUT_S = 0.2
"""The library waits 34 ms and more; emulated servos share the processor with all else."""
MA_PER_UNIT = 2.69
"""Applied to register 126 of every model, whether it holds current or load."""
RADIANS = ("position", "ext_position", "current_based_position", "linear_position")
MODE_NUMBERS = {
    "position": 3,
    "linear_position": 3,
    "ext_position": 4,
    "velocity": 1,
    "pwm": 16,
    "current": 0,
    "current_based_position": 5,
}
ITEMS: dict[str, Register] = {
    entry.name.title().replace(" ", "_").replace("Id", "ID"): entry
    for entry in vars(table).values()
    if isinstance(entry, Register)
}
"""Registers by the library's names, ``Position_P_Gain``, ``Present_Input_Voltage`` ..."""


@dataclass
class _Group:
    motors: list[str]
    mode: str = ""
    profile: str = ""


class RefusedRequest(Exception):  # noqa: N818  # not an error of ours: an answer
    """The request names no group or motor; ROS tells the caller that the service failed."""


class XsSdkCore:
    """The node's state and its use of the bus. One thread at a time may use it.

    Args:
        port: A closed port onto the bus.
        motors: The motor configuration.
        modes: The mode configuration.

    Raises:
        DeviceError: the port cannot be opened, or a motor does not answer its ping.
    """

    def __init__(
        self, port: ServoPort, motors: Mapping[str, Any], modes: Mapping[str, Any]
    ) -> None:
        self._config = motors
        self._ids: dict[str, int] = {name: int(m["ID"]) for name, m in motors["motors"].items()}
        self._modes = dict.fromkeys(self._ids, ("position", "velocity"))
        self._order: list[str] = list(motors["joint_order"])
        self._groups = {"all": _Group(self._order, "position", "velocity")}
        self._groups |= {name: _Group(list(names)) for name, names in motors["groups"].items()}
        self._grippers: Mapping[str, Any] = motors.get("grippers") or {}
        shadows = motors.get("shadows") or {}
        self._shadows = {name: list(spec["shadow_list"]) for name, spec in shadows.items()}
        publisher = motors.get("joint_state_publisher") or {}
        self.update_hz = float(publisher.get("update_rate", 100))
        self.nan_on_failure = int(publisher.get("read_failure_behavior", 0)) == 1
        """Publish NaN, not tick 0, for what could not be read."""
        self._port = port
        servos = [Servo(i, name, "any") for name, i in self._ids.items()]
        self._bus = DynamixelBus("xs_sdk", servos, port)
        self._bus.open()
        ids = [self._ids[name] for name in self._order]
        self._reader = GroupReader(port, ids, MOTION, READ_TIMEOUT_S)
        self._start(modes)

    def _start(self, modes: Mapping[str, Any]) -> None:
        for name, servo_id in self._ids.items():
            if self._bus.ping(servo_id) is None:
                raise DeviceError(f"[xs_sdk] cannot find DYNAMIXEL ID {servo_id}, '{name}'")
            self._write(name, "Torque_Enable", 0)
        for name, items in self._config["motors"].items():
            for item, value in items.items():
                if item in ITEMS and item not in ("ID", "Baud_Rate"):
                    self._write(name, item, int(value), hurried=True)
        for kind, part in (("group", "groups"), ("single", "singles")):
            for name, mode in (modes.get(part) or {}).items():
                self.set_modes(
                    kind, name, mode["operating_mode"], mode.get("profile_type", "velocity")
                )
                if not mode.get("torque_enable", True):
                    self.torque(kind, name, False)

    # Topics.

    def states(self) -> tuple[list[str], list[float], list[float], list[float]]:
        """Names, positions, velocities and efforts as published: rad, rad/s, mA.

        Raises:
            DeviceLostError: the port has gone.
        """
        reply = self._reader.read()
        count = len(self._order)
        position, velocity, effort = [0] * count, [0] * count, [0] * count
        if reply.missing:
            log.error("[xs_sdk] Failed syncRead: no answer from %s", reply.missing)
        else:
            position = reply.records[table.PRESENT_POSITION.name].tolist()
            velocity = reply.records[table.PRESENT_VELOCITY.name].tolist()
            effort = reply.records[table.PRESENT_CURRENT.name].tolist()
        names = list(self._order)
        angles = [rad_of(tick) for tick in position]
        rates = [value * table.RAD_S_PER_UNIT for value in velocity]
        currents = [value * MA_PER_UNIT for value in effort]
        for name, spec in self._grippers.items():
            angle = angles[self._order.index(name)]
            finger = finger_distance_m(angle, spec["horn_radius"], spec["arm_length"])
            names += [spec["left_finger"], spec["right_finger"]]
            angles += [finger, -finger]
            rates += [0.0, 0.0]
            currents += [0.0, 0.0]
        if reply.missing and self.nan_on_failure:
            nan = [math.nan] * len(names)
            return names, nan, nan, nan
        return names, angles, rates, currents

    def command_group(self, name: str, values: Sequence[float]) -> None:
        """``commands/joint_group``: one packet for all; nothing is dropped or clamped here."""
        group = self._groups.get(name)
        if group is None or len(values) != len(group.motors):
            log.error("[xs_sdk] %d commands for group '%s'. Will not execute.", len(values), name)
            return
        if group.mode not in RADIANS:
            log.error("[xs_sdk] Invalid mode '%s' while commanding joint group.", group.mode)
            return
        pairs = zip(group.motors, values, strict=True)
        ticks = [self._goal(motor, value, group.mode) for motor, value in pairs]
        ids = [self._ids[motor] for motor in group.motors]
        self._port.write_all(GroupWrite(ids, table.GOAL_POSITION).pack(ticks))

    def command_single(self, name: str, value: float) -> None:
        """``commands/joint_single``: a register write that waits for its answer."""
        mode = self._modes.get(name, ("", ""))[0]
        if mode not in RADIANS:
            log.error("[xs_sdk] Invalid mode '%s' while commanding joint.", mode)
            return
        self._write(name, "Goal_Position", self._goal(name, value, mode))

    # Services.

    def serve(self, service: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry a service out.

        Raises:
            RefusedRequest: it names a group or motor that is not there.
        """
        kind, name = request["cmd_type"], request["name"]
        if name not in {"group": [*self._groups], "single": [*self._ids]}.get(kind, []):
            raise RefusedRequest(f"{kind} '{name}'")
        if service == "torque_enable":
            self.torque(kind, name, request["enable"])
        elif service == "reboot_motors":
            self._reboot(kind, name, request["enable"], request["smart_reboot"])
        elif service == "set_operating_modes":
            profile = (request["profile_velocity"], request["profile_acceleration"])
            self.set_modes(kind, name, request["mode"], request["profile_type"], *profile)
        elif service == "set_motor_registers":
            for motor in self._motors(kind, name):
                self._write(motor, request["reg"], request["value"])
        elif service == "get_motor_registers":
            return {"values": self._registers(kind, name, request["reg"])}
        elif service == "get_robot_info":
            return self._info(kind, name)
        return {}

    def torque(self, kind: str, name: str, on: bool) -> None:
        """Switch torque; a motor that does not obey is passed over."""
        for motor in self._motors(kind, name):
            self._write(motor, "Torque_Enable", int(on))

    def set_modes(
        self,
        kind: str,
        name: str,
        mode: str,
        profile: str,
        velocity: int = 0,
        acceleration: int = 0,
    ) -> None:
        """Set operating modes; each motor's torque is on in the end."""
        for motor in self._motors(kind, name):
            self._write(motor, "Torque_Enable", 0)
            for servo in (motor, *self._shadows.get(motor, ())):
                self._set_mode(servo, mode, profile, velocity, acceleration)
            self._write(motor, "Torque_Enable", 1)
        if kind == "group":
            self._groups[name].mode, self._groups[name].profile = mode, profile

    def _set_mode(
        self, servo: str, mode: str, profile: str, velocity: int, acceleration: int
    ) -> None:
        drive = self._bus.read(self._ids[servo], table.DRIVE_MODE)
        if drive <= 1 and profile == "time":
            self._write(servo, "Drive_Mode", drive + 4)
        elif drive >= 4 and profile == "velocity":
            self._write(servo, "Drive_Mode", drive - 4)
        if mode not in MODE_NUMBERS:
            log.error("[xs_sdk] Invalid command for argument 'mode' of motor %s.", servo)
            return
        self._write(servo, "Operating_Mode", MODE_NUMBERS[mode])
        if mode in ("position", "linear_position", "ext_position"):
            self._write(servo, "Profile_Velocity", velocity)
            self._write(servo, "Profile_Acceleration", acceleration)
        self._modes[servo] = (mode, profile)

    def _reboot(self, kind: str, name: str, enable: bool, smart: bool) -> None:
        for motor in self._motors(kind, name):
            if smart and kind == "group" and self._read(motor, table.HARDWARE_ERROR) == 0:
                continue
            try:
                self._bus.reboot([self._ids[motor]])
            except DeviceLostError:
                raise
            except DeviceError as error:
                log.error("[xs_sdk] %s", error)
            time.sleep(REBOOT_PAUSE_S)
            if enable:
                self._write(motor, "Torque_Enable", 1)

    def _registers(self, kind: str, name: str, item: str) -> list[int]:
        """Up to the first motor that gives no answer, like the original."""
        values: list[int] = []
        register = ITEMS.get(item)
        if register is None:
            log.error("[xs_sdk] Could not get '%s' Item Info.", item)
            return values
        for motor in self._motors(kind, name):
            value = self._read(motor, register)
            if value is None:
                break
            bits = {1: 0, 2: 16, 4: 32}[register.size]  # one byte is unsigned, the rest is signed
            values.append(value - (1 << bits) if bits and value >= 1 << (bits - 1) else value)
        return values

    def _info(self, kind: str, name: str) -> dict[str, Any]:
        motors = self._motors(kind, name)
        mode = self._groups[name].mode if kind == "group" else self._modes[name][0]
        profile = self._groups[name].profile if kind == "group" else self._modes[name][1]
        limits = self._config.get("urdf_limits") or {}
        sleep = dict(zip(self._order, self._config["sleep_positions"], strict=True))
        published = [*self._order]
        for spec in self._grippers.values():
            published += [spec["left_finger"], spec["right_finger"]]
        shown = [self._grippers[m]["left_finger"] if m in self._grippers else m for m in motors]
        return {
            "mode": mode,
            "profile_type": profile,
            "joint_names": shown,
            "joint_ids": [self._ids[motor] for motor in motors],
            "joint_lower_limits": [limits[s][0] for s in shown if s in limits],
            "joint_upper_limits": [limits[s][1] for s in shown if s in limits],
            "joint_velocity_limits": [math.pi for s in shown if s in limits],
            "joint_sleep_positions": [float(sleep.get(motor, 0.0)) for motor in motors],
            "joint_state_indices": [published.index(s) if s in published else 0 for s in shown],
            "num_joints": len(motors),
            "name": sorted(self._groups) if name == "all" else [name],
        }

    # Details.

    def _motors(self, kind: str, name: str) -> list[str]:
        return self._groups[name].motors if kind == "group" else [name]

    def _goal(self, motor: str, value: float, mode: str) -> int:
        if mode == "linear_position":
            value = self._angle_of_distance(motor, value)
        return int(value * table.TICK_ZERO / math.pi + table.TICK_ZERO)  # cut off, not rounded

    def _angle_of_distance(self, gripper: str, distance_m: float) -> float:
        spec, half = self._grippers[gripper], distance_m / 2
        horn, arm = spec["horn_radius"], spec["arm_length"]
        return math.pi / 2 - math.acos((horn**2 + half**2 - arm**2) / (2 * horn * half))

    def _read(self, motor: str, register: Register) -> int | None:
        try:
            return self._bus.read(self._ids[motor], register)
        except DeviceLostError:
            raise
        except DeviceError as error:
            log.error("[xs_sdk] %s", error)
            return None

    def _write(self, motor: str, item: str, value: int, hurried: bool = False) -> None:
        """Write a register; a failure goes to the log only, as in the original."""
        if not hurried:
            time.sleep(WRITE_PAUSE_S)
        try:
            self._bus.write(self._ids[motor], ITEMS[item], value)
        except DeviceLostError:
            raise
        except (DeviceError, KeyError, OverflowError) as error:
            log.error("[xs_sdk] %s", error)


def rad_of(tick: int) -> float:
    """The workbench library's angle of a position; tick 0 is exactly -pi."""
    return (tick - table.TICK_ZERO) * math.pi / table.TICK_ZERO
