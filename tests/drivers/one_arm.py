"""One arm's driver on an emulated bus in virtual time, with joints that a test can place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drivers.dynamixel.port import ServoPort
from drivers.dynamixel.table import Register
from drivers.dynamixel.viperx import DynamixelArm
from drivers.emulated.dynamixel.bank import ServoBank
from drivers.emulated.dynamixel.chain import chains_of
from drivers.emulated.dynamixel.motors import axes_of
from drivers.emulated.dynamixel.virtual_port import VirtualPort
from teleop.clock import VirtualClock, ns_from_s
from teleop.rig import Rig

REST_RAD = (0.1, -1.2, 1.3, -0.2, 0.4, 0.3, 0.5)
"""Where the seven axes are put at first; inside everybody's limits."""


class OneArm:
    """Driver, bus and motion model of one arm of a rig.

    Args:
        rig: What is emulated.
        name: The arm.
        sysfs: Where the driver looks for USB adapters.
        described_by: What the driver is told, when that differs from what is emulated.
    """

    def __init__(
        self,
        rig: Rig,
        name: str,
        sysfs: Path = Path("/nonexistent"),
        described_by: Rig | None = None,
    ) -> None:
        self.rig, self.name = rig, name
        self.clock = VirtualClock(ns_from_s(1))
        self.bank = ServoBank(axes_of(rig))
        self.chain = chains_of(rig, self.bank)[name]
        self.faults = self.chain.faults
        model = rig.arm_model(name)
        axes = [j.name for j in model.joints] + ["gripper"] * (model.gripper is not None)
        self.axes = [self.bank.index(name, axis) for axis in axes]
        self.place(REST_RAD)
        told = described_by or rig
        self.arm = DynamixelArm(
            name,
            told.arms[name],
            told.arm_model(name),
            self.open_port,
            told.safety.bus_watchdog_s,
            sysfs,
        )

    def open_port(self) -> ServoPort:
        """A fresh port, as the registry makes it."""
        port = VirtualPort(self.chain, self.clock)
        port.baudrate = self.rig.arms[self.name].baud
        return port

    def place(self, angles_rad: tuple[float, ...]) -> None:
        """Put the joints somewhere and let them rest there."""
        self.bank.angle_rad[self.axes] = angles_rad[: len(self.axes)]

    def goals_rad(self) -> list[float]:
        """Where the servos are going."""
        return np.round(self.bank.goal_rad[self.axes], 3).tolist()

    def register(self, servo_id: int, register: Register) -> int:
        """What a servo's memory holds."""
        table = self.chain.servo(servo_id).registers.table
        data = bytes(table[register.address : register.address + register.size])
        return int.from_bytes(data, "little", signed=register.signed)

    def set_register(self, servo_id: int, register: Register, value: int) -> None:
        """Change a servo's memory behind everybody's back."""
        table = self.chain.servo(servo_id).registers.table
        data = value.to_bytes(register.size, "little", signed=register.signed)
        table[register.address : register.address + register.size] = data

    def wait(self, seconds: float) -> None:
        """Let time pass on a silent bus."""
        self.clock.sleep_until_ns(self.clock.now_ns() + ns_from_s(seconds))
        self.chain.advance(self.clock.now_ns())


def changed_arm(rig: Rig, name: str, **values: object) -> Rig:
    """The rig with some values of one arm changed."""
    tree = rig.model_dump()
    tree["arms"][name].update(values)
    return Rig.model_validate(tree)


def changed_model(rig: Rig, model: str, **values: object) -> Rig:
    """The rig with some values of one arm model changed."""
    tree = rig.model_dump()
    tree["arm_models"][model].update(values)
    return Rig.model_validate(tree)
