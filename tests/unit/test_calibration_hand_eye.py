"""Paired poses and hand-eye against transforms that are known."""

import math

import numpy as np
import pytest
from calibration_views import BOARD, LENS, board_in_view, random_pose, seen
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.hand_eye import HandEyeView, Where, solve
from calibration.paired_poses import fit_pairs
from calibration.poses import (
    angle_between_rad,
    distance_m,
    inverse,
    nearest_rotation,
    pose,
    rotation_from_quaternion,
    rotation_from_vector,
    vector_from_rotation,
)
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rotations import quaternion_of_matrix

JOINT_NOISE_RAD, JOINT_NOISE_M = 5e-4, 3e-4
"""What a servo tick in each joint makes of a tool pose half a metre away."""
vectors = st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3)


def shaken(rng: np.random.Generator, tool: FloatArray) -> FloatArray:
    """The tool's pose as joints with ticks report it."""
    turn = rotation_from_vector(rng.normal(0, JOINT_NOISE_RAD, 3))
    return tool @ pose(turn, rng.normal(0, JOINT_NOISE_M, 3))


def hand_eye_views(
    where: Where, seed: int, count: int = 25
) -> tuple[list[HandEyeView], FloatArray, FloatArray]:
    """Views, the true camera and the true board."""
    rng = np.random.default_rng(seed)
    on_tool, in_base = random_pose(rng, 1.5, 0.1), random_pose(rng, 1.5, 0.5)
    views: list[HandEyeView] = []
    while len(views) < count:
        board = board_in_view(rng, 0.6, 0.4)
        corners = seen(board, rng)
        if len(corners.ids) < 20:
            continue
        if where == "eye_in_hand":
            tool = in_base @ inverse(board) @ inverse(on_tool)
        else:
            tool = in_base @ board @ inverse(on_tool)
        views.append(HandEyeView(shaken(rng, tool), corners))
    in_hand = where == "eye_in_hand"
    return views, on_tool if in_hand else in_base, in_base if in_hand else on_tool


@given(vectors)
@settings(max_examples=50, deadline=None)
def test_rotations_survive_every_form(vector: list[float]) -> None:
    """Vector, matrix and quaternion, up to half a turn."""
    matrix = rotation_from_vector(np.array(vector))
    assert rotation_from_vector(vector_from_rotation(matrix)) == pytest.approx(matrix, abs=1e-7)
    assert rotation_from_quaternion(quaternion_of_matrix(matrix)) == pytest.approx(matrix, abs=1e-7)
    assert nearest_rotation(matrix * 1.01) == pytest.approx(matrix, abs=1e-9)


def test_half_a_turn_is_a_rotation_like_any_other() -> None:
    """Where the axis cannot be read from the antisymmetric part."""
    for axis in (np.array([1.0, 0, 0]), np.array([0.6, -0.8, 0.0]), np.array([0.0, 0.6, 0.8])):
        matrix = rotation_from_vector(axis * math.pi)
        assert np.linalg.norm(vector_from_rotation(matrix)) == pytest.approx(math.pi)
        back = rotation_from_vector(vector_from_rotation(matrix))
        assert back == pytest.approx(matrix, abs=1e-6)


def test_exact_pairs_give_exact_transforms() -> None:
    """Without noise the closed form and the refinement agree with the truth."""
    rng = np.random.default_rng(0)
    x, z = random_pose(rng, 2.0, 0.3), random_pose(rng, 2.0, 1.0)
    a = [random_pose(rng, 1.0, 0.4) for _ in range(8)]
    fit = fit_pairs(a, [inverse(z) @ p @ x for p in a], "camera")
    assert fit.x == pytest.approx(x, abs=1e-6)
    assert fit.z == pytest.approx(z, abs=1e-6)
    assert fit.residual_m.max() < 1e-6


@pytest.mark.parametrize("where", ["eye_in_hand", "eye_to_hand"])
@pytest.mark.parametrize("seed", range(5))
def test_the_camera_is_found_within_a_millimetre_and_a_tenth_of_a_degree(
    where: Where, seed: int
) -> None:
    """With 0.15 px on corners and a tick in every joint."""
    views, camera, board = hand_eye_views(where, seed)
    fit = solve(where, views, LENS, "cam")
    assert distance_m(fit.camera, camera) < 1e-3
    assert angle_between_rad(fit.camera, camera) < math.radians(0.1)
    assert distance_m(fit.board, board) < 1.5e-3
    assert distance_m(fit.camera, camera) < 4 * fit.sigma_m
    assert len(fit.kept) >= 24


def test_a_view_from_a_moving_arm_is_left_out() -> None:
    """Its board is 3 cm from where all others see it."""
    views, camera, _ = hand_eye_views("eye_in_hand", 7)
    off = views[3].tool_in_base @ pose(np.eye(3), np.array([0.03, 0, 0]))
    views[3] = HandEyeView(off, views[3].corners)
    fit = solve("eye_in_hand", views, LENS, "cam")
    assert 3 not in fit.kept
    assert fit.residual_m[3] > 0.02
    assert distance_m(fit.camera, camera) < 1e-3


def test_views_without_a_board_are_passed_over() -> None:
    """They have no residual and count for nothing."""
    views, camera, _ = hand_eye_views("eye_to_hand", 8)
    few = views[0].corners
    few = type(few)(few.ids[:3], few.pixels[:3], few.points_m[:3])
    fit = solve("eye_to_hand", [HandEyeView(views[0].tool_in_base, few), *views[1:]], LENS, "cam")
    assert math.isnan(fit.residual_m[0])
    assert 0 not in fit.kept
    assert distance_m(fit.camera, camera) < 1e-3


def test_turning_about_one_axis_is_refused() -> None:
    """The position along the axis could be anything; the message says which motion is missing."""
    rng = np.random.default_rng(0)
    x, z = random_pose(rng, 1.0, 0.1), random_pose(rng, 1.0, 0.5)
    a = [
        pose(rotation_from_vector(np.array([0, 0, angle])), rng.uniform(-0.3, 0.3, 3))
        for angle in np.linspace(-1, 1, 12)
    ]
    with pytest.raises(DeviceError, match=r"turn about one axis only.*tilt the wrist both ways"):
        fit_pairs(a, [inverse(z) @ p @ x for p in a], "cam")


def test_too_few_views_are_refused() -> None:
    """Three determine the answer and prove nothing."""
    views, _, _ = hand_eye_views("eye_in_hand", 0, count=4)
    with pytest.raises(DeviceError, match="cam: 4 usable poses, at least 5"):
        solve("eye_in_hand", views, LENS, "cam")


def test_a_corner_behind_a_finger_does_no_harm() -> None:
    """A stray corner of each view is dropped before the pose is taken."""
    views, camera, _ = hand_eye_views("eye_in_hand", 9)
    rng = np.random.default_rng(1)
    for i, view in enumerate(views):
        pixels = view.corners.pixels.copy()
        pixels[rng.integers(len(pixels))] += (4.0, -3.0)
        corners = type(view.corners)(view.corners.ids, pixels, view.corners.points_m)
        views[i] = HandEyeView(view.tool_in_base, corners)
    fit = solve("eye_in_hand", views, LENS, "cam")
    assert distance_m(fit.camera, camera) < 1e-3
    assert len(BOARD.corner_points_m) == 54


@pytest.mark.parametrize("seed", range(3))
def test_views_that_show_little_count_little(seed: int) -> None:
    """Two of three show a strip of the board only, whose tilt is known to a few degrees."""
    views, camera, _ = hand_eye_views("eye_in_hand", seed, count=30)
    for i, view in enumerate(views):
        if i % 3:
            corners = view.corners
            strip = corners.points_m[:, 1] < 0.06
            if strip.sum() >= 8:
                part = type(corners)(
                    corners.ids[strip], corners.pixels[strip], corners.points_m[strip]
                )
                views[i] = HandEyeView(view.tool_in_base, part)
    fit = solve("eye_in_hand", views, LENS, "cam")
    assert distance_m(fit.camera, camera) < 1e-3
    assert angle_between_rad(fit.camera, camera) < math.radians(0.1)
