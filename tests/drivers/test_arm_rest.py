"""A follower lets go at its sleep pose and nowhere else, and all of it."""

import numpy as np
import pytest
from arm_bench import TICK_NS, Bench
from one_arm import OneArm

from drivers.arm.command_gate import REST_TOLERANCE_RAD
from drivers.arm.node import RETRY_S, ArmNode
from drivers.arm.torque import SWITCH_RETRY_S
from drivers.dynamixel import table
from teleop import topics
from teleop.clock import ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import LIMP, ArmCommand, FloatArray, StopState
from teleop.node import Inputs, NodeHealth, Received
from teleop.rig import Rig

FOLLOWER = "left_follower"
ELBOW = 4
RETRY_TICKS = round(SWITCH_RETRY_S * 1e9 / TICK_NS)


def sleep_rad(rig: Rig) -> FloatArray:
    return np.array(rig.arm_model(FOLLOWER).sleep_rad)


def held_at(rig: Rig, pose_rad: FloatArray) -> Bench:
    """A follower that holds a pose."""
    bench = Bench(rig, FOLLOWER)
    bench.start_rad = pose_rad
    bench.arm.q = pose_rad.copy()
    bench.ticks(2)
    assert bench.arm.torque == (True, True)
    return bench


@pytest.fixture
def asleep(aloha: Rig) -> Bench:
    """A follower that is held at its sleep pose."""
    return held_at(aloha, sleep_rad(aloha))


def lie_down(bench: Bench, ticks: int = 5) -> None:
    bench.ticks(ticks, bench.start_rad, mode=LIMP)


def test_a_follower_at_its_sleep_pose_lets_go_by_the_drivers_torque_off(asleep: Bench) -> None:
    """All at once, once; its readings go on and nothing is applied."""
    applied = len(asleep.applied)
    lie_down(asleep)
    assert asleep.node.mode == "limp"
    assert asleep.node.health(asleep.clock.now_ns()).state == "limp"
    assert asleep.arm.torque_offs == 1
    assert (False, False) not in asleep.arm.torque_calls
    assert len(asleep.applied) == applied
    assert len(asleep.states) == 7


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("side", [-1, 1])
def test_a_follower_with_one_joint_elsewhere_does_not_let_go(
    aloha: Rig, joint: int, side: int
) -> None:
    """These arms have no brakes; the joint, where it is and where it rests are told."""
    pose_rad = sleep_rad(aloha) + 0.4 * side * REST_TOLERANCE_RAD
    pose_rad[joint] += 0.61 * side * REST_TOLERANCE_RAD
    bench = held_at(aloha, pose_rad)
    lie_down(bench)
    assert bench.node.mode == "hold"
    assert bench.arm.torque == (True, True)
    assert bench.arm.torque_offs == 0
    assert f"limp refused: {bench.names[joint]} is measured at" in bench.detail
    assert bench.detail.count("is measured at") == 1
    assert bench.count("refused_invalid") == 5


@pytest.mark.parametrize("side", [-1, 1])
def test_a_follower_just_within_the_tolerance_lets_go(aloha: Rig, side: int) -> None:
    """In all joints at once."""
    bench = held_at(aloha, sleep_rad(aloha) + 0.99 * side * REST_TOLERANCE_RAD)
    lie_down(bench)
    assert bench.node.mode == "limp"


def test_a_follower_that_cannot_be_measured_does_not_let_go(asleep: Bench) -> None:
    """A failed reading, or one joint without a number, is no sleep pose."""
    asleep.arm.read_error = DeviceError("no valid answer")
    lie_down(asleep, ticks=2)
    assert "limp refused: the arm cannot be read" in asleep.detail
    asleep.arm.read_error = None
    asleep.arm.q[3] = np.nan
    lie_down(asleep)
    assert "limp refused: forearm_roll" in asleep.detail
    assert asleep.arm.torque_offs == 0


def test_a_follower_lets_go_out_of_following(asleep: Bench) -> None:
    """Commands that are followed are written at once, but this one waits for a reading."""
    asleep.follow()
    lie_down(asleep)
    assert asleep.node.mode == "limp"
    assert asleep.arm.torque_offs == 1


def test_a_follower_at_rest_is_not_switched_on_by_silence(asleep: Bench) -> None:
    """Neither a stale command, nor a silent session, nor having sagged gives torque back."""
    lie_down(asleep)
    asleep.arm.q += 2 * REST_TOLERANCE_RAD
    lie_down(asleep)
    assert asleep.detail == ""
    asleep.ticks(50)
    asleep.session_speaks = False
    asleep.ticks(100)
    assert asleep.node.mode == "limp"
    assert asleep.arm.torque == (False, False)
    assert asleep.arm.torque_offs == 1


def test_a_follower_at_rest_comes_back_at_rest_when_its_cable_does(asleep: Bench) -> None:
    """Nobody expects it to stiffen."""
    lie_down(asleep)
    calls = list(asleep.arm.torque_calls)
    asleep.arm.read_error = DeviceLostError("gone")
    asleep.ticks(round(RETRY_S * 1e9 / TICK_NS) + 5)
    assert asleep.arm.connects > 0
    assert asleep.node.mode == "limp"
    assert asleep.arm.torque_calls == calls


def test_the_emergency_stop_holds_a_follower_at_rest(asleep: Bench) -> None:
    """As it does a limp leader: where it is."""
    lie_down(asleep)
    asleep.stop = True
    asleep.ticks(3)
    assert asleep.arm.torque == (True, True)
    assert asleep.applied[-1].position_rad == pytest.approx(asleep.arm.q)


def test_torque_that_does_not_go_is_never_told_as_limp_and_tried_again(asleep: Bench) -> None:
    """Not in the very step in which it failed either."""
    asleep.arm.torque_failures = ["elbow (id 4) failed 3 times"]
    for _ in range(10):
        lie_down(asleep, ticks=1)
        assert asleep.node.health(asleep.clock.now_ns()).state != "limp"
    health = asleep.node.health(asleep.clock.now_ns())
    assert (health.ok, health.state) == (False, "fault")
    assert "torque is not off everywhere: elbow (id 4) failed 3 times" in health.detail
    assert asleep.arm.torque_offs == 1
    asleep.arm.read_error = DeviceError("no valid answer from elbow (id 4)")
    lie_down(asleep, RETRY_TICKS)
    assert asleep.arm.torque_offs == 2
    asleep.arm.read_error, asleep.arm.torque_failures = None, []
    lie_down(asleep, RETRY_TICKS)
    assert asleep.node.health(asleep.clock.now_ns()).state == "limp"


def test_one_servo_that_falls_silent_is_named_and_all_others_let_go(
    aloha: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real driver on an emulated bus: the heartbeat is not well, and says who."""
    one = OneArm(aloha, FOLLOWER)
    one.place((*aloha.arm_model(FOLLOWER).sleep_rad, 0.0))
    one.arm.connect()
    node = ArmNode(FOLLOWER, aloha, one.arm, one.clock)
    torque_off = one.arm.torque_off

    def with_a_loose_plug() -> list[str]:
        one.faults.servo_absent.add(ELBOW)
        return torque_off()

    monkeypatch.setattr(one.arm, "torque_off", with_a_loose_plug)

    def tick(mode: str | None) -> NodeHealth:
        one.wait(TICK_NS / 1e9)
        now_ns = one.clock.now_ns()
        said = {topics.SESSION_STOP: [Received(StopState(now_ns, 0, False, ""), now_ns)]}
        if mode is not None:
            until_ns = now_ns + ns_from_s(0.1)
            command = ArmCommand(now_ns, 0, sleep_rad(aloha), 0.0, until_ns, "test", "one", mode, 0)
            said[topics.arm_command(FOLLOWER)] = [Received(command, now_ns)]
        node.step(Inputs(said), now_ns)
        return node.health(one.clock.now_ns())

    def powered() -> list[int]:
        return [i for i in range(1, 10) if one.register(i, table.TORQUE_ENABLE)]

    tick(None)
    assert powered() == list(range(1, 10))
    tick(LIMP)
    health = tick(LIMP)
    assert powered() == [ELBOW]
    assert (health.ok, health.state) == (False, "fault")
    assert "elbow (id 4) failed 5 times at writing 0 to its torque enable" in health.detail
    one.faults.servo_absent.clear()
    monkeypatch.setattr(one.arm, "torque_off", torque_off)
    for _ in range(RETRY_TICKS + 10):
        health = tick(LIMP)
    assert powered() == []
    assert (health.ok, health.state) == (True, "limp")
