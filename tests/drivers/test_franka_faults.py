"""What goes wrong with a Franka: named in words, safe, and mended by the operator only."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import one_franka
import pytest
from one_franka import HOME_RAD, Connect, driver, q_of

from drivers.base import DeviceHealth
from drivers.emulated.franka.server import FrankaEmulator
from drivers.franka.arm import FrankaArmDriver
from drivers.franka.words import connect_failure, motion_end, version_mismatch
from teleop.errors import DeviceError, DeviceLostError
from tests.waiting import wait_until

connect = one_franka.connect


@pytest.fixture(scope="module")
def robot() -> Iterator[FrankaEmulator]:
    """An FR3 for all of these tests."""
    with FrankaEmulator("fr3") as started:
        yield started


@pytest.fixture
def emulator(robot: FrankaEmulator) -> Iterator[FrankaEmulator]:
    """The same, all well again after each test, wherever it left the arm."""
    yield robot
    robot.push([0.0] * 7)
    robot.fault("clear")
    wait_until(lambda: not robot.state()["connected"], "the last test's connection is gone")


def held(connect: Connect) -> FrankaArmDriver:
    """A follower that holds."""
    arm = connect("follower")
    arm.set_torque(joints=True, gripper=True)
    return arm


def fault_of(arm: FrankaArmDriver) -> DeviceHealth:
    """What the arm says once it is not well."""
    wait_until(lambda: not arm.poll_health().ok, "the fault is told")
    return arm.poll_health()


def lose(arm: FrankaArmDriver) -> str:
    """The words with which the arm is given up."""
    words: list[str] = []

    def is_lost() -> bool:
        try:
            arm.read()
        except DeviceLostError as error:
            words.append(str(error))
        except DeviceError:
            pass  # Not yet given up.
        return bool(words)

    wait_until(is_lost, "the loss is told")
    return words[0]


def test_a_reflex_is_named_and_cleared_by_the_operator_only(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """Neither torque nor commands bring the arm back; then it holds where it is."""
    arm = held(connect)
    emulator.fault("reflex", error="cartesian_reflex")
    health = fault_of(arm)
    assert health.lasting
    assert "cartesian_reflex (the arm met something" in health.detail
    with pytest.raises(DeviceError, match="cartesian_reflex"):
        arm.set_torque(joints=True, gripper=True)
    with pytest.raises(DeviceError, match="cartesian_reflex"):
        arm.write(HOME_RAD, 1.0)
    assert emulator.state()["robot_mode"] == "reflex"
    assert arm.read().position_rad == pytest.approx(q_of(emulator), abs=0.02)

    assert arm.reboot_failed() == ["franka (reflex)"]
    assert arm.poll_health().ok
    arm.set_torque(joints=True, gripper=True)
    assert emulator.state()["robot_mode"] == "move"


def test_a_push_beyond_the_threshold_stops_a_follower_but_not_a_guided_arm(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """The collision thresholds are raised for guiding only."""
    arm = connect("kinesthetic", guiding_max_velocity_rad_s=2.62)
    arm.set_torque(joints=True, gripper=True)
    lean_on(emulator, 50.0)
    assert arm.poll_health().ok
    emulator.push([0.0] * 7)
    arm.close()

    arm = held(connect)
    lean_on(emulator, 50.0)
    assert "joint_reflex" in fault_of(arm).detail


def lean_on(emulator: FrankaEmulator, torque_nm: float) -> None:
    """Push on the first joint, harder and harder, not so quickly that it bounces."""
    for share in (0.2, 0.4, 0.6, 0.8, 0.9, 1.0):
        emulator.push([share * torque_nm, 0, 0, 0, 0, 0, 0])
        time.sleep(0.1)


def test_twenty_five_lost_packets_are_told_as_such(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """The robot stops by itself and the words point at network and load."""
    arm = held(connect)
    emulator.fault("drop_packets", n=25)
    health = fault_of(arm)
    assert health.lasting
    assert "communication_constraints_violation" in health.detail
    assert "missed 20 commands in a row" in health.detail
    arm.reboot_failed()
    arm.set_torque(joints=True, gripper=True)
    assert arm.poll_health().ok


def test_commands_that_come_late_are_warned_of(emulator: FrankaEmulator, connect: Connect) -> None:
    """Before the robot stops by itself, the share of commands in time is told."""
    arm = connect("kinesthetic")
    arm.set_torque(joints=False, gripper=True)

    def warned() -> bool:
        emulator.fault("drop_packets", n=12)
        told = set()
        for _ in range(20):
            told.add(arm.poll_health().detail[-80:])
            time.sleep(0.005)
        return any("in time; it stops after 20 missed" in words for words in told)

    wait_until(warned, "the warning")
    assert arm.poll_health().ok


def test_a_user_stop_lasts_until_released_and_cleared(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """While it is pressed clearing is refused; released, the arm still does not move by itself."""
    arm = held(connect)
    emulator.fault("user_stop")
    health = fault_of(arm)
    assert health.lasting
    assert "the user stop is pressed" in health.detail
    with pytest.raises(DeviceError, match="user stop"):
        arm.reboot_failed()
    emulator.fault("user_stop_released")
    wait_until(lambda: emulator.state()["robot_mode"] == "idle", "released")
    with pytest.raises(DeviceError, match="user stop"):
        arm.set_torque(joints=True, gripper=True)
    assert arm.reboot_failed() == ["franka (user_stop)"]
    arm.set_torque(joints=True, gripper=True)
    assert arm.poll_health().ok


def test_locked_brakes_are_told(emulator: FrankaEmulator, connect: Connect) -> None:
    """The arm can be read; to hold it, Desk is needed first."""
    emulator.fault("brakes")
    arm = connect("follower")
    assert arm.read().position_rad == pytest.approx(q_of(emulator), abs=0.01)
    with pytest.raises(DeviceError, match="unlock the brakes"):
        arm.set_torque(joints=True, gripper=True)
    emulator.fault("brakes_released")
    wait_until(lambda: arm.poll_health().ok, "ready")
    arm.set_torque(joints=True, gripper=True)


def test_a_wrong_server_version_names_both_and_the_wheel(emulator: FrankaEmulator) -> None:
    """Nobody has to look up which wheel fits which robot."""
    emulator.fault("wrong_version", version=9)
    with pytest.raises(DeviceError) as caught:
        driver(emulator.host, "follower").connect()
    words = str(caught.value)
    assert "server version 9" in words
    assert "system 5.7.2 or newer" in words
    assert "speaks 10" in words
    assert "by-robot-server-version/9/" in words


def test_a_robot_without_fci_asks_to_activate_it(emulator: FrankaEmulator) -> None:
    """Its port refuses."""
    emulator.fault("fci_off")
    with pytest.raises(DeviceError, match="activate FCI in Desk"):
        driver(emulator.host, "follower").connect()


def test_states_that_do_not_arrive_point_at_the_firewall(emulator: FrankaEmulator) -> None:
    """The robot answers, its datagrams do not come."""
    emulator.fault("freeze")
    with pytest.raises(DeviceError, match="firewall"):
        driver(emulator.host, "follower").connect()


def test_a_server_that_never_answers_does_not_hang_the_rig(emulator: FrankaEmulator) -> None:
    """Connecting ends in words within 5 s; when the server is well again, so is the next try."""
    emulator.fault("black_hole")
    arm = driver(emulator.host, "follower")
    begin_s = time.monotonic()
    with pytest.raises(DeviceError, match="has not answered"):
        arm.connect()
    assert time.monotonic() - begin_s < 6.0
    with pytest.raises(DeviceLostError):
        arm.read()
    emulator.fault("clear")
    wait_until(lambda: _connects(arm), "it answers")
    assert arm.read().position_rad == pytest.approx(q_of(emulator), abs=0.01)
    arm.close()


def _connects(arm: FrankaArmDriver) -> bool:
    try:
        arm.connect()
    except DeviceError:
        return False
    return True


@pytest.mark.parametrize("kind", ["kick", "freeze"])
def test_a_lost_connection_is_told_and_made_again(
    kind: str, emulator: FrankaEmulator, connect: Connect
) -> None:
    """The object of the vendor is dead then; a new one takes its place."""
    arm = held(connect)
    emulator.fault(kind)
    assert "lost the connection" in lose(arm)
    for use in (arm.poll_health, arm.reboot_failed, lambda: arm.write(HOME_RAD, 1.0)):
        with pytest.raises(DeviceLostError):
            use()
    assert arm.torque_off()
    emulator.fault("thaw")
    arm.connect()
    if kind == "freeze":  # The robot missed commands meanwhile.
        assert "communication_constraints_violation" in fault_of(arm).detail
        arm.reboot_failed()
    arm.set_torque(joints=True, gripper=True)
    assert arm.poll_health().ok
    assert np.all(np.isfinite(arm.read().position_rad))


def test_a_lost_hand_is_told_and_found_again(emulator: FrankaEmulator, connect: Connect) -> None:
    """Meanwhile its opening is not known."""
    arm = held(connect)
    emulator.fault("gripper_kick")
    wait_until(lambda: arm.read().gripper is None, "the opening is not known")
    assert "hand: lost the connection" in fault_of(arm).detail
    wait_until(lambda: arm.read().gripper == pytest.approx(1.0), "the hand is found again")
    assert arm.poll_health().ok


def test_a_closed_driver_leaves_the_robot_idle_and_free(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """Its own control holds the arm, and another client may connect."""
    arm = held(connect)
    arm.close()
    wait_until(lambda: not emulator.state()["connected"], "the connection is given back")
    assert emulator.state()["robot_mode"] == "idle"
    assert emulator.state()["errors"] == []
    with pytest.raises(DeviceLostError, match="not connected"):
        arm.read()
    assert held(connect).poll_health().ok


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (3, ("Panda with system 3.0", "libfranka 0.7")),
        (5, ("Panda with system 4.2.1", "panda-python>=1.1")),
        (7, ("FR3 with system 5.5", "by-robot-server-version/7/")),
        (12, ("a system not known here", "a wheel for server version 12")),
    ],
)
def test_each_server_version_has_its_row(server: int, told: tuple[str, str]) -> None:
    """Robot, system and wheel of the version that the robot speaks."""
    words = version_mismatch("left", server, 10).words
    assert words.startswith("left: the robot speaks server version")
    assert all(part in words for part in told)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("libfranka: Connection to FCI refused. Please enable FCI mode in Desk.", "refused"),
        ("libfranka: UDP receive: Timeout", "firewall"),
        ("libfranka: Connection error: Host not found", "host"),
        ("libfranka: Connection timeout", "host"),
        ("libfranka: TCP connection got interrupted.", "refused"),
        ("libfranka: Running kernel does not have realtime capabilities.", "realtime"),
        ("Incompatible library version (server version: 5, library version: 10).", "version"),
        ("The robot speaks protocol version 10, but this panda-py speaks version 5.", "version"),
        ("something new", "failed"),
    ],
)
def test_each_failure_to_connect_has_a_name(text: str, name: str) -> None:
    """Told from the vendor's text, which is all there is with panda-python."""
    assert connect_failure("left", "10.0.0.2", text).name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('Move command aborted: motion aborted by reflex! ["joint_reflex"]', "reflex"),
        ("libfranka: Move command aborted: User Stop pressed!", "user_stop"),
        ("libfranka: UDP receive: Timeout", "lost"),
        ("libfranka: TCP connection got interrupted.", "lost"),
        ("something new", "ended"),
    ],
)
def test_each_end_of_control_has_a_name(text: str, name: str) -> None:
    """Several flags are listed, each with its cause."""
    assert motion_end("left", text).name == name
    both = motion_end("left", 'reflex! ["power_limit_violation", "instability_detected"]').words
    assert "move slower" in both
    assert "began to swing" in both
