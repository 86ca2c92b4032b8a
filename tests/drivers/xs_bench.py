"""One Interbotix arm for tests: real ROS master, emulated node, servos that do as they are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from drivers.dynamixel import table
from drivers.dynamixel.table import Register
from drivers.emulated.dynamixel.bank import ServoBank
from drivers.emulated.dynamixel.chain import ServoChain
from drivers.emulated.dynamixel.motors import axes_of
from drivers.emulated.fair_lock import FairLock
from drivers.emulated.interbotix.ros_master import EmulatedRos, emulated_fields
from drivers.interbotix.arm import InterbotixArm
from teleop.addresses import free_base_port
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel
from teleop.rig_interbotix import InterbotixArm as ArmConfig

REST_RAD = (0.1, -1.2, 1.3, -0.2, 0.4, 0.3, 0.5)
"""Where the seven axes are put at first; inside everybody's limits."""
STEP_S = 0.002
BUSY_AGE_S = 1.0
"""Of joint states: test machines are busy."""
PATIENCE_S = 15.0
"""Limit of a wait for something that takes milliseconds on an idle machine."""


class ServoBench:
    """The servos of one arm, moving by themselves.

    Args:
        rig: Where the arm's model comes from.
        name: The arm.
    """

    def __init__(self, rig: Rig, name: str) -> None:
        self.name = name
        model = rig.arm_model(name)
        assert isinstance(model, DynamixelArmModel)
        self.model = model
        self.bank = ServoBank(axes_of(rig))
        self.chain = ServoChain(name, model, self.bank)
        self.faults = self.chain.faults
        axes = [joint.name for joint in model.joints] + ["gripper"]
        self.axes = [self.bank.index(name, axis) for axis in axes]
        self.lock = FairLock()
        self.place(REST_RAD)
        self._stop = threading.Event()
        self._motion = threading.Thread(target=self._move, daemon=True)

    def start_moving(self) -> None:
        """Let time pass."""
        self._motion.start()

    def stop_moving(self) -> None:
        """Let it stand still for good."""
        self._stop.set()
        self._motion.join()

    def place(self, angles_rad: tuple[float, ...]) -> None:
        """Put the joints somewhere."""
        with self.lock:
            self.bank.angle_rad[self.axes] = angles_rad

    def angles_rad(self) -> list[float]:
        """Where the joints are."""
        return [round(float(angle), 3) for angle in self.bank.angle_rad[self.axes]]

    def register(self, servo_id: int, register: Register) -> int:
        """What a servo's memory holds."""
        memory = self.chain.servo(servo_id).registers.table
        data = bytes(memory[register.address : register.address + register.size])
        return int.from_bytes(data, "little", signed=register.signed)

    def set_register(self, servo_id: int, register: Register, value: int) -> None:
        """Change a servo's memory behind everybody's back."""
        memory = self.chain.servo(servo_id).registers.table
        data = value.to_bytes(register.size, "little", signed=register.signed)
        with self.lock:
            memory[register.address : register.address + register.size] = data

    def torqued(self) -> list[bool]:
        """Which servos of the bus have torque, by id."""
        return [bool(servo.registers.table[64]) for servo in self.chain.servos]

    def _move(self) -> None:
        """Joints with torque are at their set points at once; the others stay where they are."""
        while not self._stop.wait(STEP_S):
            with self.lock:
                angle = self.bank.angle_rad.copy()
                self.bank.torque_nm(STEP_S, angle, np.zeros(len(angle)))
                held = [servo.axis for servo in self.chain.servos if servo.registers.table[64]]
                self.bank.angle_rad[held] = self.bank.set_rad[held]


class XsBench(ServoBench):
    """One arm of a rig behind an emulated node and a ROS master.

    Args:
        rig: Where the arm's model comes from.
        name: The arm; its role decides how the node is launched.
        folder: For links, files, logs.
    """

    def __init__(self, rig: Rig, name: str, folder: Path) -> None:
        super().__init__(rig, name)
        arm = rig.arms[name]
        assert isinstance(arm, DynamixelArm)
        told = ArmConfig(role=arm.role, model=arm.model, robot=name)
        fields = emulated_fields({name: told}, free_base_port(1))[name] | {
            "max_state_age_s": BUSY_AGE_S
        }
        self.config = told.model_copy(update=fields)
        self.ros = EmulatedRos(
            {name: self.config}, {name: self.model}, {name: self.chain}, folder, self.lock
        )
        self.node, self.master = self.ros.nodes[name], self.ros.masters[0]

    def __enter__(self) -> Self:
        self.ros.start()
        self.start_moving()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_moving()
        self.ros.close()

    def arm(self, **changed: object) -> InterbotixArm:
        """A driver of the arm, not connected; ``changed`` replaces fields of its description."""
        config = self.config.model_copy(update=changed)
        return InterbotixArm(self.name, config, self.model, MonotonicClock())

    def mend(self) -> None:
        """Faults gone, modes as launched, the node running."""
        self.faults.servo_absent.clear()
        for servo_id in range(1, 9):
            self.set_register(servo_id, table.OPERATING_MODE, table.MODE_POSITION)
        if self.node.process is None:
            self.node.start()


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Wait until it is so; returns how long that took, s. Until then devices may fail."""
    began_s = time.monotonic()
    while not _is_so(condition):
        assert time.monotonic() - began_s < PATIENCE_S, f"{what} did not come about"
        time.sleep(0.002)
    return time.monotonic() - began_s


def _is_so(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except DeviceLostError:
        raise
    except DeviceError:
        return False


def first_error(work: Callable[[], object]) -> DeviceError:
    """Do it again and again until it fails."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < PATIENCE_S:
        try:
            work()
        except DeviceError as error:
            return error
        time.sleep(0.005)
    raise AssertionError("it never failed")
