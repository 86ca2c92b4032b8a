"""Gripper angles, openings and finger distances."""

import pytest

from calibration.joints import GripperScale, finger_distance_m, gripper_scale
from teleop.rig import Rig


def scale_of(rig: Rig) -> GripperScale | None:
    """The left follower's scale."""
    return gripper_scale(rig.arms["left_follower"], rig.arm_model("left_follower"))


def test_opening_and_angle_are_inverse() -> None:
    """Also where the closed angle is the larger one."""
    for scale in (GripperScale(-0.6213, 1.4910), GripperScale(0.3, -0.7)):
        assert scale.opening(scale.closed_rad) == 0.0
        assert scale.opening(scale.open_rad) == 1.0
        assert scale.opening(scale.angle_rad(0.3)) == pytest.approx(0.3)
        assert scale.opening_rate(scale.stroke_rad) == 1.0


def test_a_scale_without_stroke_is_refused() -> None:
    """Two equal angles would divide by zero."""
    with pytest.raises(ValueError, match="same angle"):
        GripperScale(0.5, 0.5)


def test_an_arms_own_calibration_comes_before_its_models(aloha: Rig) -> None:
    """One angle may be overridden alone."""
    assert scale_of(aloha) == GripperScale(-0.6213, 1.4910)
    arms = aloha.model_dump()["arms"]
    arms["left_follower"]["gripper_open_rad"] = 1.4
    assert scale_of(aloha.replaced(arms=arms)) == GripperScale(-0.6213, 1.4)


def test_finger_distances_are_those_of_the_aloha_constants() -> None:
    """Follower open 0.05800 and closed 0.01844 m, leader 0.02417 and 0.01244 m (constants.py)."""
    assert finger_distance_m(1.4910, 0.022, 0.036) == pytest.approx(0.05800, abs=2e-4)
    assert finger_distance_m(-0.6213, 0.022, 0.036) == pytest.approx(0.01844, abs=2e-4)
    assert finger_distance_m(0.3083, 0.014, 0.024) == pytest.approx(0.02417, abs=3e-4)
    assert finger_distance_m(-0.6842, 0.014, 0.024) == pytest.approx(0.01244, abs=3e-4)


def test_a_rod_shorter_than_its_horn_is_refused() -> None:
    """Such a crank cannot turn."""
    with pytest.raises(ValueError, match="shorter"):
        finger_distance_m(0.0, 0.03, 0.02)
