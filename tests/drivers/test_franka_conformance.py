"""The vendors' unmodified packages against the emulated Franka, each in a process of its own."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from franka_bench import NO_LOAD, in_own_process, wait_for_mode

from drivers.emulated.franka.arm import HOME_RAD
from drivers.emulated.franka.profile import ERRORS
from drivers.emulated.franka.server import FrankaEmulator
from tests.waiting import wait_until

GUIDED_RAD = (0.3, -0.6, 0.1, -2.2, 0.1, 1.7, 0.9)


def connect(emulator: FrankaEmulator) -> Any:
    """A franky robot with the thresholds that guiding needs."""
    import franky

    robot = franky.Robot(emulator.host, realtime_config=franky.RealtimeConfig.Ignore)
    robot.set_collision_behavior(80.0, 80.0)
    return robot


def begin_guiding(robot: Any, heard: list[int] | None = None) -> None:
    """Start a motion without torques, in which the arm can be moved by hand."""
    import franky

    motion = franky.SimpleTorqueMotion(signal_timeout=None)
    if heard is not None:
        motion.register_callback(lambda state, *_: heard.append(state.time.to_msec()))
    robot.move(motion, asynchronous=True)


def recover(robot: Any) -> None:
    """Clear a reflex; states that were under way may still tell of it."""
    robot.recover_from_errors()
    wait_until(lambda: not robot.has_errors, "no errors")


@in_own_process(desk=False)
def test_franky_guides_the_fr3_without_losing_a_state(emulator: FrankaEmulator) -> None:
    """A hand moves the arm to a pose while the client hears every millisecond once."""
    import franky

    robot = connect(emulator)
    assert np.allclose(robot.state.q, HOME_RAD, atol=1e-6)
    assert robot.model_urdf.count("<limit ") == 7
    heard: list[int] = []
    begin_guiding(robot, heard)
    wait_until(lambda: emulator.state()["guiding"], "the arm is free")
    emulator.hand_to(GUIDED_RAD)
    wait_until(lambda: np.allclose(emulator.state()["q"], GUIDED_RAD, atol=0.01), "pose reached")
    wait_until(lambda: len(heard) > 500, "half a second of states")
    emulator.hand_to(None)
    robot.move(franky.TorqueStopMotion())
    wait_for_mode(emulator, "idle")
    # Until the first command has come the robot waits for nobody.
    assert set(np.diff(heard[1:])) == {1}
    assert emulator.figures()["lost_commands"] == 0


@in_own_process(desk=False)
def test_franky_moves_and_tracks_with_the_fr3(emulator: FrankaEmulator) -> None:
    """Motions in joints and in space arrive, and the impedance trackers hold and follow."""
    import franky

    robot = connect(emulator)
    robot.relative_dynamics_factor = 0.4
    robot.move(franky.JointMotion(franky.JointState(list(GUIDED_RAD))))
    assert np.allclose(robot.state.q, GUIDED_RAD, atol=2e-3)
    before = robot.current_pose.end_effector_pose.translation
    robot.move(franky.CartesianMotion(franky.Affine([0, 0, -0.05]), franky.ReferenceType.Relative))
    moved = np.linalg.norm(robot.current_pose.end_effector_pose.translation - before)
    assert moved == pytest.approx(0.05, abs=2e-3)
    robot.move(franky.CartesianVelocityMotion(franky.Twist([0, 0, -0.05]), franky.Duration(300)))

    goal = np.array(robot.state.q) + 0.1
    with franky.JointImpedanceTracker(robot, stiffness=[200.0] * 7, period=0.02) as tracker:
        tracker.set_target(goal)
        wait_until(lambda: np.allclose(emulator.state()["q"], goal, atol=0.02), "target reached")
        emulator.push([8, 0, 0, 0, 0, 0, 0])
        wait_until(lambda: emulator.state()["q"][0] > goal[0] + 0.03, "the arm yields like 200 N m")
        emulator.push(NO_LOAD)
    pose = robot.current_pose.end_effector_pose
    height = pose.translation[2] + 0.04
    with franky.CartesianImpedanceTracker(robot, translational_stiffness=800.0) as tracker:
        tracker.set_target(franky.Affine([*pose.translation[:2], height], pose.quaternion))
        wait_until(
            lambda: abs(robot.state.O_T_EE.translation[2] - height) < 5e-3, "the hand has risen"
        )


@in_own_process(desk=False)
def test_franky_hears_of_every_reflex_by_its_name(emulator: FrankaEmulator) -> None:
    """The emulator's error flags are the client's, one by one."""
    robot = connect(emulator)
    for error in ERRORS:
        emulator.fault("reflex", error=error)
        wait_until(lambda name=error: getattr(robot.state.current_errors, name), error)
        flags = robot.state.current_errors
        assert [name for name in ERRORS if getattr(flags, name)] == [error]
        recover(robot)


@in_own_process(desk=False)
def test_franky_stops_by_reflex_and_recovers(emulator: FrankaEmulator) -> None:
    """A hard push, lost packets and the user stop end a motion, each in the vendor's words."""
    import franky

    robot = connect(emulator)

    def words() -> str:
        with pytest.raises(franky.ControlException) as caught:
            robot.join_motion()
        return str(caught.value)

    begin_guiding(robot)
    wait_until(lambda: emulator.state()["guiding"], "the arm is free")
    emulator.push([0, 0, 0, 0, 0, 0, 90])
    wait_for_mode(emulator, "reflex")
    emulator.push(NO_LOAD)
    assert "joint_reflex" in words()
    recover(robot)

    before = emulator.figures()["commands"]
    begin_guiding(robot)
    wait_until(lambda: emulator.figures()["commands"] > before + 20, "commands")
    emulator.fault("drop_packets", n=19)
    wait_until(lambda: emulator.figures()["lost_commands"] >= 19, "all of them lost")
    time.sleep(0.05)
    assert emulator.state()["robot_mode"] == "move"
    emulator.fault("drop_packets", n=25)
    wait_for_mode(emulator, "reflex")
    assert "communication_constraints_violation" in words()
    recover(robot)

    begin_guiding(robot)
    wait_until(lambda: emulator.state()["guiding"], "the arm is free")
    emulator.fault("user_stop")
    assert "User Stop" in words()
    with pytest.raises(franky.CommandException, match="User stopped"):
        robot.recover_from_errors()
    emulator.fault("user_stop_released")
    wait_until(lambda: robot.state.robot_mode == franky.RobotMode.Idle, "idle again")


@in_own_process(desk=False)
def test_franky_is_refused_and_loses_the_fr3(emulator: FrankaEmulator) -> None:
    """Wrong version, switched off, taken, silent: each is told apart."""
    import franky

    def refusal() -> str:
        with pytest.raises(franky.Exception) as caught:
            connect(emulator)
        return f"{type(caught.value).__name__}: {caught.value}"

    emulator.fault("wrong_version", version=9)
    assert "IncompatibleVersion" in (said := refusal())
    assert "server version: 9" in said
    emulator.fault("clear")
    emulator.fault("fci_off")
    assert "enable FCI" in refusal()
    emulator.fault("fci_on")
    emulator.fault("busy")
    assert "Network" in refusal()
    emulator.fault("clear")

    robot = connect(emulator)
    assert "Network" in refusal(), "one client at a time"
    emulator.fault("freeze")
    began_s = time.monotonic()
    with pytest.raises(franky.NetworkException):
        [robot.state for _ in range(10)]
    assert 0.5 < time.monotonic() - began_s < 10
    emulator.fault("thaw")
    emulator.fault("kick")
    robot = connect(emulator)
    emulator.kill()
    with pytest.raises(franky.NetworkException):
        [robot.state for _ in range(10)]


@in_own_process(desk=False)
def test_a_silent_server_is_the_one_fault_franky_never_reports(emulator: FrankaEmulator) -> None:
    """Its constructor waits for ever, so whoever opens it needs a process to give up on."""
    emulator.fault("black_hole")
    opener = threading.Thread(target=connect, args=(emulator,), daemon=True)
    opener.start()
    wait_until(lambda: emulator.state()["connected"], "the connection is accepted")
    opener.join(1.5)
    assert opener.is_alive()


@in_own_process(desk=False)
def test_franky_opens_closes_and_grasps(emulator: FrankaEmulator) -> None:
    """Widths, a held object, a missed one, and a move that another one ends."""
    import franky

    hand = franky.Gripper(emulator.host)
    assert hand.width == pytest.approx(0.08)
    assert hand.move(0.02, 0.2)
    assert hand.width == pytest.approx(0.02, abs=1e-4)
    assert hand.open(0.2)
    emulator.fault("object", width_m=0.03)
    assert hand.grasp(0.03, 0.2, 20.0, 0.005, 0.005)
    assert emulator.state()["grasped"]
    assert hand.is_grasped
    assert not hand.grasp(0.06, 0.2, 20.0, 0.005, 0.005)
    first = hand.move_async(0.08, 0.01)
    wait_until(lambda: emulator.state()["gripper"] > 0.031, "the fingers move")
    assert hand.move(0.05, 0.2)
    with pytest.raises(franky.CommandException, match="aborted"):
        first.get()
    assert emulator.state()["gripper"] == pytest.approx(0.05, abs=1e-4)


@in_own_process()
def test_desk_of_the_fr3_reports_buttons_and_switches_the_robot(emulator: FrankaEmulator) -> None:
    """Log in, take control, lock and unlock, switch the interface, hear the pilot's buttons."""
    import franky

    with franky.Desk(*account(emulator)) as desk:
        desk.take_control(wait_timeout=5)
        assert desk.has_control
        desk.lock_brakes()
        assert desk.brake_state == franky.BrakeState.LOCKED
        assert emulator.state()["robot_mode"] == "other"
        desk.unlock_brakes()
        desk.disable_fci()
        with pytest.raises(franky.NetworkException, match="enable FCI"):
            connect(emulator)
        desk.enable_fci()
        connect(emulator)
        assert desk.get_fci_status() == "Active"
        desk.poll_buttons()  # connects the listener
        assert presses(desk, emulator, "check") == ["check pressed", "check released"]
        assert presses(desk, emulator, "circle") == ["circle pressed", "circle released"]
        with franky.Desk(*account(emulator)) as other:
            with pytest.raises(franky.FrankaAPIError, match="403"):
                other.send_api_request("/api/arm/joints:lock")
            with pytest.raises(franky.TakeControlTimeoutError):
                other.take_control(wait_timeout=1)
    with pytest.raises(franky.FrankaAPIError, match="401"):
        franky.Desk(emulator.desk_address, "nobody", "knows").open()


def account(emulator: FrankaEmulator) -> tuple[str, str, str]:
    """Where to log in, and as whom."""
    return emulator.desk_address, emulator.desk_user, emulator.desk_password


def presses(desk: Any, emulator: FrankaEmulator, button: str) -> list[str]:
    """What Desk tells of a button pressed and released."""
    events: list[Any] = []

    def both_came() -> bool:
        events.extend(desk.poll_buttons(0.05))
        return len(events) >= 2

    emulator.press(button)
    wait_until(both_came, "two events")
    return [
        f"{event.button.value} {'pressed' if event.pressed else 'released'}" for event in events
    ]


@in_own_process(robot="panda")
def test_panda_py_drives_the_panda(emulator: FrankaEmulator) -> None:
    """Model, teaching, motions, controllers, reflex, recovery and hand of the version 5 robot."""
    import panda_py
    from panda_py import controllers

    panda = panda_py.Panda(emulator.host)
    assert panda.get_robot().server_version() == 5
    assert np.allclose(panda.get_pose()[:3, 3], panda_py.fk(np.array(panda.q))[:3, 3], atol=1e-3)
    thresholds = [[80.0] * 7, [80.0] * 7, [80.0] * 6, [80.0] * 6]
    panda.get_robot().set_collision_behavior(*thresholds)
    panda.enable_logging(100_000)
    panda.teaching_mode(True)
    wait_until(lambda: emulator.state()["guiding"], "the arm is free")
    emulator.hand_to(GUIDED_RAD)
    wait_until(lambda: np.allclose(emulator.state()["q"], GUIDED_RAD, atol=0.01), "pose reached")
    emulator.hand_to(None)
    panda.teaching_mode(False)
    assert set(np.diff(np.ravel(panda.get_log()["time"])[1:])) == {1}
    assert panda.move_to_start(speed_factor=0.5)
    assert np.allclose(panda.q, HOME_RAD, atol=0.02)

    tracking = controllers.JointPosition()
    panda.start_controller(tracking)
    goal = np.array(HOME_RAD) + 0.05
    tracking.set_control(goal)
    wait_until(lambda: np.allclose(emulator.state()["q"], goal, atol=0.02), "target reached")
    panda.stop_controller()
    panda.teaching_mode(True)
    wait_until(lambda: emulator.state()["guiding"], "the arm is free")
    emulator.fault("reflex")
    wait_for_mode(emulator, "reflex")
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="joint_reflex"):
        panda.raise_error()
    panda.recover()
    wait_for_mode(emulator, "idle")
    hand = panda_py.libfranka.Gripper(emulator.host)
    assert hand.move(0.02, 0.2)
    assert hand.read_once().width == pytest.approx(0.02, abs=1e-4)


@in_own_process(robot="panda")
def test_the_older_desk_serves_both_of_its_clients(emulator: FrankaEmulator) -> None:
    """franky's legacy session and panda-py's Desk log in, take control and hear buttons."""
    import os

    import franky
    import panda_py

    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ.pop(variable, None)  # requests prefers them to what panda-py asks for
    with franky.DeskWebSession(*account(emulator)) as session:
        session.take_control(wait_timeout=5)
        session.lock_brakes()
        assert session.brake_state == franky.BrakeState.LOCKED
        session.unlock_brakes()
        session.enable_fci()
        session.poll_buttons()
        assert presses(session, emulator, "cross") == ["cross pressed", "cross released"]
    events: list[dict[str, bool]] = []

    def heard() -> bool:
        emulator.press("circle")
        return {"circle": True} in events

    with tempfile.TemporaryDirectory() as folder:
        panda_py.TOKEN_PATH = f"{folder}/token"  # else in the user's home
        desk = panda_py.Desk(*account(emulator))
        assert desk.has_control()
        desk.lock()
        desk.unlock()
        desk.listen(events.append)
        wait_until(heard, "a button")
        desk.stop_listen()
        desk.release_control()


@in_own_process(desk=False)
def test_pylibfranka_reads_and_controls_the_fr3(emulator: FrankaEmulator) -> None:
    """The vendor's own bindings: states, torques, speeds, bad starts and torque jumps."""
    import pylibfranka

    robot = pylibfranka.Robot(emulator.host, pylibfranka.RealtimeConfig.kIgnore)
    assert np.allclose(robot.read_once().q, HOME_RAD, atol=1e-6)
    limits = [[80.0] * 7, [80.0] * 7, [80.0] * 6, [80.0] * 6]
    robot.set_collision_behavior(*limits)

    control = robot.start_torque_control()
    emulator.push([5, 0, 0, 0, 0, 0, 0])
    for tick in range(300):
        state, _ = control.readOnce()
        torques = pylibfranka.Torques([0.0] * 7)
        torques.motion_finished = tick == 299
        control.writeOnce(torques)
    emulator.push(NO_LOAD)
    assert state.q[0] > 0.02
    assert state.tau_ext_hat_filtered[0] == pytest.approx(-5.0)
    del control  # an ended control keeps the robot locked as long as it lives
    wait_for_mode(emulator, "idle")

    control = robot.start_torque_control()
    jump = (pylibfranka.Torques([5.0 * (tick > 50)] + [0.0] * 6) for tick in range(100))
    with pytest.raises(pylibfranka.ControlException, match="controller_torque_discontinuity"):
        run_commands(control, jump)
    del control
    robot.automatic_error_recovery()
    wait_for_mode(emulator, "idle")

    control = robot.start_joint_position_control(pylibfranka.ControllerMode.JointImpedance)
    away = [HOME_RAD[0] + 0.5, *HOME_RAD[1:]]
    with pytest.raises(pylibfranka.ControlException, match="start_pose_invalid"):
        run_commands(control, (pylibfranka.JointPositions(away) for _ in range(100)))


def run_commands(control: Any, commands: Iterable[Any]) -> None:
    """Answer each state by the next command."""
    for command in commands:
        control.readOnce()
        control.writeOnce(command)
