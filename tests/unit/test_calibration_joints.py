"""Offsets, directions and turns of joints from poses that are known."""

import math

import numpy as np
import pytest

from calibration.arm_joints import faults_of, fit_joints, turns_beyond, within_half_turn
from teleop.errors import DeviceError
from teleop.messages import FloatArray

TICK = 2 * math.pi / 4096
JOINTS = ("waist", "shoulder", "elbow")
POSES = np.array([[0.0, -0.9, 1.1], [0.5, -0.4, 0.7], [-0.6, -1.3, 1.4], [0.2, -0.7, 0.4]])


def ticks_of(angle_rad: FloatArray) -> FloatArray:
    """As a servo reports an angle."""
    return np.rint(angle_rad / TICK) * TICK


def test_offsets_are_found_within_a_tick() -> None:
    """Readings and truth both rounded to ticks."""
    offset = np.array([37, -12, 400]) * TICK
    fit = fit_joints(JOINTS, ticks_of(POSES - offset), ticks_of(POSES), "arm")
    assert fit.offset_rad == pytest.approx(offset, abs=TICK)
    assert fit.offset_ticks == pytest.approx((37, -12, 400), abs=1)
    assert fit.sign == (1, 1, 1)
    assert np.abs(fit.residual_rad).max() < 2 * TICK
    assert fit.factory_residual_rad[:, 0] == pytest.approx(-offset[0], abs=2 * TICK)


def test_one_pose_that_was_not_alike_does_not_spoil_the_offset() -> None:
    """The median goes by the others, and the residual tells of the odd one."""
    truth = POSES.copy()
    truth[2, 1] += 0.2
    fit = fit_joints(JOINTS, POSES - 0.1, truth, "arm")
    assert fit.offset_rad[1] == pytest.approx(0.1, abs=0.02)
    assert abs(fit.residual_rad[2, 1]) == pytest.approx(0.2, abs=0.02)


def test_a_joint_that_turns_the_other_way_is_named() -> None:
    """Its drive mode in the rig file is wrong."""
    readings = POSES * np.array([1.0, -1.0, 1.0])
    fit = fit_joints(JOINTS, readings, POSES, "arm")
    assert fit.sign == (1, -1, 1)
    assert fit.reversed_joints == ("shoulder",)


def test_a_joint_that_did_not_move_has_no_direction() -> None:
    """One pose tells an offset, and no more."""
    fit = fit_joints(JOINTS, POSES[:1] - 0.05, POSES[:1], "arm")
    assert fit.sign == (0, 0, 0)
    assert fit.unmoved_joints == JOINTS
    assert fit.offset_rad == pytest.approx([0.05] * 3)
    still = POSES.copy()
    still[:, 1] = 0.3
    assert fit_joints(JOINTS, still, still, "arm").unmoved_joints == ("shoulder",)


@pytest.mark.parametrize("turns", [1, -1, 2])
def test_whole_turns_are_told_apart_from_offsets(turns: int) -> None:
    """A joint that was wound up reads turns off, and has the offset it always had."""
    readings = POSES - 0.03
    readings[:, 2] += turns * 2 * math.pi
    fit = fit_joints(JOINTS, readings, POSES, "arm")
    assert fit.turns == (0, 0, turns)
    assert fit.wound_joints == ("elbow",)
    assert fit.offset_rad == pytest.approx([0.03] * 3)
    assert np.abs(fit.residual_rad).max() < 1e-9


def test_an_offset_near_half_a_turn_does_not_flip_between_poses() -> None:
    """Angles on both sides of +-pi have a median between them, not at 0."""
    readings = POSES + math.pi
    readings[::2] -= 2 * math.pi
    readings += np.array([[0.01], [-0.01], [0.01], [-0.01]])
    fit = fit_joints(JOINTS, readings, POSES, "arm")
    assert np.abs(np.abs(fit.offset_rad) - math.pi).max() < 0.02


def test_turns_beyond_the_limits_are_counted() -> None:
    """4300 ticks at a joint that ends at 4095: past a full turn since it was switched on."""
    assert turns_beyond(0.5, -1.8, 1.3) == 0
    assert turns_beyond(0.5 + 2 * math.pi, -1.8, 1.3) == 1
    assert turns_beyond(-2.9 - 2 * math.pi, -3.1416, 3.1416) == -1
    assert turns_beyond(3.0, -1.8, 1.3) == 0, "beyond the limit, but by no whole turn"


def test_offsets_over_a_quarter_turn_are_faults() -> None:
    """No servo's horn is off by that much: it is on the wrong spline."""
    assert faults_of({"waist": 0.3, "elbow": -1.5}) == []
    assert "elbow is -1.70 rad off" in faults_of({"waist": 0.3, "elbow": -1.7})[0]
    assert len(faults_of({"waist": math.nan})) == 1


def test_arrays_that_do_not_fit_are_refused() -> None:
    """Shapes are named."""
    with pytest.raises(DeviceError, match=r"arm: \(4, 2\) readings"):
        fit_joints(JOINTS, POSES[:, :2], POSES, "arm")
    with pytest.raises(DeviceError, match="for 3 joints"):
        fit_joints(JOINTS, POSES[:0], POSES[:0], "arm")


def test_angles_wrap_into_half_a_turn() -> None:
    """Whichever multiple they come with."""
    assert within_half_turn(np.array([0.1, 6.4, -6.4])) == pytest.approx(
        [0.1, 6.4 - 2 * math.pi, 2 * math.pi - 6.4]
    )
