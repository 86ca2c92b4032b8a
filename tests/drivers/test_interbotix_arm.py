"""An Interbotix arm behind a real ROS master and an emulated node over the servo emulator."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from xs_bench import PATIENCE_S, REST_RAD, XsBench, first_error, wait_for

from drivers.dynamixel import table
from drivers.emulated.interbotix.ros_master import XsSdkNode
from drivers.interbotix.arm import InterbotixArm
from drivers.ros1.client import Ros1Client
from drivers.ros1.messages import JOINT_STATE
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError, SafetyError
from teleop.rig_files import DEFAULT_RIG, load_rig

JOINTS = 6
TICK = table.RAD_PER_TICK
PERIOD_S = 0.01
REST_OPENING = (0.5 + 0.6213) / (1.491 + 0.6213)
"""Of the ViperX's gripper at rest."""


@pytest.fixture(scope="module")
def follower_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XsBench]:
    """A ViperX 300 whose node was launched as ALOHA does: holding."""
    folder = tmp_path_factory.mktemp("follower")
    with XsBench(load_rig(DEFAULT_RIG), "left_follower", folder) as bench:
        yield bench


@pytest.fixture(scope="module")
def leader_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XsBench]:
    """A WidowX 250 whose node was launched as ALOHA does: limp."""
    folder = tmp_path_factory.mktemp("leader")
    with XsBench(load_rig(DEFAULT_RIG), "left_leader", folder) as bench:
        yield bench


@pytest.fixture
def bench(follower_bench: XsBench) -> XsBench:
    """The follower's bench in order: it holds at rest, and nobody is connected."""
    follower_bench.mend()
    arm = follower_bench.arm()
    arm.connect()
    arm.set_torque(True, True)
    arm.write(np.array(REST_RAD[:JOINTS]), REST_OPENING)
    wait_for(lambda: _is_at_rest(arm), "the rest pose")
    arm.close()
    return follower_bench


@pytest.fixture
def follower(bench: XsBench) -> Iterator[InterbotixArm]:
    """A connected follower that holds at rest."""
    arm = bench.arm()
    arm.connect()
    yield arm
    arm.close()


@pytest.fixture
def leader(leader_bench: XsBench) -> Iterator[InterbotixArm]:
    """A connected leader that is limp at rest."""
    leader_bench.mend()
    leader_bench.place(REST_RAD)
    arm = leader_bench.arm()
    arm.connect()
    assert not arm.torque_off()
    yield arm
    arm.close()


def test_a_held_follower_goes_on_holding(bench: XsBench, follower: InterbotixArm) -> None:
    """Connecting leaves torque on and the arm where it is."""
    assert all(bench.torqued())
    assert bench.angles_rad() == pytest.approx(REST_RAD, abs=2 * TICK)
    reading = follower.read()
    assert reading.position_rad == pytest.approx(REST_RAD[:JOINTS], abs=TICK)
    assert reading.gripper == pytest.approx(REST_OPENING, abs=2e-3)
    assert np.isfinite(reading.effort).all()


def test_readings_are_fresh_and_stamped_on_arrival(follower: InterbotixArm) -> None:
    """Each new joint state of the node becomes a new reading."""
    clock = MonotonicClock()
    stamps: set[int] = set()

    def fresh() -> bool:
        stamps.add(follower.read().stamp_ns)
        return len(stamps) >= 20

    took_s = wait_for(fresh, "twenty joint states")
    assert took_s < 20 * 25 * PERIOD_S
    assert 0 <= clock.now_ns() - max(stamps) < 1e9


def test_goals_move_joints_and_gripper(bench: XsBench, follower: InterbotixArm) -> None:
    """One message moves all; the tick reached is the nearest, though the node cuts off."""
    goal = np.array([0.3, -0.9, 1.0, 0.2, -0.5, -0.3])
    follower.write(goal, 0.25)
    wait_for(lambda: bool(np.abs(follower.read().position_rad - goal).max() < TICK), "the goal")
    ticks = np.rint(goal / TICK)
    wait_for(
        lambda: np.rint(bench.bank.goal_rad[bench.axes[:JOINTS]] / TICK).tolist() == ticks.tolist(),
        "the nearest tick of each goal",
    )
    assert follower.read().gripper == pytest.approx(0.25, abs=2e-3)


def test_goals_beyond_a_limit_go_to_the_limit(bench: XsBench, follower: InterbotixArm) -> None:
    """And the other joints go where they shall: nothing is dropped."""
    limit = bench.model.joints[1].max_rad
    goal = np.array([0.0, limit + 1, 1.2, 0.0, 0.0, 0.0])
    follower.write(goal, 1.7)
    goal[1] = limit
    wait_for(lambda: bool(np.abs(follower.read().position_rad - goal).max() < 2 * TICK), "limits")
    assert follower.read().gripper == pytest.approx(1.0, abs=2e-3)
    with pytest.raises(SafetyError, match="not a finite number"):
        follower.write(np.full(JOINTS, np.nan), None)


def test_without_an_opening_the_gripper_stays(bench: XsBench, follower: InterbotixArm) -> None:
    """None leaves the gripper's goal alone."""
    before = bench.angles_rad()[JOINTS]
    follower.write(np.array([0.4, *REST_RAD[1:JOINTS]]), None)
    wait_for(lambda: abs(follower.read().position_rad[0] - 0.4) < TICK, "the waist")
    assert bench.angles_rad()[JOINTS] == before


def test_command_to_state_takes_about_one_period(follower: InterbotixArm) -> None:
    """The node reads a hundred times a second; a busy test machine may take a few periods."""
    delays_s = []
    rng = np.random.default_rng(0)
    for number in range(40):
        goal = np.array(REST_RAD[:JOINTS])
        goal[0] += 0.2 if number % 2 else 0.1
        time.sleep(rng.uniform(0.005, 0.02))  # at any phase of the node's period
        follower.write(goal, 0.5)
        delays_s.append(
            wait_for(
                lambda goal=goal: abs(follower.read().position_rad[0] - goal[0]) < 0.01,
                "the command in the state",
            )
        )
    print(f"command to state: p50 {np.median(delays_s) * 1e3:.1f} ms")
    assert np.median(delays_s) < 25 * PERIOD_S


def test_a_leader_is_let_go_and_held(leader_bench: XsBench, leader: InterbotixArm) -> None:
    """It was launched limp and stays so; held, it stays where the hand has put it."""
    assert not any(leader_bench.torqued())
    assert np.isnan(leader.read().effort).tolist() == [False] * 5 + [True]
    leader.set_torque(True, True)
    assert all(leader_bench.torqued())
    leader.write(np.array(REST_RAD[:JOINTS]) + 0.1, 0.5)
    leader.set_torque(False, False)
    assert not any(leader_bench.torqued())
    moved = (-0.3, -1.0, 0.9, 0.1, 0.2, 0.6, 0.1)
    leader_bench.place(moved)
    leader.set_torque(True, False)
    assert all(leader_bench.torqued()[:8])
    assert not leader_bench.torqued()[8]
    wait_for(
        lambda: bool(np.abs(leader.read().position_rad - moved[:JOINTS]).max() < 2 * TICK),
        "the reading of where it was put",
    )
    assert leader_bench.angles_rad() == pytest.approx(moved, abs=2 * TICK)


def test_joints_without_torque_take_no_goal(leader_bench: XsBench, leader: InterbotixArm) -> None:
    """The gripper alone may hold, as a spring for the operator's hand."""
    leader.set_torque(False, True)
    assert leader_bench.torqued() == [False] * 8 + [True]
    before = leader_bench.register(1, table.GOAL_POSITION)
    leader.write(np.zeros(JOINTS), 1.0)
    wait_for(lambda: abs((leader.read().gripper or 0.0) - 1.0) < 0.01, "the gripper")
    assert leader_bench.register(1, table.GOAL_POSITION) == before


def test_modes_of_a_limp_arm_are_set_and_it_stays_limp(
    bench: XsBench, follower: InterbotixArm
) -> None:
    """The node switches torque on with every mode; that must not last."""
    assert not follower.torque_off()
    bench.set_register(1, table.OPERATING_MODE, 4)
    follower.connect()
    assert bench.register(1, table.OPERATING_MODE) == table.MODE_POSITION
    assert not any(bench.torqued())


def test_the_mode_of_a_held_arm_is_not_changed(bench: XsBench, follower: InterbotixArm) -> None:
    """The node would let go of the joint while it changes it."""
    follower.close()
    bench.set_register(2, table.OPERATING_MODE, 4)
    with pytest.raises(DeviceError, match=r"shoulder has operating mode 4.*support the arm"):
        follower.connect()
    assert all(bench.torqued())


def test_a_failed_reading_of_the_node_is_not_believed(
    bench: XsBench, follower: InterbotixArm
) -> None:
    """It publishes minus pi for every joint; the error says why, and readings come back."""
    bench.faults.servo_absent.add(4)
    error = first_error(follower.read)
    assert "could not read its servos" in str(error)
    assert not isinstance(error, DeviceLostError)
    bench.faults.servo_absent.clear()
    wait_for(lambda: _reads(follower), "readings again")
    assert follower.read().position_rad == pytest.approx(REST_RAD[:JOINTS], abs=2 * TICK)


def test_a_node_that_is_killed_is_lost_and_found(bench: XsBench, follower: InterbotixArm) -> None:
    """In words, at once; after its restart ``connect`` is all that is needed."""
    bench.node.kill()
    began_s = time.monotonic()
    error = first_error(follower.read)
    assert time.monotonic() - began_s < 2.0
    assert isinstance(error, DeviceLostError)
    assert "left_follower: the node of /left_follower has gone" in str(error)
    assert "start it again" in str(error)
    with pytest.raises(DeviceLostError):
        follower.write(np.array(REST_RAD[:JOINTS]), None)
    with pytest.raises(DeviceError, match="left_follower: "):
        follower.connect()
    bench.node.start()
    follower.connect()
    assert follower.read().position_rad == pytest.approx(REST_RAD[:JOINTS], abs=2 * TICK)
    assert follower.poll_health().ok


def test_torque_that_a_restart_took_is_told(leader_bench: XsBench, leader: InterbotixArm) -> None:
    """A held leader whose node is restarted falls limp: that must not go unnoticed."""
    leader.set_torque(True, True)
    leader_bench.node.kill()
    first_error(leader.read)
    leader_bench.node.start()
    leader.connect()
    health = leader.poll_health()
    assert health.lasting
    assert "lost torque" in health.detail
    assert "the ROS node was restarted" in health.detail
    leader.set_torque(True, True)
    assert leader.poll_health().ok


def test_a_frozen_node_is_stale_then_lost(bench: XsBench) -> None:
    """A process that stands still keeps its connections; its states grow old."""
    arm = bench.arm(max_state_age_s=0.2)
    arm.connect()
    assert bench.node.process is not None
    os.kill(bench.node.process.pid, signal.SIGSTOP)
    try:
        error = first_error(arm.read)
        assert not isinstance(error, DeviceLostError)
        assert "s old" in str(error)
        wait_for(lambda: isinstance(_error_of(arm), DeviceLostError), "the loss")
        began_s = time.monotonic()
        for work in (lambda: arm.set_torque(True, True), lambda: arm.write(np.zeros(6), None)):
            with pytest.raises(DeviceLostError, match="no joint_states for"):
                work()
        assert any("gone" in words for words in arm.torque_off())
        assert time.monotonic() - began_s < PATIENCE_S
    finally:
        os.kill(bench.node.process.pid, signal.SIGCONT)
        arm.close()


def test_an_absent_master_is_named(bench: XsBench) -> None:
    """With what to start."""
    arm = bench.arm(master="http://127.0.0.1:9")
    with pytest.raises(DeviceError, match=r"no ROS master answers at http://127.0.0.1:9.*roscore"):
        arm.connect()


def test_a_wrong_robot_name_is_told_with_those_there_are(bench: XsBench) -> None:
    """A slip in ``robot``."""
    with pytest.raises(DeviceError, match=r"/puppet_left/joint_states.*there are: left_follower"):
        bench.arm(robot="puppet_left").connect()


def test_the_wrong_arm_is_refused(bench: XsBench) -> None:
    """Servos, mounting and limits of the model must be the node's."""
    leader = load_rig(DEFAULT_RIG).arm_model("left_leader")
    arm = InterbotixArm("left", bench.config, leader, MonotonicClock())  # type: ignore[arg-type]
    with pytest.raises(
        DeviceError, match=r"left: waist is a XM540-W270, not a XM430-W350.*correct"
    ):
        arm.connect()


def test_other_joints_are_refused(bench: XsBench) -> None:
    """Names and ids, told from both sides."""
    tree = bench.model.model_dump()
    tree["joints"][0]["id"] = 11
    arm = InterbotixArm(
        "left", bench.config, type(bench.model).model_validate(tree), MonotonicClock()
    )
    with pytest.raises(DeviceError, match=r"the node has waist \(id 1\).*model waist \(id 11\)"):
        arm.connect()


def test_limits_wider_than_the_nodes_are_refused(bench: XsBench) -> None:
    """Servos drop goals beyond their own limits without a word."""
    tree = bench.model.model_dump()
    tree["joints"][1]["max_rad"] += 0.3
    arm = InterbotixArm(
        "left", bench.config, type(bench.model).model_validate(tree), MonotonicClock()
    )
    with pytest.raises(DeviceError, match=r"shoulder may go .* in the node's URDF.*to ticks"):
        arm.connect()


def test_two_publishers_are_refused(bench: XsBench, follower: InterbotixArm) -> None:
    """Readings of two robots must not be mixed."""
    other = Ros1Client(bench.config.master, "intruder")
    other.start()
    try:
        other.advertise(f"/{bench.config.robot}/joint_states", JOINT_STATE)
        with pytest.raises(DeviceError, match=r"intruder.*one only may"):
            follower.connect()
    finally:
        other.close()


def test_an_overloaded_motor_is_named_and_rebooted(bench: XsBench, follower: InterbotixArm) -> None:
    """The node tells nothing of it; its registers do."""
    bench.faults.overload(4)  # the elbow's first servo
    wait_for(lambda: not follower.poll_health().ok, "the report")
    health = follower.poll_health()
    assert health.lasting
    assert "elbow" in health.detail
    assert "overload" in health.detail
    assert "elbow" in follower.reboot_failed()
    follower.set_torque(True, True)
    assert all(bench.torqued())
    wait_for(lambda: follower.poll_health().ok, "health")


def test_slow_readings_come_by_in_turn(follower: InterbotixArm) -> None:
    """Temperature and voltage of every motor, shadows too, without waiting for any."""
    names = (*follower.joint_names, "gripper", "shoulder_shadow", "elbow_shadow")
    wanted = {f"{n}_{what}" for n in names for what in ("temperature_c", "voltage_v")}
    wait_for(lambda: wanted <= set(follower.poll_health().values), "all readings")
    assert follower.poll_health().values["elbow_shadow_voltage_v"] == pytest.approx(12.0)


def test_torque_off_passes_over_a_silent_motor(bench: XsBench, follower: InterbotixArm) -> None:
    """All others are off, and the silent one is told."""
    bench.faults.servo_absent.add(1)
    failures = follower.torque_off()
    assert not any(bench.torqued()[1:])
    assert any("waist" in words for words in failures)


def test_a_second_master_cannot_have_the_bus(bench: XsBench, tmp_path: Path) -> None:
    """Two programs on one bus would garble each other's packets; the port is locked."""
    second = XsSdkNode("second", bench.config, bench.model, Path(bench.node.tree["port"]), tmp_path)
    with pytest.raises(DeviceError, match="did not come up"):
        second.start()


def _is_at_rest(arm: InterbotixArm) -> bool:
    reading = arm.read()
    assert reading.gripper is not None
    away = [*(reading.position_rad - REST_RAD[:JOINTS]), reading.gripper - REST_OPENING]
    return bool(np.abs(away).max() < 2 * TICK)


def _reads(arm: InterbotixArm) -> bool:
    return _error_of(arm) is None


def _error_of(arm: InterbotixArm) -> DeviceError | None:
    try:
        arm.read()
    except DeviceError as error:
        return error
    return None
