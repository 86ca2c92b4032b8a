"""Rigid poses as 4 x 4 matrices: ``tool_in_base`` takes points of the tool to the base frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from teleop.messages import FloatArray


def pose(rotation: FloatArray, position_m: FloatArray) -> FloatArray:
    """Shape (4, 4), from a rotation (3, 3) and a position (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = np.asarray(position_m, np.float64).reshape(3)
    return matrix


def inverse(matrix: FloatArray) -> FloatArray:
    """The pose the other way round."""
    turned = matrix[:3, :3].T
    return pose(turned, -turned @ matrix[:3, 3])


def rotation_from_vector(vector_rad: FloatArray) -> FloatArray:
    """Shape (3, 3), of a rotation about ``vector_rad`` (3,) by its length."""
    angle = float(np.linalg.norm(vector_rad))
    if angle < 1e-12:
        return np.eye(3) + _cross(vector_rad)
    k = _cross(vector_rad / angle)
    turned: FloatArray = np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k
    return turned


def vector_from_rotation(rotation: FloatArray) -> FloatArray:
    """Shape (3,): axis times angle, the angle 0 ... pi."""
    axis = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine, cosine = float(np.linalg.norm(axis)) / 2, (float(np.trace(rotation)) - 1) / 2
    angle = math.atan2(sine, cosine)
    if sine > 1e-6:
        return np.asarray(axis * (angle / (2 * sine)))
    if cosine > 0:
        return np.asarray(axis / 2)
    # Half a turn: the axis is the column of (R + I) that is longest.
    columns = rotation + np.eye(3)
    longest = columns[:, int(np.argmax(np.linalg.norm(columns, axis=0)))]
    return np.asarray(longest / np.linalg.norm(longest) * angle)


def pose_from_vector(vector: Sequence[float] | FloatArray) -> FloatArray:
    """Shape (4, 4), from rotation vector (rad) and position (m), shape (6,)."""
    six = np.asarray(vector, np.float64)
    return pose(rotation_from_vector(six[:3]), six[3:])


def vector_from_pose(matrix: FloatArray) -> FloatArray:
    """Shape (6,): rotation vector (rad), then position (m)."""
    return np.concatenate((vector_from_rotation(matrix[:3, :3]), matrix[:3, 3]))


def rotation_from_quaternion(wxyz: Sequence[float] | FloatArray) -> FloatArray:
    """Shape (3, 3), of a quaternion w x y z of any length but 0."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def nearest_rotation(matrix: FloatArray) -> FloatArray:
    """Shape (3, 3): the rotation closest to a matrix, in the sense of least squares."""
    u, _, vt = np.linalg.svd(matrix)
    flip = np.diag([1.0, 1.0, float(np.sign(np.linalg.det(u @ vt)))])
    return np.asarray(u @ flip @ vt)


def angle_between_rad(one: FloatArray, other: FloatArray) -> float:
    """Angle of the rotation that takes one rotation, or pose, to another."""
    return float(np.linalg.norm(vector_from_rotation(one[:3, :3].T @ other[:3, :3])))


def distance_m(one: FloatArray, other: FloatArray) -> float:
    """Distance between the origins of two poses."""
    return float(np.linalg.norm(one[:3, 3] - other[:3, 3]))


def _cross(v: FloatArray) -> FloatArray:
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
