"""Where a camera is: on an arm's tool (eye in hand) or beside the arm (eye to hand).

Closed form and robust choice of views by ``calibration.paired_poses``; then least squares in which
each view counts by how well its board pose is known from the corners and its tool pose from the
joints. Fitting pixels as if the arm were exact is three times worse: a tick of a joint, at arm's
length, moves the board by a whole pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from calibration.board import Corners
from calibration.cameras import Intrinsics
from calibration.least_squares import minimise
from calibration.paired_poses import fit_pairs
from calibration.poses import (
    angle_between_rad,
    distance_m,
    inverse,
    pose_from_vector,
    vector_from_pose,
    vector_from_rotation,
)
from teleop.messages import FloatArray

Where = Literal["eye_in_hand", "eye_to_hand"]

CORNER_SIGMA_PX = 0.15
"""Scatter of found corners: 0.05 px in clean pictures, 0.1 to 0.2 px through a real lens."""
TOOL_SIGMA_RAD, TOOL_SIGMA_M = 5e-4, 3e-4
"""Of a tool pose whose ``tool_moves`` are not given: half a servo tick in each joint, at 0.5 m."""


@dataclass(frozen=True, slots=True, eq=False)
class HandEyeView:
    """The board as seen while the arm stood still."""

    tool_in_base: FloatArray
    """Shape (4, 4), from the arm's joints."""
    corners: Corners
    tool_moves: Sequence[FloatArray] = ()
    """J poses (4, 4): the tool if one joint in turn were off by its standard deviation."""


@dataclass(frozen=True, slots=True, eq=False)
class HandEyeFit:
    """Where the camera and the board are, and how well the views agree."""

    where: Where
    camera: FloatArray
    """Shape (4, 4): camera in the tool (eye in hand) or in the base (eye to hand)."""
    board: FloatArray
    """Shape (4, 4): board in the base (eye in hand) or in the tool (eye to hand)."""
    residual_m: FloatArray
    """Shape (N,): distance of the board as seen from where it should be, of every view; NaN
    without a usable board."""
    residual_rad: FloatArray
    rms_px: float
    """Of the corners of the views kept, from the arm's joints to the picture."""
    sigma_m: float
    """Uncertainty of the camera's position, one standard deviation of its worst axis."""
    sigma_rad: float
    kept: tuple[int, ...]
    """Indices of the views that the fit rests on."""


def solve(where: Where, views: Sequence[HandEyeView], lens: Intrinsics, what: str) -> HandEyeFit:
    """Find the camera.

    Args:
        where: Whether it moves with the tool.
        views: Taken at rest, each with the tool turned differently.
        lens: The camera's intrinsics.
        what: The camera, for messages.

    Raises:
        DeviceError: too few views, or the arm did not turn about two axes.
    """
    cleaned = [replace(view, corners=lens.without_strays(view.corners)) for view in views]
    seen = {i: lens.board_in_camera(view.corners) for i, view in enumerate(cleaned)}
    boards = {i: board for i, board in seen.items() if board is not None}
    in_hand = where == "eye_in_hand"
    tools = [cleaned[i].tool_in_base for i in boards]
    fit = fit_pairs(tools, [_b(in_hand, board) for board in boards.values()], what)
    usable = list(boards)
    kept = tuple(usable[i] for i in fit.kept)
    weights = {i: _whitening(in_hand, cleaned[i], boards[i], lens, fit.x, fit.z) for i in kept}

    def errors(unknowns: FloatArray) -> FloatArray:
        x, z = pose_from_vector(unknowns[:6]), pose_from_vector(unknowns[6:])
        rows = [
            weights[i] @ _gap(cleaned[i].tool_in_base, x, z, _b(in_hand, boards[i])) for i in kept
        ]
        return np.concatenate(rows)

    start = np.concatenate((vector_from_pose(fit.x), vector_from_pose(fit.z)))
    best = minimise(errors, start)
    x, z = pose_from_vector(best.x[:6]), pose_from_vector(best.x[6:])
    camera, board = (x, z) if in_hand else (z, x)
    sigma = best.sigma[:6] if in_hand else best.sigma[6:]
    residual_m, residual_rad = np.full(len(views), np.nan), np.full(len(views), np.nan)
    for i, at in boards.items():
        expected = _board_in_camera(in_hand, cleaned[i].tool_in_base, camera, board)
        residual_m[i], residual_rad[i] = distance_m(expected, at), angle_between_rad(expected, at)
    squares = [_corner_errors(in_hand, cleaned[i], camera, board, lens) for i in kept]
    return HandEyeFit(
        where,
        camera,
        board,
        residual_m,
        residual_rad,
        rms_px=float(np.sqrt(np.concatenate(squares).mean())),
        sigma_m=float(sigma[3:].max()),
        sigma_rad=float(sigma[:3].max()),
        kept=kept,
    )


def _b(in_hand: bool, board_in_camera: FloatArray) -> FloatArray:
    """The sensor's pose as ``calibration.paired_poses`` wants it."""
    return inverse(board_in_camera) if in_hand else board_in_camera


def _gap(tool: FloatArray, x: FloatArray, z: FloatArray, b: FloatArray) -> FloatArray:
    """Shape (6,): how far A X is from Z B, rad and m."""
    between = inverse(tool @ x) @ z @ b
    return np.concatenate((vector_from_rotation(between[:3, :3]), between[:3, 3]))


def _whitening(
    in_hand: bool,
    view: HandEyeView,
    board: FloatArray,
    lens: Intrinsics,
    x: FloatArray,
    z: FloatArray,
) -> FloatArray:
    """Shape (6, 6): makes a view's gap of unit variance in all directions."""
    here = _gap(view.tool_in_base, x, z, _b(in_hand, board))
    by_joint = [_gap(moved, x, z, _b(in_hand, board)) - here for moved in view.tool_moves]
    if not by_joint:
        by_joint = list(np.diag([TOOL_SIGMA_RAD] * 3 + [TOOL_SIGMA_M] * 3))
    scatter = lens.board_scatter(view.corners, board, CORNER_SIGMA_PX)  # (6, 6)
    by_corner = []
    for column in np.linalg.cholesky(scatter).T:
        moved = pose_from_vector(vector_from_pose(board) + column)
        by_corner.append(_gap(view.tool_in_base, x, z, _b(in_hand, moved)) - here)
    moves = np.array([*by_joint, *by_corner])
    return np.asarray(np.linalg.inv(np.linalg.cholesky(moves.T @ moves + 1e-14 * np.eye(6))))


def _board_in_camera(
    in_hand: bool, tool: FloatArray, camera: FloatArray, board: FloatArray
) -> FloatArray:
    at = inverse(tool @ camera) @ board if in_hand else inverse(camera) @ tool @ board
    return np.asarray(at)


def _corner_errors(
    in_hand: bool, view: HandEyeView, camera: FloatArray, board: FloatArray, lens: Intrinsics
) -> FloatArray:
    """Shape (M,): squared distances, px^2."""
    at = _board_in_camera(in_hand, view.tool_in_base, camera, board)
    back = lens.project(view.corners.points_m @ at[:3, :3].T + at[:3, 3])
    return np.asarray(((back - view.corners.pixels) ** 2).sum(axis=1))
