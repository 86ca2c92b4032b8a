"""Arm nodes and commander over the real driver and emulated servo buses, in virtual time.

What goes wrong with a servo, a cable or the power during teleoperation: each outcome by name.
"""

from collections.abc import Callable

import numpy as np
import pytest

from drivers.arm import node as arm_node
from drivers.arm.node import ArmNode
from drivers.dynamixel import table
from drivers.emulated.addresses import lockstep_rig
from drivers.emulated.operators.hand import Hand
from drivers.emulated.world import EmulatedWorld
from teleop import topics
from teleop.clock import BranchClock, VirtualClock, ns_from_s
from teleop.lockstep import Lockstep
from teleop.messages import ArmApplied, FloatArray, SessionPhase, StopState
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs
from teleop.rig import Rig
from teleop.teleop_node import TeleopNode
from teleop.topics import Queue

LEADER, FOLLOWER = "left_leader", "left_follower"
SHADOW, ELBOW, GRIPPER = 3, 4, 9


class SwayingHand:
    """A hand that sways the leader about its start pose, gently, once the episode runs."""

    finished = False

    def __init__(self, world: EmulatedWorld, rig: Rig) -> None:
        self._hand = Hand(world.plant)
        self._centre = np.array([*rig.arm_model(LEADER).start_rad, 0.0])
        self._began_s: float | None = None

    def begin(self, episode: int) -> None:
        """Nothing to prepare."""

    def hand_torque_nm(self, phase: str, now_s: float) -> FloatArray:
        if phase != "running":
            self._began_s = None
            return self._hand.let_go
        self._began_s = now_s if self._began_s is None else self._began_s
        time_s = now_s - self._began_s
        # Amplitude, and the way there from the start pose, are within a person's ease.
        wanted, rate = self._centre.copy(), np.zeros(7)
        wanted[0] += 0.3 * (1 - np.cos(2 * time_s))
        rate[0] = 0.6 * np.sin(2 * time_s)
        return self._hand.pull(wanted, rate)


class Director:
    """Stands for the session: says what the test wants, and listens."""

    name = "session"

    def __init__(self) -> None:
        self.phase, self.episode, self.stop = "homing", 0, False
        self.applied: dict[str, list[ArmApplied]] = {LEADER: [], FOLLOWER: []}
        self.plan = NodePlan(
            period_ns=ns_from_s(0.02),
            subscriptions={topics.arm_applied(arm): Queue.ALL for arm in self.applied},
            publications=(topics.SESSION_PHASE, topics.SESSION_STOP),
        )

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        for arm, applied in self.applied.items():
            applied += inputs.all(topics.arm_applied(arm), ArmApplied)
        return [
            (topics.SESSION_PHASE, SessionPhase(now_ns, 0, self.phase, self.episode, "")),
            (topics.SESSION_STOP, StopState(now_ns, 0, self.stop, "")),
        ]

    def health(self, now_ns: int) -> NodeHealth:
        return NodeHealth()

    def close(self) -> None:
        """Nothing to release."""


class Pair:
    """One leader and one follower at work."""

    def __init__(self, aloha: Rig) -> None:
        arms = {name: aloha.arms[name].model_dump() for name in (LEADER, FOLLOWER)}
        self.rig = lockstep_rig(aloha.replaced(arms=arms, cameras={}, tasks={}))
        self.clock = VirtualClock(ns_from_s(1.0))
        self.world = EmulatedWorld(self.rig, self.clock, "free", hands=False)
        self.world.operator = SwayingHand(self.world, self.rig)
        self.branches = {name: BranchClock(self.clock) for name in (LEADER, FOLLOWER)}
        self.nodes: dict[str, ArmNode] = {
            name: arm_node.build(name, NodeContext(self.rig, clock, self.world))
            for name, clock in self.branches.items()
        }
        self.commander = TeleopNode("commander", self.rig, "test")
        self.session = Director()
        nodes = [self.session, self.nodes[LEADER], self.commander, self.nodes[FOLLOWER]]
        self.runner = Lockstep(nodes, self.clock, self.branches, self.world)

    def seconds(self, seconds: float) -> None:
        end_ns = self.clock.now_ns() + ns_from_s(seconds)
        self.runner.run(lambda: self.clock.now_ns() >= end_ns, seconds + 1)

    def until(self, condition: Callable[[], bool], limit_s: float = 20.0) -> None:
        self.runner.run(condition, limit_s)

    def teleoperate(self) -> None:
        """Home, then run until the follower has followed for a while."""
        self.until(lambda: self.commander.health(self.clock.now_ns()).state == "home")
        self.enter("running")
        self.seconds(1.5)
        assert (self.mode(LEADER), self.mode(FOLLOWER)) == ("limp", "follow")

    def enter(self, phase: str) -> None:
        self.session.phase = phase
        self.world.set_phase(phase, self.session.episode)

    def mode(self, arm: str) -> str:
        return self.nodes[arm].mode

    def health(self, arm: str) -> NodeHealth:
        return self.nodes[arm].health(self.clock.now_ns())

    def angle(self, arm: str) -> FloatArray:
        axes = self.world.plant.axes_of(arm)
        return np.array(self.world.plant.axis_angle_rad[axes])[:6]

    def setpoints(self, arm: str) -> FloatArray:
        return np.array([applied.position_rad for applied in self.session.applied[arm]])

    def torque(self, arm: str) -> list[bool]:
        """Whether each servo has torque."""
        chain = self.world.chains[arm]
        address = table.TORQUE_ENABLE.address
        return [bool(chain.servo(i).registers.table[address]) for i in range(1, 10)]

    def assert_gains_are_as_described(self) -> None:
        """A restart resets them."""
        gripper = self.world.chains[FOLLOWER].servo(GRIPPER).registers.table
        address = table.GOAL_CURRENT.address
        limit_a = self.rig.arm_model(FOLLOWER).gripper.current_limit_a
        assert int.from_bytes(gripper[address : address + 2], "little") == round(limit_a / 2.69e-3)

    def assert_commands_stayed_within_the_limits(self) -> None:
        path = self.setpoints(FOLLOWER)
        assert np.abs(np.diff(path, axis=0)).max() <= 3.14 * 0.01 + 1e-6


@pytest.fixture
def pair(aloha: Rig) -> Pair:
    pair = Pair(aloha)
    pair.teleoperate()
    return pair


def test_the_follower_obeys_the_hand_on_the_leader(pair: Pair) -> None:
    """Through real packets and physics, both ways."""
    far = 0.0
    for _ in range(20):
        pair.seconds(0.1)
        far = max(far, float(np.abs(pair.angle(LEADER) - pair.angle(FOLLOWER)).max()))
    assert pair.mode(FOLLOWER) == "follow"
    assert np.ptp(pair.setpoints(FOLLOWER)[-200:, 0]) > 0.3
    assert far < 0.25
    pair.assert_commands_stayed_within_the_limits()


def test_a_servo_overload_is_a_fault_that_names_the_joint(pair: Pair) -> None:
    """The follower holds with its other joints; the commander passes the words on."""
    pair.world.chains[FOLLOWER].faults.overload(ELBOW)
    pair.until(lambda: pair.mode(FOLLOWER) == "fault", limit_s=2.0)
    pair.seconds(1.0)
    health = pair.health(FOLLOWER)
    assert not health.ok
    assert "elbow" in health.detail
    assert "overload" in health.detail
    commander = pair.commander.health(pair.clock.now_ns())
    assert commander.state == "refused"
    assert "elbow" in commander.detail
    still = pair.setpoints(FOLLOWER)[-30:]
    assert np.ptp(still, axis=0).max() == 0.0
    pair.assert_commands_stayed_within_the_limits()


def test_an_unplugged_leader_makes_its_follower_hold(pair: Pair) -> None:
    """No silent repeat of its last reading; plugged in again it comes back holding."""
    faults = pair.world.chains[LEADER].faults
    faults.unplugged = True
    pair.seconds(1.0)
    assert pair.health(LEADER).state == "fault"
    assert "lost" in pair.health(LEADER).detail
    assert pair.mode(FOLLOWER) == "hold"
    assert np.ptp(pair.setpoints(FOLLOWER)[-50:], axis=0).max() == 0.0
    assert "left_leader" in pair.commander.health(pair.clock.now_ns()).detail
    faults.unplugged = False
    pair.until(lambda: pair.mode(LEADER) == "hold", limit_s=4.0)
    assert pair.health(LEADER).ok


def test_an_unplugged_follower_stops_by_itself_and_comes_back_holding(pair: Pair) -> None:
    """Its servos' watchdog stops it; plugged in it holds there and ignores the old lease."""
    faults = pair.world.chains[FOLLOWER].faults
    faults.unplugged = True
    pair.seconds(1.0)
    assert pair.health(FOLLOWER).state == "fault"
    assert "lost" in pair.health(FOLLOWER).detail
    before = pair.angle(FOLLOWER)
    pair.seconds(0.5)
    assert np.abs(pair.angle(FOLLOWER) - before).max() < 0.01
    faults.unplugged = False
    pair.until(lambda: pair.mode(FOLLOWER) == "hold", limit_s=4.0)
    pair.seconds(1.0)
    assert pair.mode(FOLLOWER) == "hold"
    assert np.abs(pair.angle(FOLLOWER) - before).max() < 0.05


def overload(pair: Pair, servo_id: int) -> None:
    pair.world.chains[FOLLOWER].faults.overload(servo_id)


def brown_out(pair: Pair) -> None:
    pair.world.chains[FOLLOWER].faults.brown_out()


def brown_out_unplugged(pair: Pair) -> None:
    """The arm's plug strip: power and USB hub go together and come back."""
    faults = pair.world.chains[FOLLOWER].faults
    faults.unplugged = True
    pair.seconds(0.3)
    faults.brown_out()
    pair.seconds(1.0)
    faults.unplugged = False


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (lambda pair: overload(pair, GRIPPER), "gripper (id 9) lost torque: overload"),
        (lambda pair: overload(pair, ELBOW), "elbow (id 4) lost torque: overload"),
        (lambda pair: overload(pair, SHADOW), "shoulder (shadow) (id 3) lost torque: overload"),
        (brown_out, "gripper (id 9) lost torque: power dipped?"),
        (brown_out_unplugged, "gripper (id 9) lost torque: power dipped?"),
    ],
    ids=["gripper", "elbow", "shadow", "brown-out", "power and cable"],
)
def test_after_torque_was_lost_there_is_one_way_back(
    pair: Pair, happens: Callable[[Pair], None], words: str
) -> None:
    """Fault until an emergency stop is cleared, then hold where it is, then homing."""
    happens(pair)
    pair.until(lambda: words in pair.health(FOLLOWER).detail, limit_s=4.0)
    switched_on = pair.torque(FOLLOWER)
    for _ in range(10):
        pair.seconds(0.3)
        assert pair.mode(FOLLOWER) == "fault"
        assert words in pair.health(FOLLOWER).detail
        assert "clear it by emergency stop, then clear" in pair.health(FOLLOWER).detail
    assert pair.torque(FOLLOWER) == switched_on
    assert words in pair.commander.health(pair.clock.now_ns()).detail
    pair.session.stop = True
    pair.seconds(0.2)
    assert pair.torque(FOLLOWER) == switched_on
    before = pair.angle(FOLLOWER)
    pair.session.stop = False
    pair.until(lambda: pair.mode(FOLLOWER) == "hold", limit_s=1.0)
    pair.seconds(1.0)
    assert pair.health(FOLLOWER).ok
    assert all(pair.torque(FOLLOWER))
    assert np.abs(pair.angle(FOLLOWER) - before).max() < 0.1
    pair.assert_gains_are_as_described()
    pair.session.episode += 1
    pair.enter("homing")
    pair.until(lambda: pair.commander.health(pair.clock.now_ns()).state == "home")
    start = np.array(pair.rig.arm_model(FOLLOWER).start_rad)
    assert np.abs(pair.angle(FOLLOWER) - start).max() < 0.1
    pair.assert_commands_stayed_within_the_limits()


def test_a_brown_out_is_never_followed_through(pair: Pair) -> None:
    """From the first reading after the dip on it is known: no command passes in between."""
    brown_out(pair)
    pair.until(lambda: pair.mode(FOLLOWER) == "fault", limit_s=2.0)
    since_ns = pair.clock.now_ns()
    pair.seconds(1.5)
    modes = [a.mode for a in pair.session.applied[FOLLOWER] if a.stamp_ns > since_ns]
    assert set(modes) == {"fault"}


def test_a_limp_leader_that_browns_out_stays_limp(pair: Pair) -> None:
    """It had no torque to lose: a person holds it."""
    pair.world.chains[LEADER].faults.brown_out()
    pair.seconds(2.0)
    assert pair.mode(LEADER) == "limp"
    assert pair.health(LEADER).ok
    assert not any(pair.torque(LEADER))


def test_lost_replies_cost_retries_and_no_more(pair: Pair) -> None:
    """Two dropped replies in a hundred: the follower goes on following."""
    for arm in (LEADER, FOLLOWER):
        pair.world.chains[arm].faults.drop.probability = 0.02
    pair.seconds(3.0)
    assert pair.mode(FOLLOWER) == "follow"
    pair.assert_commands_stayed_within_the_limits()


def test_the_emergency_stop_ends_motion_and_clearing_it_starts_none(pair: Pair) -> None:
    """Also through the commander: nothing moves before the next homing."""
    pair.session.stop = True
    pair.seconds(0.6)
    assert (pair.mode(LEADER), pair.mode(FOLLOWER)) == ("stopped", "stopped")
    before = pair.setpoints(FOLLOWER)[-1]
    pair.session.stop = False
    pair.seconds(1.0)
    assert (pair.mode(LEADER), pair.mode(FOLLOWER)) == ("hold", "hold")
    assert (pair.setpoints(FOLLOWER)[-1] == before).all()
