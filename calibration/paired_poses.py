"""Two unknown fixed transforms from pairs of poses: ``A X = Z B``.

``A`` is the arm's tool in its base, ``B`` what a sensor saw at the same moment. ``X`` is what is
fixed to the tool and ``Z`` what is fixed to the base:

=============  =============================  =====================  ====================
               B                              X                      Z
=============  =============================  =====================  ====================
eye in hand    camera in the board's frame    camera in the tool     board in the base
eye to hand    board in the camera's frame    board in the tool      camera in the base
VR             controller in the VR frame     controller in the tool VR frame in the base
=============  =============================  =====================  ====================

First the closed form of M. Shah, "Solving the robot-world/hand-eye calibration problem using the
Kronecker product", J. Mechanisms and Robotics 5 (2013); then least squares on all poses at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.least_squares import minimise
from calibration.poses import (
    angle_between_rad,
    distance_m,
    inverse,
    nearest_rotation,
    pose,
    pose_from_vector,
    vector_from_pose,
    vector_from_rotation,
)
from teleop.errors import DeviceError
from teleop.messages import FloatArray

FEWEST = 5
"""Three pairs determine the unknowns; with five a bad one shows."""
LEAST_TURN_RAD = math.radians(15)
"""Rotation about a second axis that the poses must span for the positions to be determined."""
OUTLIER_SIGMAS = 5.0
"""A pair this many robust standard deviations off the others is left out. The scatter is known
from few pairs and the worst of thirty lies at three sigmas by chance alone."""
OUTLIER_AT_LEAST_M, OUTLIER_AT_LEAST_RAD = 0.002, math.radians(0.4)
"""No pair is left out for less: about two position ticks of a servo, at arm's length."""


@dataclass(frozen=True, slots=True, eq=False)
class PairFit:
    """What paired poses tell."""

    x: FloatArray
    """Shape (4, 4), fixed to the tool."""
    z: FloatArray
    """Shape (4, 4), fixed to the base."""
    residual_m: FloatArray
    """Shape (N,), of every pair; those left out too."""
    residual_rad: FloatArray
    kept: tuple[int, ...]
    """Indices of the pairs that the fit rests on."""


def fit_pairs(a: Sequence[FloatArray], b: Sequence[FloatArray], what: str) -> PairFit:
    """Find X and Z, leaving out pairs that contradict the others.

    Args:
        a: N poses (4, 4) of the tool in the base.
        b: N poses (4, 4), see the module.
        what: What was looked at, for messages.

    Raises:
        DeviceError: too few pairs, or the poses do not turn about two axes.
    """
    kept = tuple(range(len(a)))
    while True:
        check_variety([a[i] for i in kept], what)
        x, z = _refined(*_closed_form([a[i] for i in kept], [b[i] for i in kept]), a, b, kept)
        metres, radians = _residuals(x, z, a, b)
        worst = _worst(metres, radians, kept)
        if worst is None:
            return PairFit(x, z, metres, radians, kept)
        kept = tuple(i for i in kept if i != worst)


def check_variety(a: Sequence[FloatArray], what: str) -> None:
    """Refuse poses from which the unknowns cannot be told.

    Raises:
        DeviceError: saying which motion is missing.
    """
    if len(a) < FEWEST:
        raise DeviceError(
            f"{what}: {len(a)} usable poses, at least {FEWEST} are needed and 15 are better; "
            "take more, each turned differently"
        )
    turns = np.array([vector_from_rotation(p[:3, :3].T @ q[:3, :3]) for p in a for q in a])
    spread_rad = np.sqrt(np.linalg.eigvalsh(turns.T @ turns / len(turns)))
    if spread_rad[-2] < LEAST_TURN_RAD:
        raise DeviceError(
            f"{what}: the poses turn about one axis only, and vary by "
            f"{math.degrees(spread_rad[-2]):.0f} degrees about any other; "
            f"tilt the wrist both ways by {math.degrees(2 * LEAST_TURN_RAD):.0f} degrees or more"
        )


def _closed_form(a: Sequence[FloatArray], b: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    total = sum(np.kron(q[:3, :3], p[:3, :3]) for p, q in zip(a, b, strict=True))
    left, _, right = np.linalg.svd(np.asarray(total))
    rotation_x, rotation_z = (_unstacked(column) for column in (right[0], left[:, 0]))
    # R_A t_X - t_Z = R_Z t_B - t_A, for all pairs at once.
    rows = np.vstack([np.hstack((p[:3, :3], -np.eye(3))) for p in a])  # (3 N, 6)
    right_side = np.concatenate(
        [rotation_z @ q[:3, 3] - p[:3, 3] for p, q in zip(a, b, strict=True)]
    )
    offsets = np.linalg.lstsq(rows, right_side, rcond=None)[0]
    return pose(rotation_x, offsets[:3]), pose(rotation_z, offsets[3:])


def _unstacked(column: FloatArray) -> FloatArray:
    """The rotation whose columns are stacked in a vector (9,) of unknown length and sign."""
    matrix = column.reshape(3, 3, order="F")
    return nearest_rotation(matrix * np.sign(np.linalg.det(matrix)))


def _refined(
    x: FloatArray,
    z: FloatArray,
    a: Sequence[FloatArray],
    b: Sequence[FloatArray],
    kept: Sequence[int],
) -> tuple[FloatArray, FloatArray]:
    """Least squares on positions and rotations, weighed by how far each scatters."""
    metres, radians = _residuals(x, z, a, b)
    ratio_m_rad = _scatter(metres, kept, 1e-5) / _scatter(radians, kept, 1e-5)

    def residuals_of(unknowns: FloatArray) -> FloatArray:
        now_x, now_z = pose_from_vector(unknowns[:6]), pose_from_vector(unknowns[6:])
        rows = []
        for i in kept:
            gap = inverse(a[i] @ now_x) @ now_z @ b[i]
            rows.append(gap[:3, 3])
            rows.append(vector_from_rotation(gap[:3, :3]) * ratio_m_rad)
        return np.concatenate(rows)

    start = np.concatenate((vector_from_pose(x), vector_from_pose(z)))
    best = minimise(residuals_of, start).x
    return pose_from_vector(best[:6]), pose_from_vector(best[6:])


def _residuals(
    x: FloatArray, z: FloatArray, a: Sequence[FloatArray], b: Sequence[FloatArray]
) -> tuple[FloatArray, FloatArray]:
    ends = [(p @ x, z @ q) for p, q in zip(a, b, strict=True)]
    metres = np.array([distance_m(one, other) for one, other in ends])
    radians = np.array([angle_between_rad(one, other) for one, other in ends])
    return metres, radians


def _scatter(residuals: FloatArray, kept: Sequence[int], least: float) -> float:
    """Robust root mean square: by the median, so that a bad pair does not hide itself."""
    return max(float(np.median(residuals[list(kept)])), least)


def _worst(metres: FloatArray, radians: FloatArray, kept: Sequence[int]) -> int | None:
    """The pair to leave out next, if one stands out."""
    if len(kept) <= FEWEST:
        return None
    allowed_m = max(OUTLIER_SIGMAS * _scatter(metres, kept, 0.0), OUTLIER_AT_LEAST_M)
    allowed_rad = max(OUTLIER_SIGMAS * _scatter(radians, kept, 0.0), OUTLIER_AT_LEAST_RAD)
    excess = np.maximum(metres / allowed_m, radians / allowed_rad)
    worst = max(kept, key=lambda i: float(excess[i]))
    return worst if excess[worst] > 1 else None
