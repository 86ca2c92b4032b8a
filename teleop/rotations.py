"""Rotations as unit quaternions (w x y z) and rotation vectors, and tool poses made of them.

Written out in floats: on arrays of three and four numbers that is several times faster than
NumPy's own operators, and this runs at the arms' rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from teleop.messages import FloatArray

UNIT_TOLERANCE = 0.1
"""How far a quaternion's norm may be from 1 and still be a rotation, rounded on its way."""
SMALL_RAD = 1e-9
"""Below this angle the sine is the angle itself, in double precision."""


@dataclass(frozen=True, slots=True, eq=False)
class ToolPose:
    """Where a tool is and how it points, in the frame of its arm's base."""

    position_m: FloatArray
    """Shape (3,)."""
    quaternion_wxyz: FloatArray
    """Shape (4,), unit norm: from the tool's frame to the base's."""


def quaternion_product(first: FloatArray, second: FloatArray) -> FloatArray:
    """The rotation ``second``, then ``first``; shapes (4,)."""
    aw, ax, ay, az = first.tolist()
    bw, bx, by, bz = second.tolist()
    return np.array(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ]
    )


def quaternion_inverse(quaternion: FloatArray) -> FloatArray:
    """The opposite rotation of a unit quaternion, shape (4,)."""
    w, x, y, z = quaternion.tolist()
    return np.array([w, -x, -y, -z])


def rotated(quaternion: FloatArray, vector: FloatArray) -> FloatArray:
    """A vector of shape (3,), turned by a unit quaternion."""
    w, x, y, z = quaternion.tolist()
    a, b, c = vector.tolist()
    # t = 2 u x v; v' = v + w t + u x t, with u the vector part.
    ta, tb, tc = 2.0 * (y * c - z * b), 2.0 * (z * a - x * c), 2.0 * (x * b - y * a)
    return np.array(
        [
            a + w * ta + y * tc - z * tb,
            b + w * tb + z * ta - x * tc,
            c + w * tc + x * tb - y * ta,
        ]
    )


def rotation_vector(quaternion: FloatArray) -> FloatArray:
    """The axis times the angle, rad, of the shorter way round; shape (3,), norm up to pi."""
    w, x, y, z = quaternion.tolist()
    if w < 0.0:
        w, x, y, z = -w, -x, -y, -z
    sine = math.sqrt(x * x + y * y + z * z)
    scale = 2.0 if sine < SMALL_RAD else 2.0 * math.atan2(sine, w) / sine
    return np.array([scale * x, scale * y, scale * z])


def quaternion_of(vector: FloatArray) -> FloatArray:
    """The unit quaternion of a rotation vector of shape (3,), rad."""
    x, y, z = vector.tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    scale = 0.5 if angle < SMALL_RAD else math.sin(0.5 * angle) / angle
    return np.array([math.cos(0.5 * angle), scale * x, scale * y, scale * z])


def quaternion_of_matrix(matrix: FloatArray) -> FloatArray:
    """Shape (4,), w x y z with w not negative, of the rotation in the first three columns.

    Shepperd's method, which divides by the largest of the four.
    """
    (a, b, c), (d, e, f), (g, h, i) = matrix[:3, :3].tolist()
    squares = (1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i)
    largest = squares.index(max(squares))
    rows = (
        (squares[0], h - f, c - g, d - b),
        (h - f, squares[1], b + d, c + g),
        (c - g, b + d, squares[2], f + h),
        (d - b, c + g, f + h, squares[3]),
    )
    quaternion = np.array(rows[largest])
    return np.asarray(math.copysign(1.0, quaternion[0]) * quaternion / np.linalg.norm(quaternion))


def turn_between(start: FloatArray, end: FloatArray) -> FloatArray:
    """The rotation vector, rad, in the outer frame, that takes one quaternion to another."""
    return rotation_vector(quaternion_product(end, quaternion_inverse(start)))


def unit_quaternion(quaternion: FloatArray) -> FloatArray | None:
    """A quaternion of norm 1, or None if this is no rotation: NaN, or a norm far from 1."""
    norm = length(quaternion)
    # Not >, so that a NaN is refused.
    if not abs(norm - 1.0) <= UNIT_TOLERANCE:
        return None
    return quaternion / norm


def length(vector: FloatArray) -> float:
    """Euclidean norm of a short vector."""
    return math.hypot(*vector.tolist())
