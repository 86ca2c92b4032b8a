"""Views of a board by a camera that is known, for the tests of calibration."""

from __future__ import annotations

import numpy as np

from calibration.board import Board, Corners
from calibration.cameras import Intrinsics
from calibration.poses import pose, rotation_from_vector
from teleop.messages import FloatArray

BOARD = Board()
LENS = Intrinsics(
    640,
    480,
    np.array([[560.0, 0.0, 322.0], [0.0, 562.0, 236.0], [0.0, 0.0, 1.0]]),
    np.array([-0.28, 0.09, 0.0006, -0.0004, 0.0]),
)
"""A webcam with a clearly distorting lens."""
CORNER_NOISE_PX = 0.15


def random_pose(rng: np.random.Generator, turn_rad: float, move_m: float) -> FloatArray:
    """Shape (4, 4), within these bounds on each axis."""
    turn = rotation_from_vector(rng.uniform(-turn_rad, turn_rad, 3))
    return pose(turn, rng.uniform(-move_m, move_m, 3))


def board_in_view(rng: np.random.Generator, tilt_rad: float, aside: float) -> FloatArray:
    """A pose (4, 4) of the board in the camera, its middle in the picture.

    Args:
        rng: Draws it.
        tilt_rad: Most it leans, about each axis.
        aside: How far from the middle of the picture, as a part of half its size.
    """
    turn = rotation_from_vector(rng.uniform(-tilt_rad, tilt_rad, 3))
    away_m = rng.uniform(0.25, 0.5)
    ray = rng.uniform(-aside, aside, 2) * (320 / 560, 240 / 562)
    middle = turn @ np.array([*BOARD.size_m, 0.0]) / 2
    return pose(turn, np.array([*ray, 1.0]) * away_m - middle)


def seen(board_in_camera: FloatArray, rng: np.random.Generator) -> Corners:
    """The corners that fall into the picture, found with noise."""
    points = BOARD.corner_points_m
    pixels = LENS.project(points @ board_in_camera[:3, :3].T + board_in_camera[:3, 3])
    inside = ((pixels > 3) & (pixels < np.array([636, 476]))).all(axis=1)
    noisy = pixels[inside] + rng.normal(0, CORNER_NOISE_PX, (int(inside.sum()), 2))
    return Corners(np.flatnonzero(inside).astype(np.int32), noisy, points[inside])


def views(count: int, seed: int, tilt_rad: float = 0.7, aside: float = 0.85) -> list[Corners]:
    """Random views with at least a dozen corners each."""
    rng = np.random.default_rng(seed)
    found: list[Corners] = []
    while len(found) < count:
        view = seen(board_in_view(rng, tilt_rad, aside), rng)
        if len(view.ids) >= 12:
            found.append(view)
    return found
