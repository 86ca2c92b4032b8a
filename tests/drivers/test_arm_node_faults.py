"""The arm node when a servo, the bus or the node itself fails."""

import numpy as np
import pytest
from arm_bench import Bench, assert_smooth, offset

from drivers.base import DeviceHealth
from teleop.clock import ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import FloatArray
from teleop.rig import Rig


@pytest.fixture
def follower(aloha: Rig) -> Bench:
    return Bench(aloha, "left_follower")


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
