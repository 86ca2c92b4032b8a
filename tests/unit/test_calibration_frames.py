"""A VR frame in a robot's base, from points and from poses."""

import math

import numpy as np
import pytest
from calibration_views import random_pose

from calibration.frames import frame_from_points, frame_from_poses
from calibration.poses import angle_between_rad, distance_m, inverse, pose, rotation_from_vector
from teleop.errors import DeviceError
from teleop.messages import FloatArray

TRACKING_M, TRACKING_RAD = 0.0008, math.radians(0.25)
"""Noise of a tracked controller at rest, standard deviation per axis."""


def level_frame(heading_rad: float) -> FloatArray:
    """A VR frame (y up, z backwards) whose forward direction has a heading in the base."""
    forward = np.array([math.cos(heading_rad), math.sin(heading_rad), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    return pose(np.column_stack((np.cross(forward, up), up, -forward)), np.array([0.6, -0.4, 0.1]))


@pytest.mark.parametrize("heading", [0.0, 1.2, -2.9])
def test_touched_points_give_the_frame(heading: float) -> None:
    """Eight points with a millimetre of noise: within 2 mm and half a degree."""
    rng = np.random.default_rng(0)
    true = level_frame(heading)
    in_frame = rng.uniform(-0.4, 0.4, (8, 3))
    in_base = in_frame @ true[:3, :3].T + true[:3, 3]
    fit = frame_from_points(in_base, in_frame + rng.normal(0, 0.001, (8, 3)), "hand")
    assert distance_m(fit.frame_in_base, true) < 0.002
    assert angle_between_rad(fit.frame_in_base, true) < math.radians(0.5)
    assert fit.heading_rad == pytest.approx(heading, abs=0.01)
    assert fit.tilt_rad < math.radians(0.5)
    assert 0.0002 < np.median(fit.residual_m) < 0.003


def test_points_on_a_line_are_refused() -> None:
    """They leave a rotation open."""
    line = np.outer(np.linspace(0, 1, 6), [0.3, 0.4, 0.0])
    with pytest.raises(DeviceError, match="lie on one line"):
        frame_from_points(line, line, "hand")
    with pytest.raises(DeviceError, match="3 points, at least 4"):
        frame_from_points(line[:3], line[:3], "hand")


@pytest.mark.parametrize("seed", range(4))
def test_a_controller_on_the_gripper_gives_the_frame_however_it_is_held(seed: int) -> None:
    """Twelve poses: within 3 mm and 0.5 degree."""
    rng = np.random.default_rng(seed)
    true, held = level_frame(0.7), random_pose(rng, 2.0, 0.1)
    tools, hands = [], []
    for _ in range(12):
        tool = random_pose(rng, 0.7, 0.25)
        noise = pose(
            rotation_from_vector(rng.normal(0, TRACKING_RAD, 3)), rng.normal(0, TRACKING_M, 3)
        )
        tools.append(tool)
        hands.append(inverse(true) @ tool @ held @ noise)
    fit = frame_from_poses(tools, hands, "hand")
    assert distance_m(fit.frame_in_base, true) < 0.003
    assert angle_between_rad(fit.frame_in_base, true) < math.radians(0.5)
    assert fit.controller_in_tool is not None
    assert distance_m(fit.controller_in_tool, held) < 0.003
    assert fit.heading_rad == pytest.approx(0.7, abs=math.radians(0.5))


def test_a_tilted_base_shows_as_tilt() -> None:
    """An arm on a slope of ten degrees."""
    slope = pose(rotation_from_vector(np.array([math.radians(10), 0, 0])), np.zeros(3))
    rng = np.random.default_rng(1)
    tools = [random_pose(rng, 0.7, 0.3) for _ in range(8)]
    frame = slope @ level_frame(0.0)
    fit = frame_from_poses(tools, [inverse(frame) @ tool for tool in tools], "hand")
    assert fit.tilt_rad == pytest.approx(math.radians(10), abs=1e-4)
