"""The emulated Franka by itself: its wire layout, its motions, its process."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from drivers.emulated.franka.arm import HOME_RAD, TICK_S, EmulatedArm
from drivers.emulated.franka.faults import FAULTS
from drivers.emulated.franka.model import (
    hand_on_flange,
    jacobian,
    model_library,
    pose_at,
)
from drivers.emulated.franka.motion import MAX_LOST, MotionControl
from drivers.emulated.franka.profile import FCI_PORT, FR3, PANDA, Controller, RobotMode
from drivers.emulated.franka.server import FrankaEmulator, free_franka_host
from teleop.errors import DeviceError, DeviceLostError
from tests.waiting import wait_until

JOINT_POSITION, NO_GENERATOR = 0, 4
AWAY_RAD = (0.3, -0.5, 0.2, -2.0, 0.2, 1.8, 0.4)
Q_RAD = (0.1, -0.7, 0.2, -2.2, 0.3, 1.6, 0.8)


class Robot:
    """An arm under commands, without a network."""

    def __init__(self, controller: Controller, generator: int) -> None:
        self.arm = EmulatedArm(FR3, HOME_RAD)
        self.motion = MotionControl(FR3, self.arm)
        assert self.motion.begin(controller, generator) == "started"

    def command(self, **fields: Any) -> None:
        """One millisecond with a command."""
        record = np.zeros(1, FR3.command_type)
        for name, value in fields.items():
            record[name][0] = value
        self.motion.step(record[0])

    def lose(self, count: int) -> None:
        """Milliseconds whose commands do not arrive."""
        for _ in range(count):
            self.motion.step(None)


@pytest.fixture
def free() -> Robot:
    """An arm without torques."""
    return Robot(Controller.EXTERNAL, NO_GENERATOR)


@pytest.fixture
def led() -> Robot:
    """An arm that is led by joint positions."""
    return Robot(Controller.JOINT_IMPEDANCE, JOINT_POSITION)


def test_datagrams_have_the_sizes_that_the_vendors_clients_expect() -> None:
    """Measured with the wheels; a shorter state makes them raise."""
    assert (FR3.state_type.itemsize, FR3.command_type.itemsize) == (1377, 371)
    assert (PANDA.state_type.itemsize, PANDA.command_type.itemsize) == (2373, 370)


def test_an_arm_without_torques_follows_the_hand_smoothly(free: Robot) -> None:
    """It arrives, without overshooting and without a jump in speed."""
    free.arm.hand.pull_to(AWAY_RAD, 60.0, 15.0)
    speeds, poses = [], []
    for _ in range(3000):
        free.command()
        speeds.append(free.arm.dq.copy())
        poses.append(free.arm.q.copy())
    assert np.allclose(poses[-1], AWAY_RAD, atol=5e-3)
    span = np.sign(np.array(AWAY_RAD) - HOME_RAD)
    assert ((poses - np.array(AWAY_RAD)) * span < 5e-3).all()
    assert np.abs(np.diff(speeds, axis=0)).max() < 0.1
    assert free.motion.mode is RobotMode.MOVE


def test_a_held_arm_does_not_yield_to_the_hand() -> None:
    """Out of a motion the robot's own controller holds it."""
    arm = EmulatedArm(FR3, HOME_RAD)
    motion = MotionControl(FR3, arm)
    arm.hand.push([15.0] * 7)
    for _ in range(100):
        motion.step(None)
    assert arm.q.tolist() == list(HOME_RAD)
    assert not motion.yields_to_hand


def test_twenty_lost_commands_stop_the_arm_and_nineteen_do_not(free: Robot) -> None:
    """The count starts anew with each command that arrives."""
    for _ in range(3):
        free.command()
        free.lose(MAX_LOST - 1)
    assert free.motion.mode is RobotMode.MOVE
    free.command()
    free.lose(MAX_LOST)
    assert free.motion.errors == {"communication_constraints_violation"}
    assert free.motion.outcome == "reflex"


def test_lost_position_commands_are_bridged(led: Robot) -> None:
    """The arm goes on at its speed, and the next goal is no jump."""
    speed = 0.5
    goal = np.array(HOME_RAD)
    for tick in range(400):
        goal = goal + speed * TICK_S
        if tick % 40 in range(10, 22):
            led.lose(1)
        else:
            led.command(q=goal)
    assert led.motion.mode is RobotMode.MOVE
    assert np.allclose(led.arm.dq, speed, rtol=0.05)


@pytest.mark.parametrize(
    ("slope", "peak_nm", "against_nm", "error"),
    [
        (3.0, 9.0, 0.0, "controller_torque_discontinuity"),
        (0.9, 95.0, -95.0, "tau_j_range_violation"),
        (0.9, 40.0, 0.0, "joint_velocity_violation"),
        (0.1, 1.5, 0.0, "joint_position_limits_violation"),
    ],
    ids=["jump", "size", "speed", "end of the range"],
)
def test_torques_that_the_robot_refuses(
    free: Robot, slope: float, peak_nm: float, against_nm: float, error: str
) -> None:
    """Each kind has a flag of its own."""
    free.motion.collision_nm[:] = 100.0
    for tick in range(9000):
        torque = min(slope * tick, peak_nm)
        # A hand that holds against it keeps the arm from getting fast.
        free.arm.hand.push([max(-torque, against_nm), *[0.0] * 6])
        free.command(torque=[torque, *[0.0] * 6])
        if free.motion.errors:
            break
    assert free.motion.errors == {error}


def test_goals_that_the_robot_refuses(led: Robot) -> None:
    """A start away from the arm, and a goal that is too fast."""
    led.command(q=AWAY_RAD)
    assert led.motion.errors == {"joint_position_motion_generator_start_pose_invalid"}
    assert led.motion.begin(Controller.JOINT_IMPEDANCE, JOINT_POSITION) == "not_possible"
    assert led.motion.recover() == "success"
    led.motion.begin(Controller.JOINT_IMPEDANCE, JOINT_POSITION)
    led.command(q=HOME_RAD)
    led.command(q=np.array(HOME_RAD) + 0.04)
    assert led.motion.errors == {"joint_motion_generator_velocity_limits_violation"}


def test_a_push_is_a_collision_only_above_the_clients_threshold(free: Robot) -> None:
    """The same push that ends a motion by default is guiding once the thresholds are raised."""
    free.arm.hand.push([0.0] * 6 + [25.0])
    free.command()
    assert free.motion.errors == {"joint_reflex"}
    assert free.motion.collided.tolist() == [0, 0, 0, 0, 0, 0, 1]
    free.motion.recover()
    free.motion.set_collision_behavior(np.full(52, 80.0).tobytes())
    free.motion.begin(Controller.EXTERNAL, NO_GENERATOR)
    free.command()
    assert not free.motion.errors


def test_the_kinematics_are_the_models_that_clients_are_given() -> None:
    """The compiled library agrees, and the Jacobian is the derivative of the pose."""
    library = ctypes.CDLL(str(model_library()))
    tool, pose = hand_on_flange(), pose_at(Q_RAD, hand_on_flange())
    q, flange_to_tool = (ctypes.c_double * 7)(*Q_RAD), (ctypes.c_double * 16)(*tool)
    their_pose, their_jacobian = (ctypes.c_double * 16)(), (ctypes.c_double * 42)()
    library.O_T_J9(q, flange_to_tool, their_pose)
    library.O_J_J9(q, flange_to_tool, their_jacobian)
    assert np.allclose(their_pose, pose.end_effector)
    assert np.allclose(np.reshape(their_jacobian, (7, 6)).T, jacobian(pose))
    for joint in range(7):
        bent = np.array(Q_RAD)
        bent[joint] += 1e-6
        moved = np.array(pose_at(bent.tolist(), tool).end_effector[12:15])
        slope = (moved - pose.end_effector[12:15]) / 1e-6
        assert np.allclose(slope, jacobian(pose)[:3, joint], atol=1e-5)


@pytest.fixture(scope="module")
def emulator() -> Iterator[FrankaEmulator]:
    with FrankaEmulator(desk=False) as running:
        yield running


def test_two_emulators_stand_side_by_side(emulator: FrankaEmulator) -> None:
    """Each takes an address of its own, where it was told to start, and gives it back."""
    with FrankaEmulator("panda", desk=False, start_rad=AWAY_RAD) as other:
        assert other.host != emulator.host
        assert other.state()["q"] == pytest.approx(AWAY_RAD)
        host = other.host
    assert not answers(host)
    assert answers(emulator.host)


def test_a_taken_address_is_refused_in_words(emulator: FrankaEmulator) -> None:
    """An address that was asked for is not silently replaced."""
    with pytest.raises(DeviceError, match=f"{emulator.host} does not start: .*in use"):
        FrankaEmulator(host=emulator.host, desk=False).start()
    assert emulator.state()["robot_mode"] == "idle"


def test_wishes_that_do_not_exist_are_refused(emulator: FrankaEmulator) -> None:
    """Faults, error flags and buttons are checked by name, and the robot lives on."""
    with pytest.raises(ValueError, match="no such fault"):
        emulator.fault("earthquake")
    with pytest.raises(ValueError, match="no such error flag"):
        emulator.fault("reflex", error="hiccup")
    with pytest.raises(ValueError, match="has no Desk"):
        emulator.press("check")
    with pytest.raises(ValueError, match="reshape"):
        emulator.push([1.0, 2.0])
    assert emulator.state()["errors"] == []


def test_every_fault_can_happen_and_be_cleared(emulator: FrankaEmulator) -> None:
    """None of them harms the emulator itself."""
    for kind in FAULTS:
        emulator.fault(kind)
    emulator.fault("clear")
    assert answers(emulator.host)
    assert emulator.state()["robot_mode"] in ("idle", "reflex")


def test_a_guiding_arm_is_moved_by_hand_outside_of_any_motion(emulator: FrankaEmulator) -> None:
    """As when the buttons on the wrist are squeezed."""
    emulator.fault("guiding")
    assert emulator.state()["robot_mode"] == "guiding"
    goal = np.array(HOME_RAD) + 0.1
    emulator.hand_to(goal.tolist())
    wait_until(lambda: np.allclose(emulator.state()["q"], goal, atol=0.01), "the arm follows")
    emulator.hand_to(None)
    emulator.fault("guiding_released")


def test_a_killed_robot_is_told_from_a_wrong_wish() -> None:
    """Whoever steers it hears that it is gone."""
    with FrankaEmulator(desk=False) as emulator:
        emulator.kill()
        with pytest.raises(DeviceLostError, match="does not answer"):
            emulator.state()


def test_the_emulator_dies_with_its_parent() -> None:
    """Even a parent that is killed leaves no robot behind on the ports."""
    program = (
        "import time; from drivers.emulated.franka.server import FrankaEmulator\n"
        "e = FrankaEmulator(desk=False); e.start(); print(e.host, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    host = parent.stdout.readline().strip()
    assert answers(host)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not answers(host), "the port is closed")


def test_a_missing_web_server_is_told_with_the_extra_that_brings_it() -> None:
    """The extra of the real arm has none: its Desk is its own."""
    program = "import sys; sys.modules['aiohttp'] = None; import drivers.emulated.franka.desk"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "aiohttp" in done.stderr
    assert "pip install 'tandem-rig[sim]'" in done.stderr


def test_a_free_host_has_both_ports() -> None:
    """Both can be listened on, and it is this machine's."""
    host = free_franka_host()
    for port in (1337, 1338):
        with contextlib.closing(socket.socket()) as server:
            server.bind((host, port))


def answers(host: str) -> bool:
    """Whether somebody listens on the control interface's port."""
    try:
        socket.create_connection((host, FCI_PORT), timeout=5).close()
    except OSError:
        return False
    return True
