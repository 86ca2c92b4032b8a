from pathlib import Path

import numpy as np
import pytest

from drivers.emulated.operators.recorded import (
    AFTER_S,
    RAMP_RAD_S,
    HandMotion,
    RecordedOperator,
)
from drivers.emulated.plant import ARMS, GRIPPER_RAD, START_RAD, Plant
from teleop.errors import DeviceError, UnknownNameError

HEADER = "t_s,waist_rad,shoulder_rad,elbow_rad,wrist_angle_rad,wrist_rotate_rad,gripper_cmd\n"


@pytest.fixture
def motion_file(tmp_path: Path) -> Path:
    """Two seconds at 50 Hz: the waist swings, the gripper opens from closed to open."""
    path = tmp_path / "motion.csv"
    rows = [
        f"{10 + t:.3f},{0.5 * np.sin(np.pi * t):.6f},-0.9,1.1,-0.2,0.1,{0.043 + 0.0145 * t:.6f}\n"
        for t in np.arange(0, 2.001, 0.02)
    ]
    path.write_text(HEADER + "".join(rows))
    return path


def test_a_motion_is_read_by_column_names(motion_file: Path) -> None:
    """Time begins at 0, the absent joint is 0, finger metres become the servo's angle."""
    motion = HandMotion.read(motion_file)
    angle, rate = motion.at(0.5)
    assert motion.duration_s == pytest.approx(2.0)
    assert angle[:6] == pytest.approx([0.5, -0.9, 1.1, 0.0, -0.2, 0.1], abs=1e-3)
    closed, opened = GRIPPER_RAD["leader"]
    assert angle[6] == pytest.approx(closed + (opened - closed) * 0.25, abs=1e-3)
    assert rate[6] == pytest.approx((opened - closed) / 2, rel=1e-2)


def test_a_motion_is_still_before_and_after(motion_file: Path) -> None:
    """Outside its time it rests at its first or last pose."""
    motion = HandMotion.read(motion_file)
    for time_s, row in ((-1.0, 0), (2.0, -1), (99.0, -1)):
        angle, rate = motion.at(time_s)
        assert np.array_equal(angle, motion.axes_rad[row])
        assert not rate.any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t_s,waist_rad\n0,1\n1,2\n", "lacks the column"),
        (HEADER + "0,0,0,0,0,0,0.05\n", "at least two complete rows"),
        (HEADER + "0,0,0,0,0,0,0.05\n1,0,nan,0,0,0,0.05\n", "finite numbers"),
        (HEADER + "1,0,0,0,0,0,0.05\n0,0,0,0,0,0,0.05\n", "t_s must increase"),
        (HEADER + "0,0,0,0\n1,0,0\n", "cannot be read as a table"),
        (HEADER + "a photograph\n", "cannot be read as a table"),
    ],
)
def test_a_file_that_is_no_motion_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file and what is wrong with it."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DeviceError, match=said) as error:
        HandMotion.read(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused_in_words(tmp_path: Path) -> None:
    """No traceback of the operating system reaches the user."""
    with pytest.raises(DeviceError, match=r"none\.csv: cannot be read"):
        HandMotion.read(tmp_path / "none.csv")


def test_the_left_leader_is_pulled_along_and_the_right_one_held(motion_file: Path) -> None:
    """Through the physics, limp leaders: within 0.05 rad of the motion, at its own speed."""
    plant = Plant(ARMS, "free", seed=0)
    for arm in ("left_leader", "right_leader"):
        plant.set_arm(arm, np.array(START_RAD), 0.0)
    operator = RecordedOperator(plant, motion_file)
    left, right = plant.axes_of("left_leader"), plant.axes_of("right_leader")
    began, motion = plant.axis_angle_rad, operator.motion
    reach_s = np.abs(motion.axes_rad[0] - began[left]).max() / RAMP_RAD_S
    farthest = 0.0
    while not operator.finished:
        plant.step(np.zeros(28), operator.hand_torque_nm("running", plant.time_s))
        if plant.time_s > reach_s:
            wanted = motion.at(plant.time_s - reach_s)[0]
            farthest = max(farthest, np.abs(plant.axis_angle_rad[left] - wanted).max())
        assert plant.time_s < 10
    assert farthest < 0.05
    assert plant.axis_angle_rad[right] == pytest.approx(began[right], abs=0.01)
    assert plant.time_s == pytest.approx(reach_s + motion.duration_s + AFTER_S, abs=0.02)


def test_the_hand_stops_at_the_leaders_own_limits(tmp_path: Path) -> None:
    """A person's arm that reaches further does not press the leader against its stop."""
    path = tmp_path / "far.csv"
    path.write_text(HEADER + "0,0,-3,0,0,0,0.05\n1,0,3,0,0,0,0.05\n")
    operator = RecordedOperator(Plant(ARMS, "free", seed=0), path)
    assert operator.motion.axes_rad[:, 1] == pytest.approx([-1.88496, 1.98968])


def test_a_rig_without_a_left_leader_is_refused(motion_file: Path) -> None:
    """There is no arm to play the motion."""
    with pytest.raises(UnknownNameError, match="left_leader"):
        RecordedOperator(Plant(["right_leader"], "free", seed=0), motion_file)
