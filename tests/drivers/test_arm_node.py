"""The arm node: whoever commands, whatever fails, the outcome is named and bounded."""

import time
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from drivers.arm_node import RETRY_S, ArmNode
from drivers.base import ArmReading, DeviceHealth
from teleop import topics
from teleop.clock import VirtualClock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.limits import Limited
from teleop.messages import (
    LIMP,
    LIMP_GRIPPER,
    POSITION,
    ArmApplied,
    ArmCommand,
    ArmState,
    FloatArray,
    Message,
    StopState,
)
from teleop.node import Inputs, Received
from teleop.rig import Rig

TICK_NS = 10_000_000
LAG_S = 0.05


class FirstOrderArm:
    """A stand-in arm: each joint approaches its goal with a first-order lag."""

    has_gripper = True

    def __init__(self, clock: VirtualClock, start_rad: FloatArray) -> None:
        self.joint_names = tuple(f"joint{i}" for i in range(len(start_rad)))
        self.q = start_rad.copy()
        self.goal = start_rad.copy()
        self.gripper = 0.5
        self.torque = (False, False)
        self.torque_calls: list[tuple[bool, bool]] = []
        self.writes: list[FloatArray] = []
        self.written_grippers: list[float | None] = []
        self.read_error: DeviceError | None = None
        self.torque_error: DeviceError | None = None
        self.connect_error: DeviceError | None = None
        self.reboot_error: DeviceError | None = None
        self.reboots = 0
        self.health = DeviceHealth()
        self.connects = 0
        self.closed = False
        self._clock = clock

    def connect(self) -> None:
        self.connects += 1
        if self.connect_error is not None:
            raise self.connect_error
        self.read_error = None

    def read(self) -> ArmReading:
        if self.read_error is not None:
            raise self.read_error
        if self.torque[0]:
            self.q += (self.goal - self.q) * (TICK_NS / 1e9 / LAG_S)
        zeros = np.zeros_like(self.q)
        return ArmReading(self._clock.now_ns(), self.q.copy(), zeros, zeros, self.gripper, 0.0, 0.0)

    def write(self, position_rad: FloatArray, gripper: float | None) -> None:
        if isinstance(self.read_error, DeviceLostError):
            raise self.read_error
        self.writes.append(position_rad)
        self.written_grippers.append(gripper)
        self.goal = position_rad

    def set_torque(self, joints: bool, gripper: bool) -> None:
        self.torque_calls.append((joints, gripper))
        if self.torque_error is not None:
            raise self.torque_error
        if joints and not self.torque[0]:
            self.goal = self.q.copy()
        self.torque = (joints, gripper)

    def torque_off(self) -> list[str]:
        self.torque = (False, False)
        return []

    def reboot_failed(self) -> list[str]:
        self.reboots += 1
        if self.reboot_error is not None:
            raise self.reboot_error
        self.health = DeviceHealth()
        return ["gripper (id 9)"]

    def poll_health(self) -> DeviceHealth:
        return self.health

    def close(self) -> None:
        self.closed = True


class Bench:
    """One arm node in virtual time, with a commander and a session that a test can silence."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.clock = VirtualClock(1_000_000_000)
        self.start_rad = np.array(rig.arm_model(name).start_rad)
        self.arm = FirstOrderArm(self.clock, self.start_rad)
        self.node = ArmNode(name, rig, self.arm, self.clock)
        self.names = [joint.name for joint in rig.arm_model(name).joints]
        self.stop = False
        self.session_speaks = True
        self.states: list[ArmState] = []
        self.applied: list[ArmApplied] = []
        self._command = topics.arm_command(name)
        self._seq = 0

    def command(self, position_rad: FloatArray, **changes: object) -> ArmCommand:
        now_ns = self.clock.now_ns()
        self._seq += 1
        fields: dict[str, object] = {
            "stamp_ns": now_ns,
            "seq": self._seq,
            "position_rad": position_rad,
            "gripper": 0.5,
            "valid_until_ns": now_ns + ns_from_s(0.1),
            "source": "test",
            "lease": "one",
            "mode": POSITION,
            "origin_ns": now_ns - 1,
        }
        return ArmCommand(**(fields | changes))  # type: ignore[arg-type]

    def tick(self, *commands: ArmCommand, skip_ns: int = TICK_NS) -> None:
        self.clock.sleep_until_ns(self.clock.now_ns() + skip_ns)
        now_ns = self.clock.now_ns()
        by_topic: dict[str, list[Received]] = {}
        if commands:
            by_topic[self._command] = [Received(command, now_ns) for command in commands]
        if self.session_speaks:
            said = StopState(now_ns, 0, self.stop, "")
            by_topic[topics.SESSION_STOP] = [Received(said, now_ns)]
        for topic, message in self.node.step(Inputs(by_topic), now_ns):
            self._file(topic, message)

    def _file(self, topic: str, message: Message) -> None:
        if topic.endswith("/state"):
            self.states.append(cast(ArmState, message))
        else:
            self.applied.append(cast(ArmApplied, message))

    def ticks(self, count: int, position_rad: FloatArray | None = None, **changes: object) -> None:
        """Several ticks, each with a fresh command if a pose is given."""
        for _ in range(count):
            if position_rad is None:
                self.tick()
            else:
                self.tick(self.command(position_rad, **changes))

    def follow(self) -> None:
        """Come to follow commands at the start pose."""
        self.ticks(2)
        self.ticks(3, self.start_rad)
        assert self.node.mode == "follow"

    @property
    def detail(self) -> str:
        return self.node.health(self.clock.now_ns()).detail

    def count(self, name: str) -> float:
        return self.node.health(self.clock.now_ns()).values[name]

    def path(self, since: int = 0) -> FloatArray:
        return np.array([applied.position_rad for applied in self.applied[since:]])


@pytest.fixture
def follower(aloha: Rig) -> Bench:
    return Bench(aloha, "left_follower")


@pytest.fixture
def leader(aloha: Rig) -> Bench:
    return Bench(aloha, "left_leader")


def offset(bench: Bench, rad: float, joint: int = 0) -> FloatArray:
    pose = bench.start_rad.copy()
    pose[joint] += rad
    return pose


def assert_smooth(applied: list[ArmApplied]) -> None:
    """Within the shipped follower's limits: 0.2 rad, 3.14 rad/s and 20 rad/s^2."""
    steps = np.diff([a.position_rad for a in applied], axis=0)
    times_s = np.diff([a.stamp_ns for a in applied])[:, None] / 1e9
    speeds = steps / times_s
    assert np.abs(steps).max(initial=0) <= 0.2 + 1e-6
    assert np.abs(speeds).max(initial=0) <= 3.14 + 1e-6
    assert (np.abs(np.diff(speeds, axis=0)) <= 20.0 * times_s[1:] + 1e-6).all()


def test_an_arm_without_commander_holds_where_it_is(follower: Bench) -> None:
    """Torque is switched on at the measured pose; state and applied come every tick."""
    follower.ticks(20)
    assert follower.arm.torque == (True, True)
    assert follower.node.mode == "hold"
    assert len(follower.states) == len(follower.applied) == 20
    assert {a.mode for a in follower.applied} == {"hold"}
    assert {a.command_seq for a in follower.applied} == {-1}
    assert (follower.path() == follower.start_rad).all()
    assert [s.seq for s in follower.states] == list(range(20))


def test_a_valid_command_is_followed(follower: Bench) -> None:
    """Mode, sequence and origin of the command in force are told."""
    follower.follow()
    follower.ticks(100, offset(follower, 0.3))
    last = follower.applied[-1]
    assert last.mode == "follow"
    assert last.position_rad[0] == pytest.approx(follower.start_rad[0] + 0.3)
    assert last.command_seq == follower._seq
    assert last.origin_ns > 0
    assert follower.arm.q[0] == pytest.approx(follower.start_rad[0] + 0.3, abs=1e-3)


def test_a_step_of_one_radian_moves_within_the_limits(follower: Bench) -> None:
    """Step, velocity and acceleration limits shape it, and the flags say so."""
    follower.follow()
    begin = len(follower.applied)
    follower.ticks(150, offset(follower, 1.0))
    assert_smooth(follower.applied[begin - 1 :])
    assert Limited(follower.applied[begin].limited) & Limited.STEP
    assert follower.applied[-1].position_rad[0] == pytest.approx(1.0)
    assert follower.count("limited_step_ticks") > 0


def test_a_stale_command_leads_to_hold(follower: Bench) -> None:
    """A commander that goes silent in motion: slow down, hold, lease free, said in words."""
    follower.follow()
    follower.ticks(20, offset(follower, 1.0))
    begin = len(follower.applied)
    follower.ticks(9)
    assert follower.node.mode == "follow"
    follower.ticks(40)
    assert follower.node.mode == "hold"
    assert "silent" in follower.detail
    assert_smooth(follower.applied[begin - 2 :])
    assert (follower.path()[-1] == follower.path()[-10]).all()


def test_a_command_that_was_stale_when_it_came_is_refused(follower: Bench) -> None:
    """An old command out of a queue moves nothing."""
    follower.ticks(2)
    late = follower.command(offset(follower, 0.1), valid_until_ns=follower.clock.now_ns() - 1)
    follower.tick(late)
    assert follower.node.mode == "hold"
    assert "stale" in follower.detail
    assert follower.count("refused_stale") == 1


def test_a_second_lease_is_refused_until_the_holder_is_silent(follower: Bench) -> None:
    """The arm names both; afterwards the second has to engage like any other."""
    follower.follow()
    other = offset(follower, 0.2)
    for _ in range(30):
        follower.tick(
            follower.command(follower.start_rad), follower.command(other, lease="two", source="b")
        )
    assert follower.count("refused_leases") == 30
    assert "'two'" in follower.detail
    assert "'one'" in follower.detail
    assert (follower.path()[-1] == follower.start_rad).all()
    follower.ticks(60, other, lease="two")
    assert {a.mode for a in follower.applied[-60:]} == {"follow", "hold", "ramp"}
    assert follower.path()[-1] == pytest.approx(other)


def test_a_command_with_nan_is_refused_and_the_arm_then_holds(follower: Bench) -> None:
    """The joint is named; an invalid command does not keep the lease alive."""
    follower.follow()
    follower.ticks(30, offset(follower, np.nan, joint=2))
    assert follower.count("refused_invalid") + follower.count("refused_stale") >= 30
    assert "elbow = nan" in follower.detail
    assert follower.node.mode == "hold"
    assert np.isfinite(np.array(follower.arm.writes)).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_rad": np.zeros(5)}, "6 joints"),
        ({"gripper": np.inf}, "gripper = inf"),
        ({"mode": LIMP}, "mode 'limp' refused"),
        ({"mode": "dance"}, "mode 'dance' refused"),
    ],
)
def test_a_malformed_command_is_refused_in_words(
    follower: Bench, changes: dict[str, object], words: str
) -> None:
    """Wrong shape, infinite gripper, a mode that followers may not take or nobody knows."""
    follower.ticks(2)
    follower.tick(follower.command(**({"position_rad": follower.start_rad} | changes)))  # type: ignore[arg-type]
    assert words in follower.detail
    assert follower.node.mode == "hold"
    assert follower.arm.torque == (True, True)


def test_engaging_too_far_away_is_refused_by_joint_name(follower: Bench) -> None:
    """Both values and the threshold are told, and nothing moves."""
    follower.ticks(2)
    follower.ticks(20, offset(follower, 0.8, joint=2))
    assert follower.node.mode == "hold"
    assert "engage refused: elbow is commanded to 1.960 rad and measured at 1.160 rad" in (
        follower.detail
    )
    assert "safety.engage_max_rad is 0.5" in follower.detail
    assert follower.count("refused_engagements") == 20
    assert (follower.path() == follower.start_rad).all()


def test_engaging_nearby_ramps_at_a_capped_speed_then_follows(follower: Bench) -> None:
    """0.4 rad at 0.8 rad/s."""
    follower.ticks(2)
    follower.ticks(80, offset(follower, 0.4))
    modes = [a.mode for a in follower.applied]
    assert modes[2] == "ramp"
    assert modes[-1] == "follow"
    ramp = follower.path()[[m == "ramp" for m in modes]]
    assert np.abs(np.diff(ramp, axis=0)).max() <= 0.8 * 0.01 + 1e-9
    assert len(ramp) > 40


def test_a_ramp_toward_a_pose_out_of_range_ends_at_the_limit(follower: Bench) -> None:
    """The part of the command that cannot be reached does not keep the arm ramping."""
    pose = follower.start_rad.copy()
    pose[1] = -1.80
    follower.arm.q = follower.arm.goal = pose.copy()
    pose[1] = -2.1
    follower.ticks(2)
    follower.ticks(80, pose)
    assert follower.node.mode == "follow"
    assert follower.path()[-1][1] == pytest.approx(-1.85)
    assert Limited(follower.applied[-1].limited) == Limited.POSITION


def test_the_emergency_stop_is_obeyed_in_motion_and_clearing_it_moves_nothing(
    follower: Bench,
) -> None:
    """Decelerate, hold; the old commander stays refused after clearing; a new one engages."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.ticks(20, goal)
    begin = len(follower.applied)
    follower.stop = True
    follower.ticks(50, goal)
    assert follower.node.mode == "stopped"
    assert_smooth(follower.applied[begin - 2 :])
    rest = follower.path()[-1]
    assert (follower.path()[-20:] == rest).all()
    follower.stop = False
    follower.ticks(50, goal)
    assert follower.node.mode == "hold"
    assert "ended by a stop" in follower.detail
    assert (follower.path()[-50:] == rest).all()
    follower.ticks(20, rest, lease="next")
    assert follower.node.mode == "follow"


def test_a_commander_that_joins_during_the_stop_cannot_wait_for_its_end(follower: Bench) -> None:
    """Every lease heard while stopped is ended."""
    follower.stop = True
    follower.ticks(20, offset(follower, 0.3), lease="patient")
    follower.stop = False
    follower.ticks(20, offset(follower, 0.3), lease="patient")
    assert follower.node.mode == "hold"
    assert (follower.path() == follower.start_rad).all()


def test_a_silent_session_means_hold_and_its_return_means_engage_again(follower: Bench) -> None:
    """Nobody could stop the arm, so nobody may move it."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.session_speaks = False
    follower.ticks(120, goal)
    assert follower.node.mode == "hold"
    assert "session silent" in follower.detail
    follower.session_speaks = True
    begin = len(follower.applied)
    follower.ticks(30, follower.path()[-1])
    assert follower.applied[begin].mode == "ramp"


def test_before_the_session_has_spoken_nobody_is_obeyed(follower: Bench) -> None:
    """Holding from the first tick."""
    follower.session_speaks = False
    follower.ticks(10, offset(follower, 0.1))
    assert follower.node.mode == "hold"
    assert follower.count("refused_blocked") == 10


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (DeviceHealth(False, "elbow (id 4) reports overload"), "elbow (id 4) reports overload"),
        (
            DeviceHealth(values={"max_temperature_c": 75.0, "elbow_temperature_c": 75.0}),
            "elbow is at 75 C",
        ),
        (DeviceHealth(values={"waist_voltage_v": 8.9}), "waist has 8.9 V"),
    ],
)
def test_a_servo_in_trouble_means_fault_and_hold(
    follower: Bench, health: DeviceHealth, words: str
) -> None:
    """Overload, heat, low voltage: joint and value are named, health is not ok."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.ticks(15, goal)
    begin = len(follower.applied)
    follower.arm.health = health
    follower.ticks(60, goal)
    said = follower.node.health(follower.clock.now_ns())
    assert (said.ok, said.state) == (False, "fault")
    assert words in said.detail
    assert_smooth(follower.applied[begin - 2 :])
    assert follower.applied[-1].mode == "fault"
    follower.arm.health = DeviceHealth(values=dict.fromkeys(health.values, 12.0))
    rest = follower.path()[-1]
    follower.ticks(30, goal)
    assert follower.node.mode == "hold"
    assert follower.path()[-1] == pytest.approx(rest, abs=0.01)


OVERLOAD = DeviceHealth(False, "gripper (id 9) lost torque: overload", lasting=True)


def overloaded(follower: Bench) -> FloatArray:
    """A follower whose gripper has shut down, after which its servo says that it is well."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.ticks(15, goal)
    follower.arm.health = OVERLOAD
    follower.ticks(40, goal)
    follower.arm.health = DeviceHealth()
    follower.ticks(40, goal)
    return goal


def clear_by_emergency_stop(follower: Bench, goal: FloatArray) -> None:
    """What the operator's keys do."""
    follower.stop = True
    follower.ticks(20, goal)
    follower.stop = False
    follower.tick(follower.command(goal))


def test_lost_torque_is_a_fault_with_a_remedy_until_an_emergency_stop_is_cleared(
    follower: Bench,
) -> None:
    """Whatever the servos say meanwhile; no torque is switched and the lease is ended."""
    goal = overloaded(follower)
    switched = len(follower.arm.torque_calls)
    assert follower.node.mode == "fault"
    assert "gripper (id 9) lost torque: overload" in follower.detail
    assert "clear it by emergency stop, then clear and confirm" in follower.detail
    rest = follower.path()[-1]
    follower.ticks(20, rest, lease="next")
    follower.stop = True
    follower.ticks(20, rest, lease="next")
    assert follower.node.mode == "fault"
    assert (follower.arm.reboots, len(follower.arm.torque_calls)) == (0, switched)
    clear_by_emergency_stop(follower, goal)
    assert follower.node.mode == "hold"
    assert (follower.arm.reboots, len(follower.arm.torque_calls)) == (1, switched + 1)
    begin = len(follower.applied)
    follower.ticks(50, goal)
    assert follower.node.mode == "hold"
    assert "ended by a stop or fault" in follower.detail
    assert np.ptp(follower.path(begin), axis=0).max() == 0.0
    follower.ticks(20, follower.path()[-1], lease="after")
    assert follower.node.mode == "follow"


def test_a_cleared_arm_holds_where_it_is_measured(follower: Bench) -> None:
    """It sagged while its servo was limp."""
    goal = overloaded(follower)
    follower.arm.q[1] += 0.1
    clear_by_emergency_stop(follower, goal)
    follower.ticks(5, goal)
    assert follower.path()[-1] == pytest.approx(follower.arm.q)


def test_a_limp_arm_that_is_unplugged_and_found_again_is_not_stiffened(follower: Bench) -> None:
    """Pulling cables is not the operator's deliberate act."""
    goal = overloaded(follower)
    switched = len(follower.arm.torque_calls)
    follower.arm.read_error = DeviceLostError("left_follower: the port has gone")
    follower.ticks(250, goal)
    assert follower.arm.connects > 0
    assert follower.node.mode == "fault"
    assert "clear it by emergency stop" in follower.detail
    assert len(follower.arm.torque_calls) == switched
    clear_by_emergency_stop(follower, goal)
    follower.tick()
    assert follower.node.mode == "hold"
    assert follower.arm.torque_calls[-1] == (True, True)


def test_a_servo_that_cannot_be_restarted_leaves_the_fault_and_says_why(follower: Bench) -> None:
    """The operator may try again; each act is one attempt."""
    goal = overloaded(follower)
    follower.arm.reboot_error = DeviceError("no answer from gripper (id 9) 3 s after a reboot")
    clear_by_emergency_stop(follower, goal)
    follower.ticks(150, goal)
    assert follower.node.mode == "fault"
    assert "no answer from gripper (id 9) 3 s after a reboot" in follower.detail
    assert follower.arm.reboots == 1
    follower.arm.reboot_error = None
    clear_by_emergency_stop(follower, goal)
    assert follower.node.mode == "hold"


def test_a_command_is_written_when_it_comes_and_once(follower: Bench) -> None:
    """Between ticks too; readings follow the commands, so that none is under way at the next."""
    follower.follow()
    for _ in range(20):
        follower.tick(skip_ns=8_000_000)
        assert follower.applied[-1].stamp_ns < follower.clock.now_ns()
        follower.tick(follower.command(offset(follower, 0.1)), skip_ns=2_000_000)
        assert follower.applied[-1].stamp_ns == follower.clock.now_ns()
    assert [a.command_seq for a in follower.applied[-20:]] == list(range(4, 24))
    assert len(follower.arm.writes) == len(follower.applied)
    assert {s.stamp_ns for s in follower.states[-20:]} == {
        a.stamp_ns for a in follower.applied[-20:]
    }


def test_commands_at_any_pace_move_the_arm_within_its_limits(follower: Bench) -> None:
    """Early, late, two at once, or none for a while: time between writes is what counts."""
    follower.follow()
    rng = np.random.default_rng(3)
    begin = len(follower.applied)
    for k in range(600):
        pose = offset(follower, 0.6 * np.sin(k / 25))
        commands = [follower.command(pose) for _ in range(rng.integers(0, 3))]
        follower.tick(*commands, skip_ns=int(rng.integers(1, 18)) * 1_000_000)
    assert_smooth(follower.applied[begin - 2 :])
    assert len(follower.arm.writes) == len(follower.applied)
    assert np.abs(follower.path(begin)[:, 0] - follower.start_rad[0]).max() > 0.5
    gaps_ms = np.diff([s.stamp_ns for s in follower.states]) / 1e6
    assert gaps_ms.min() >= 5
    assert gaps_ms.max() <= 40


def test_a_single_failed_read_is_counted_and_motion_goes_on(follower: Bench) -> None:
    """No state is published in that tick; nothing else happens."""
    follower.follow()
    states = len(follower.states)
    follower.arm.read_error = DeviceError("no reply of servo 4")
    follower.tick(follower.command(offset(follower, 0.01)))
    follower.arm.read_error = None
    follower.ticks(3, offset(follower, 0.01))
    assert len(follower.states) == states + 3
    assert follower.node.mode == "follow"
    assert follower.count("failed_reads") == 1


def test_reads_that_keep_failing_are_a_fault_that_ends_with_them(follower: Bench) -> None:
    """The node goes on trying; the same commander may engage again from the measured pose."""
    follower.follow()
    follower.arm.read_error = DeviceError("no reply of servo 4")
    follower.ticks(20, follower.start_rad)
    assert follower.node.mode == "fault"
    assert "reads fail" in follower.detail
    assert "no reply of servo 4" in follower.detail
    follower.arm.read_error = None
    follower.ticks(5, follower.start_rad)
    assert follower.node.mode == "follow"


def test_nobody_engages_while_the_arm_cannot_be_read(follower: Bench) -> None:
    """There is nothing to compare the command with."""
    follower.ticks(5)
    follower.arm.read_error = DeviceError("no reply")
    follower.ticks(3, follower.start_rad)
    assert "engage refused" in follower.detail
    assert follower.node.mode == "hold"


def test_an_unplugged_arm_is_a_fault_and_comes_back_holding(follower: Bench) -> None:
    """Opening is tried once a second; plugged in again it holds and ignores the old lease."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.ticks(15, goal)
    gone = DeviceLostError("left_follower: the port has gone")
    follower.arm.read_error = follower.arm.connect_error = gone
    states = len(follower.states)
    follower.ticks(250, goal)
    assert follower.node.mode == "fault"
    assert "lost: left_follower: the port has gone" in follower.detail
    assert len(follower.states) == states
    assert 2 <= follower.arm.connects <= 250 * 0.01 / RETRY_S + 1
    follower.arm.connect_error = None
    begin = len(follower.applied)
    follower.arm.torque = (False, False)
    follower.arm.q[1] += 0.1  # It sagged meanwhile.
    follower.ticks(150, goal)
    assert follower.node.mode == "hold"
    assert follower.arm.torque == (True, True)
    assert np.abs(np.diff(follower.path(begin), axis=0)).max() == 0.0
    assert follower.path()[-1] == pytest.approx(follower.arm.q)


def test_a_stall_of_the_node_itself_starts_again_from_the_measured_pose(follower: Bench) -> None:
    """The servos' watchdog may have stopped them on the way: no jump to the old setpoint."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.ticks(30, goal)
    before = follower.arm.q.copy()
    follower.tick(skip_ns=ns_from_s(0.3))
    assert np.abs(follower.path()[-1] - follower.arm.q).max() < 1e-9
    assert np.abs(follower.arm.q - before).max() < 0.1


def test_torque_that_will_not_switch_is_retried_once_a_second(follower: Bench) -> None:
    """Not in every tick: each attempt takes bus time from the joints that still hold."""
    follower.arm.torque_error = DeviceError("shoulder (id 2) is overloaded")
    follower.ticks(210)
    assert len(follower.arm.torque_calls) == 3
    assert follower.applied == []
    assert follower.node.mode == "fault"
    assert "shoulder (id 2) is overloaded" in follower.detail
    follower.arm.torque_error = None
    follower.ticks(110)
    assert follower.applied[-1].mode == "hold"


def test_a_leader_goes_limp_when_asked_and_stays_limp_when_its_commander_goes_silent(
    leader: Bench,
) -> None:
    """A person holds it; stiffening would only fight the hand."""
    leader.ticks(2)
    leader.ticks(5, leader.start_rad, mode=LIMP)
    assert leader.arm.torque == (False, False)
    assert leader.node.mode == "limp"
    applied = len(leader.applied)
    leader.ticks(100)
    assert leader.node.mode == "limp"
    assert leader.arm.torque == (False, False)
    assert len(leader.applied) == applied
    assert len(leader.states) == 107


def test_a_leader_with_only_its_gripper_free_holds_its_joints(leader: Bench) -> None:
    """The applied gripper is the measured one, and the servo gets no goal for it."""
    leader.ticks(2)
    leader.arm.gripper = 0.1
    leader.ticks(5, leader.start_rad, mode=LIMP_GRIPPER)
    assert leader.arm.torque == (True, False)
    assert leader.applied[-1].mode == "hold"
    assert leader.applied[-1].gripper == 0.1
    assert leader.arm.written_grippers[-1] is None


def test_a_limp_leader_is_caught_where_it_is(leader: Bench) -> None:
    """Position after limp: torque on at the measured pose, engage check, then follow."""
    leader.ticks(2)
    leader.ticks(5, leader.start_rad, mode=LIMP)
    leader.arm.q = offset(leader, 0.7)  # The hand moved it.
    leader.ticks(5, leader.start_rad)
    assert leader.node.mode == "limp"
    assert "engage refused: waist" in leader.detail
    leader.ticks(20, offset(leader, 0.7))
    assert leader.node.mode == "follow"
    assert leader.path()[-1] == pytest.approx(leader.arm.q)


def test_the_emergency_stop_stiffens_a_limp_leader(leader: Bench) -> None:
    """Stop means hold: it must not fall when the hand lets go."""
    leader.ticks(2)
    leader.ticks(5, leader.start_rad, mode=LIMP)
    leader.arm.q = offset(leader, 0.7)
    leader.stop = True
    leader.ticks(5)
    assert leader.arm.torque == (True, True)
    assert leader.applied[-1].position_rad == pytest.approx(leader.arm.q)


def test_closing_leaves_the_arm_as_it_is(follower: Bench) -> None:
    """Holding, by the driver's own close."""
    follower.ticks(3)
    follower.node.close()
    assert follower.arm.closed
    assert follower.arm.torque == (True, True)


def test_a_step_of_the_node_costs_little(follower: Bench) -> None:
    """80 us on a quiet box, stand-in arm included; the bound is loose for a loaded one."""
    follower.follow()

    def timed(run: Callable[[], None]) -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    best_s = min(timed(lambda: follower.ticks(20, offset(follower, 0.1))) / 20 for _ in range(20))
    assert best_s < 300e-6
