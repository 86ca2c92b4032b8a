"""Recorded inputs into a node give the outputs that were stored."""

from pathlib import Path

import pytest
from process_replay import UPDATE_REFS, Recording, Step, differences, replay

from teleop.messages import LIMP, ArmCommand
from teleop.teleop_node import TeleopNode

TELEOP = Path(__file__).parent / "teleop_node.replay.gz"


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording.load(TELEOP)


def replayed(recording: Recording) -> list[Step]:
    return replay(TeleopNode("commander", recording.rig, "test"), recording.steps)


def test_the_teleoperation_commander_says_what_it_said(recording: Recording) -> None:
    """Homing, ready, running, stopping and an emergency stop, message by message."""
    steps = replayed(recording)
    if UPDATE_REFS:
        Recording(recording.rig, steps).save(TELEOP)
        pytest.skip("reference updated; look at what changed before you commit it")
    assert differences(recording.steps, steps) == []


def test_the_recording_holds_what_it_is_there_to_test(recording: Recording) -> None:
    """Commands of two turns, and limp leaders in between."""
    commands = [m for s in recording.steps for _, m in s.outputs if isinstance(m, ArmCommand)]
    assert {command.lease for command in commands} >= {"test.1", "test.2"}
    assert LIMP in {command.mode for command in commands}
    assert len(commands) > 100


def test_a_changed_output_is_found_and_named(recording: Recording) -> None:
    """The comparison itself is not blind: a millionth of a radian shows."""
    steps = replayed(recording)
    changed = next(m for s in steps for _, m in s.outputs if isinstance(m, ArmCommand))
    changed.position_rad[2] += 1e-6
    found = differences(recording.steps, steps)
    assert found
    assert "position_rad is" in found[0]
