"""The doctor and an arm behind an xs_sdk node: what it names, and that it writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.doctor.checks import Check
from drivers.doctor.interbotix import node_checks
from drivers.dynamixel import table
from teleop.addresses import free_base_port
from teleop.clock import MonotonicClock
from teleop.rig import Rig
from teleop.rig_files import load_rig
from tests.drivers.xs_bench import XsBench

ROOT = Path(__file__).parents[2]
NAME = "right_leader"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XsBench]:
    rig = load_rig(ROOT / "hardware.yaml").replaced(network={"base_port": free_base_port(64)})
    with XsBench(rig, NAME, tmp_path_factory.mktemp("ros")) as made:
        yield made


def checks_of(bench: XsBench, aloha: Rig, **changed: object) -> list[Check]:
    """All findings about the arm."""
    arms = {NAME: bench.config.model_dump() | changed}
    return list(node_checks(NAME, aloha.replaced(arms=arms), MonotonicClock()))


SHADOWS = (3, 5)
"""Their goals follow the servos that they mirror, whoever asks."""


def settings(bench: XsBench) -> list[bytes]:
    """All that can be written to the servos; what they measure lies behind it."""
    end = table.GOAL_POSITION.address + table.GOAL_POSITION.size
    servos = [bench.chain.servo(i) for i in range(1, 10) if i not in SHADOWS]
    return [bytes(servo.registers.table[:end]) for servo in servos]


def by_status(checks: list[Check], status: str) -> str:
    """All findings of one status, in words."""
    return "\n".join(str(check) for check in checks if check.status == status)


def test_a_sound_arm_passes_and_nothing_is_written(bench: XsBench, aloha: Rig) -> None:
    """Modes that the session would set stay as they are, and torque too."""
    before = settings(bench)
    checks = checks_of(bench, aloha)
    assert settings(bench) == before
    assert by_status(checks, "fail") == ""
    said = by_status(checks, "ok")
    assert "has 7 motors, the models described, and 2 shadows" in said
    assert "arm in position" in said
    assert "no error, hottest" in said


def test_a_servo_in_trouble_and_a_return_delay_are_told(bench: XsBench, aloha: Rig) -> None:
    """Read through the node's service."""
    bench.faults.overload(4)
    bench.set_register(7, table.RETURN_DELAY, 250)
    checks = checks_of(bench, aloha)
    bench.set_register(7, table.RETURN_DELAY, 0)
    assert "elbow reports overload" in by_status(checks, "fail")
    assert "wrist_angle waits 500 us" in by_status(checks, "warn")


def test_a_wrong_model_is_told(bench: XsBench, aloha: Rig) -> None:
    """The followers' model for a leader's arm."""
    said = by_status(checks_of(bench, aloha, model="vx300s"), "fail")
    assert "is a XM430-W350, not a XM540-W270" in said


def test_an_absent_node_and_an_absent_master_are_told(bench: XsBench, aloha: Rig) -> None:
    """With the robots that there are, or what to start."""
    said = by_status(checks_of(bench, aloha, robot="nobody"), "fail")
    assert f"robots there are: {NAME}" in said
    said = by_status(checks_of(bench, aloha, master="http://127.0.0.1:9"), "fail")
    assert "no ROS master answers" in said
    assert "start roscore" in said
