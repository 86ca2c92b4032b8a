"""A guided leader in closed loop, for tests: node, driver, servo bus, physics, a hand.

All in virtual time. The emulated leader hangs on no counterbalance here, and weighs what its URDF
says; it is the model in the rig description that is made wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from one_arm import changed_arm, changed_model

from drivers.arm.node import ArmNode
from drivers.dynamixel import table
from drivers.dynamixel.viperx import DynamixelArm
from drivers.emulated.dynamixel.bank import ServoBank, axes_of
from drivers.emulated.dynamixel.chain import chains_of
from drivers.emulated.dynamixel.virtual_port import VirtualPort
from drivers.emulated.plant import Plant
from teleop import topics
from teleop.clock import VirtualClock, ns_from_s
from teleop.messages import LIMP, ArmCommand, FloatArray, StopState
from teleop.node import Inputs, Received
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm as ArmConfig
from teleop.rig_dynamixel import DynamixelArmModel

LEADER = "left_leader"
SHOULDER, ELBOW, WRIST_ANGLE, GRIPPER = 1, 2, 4, 6
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle")
SPRING: dict[str, Any] = {"gripper_spring": {}}
GRAVITY: dict[str, Any] = {"max_current_a": dict.fromkeys(JOINTS, 1.4)}
FORWARD_RAD = (0.0, 0.3, 0.2, 0.0, 0.3, 0.0)
"""Reaching forward: near the most that the shoulder must carry."""
STANDS_RAD_S = 0.05
"""Slower than this an arm has come to rest, or creeps where friction is about to hold it."""

Pull = Callable[[FloatArray, FloatArray], FloatArray]
"""From the leader's angles and rates, each (7,), to the torque of a hand on it, (7,)."""


def leading(rig: Rig, feel: dict[str, Any] | None) -> Rig:
    """The left half of the rig, its leader with a feel."""
    tree = changed_model(rig, "wx250s", kinematics="wx250s").model_dump()
    tree["arms"] = {name: arm for name, arm in tree["arms"].items() if name.startswith("left")}
    return changed_arm(Rig.model_validate(tree), LEADER, feel=feel)


class GuidedLeader:
    """A heavy leader and its node; the test is commander, session and hand."""

    def __init__(self, rig: Rig, feel: dict[str, Any] | None, start_rad: tuple[float, ...]) -> None:
        self.rig = leading(rig, feel)
        self.clock = VirtualClock(ns_from_s(1))
        self.plant = Plant(sorted(self.rig.arms), "free", 0, heavy=[LEADER])
        self.plant.set_arm(LEADER, np.array(start_rad), 0.5)
        self.bank = ServoBank(axes_of(self.rig))
        self.chain = chains_of(self.rig, self.bank)[LEADER]
        self.axes = self.plant.axes_of(LEADER)
        self.bank.angle_rad[:] = self.plant.axis_angle_rad
        self.arm = self.driver()
        self.arm.connect()
        self.node = ArmNode(LEADER, self.rig, self.arm, self.clock)
        self.mode, self.lease, self.stop = LIMP, "one", False
        self.angles: list[FloatArray] = []
        self.rates: list[FloatArray] = []
        self.commanded = self.session_speaks = True
        self._seq = 0
        self._next_tick_ns = self.clock.now_ns()

    def driver(self) -> DynamixelArm:
        """Another driver of the same bus, not connected."""
        config, model = self.rig.arms[LEADER], self.rig.arm_model(LEADER)
        assert isinstance(config, ArmConfig)
        assert isinstance(model, DynamixelArmModel)
        watchdog_s = self.rig.safety.bus_watchdog_s
        return DynamixelArm(LEADER, config, model, self._open_port, watchdog_s)

    def _open_port(self) -> VirtualPort:
        return VirtualPort(self.chain, self.clock)

    def run(self, seconds: float, pull: Pull | None = None, ticks: bool = True) -> None:
        """Let time pass; without ``ticks`` the node's process is dead."""
        no_hand = np.zeros(len(self.plant.axis_angle_rad))
        for _ in range(round(seconds / self.plant.step_s)):
            hand = no_hand.copy()
            if pull is not None:
                hand[self.axes] = pull(self.angle_rad, self.rate_rad_s)
            angle, rate = self.plant.axis_angle_rad, self.plant.axis_rate_rad_s
            self.plant.step(self.bank.torque_nm(self.plant.step_s, angle, rate), hand)
            self.clock.sleep_until_ns(self.clock.now_ns() + ns_from_s(self.plant.step_s))
            self.chain.advance(self.clock.now_ns())
            self.angles.append(self.angle_rad)
            self.rates.append(self.rate_rad_s)
            if ticks and self.clock.now_ns() >= self._next_tick_ns:
                self._tick(self.clock.now_ns())

    def _tick(self, now_ns: int) -> None:
        self._next_tick_ns = now_ns + ns_from_s(1 / self.rig.rates.arm_hz)
        self._seq += 1
        command = ArmCommand(
            stamp_ns=now_ns,
            seq=self._seq,
            position_rad=self.angle_rad[:6],
            gripper=0.5,
            valid_until_ns=now_ns + ns_from_s(0.1),
            source="test",
            lease=self.lease,
            mode=self.mode,
            origin_ns=now_ns - 1,
        )
        said = StopState(now_ns, 0, self.stop, "")
        heard = {}
        if self.commanded:
            heard[topics.arm_command(LEADER)] = [Received(command, now_ns)]
        if self.session_speaks:
            heard[topics.SESSION_STOP] = [Received(said, now_ns)]
        self.node.step(Inputs(heard), now_ns)

    @property
    def angle_rad(self) -> FloatArray:
        return np.asarray(self.plant.axis_angle_rad[self.axes])

    @property
    def rate_rad_s(self) -> FloatArray:
        return np.asarray(self.plant.axis_rate_rad_s[self.axes])

    @property
    def fastest_rad_s(self) -> float:
        """Of any joint, since the beginning."""
        return float(np.abs(np.array(self.rates)[:, :6]).max())

    @property
    def pushed_nm(self) -> float:
        """The largest torque that any motor of the leader puts on its joint now."""
        axes = [self.bank.index(LEADER, joint) for joint in (*JOINTS, "wrist_rotate", "gripper")]
        return float(np.abs(self.bank.motor_nm[axes]).max())

    def modes(self) -> list[int]:
        """Operating modes of the joints' servos that have current control, shadows too."""
        return [self.register(i, table.OPERATING_MODE) for i in range(1, 8)]

    def register(self, servo_id: int, register: table.Register) -> int:
        registers = self.chain.servo(servo_id).registers
        return registers.get(register.address)


def gravity(mass_scale: float = 1.0, **changes: object) -> dict[str, Any]:
    """Of a model that many times too heavy."""
    return {"gravity": GRAVITY | {"mass_scale": mass_scale} | changes}


def towards(angle_rad: float, joint: int, cap_nm: float = 8.0) -> Pull:
    """A hand that takes one joint somewhere, and gives way at ``cap_nm``."""

    def pull(angles: FloatArray, rates: FloatArray) -> FloatArray:
        torque = np.zeros(7)
        spring = 60.0 * (angle_rad - angles[joint]) - 4.0 * rates[joint]
        torque[joint] = np.clip(spring, -cap_nm, cap_nm)
        return torque

    return pull


def steadily(torque_nm: float, joint: int) -> Pull:
    """A hand that pushes one joint, however that moves."""

    def pull(angles: FloatArray, rates: FloatArray) -> FloatArray:
        torque = np.zeros(7)
        torque[joint] = torque_nm
        return torque

    return pull
