"""A guided leader whose motors help the hand, closed loop: node, driver, servo bus, physics.

All in virtual time. The emulated leader hangs on no counterbalance here, and weighs what its URDF
says; it is the model in the rig description that is made wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_arm import changed_arm, changed_model

from drivers import dynamixel_table as table
from drivers.arm_node import ArmNode
from drivers.dynamixel_feel import GOAL_PWM, MODE_CURRENT
from drivers.emulated.plant import START_RAD, Plant
from drivers.emulated.servo_bank import ServoBank, axes_of
from drivers.emulated.servo_chain import chains_of
from drivers.emulated.virtual_port import VirtualPort
from drivers.viperx import DynamixelArm
from teleop import topics
from teleop.clock import VirtualClock, ns_from_s
from teleop.messages import (
    LIMP,
    LIMP_GRIPPER,
    ArmCommand,
    FloatArray,
    StopState,
)
from teleop.node import Inputs, Received
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm as ArmConfig
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[2]
LEADER = "left_leader"
SHOULDER, ELBOW, WRIST_ANGLE, GRIPPER = 1, 2, 4, 6
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle")
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


# Gravity compensation.


@pytest.fixture(scope="module")
def limp() -> dict[tuple[float, ...], GuidedLeader]:
    """The same leader with no help, let go at each of the poses."""
    rig = load_rig(ROOT / "hardware.yaml").replaced(rates={"arm_hz": 100})
    arms = {start: GuidedLeader(rig, None, start) for start in (FORWARD_RAD, START_RAD)}
    for arm in arms.values():
        arm.run(3.0)
    return arms


@pytest.mark.parametrize("start", [FORWARD_RAD, START_RAD], ids=["forward", "start"])
@pytest.mark.parametrize("gain", [0.7, 1.0])
@pytest.mark.parametrize("mass_scale", [0.7, 1.0, 1.3])
def test_a_leader_let_go_sinks_slower_than_limp_and_comes_to_rest(
    aloha: Rig,
    limp: dict[tuple[float, ...], GuidedLeader],
    mass_scale: float,
    gain: float,
    start: tuple[float, ...],
) -> None:
    """Whether its model is 30 % too heavy or too light, and even when all of it is carried."""
    arm = GuidedLeader(aloha, gravity(mass_scale, gain=gain), start)
    arm.run(8.0)
    assert arm.node.mode == "limp"
    assert arm.fastest_rad_s < 0.5 * limp[start].fastest_rad_s
    assert np.abs(np.array(arm.rates)[-250:, :6]).max() < STANDS_RAD_S
    if gain == 0.7 and mass_scale >= 1.3:
        assert arm.angle_rad[:5] == pytest.approx(start[:5], abs=0.02)  # Left there, it stays.


def test_a_leader_with_the_default_gain_never_rises_by_itself(aloha: Rig) -> None:
    """0.7 of a model 30 % too heavy is less than the arm's weight; its friction does the rest."""
    arm = GuidedLeader(aloha, gravity(1.3), FORWARD_RAD)
    arm.run(4.0)
    assert np.array(arm.angles)[:, SHOULDER].min() > FORWARD_RAD[SHOULDER] - 0.002


@pytest.mark.parametrize(("mass_scale", "most"), [(0.7, 0.95), (1.0, 0.75), (1.3, 0.55)])
def test_lifting_takes_less_force_than_a_limp_leader(
    aloha: Rig, mass_scale: float, most: float
) -> None:
    """A hand lifts the shoulder by half a radian; gears with power on have friction to overcome."""
    work = {}
    for name, feel in (("limp", None), ("helped", gravity(mass_scale))):
        arm = GuidedLeader(aloha, feel, FORWARD_RAD)
        hold = towards(FORWARD_RAD[SHOULDER], SHOULDER)
        arm.run(0.3, hold)
        forces = []
        for step in range(100):
            lift = towards(FORWARD_RAD[SHOULDER] - 0.005 * step, SHOULDER)
            arm.run(0.01, lift)
            forces.append(lift(arm.angle_rad, arm.rate_rad_s)[SHOULDER])
        assert arm.angle_rad[SHOULDER] < FORWARD_RAD[SHOULDER] - 0.3
        work[name] = np.abs(forces).mean()
    assert work["helped"] < most * work["limp"]


def test_currents_stay_within_their_caps(aloha: Rig) -> None:
    """Per servo: the shoulder needs more than 0.2 A, and gets no more."""
    caps = {"shoulder": 0.2, "elbow": 0.4}
    arm = GuidedLeader(aloha, {"gravity": {"max_current_a": caps}}, FORWARD_RAD)
    most = 0
    for _ in range(100):
        arm.run(0.01)
        most = max(most, abs(arm.register(2, table.GOAL_CURRENT)))
    assert most == round(0.2 / 2.69e-3)
    assert arm.register(1, table.TORQUE_ENABLE) == 0  # The waist has no cap, so it is limp.
    assert arm.register(6, table.OPERATING_MODE) == table.MODE_POSITION


def test_a_throw_is_not_driven_on(aloha: Rig) -> None:
    """Thrown upwards by hand, a leader whose model is too heavy is not kept going."""
    feel = gravity(1.3, gain=1.0) | {"cutoff_rad_s": 1.0}
    arm = GuidedLeader(aloha, feel, FORWARD_RAD)
    arm.run(0.2)
    arm.run(0.25, steadily(-6.0, SHOULDER))
    thrown_rad_s = abs(arm.rate_rad_s[SHOULDER])
    arm.run(0.05)
    assert thrown_rad_s > 1.0
    assert abs(arm.rate_rad_s[SHOULDER]) < 0.8 * thrown_rad_s


# Barrier.

BARRIER: dict[str, Any] = {"barrier": {"max_current_a": 1.0}}


@pytest.mark.parametrize(
    ("joint", "push_nm", "end_rad"),
    [(SHOULDER, 1.2, 1.256), (ELBOW, -1.2, -1.763), (WRIST_ANGLE, -0.8, -1.745)],
    ids=["shoulder", "elbow", "wrist"],
)
def test_a_moderate_hand_cannot_leave_the_followers_range(
    aloha: Rig, joint: int, push_nm: float, end_rad: float
) -> None:
    """A WidowX' shoulder and elbow reach further than a ViperX'; its wrist less far."""
    start = [*START_RAD]
    start[joint] = end_rad - 0.3 * np.sign(push_nm)
    beyond = {}
    for name, feel in (
        ("free", gravity(1.0, gain=1.0)),
        ("kept", gravity(1.0, gain=1.0) | BARRIER),
    ):
        arm = GuidedLeader(aloha, feel, tuple(start))
        arm.run(0.2)
        arm.run(3.0, steadily(push_nm, joint))
        beyond[name] = (arm.angle_rad[joint] - end_rad) * np.sign(push_nm)
        assert abs(arm.rate_rad_s[joint]) < STANDS_RAD_S
    assert beyond["kept"] < 0.0
    assert beyond["free"] > beyond["kept"] + 0.02


def test_the_stiffest_barrier_does_not_swing(aloha: Rig) -> None:
    """Pushed into it and let go, the lightest joint comes back and stands."""
    start = (*START_RAD[:WRIST_ANGLE], -1.6, 0.0)
    feel = {"barrier": {"stiffness_nm_rad": 30.0, "max_current_a": 1.5, "margin_rad": 0.3}}
    arm = GuidedLeader(aloha, feel | gravity(1.0), start)
    arm.run(3.0)
    rates = np.array(arm.rates)[:, WRIST_ANGLE]
    assert arm.angle_rad[WRIST_ANGLE] > -1.55
    assert np.abs(rates[-500:]).max() < STANDS_RAD_S


# Gripper.

SPRING: dict[str, Any] = {"gripper_spring": {}}


def with_gripper(rig: Rig, servo: str) -> Rig:
    gripper = rig.arm_models["wx250s"].gripper
    assert gripper is not None
    return changed_model(rig, "wx250s", gripper=gripper.model_dump() | {"servo": servo})


def opening(arm: GuidedLeader) -> float:
    reading = arm.arm.read().gripper
    assert reading is not None
    return reading


@pytest.mark.parametrize(
    ("servo", "torque_nm"), [("XC430-W150", 0.2), ("XL430-W250", 0.2), ("XM430-W350", 0.35)]
)
@pytest.mark.parametrize("mode", [LIMP, LIMP_GRIPPER])
def test_a_squeezed_gripper_opens_again(
    aloha: Rig, servo: str, torque_nm: float, mode: str
) -> None:
    """By current or by voltage; guided, and while the joints wait for the episode to begin."""
    spring = {"gripper_spring": {"max_torque_nm": torque_nm}}
    arm = GuidedLeader(with_gripper(aloha, servo), spring, START_RAD)
    arm.mode = mode
    arm.run(1.0, towards(-0.6842, GRIPPER, cap_nm=1.0))
    assert opening(arm) < 0.1
    arm.run(3.0)
    assert opening(arm) > 0.85
    assert abs(arm.rate_rad_s[GRIPPER]) < STANDS_RAD_S


@pytest.mark.parametrize("servo", ["XC430-W150", "XM430-W350"])
def test_a_sprung_gripper_holds_with_all_its_strength_afterwards(aloha: Rig, servo: str) -> None:
    """Little voltage, or no position loop, would let a held gripper be pulled away."""
    arm = GuidedLeader(with_gripper(aloha, servo), SPRING, START_RAD)
    arm.run(0.5)
    arm.stop = True
    arm.run(0.1)
    held_rad = arm.angle_rad[GRIPPER]
    arm.run(0.5, steadily(-0.6, GRIPPER))
    assert arm.angle_rad[GRIPPER] == pytest.approx(held_rad, abs=0.4)
    arm.run(0.5)
    assert arm.angle_rad[GRIPPER] == pytest.approx(held_rad, abs=0.1)
    assert arm.register(9, table.OPERATING_MODE) == table.MODE_POSITION


# Going limp, and holding.


def test_a_leader_goes_limp_when_nobody_talks_to_it(aloha: Rig) -> None:
    """A killed process: nothing pushes after a quarter of a second, shadows neither."""
    arm = GuidedLeader(aloha, gravity(1.3, gain=1.0) | SPRING, FORWARD_RAD)
    arm.run(0.3)
    assert arm.pushed_nm > 1.0
    arm.run(0.25, ticks=False)
    assert [arm.register(i, table.GOAL_CURRENT) for i in range(1, 8)] == [0] * 7
    assert arm.pushed_nm < 0.25  # The gripper, which has no current, keeps where it is.


def test_a_leader_pushes_again_after_its_node_was_stalled(aloha: Rig) -> None:
    """It says what happened, and begins from no current."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.run(0.4, ticks=False)
    arm.run(0.1)
    assert arm.node.mode == "limp"
    assert arm.pushed_nm > 1.0
    arm.run(1.0)
    values = arm.node.health(arm.clock.now_ns()).values
    assert values["watchdog_trips"] == 1
    assert values["failed_reads"] == 1


def test_without_a_reading_nothing_pushes(aloha: Rig) -> None:
    """A current from an old pose is none to go on with."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.chain.faults.drop.probability = 1.0
    arm.run(0.02)
    assert [arm.register(i, table.GOAL_CURRENT) for i in range(1, 8)] == [0] * 7
    arm.chain.faults.drop.probability = 0.0
    arm.run(0.3)
    assert arm.pushed_nm > 1.0


def test_a_stop_holds_the_leader_in_position_mode(aloha: Rig) -> None:
    """And when that is cleared it is guided again."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    assert arm.modes() == [MODE_CURRENT] * 7
    arm.stop = True
    arm.run(0.1)
    assert (arm.node.mode, arm.modes()) == ("stopped", [table.MODE_POSITION] * 7)
    held_rad = arm.angle_rad
    arm.run(1.0)
    assert arm.angle_rad[:6] == pytest.approx(held_rad[:6], abs=0.06)  # Servos sag by that.
    arm.stop, arm.lease = False, "two"  # A stop ends a commander's lease for good.
    arm.run(0.3)
    assert (arm.node.mode, arm.modes()) == ("limp", [MODE_CURRENT] * 7)


def test_a_guided_leader_stays_guided_without_commander_and_session(aloha: Rig) -> None:
    """The rules of a limp leader: someone has it in hand."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.commanded = arm.session_speaks = False
    arm.run(1.0, towards(FORWARD_RAD[SHOULDER], SHOULDER))
    assert arm.node.mode == "limp"
    assert arm.pushed_nm > 1.0


def test_a_servo_in_trouble_ends_the_help(aloha: Rig) -> None:
    """The others do not go on pushing against an arm that has lost a joint."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.chain.faults.overload(4)
    arm.run(0.5)
    assert arm.node.mode == "fault"
    assert "elbow" in arm.node.health(arm.clock.now_ns()).detail
    assert arm.pushed_nm == 0.0


def test_closing_leaves_a_guided_leader_limp(aloha: Rig) -> None:
    """Not pushing for ever with the last current."""
    arm = GuidedLeader(aloha, gravity() | SPRING, FORWARD_RAD)
    arm.run(0.3)
    arm.node.close()
    assert not any(arm.register(i, table.TORQUE_ENABLE) for i in range(1, 10))


def test_the_next_process_finds_a_killed_ones_leader_and_lets_it_go(aloha: Rig) -> None:
    """Its servos have torque, in a mode that cannot be changed with torque on."""
    arm = GuidedLeader(aloha, gravity() | SPRING, FORWARD_RAD)
    arm.run(0.3)
    arm.chain.host = None  # The process is gone, and its port with it.
    arm.run(0.3, ticks=False)
    arm.arm = arm.driver()
    arm.arm.connect()
    assert not any(arm.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    assert arm.modes() == [table.MODE_POSITION] * 7
    arm.arm.set_torque(True, True)
    assert arm.register(9, GOAL_PWM) == 885


def test_a_leader_without_feel_is_limp_as_ever(aloha: Rig) -> None:
    """Off by default: no torque, no other mode, no watchdog."""
    arm = GuidedLeader(aloha, None, START_RAD)
    arm.run(0.3)
    assert not any(arm.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    assert arm.modes() == [table.MODE_POSITION] * 7
    assert not any(arm.register(i, table.BUS_WATCHDOG) for i in range(1, 10))
