"""The doctor and a Franka: what it names, with the remedy, and that it only reads."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.doctor.checks import Check
from drivers.doctor.desk import ask_desk, desk_checks, state_check
from drivers.doctor.franka import card_checks, franka_checks, mode_check
from drivers.emulated.franka.server import FrankaEmulator
from drivers.franka.link import Status
from teleop.clock import MonotonicClock
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[2]
CLOCK = MonotonicClock()


@pytest.fixture(scope="module")
def robot() -> Iterator[FrankaEmulator]:
    with FrankaEmulator() as made:
        yield made


def rig_at(host: str, robot: str = "fr3", **pilot: Any) -> Rig:
    """The shipped hand-guided rig with its robot elsewhere."""
    rig = load_rig(ROOT / "docs" / "rigs" / "franka_kinesthetic.yaml")
    arm = rig.arms["franka"].model_dump() | {"address": host}
    model = rig.arm_models["fr3"].model_dump() | {"robot": robot}
    inputs = {name: config.model_dump() | pilot for name, config in rig.inputs.items()}
    return rig.replaced(arms={"franka": arm}, arm_models={"fr3": model}, inputs=inputs)


def arm_findings(rig: Rig) -> list[Check]:
    """All that is said of the arm."""
    return list(franka_checks("franka", rig, CLOCK))


def arm_findings_without_franky(rig: Rig) -> list[Check]:
    """The same where the extra is not installed."""
    sys.modules["franky"] = None  # type: ignore[assignment]  # to import it fails
    return arm_findings(rig)


def pilot_findings(rig: Rig) -> list[Check]:
    """All that is said of the pilot."""
    return list(desk_checks("pilot", rig, CLOCK))


def fresh(look: Any, rig: Rig) -> list[Check]:
    """In a process of its own: the vendors' packages raise priorities and leave threads behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: list[Check] = pool.apply_async(look, (rig,)).get(timeout=60)
    return found


def by_status(checks: list[Check], status: str) -> str:
    """All findings of one status, in words."""
    return "\n".join(str(check) for check in checks if check.status == status)


def test_a_sound_robot_passes_and_is_left_alone(robot: FrankaEmulator) -> None:
    """Port, version, states, mode, pose and hand are told; no command was sent."""
    before = robot.state()
    checks = fresh(arm_findings, rig_at(robot.host))
    assert by_status(checks, "fail") == ""
    assert "server version 10 (system 5.9 or newer" in by_status(checks, "ok")
    assert "mode idle" in by_status(checks, "ok")
    assert "franka hand: 80 mm open" in by_status(checks, "ok")
    after = robot.state()
    assert robot.figures()["commands"] == 0
    assert (after["q"], after["gripper"]) == (before["q"], before["gripper"])


def test_what_keeps_a_robot_from_moving_is_named(robot: FrankaEmulator) -> None:
    """A reflex with its flag and cause, which the doctor does not clear."""
    robot.fault("reflex", error="joint_reflex")
    said = by_status(fresh(arm_findings, rig_at(robot.host)), "fail")
    assert "stopped by reflex: joint_reflex (the arm met something" in said
    assert "emergency stop, clear and confirm" in said
    assert robot.state()["robot_mode"] == "reflex"


def test_without_the_package_the_version_is_told_all_the_same(robot: FrankaEmulator) -> None:
    """It says which wheel to install."""
    port, missing = fresh(arm_findings_without_franky, rig_at(robot.host))
    assert "server version 10" in port.seen
    assert (missing.status, missing.remedy) == ("fail", "run: pip install 'tandem-rig[franka]'")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("fci_off", "refuses FCI; unlock the brakes and activate FCI in Desk"),
        ("busy", "closes FCI connections at once"),
        ("black_hole", "accepted the connection and has not answered for 3 s"),
    ],
)
def test_a_closed_port_is_told_by_what_closes_it(fault: str, words: str) -> None:
    """Without waiting for the vendor's package, which may wait for ever."""
    with FrankaEmulator(desk=False) as robot:
        robot.fault(fault)
        checks = arm_findings(rig_at(robot.host))
    assert words in by_status(checks, "fail")
    assert len(checks) == 1


def test_a_wrong_robot_and_a_wrong_wheel_are_told_apart(robot: FrankaEmulator) -> None:
    """A Panda in the rig file is its fault; another FR3 system is the wheel's."""
    said = by_status(arm_findings(rig_at(robot.host, robot="panda")), "fail")
    assert "set robot: fr3 in this arm's model" in said
    robot.fault("wrong_version", version=9)
    said = by_status(fresh(arm_findings, rig_at(robot.host)), "fail")
    robot.fault("clear")
    assert "the robot speaks server version 9" in said
    assert "pip install --pre franky-control --extra-index-url" in said


def test_an_address_where_nobody_is_gets_a_remedy() -> None:
    """Cable, address, subnet."""
    said = by_status(arm_findings(rig_at("no.such.host.invalid")), "fail")
    assert "no.such.host.invalid is no known host" in said
    assert "check its address, cable and subnet" in said


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("other", "unlock the brakes and activate FCI in Desk"),
        ("user_stopped", "the user stop is pressed; look, then release it"),
        ("guiding", "guided by its own buttons; release them"),
    ],
)
def test_every_mode_has_a_remedy(mode: str, words: str) -> None:
    """In which the robot takes no command."""
    check = mode_check("franka", Status(mode, (), 0.0))
    assert check.status == "fail"
    assert words in str(check)


def test_a_robot_that_another_program_moves_badly_is_a_warning() -> None:
    """With the share of its commands that arrive in time."""
    check = mode_check("franka", Status("move", (), 0.9))
    assert check.status == "warn"
    assert "90% of its commands arrive in time" in check.seen
    assert "20 missed in a row" in check.remedy


@pytest.mark.parametrize("kind", ["fr3", "panda"])
def test_desk_tells_its_state_by_both_interfaces(kind: Any) -> None:
    """Locked brakes and an inactive FCI, by a stranger's login nothing."""
    with FrankaEmulator(kind) as robot:
        ask = (robot.desk_address, robot.desk_user)
        sound = state_check("pilot", ask_desk("pilot", *ask, robot.desk_password))
        assert sound.status == "ok"
        assert "brakes open, mode Execution" in sound.seen
        robot.fault("brakes")
        locked = state_check("pilot", ask_desk("pilot", *ask, robot.desk_password))
    assert locked.status == "fail"
    assert locked.remedy == "unlock the brakes in Desk"


def test_the_pilot_is_looked_at_through_its_driver(robot: FrankaEmulator, tmp_path: Path) -> None:
    """Login and state; a wrong or open password file is told with its remedy."""
    file = tmp_path / "password"
    file.write_text(robot.desk_password)
    file.chmod(0o600)
    rig = rig_at(robot.host, address=robot.desk_address, password_file=str(file))
    found = "\n".join(map(str, fresh(pilot_findings, rig)))
    assert "knows operator and tells the pilot's buttons" in found
    assert "brakes open, mode Execution, FCI Active" in found
    file.chmod(0o644)
    assert "chmod 600" in by_status(fresh(pilot_findings, rig), "fail")


ROUTES = """\
Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 0100A8C0 0003 0 0 0 00000000 0 0 0
eth1 000010AC 00000000 0001 0 0 0 0000FFFF 0 0 0
"""


def test_a_shared_or_wireless_card_is_told(tmp_path: Path) -> None:
    """By the routing table: 172.16.0.0/16 has a card of its own here."""
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(ROUTES)
    (own,) = card_checks("franka", "172.16.0.2", tmp_path)
    assert (own.status, own.seen) == ("ok", "eth1 leads to 172.16.0.2 and nowhere else")
    (shared,) = card_checks("franka", "192.168.0.9", tmp_path)
    assert "eth0 also carries everything else" in shared.seen
    (tmp_path / "sys/class/net/eth1/wireless").mkdir(parents=True)
    (radio,) = card_checks("franka", "172.16.0.2", tmp_path)
    assert (radio.status, radio.remedy) == ("fail", "use a cable; FCI wants 1 ms")
    assert list(card_checks("franka", "127.4.5.6", tmp_path)) == []
