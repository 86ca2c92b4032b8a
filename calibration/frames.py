"""Where a headset's or base station's frame is, seen from a robot's base.

From points touched with both (``frame_from_points``), or from poses of a controller that is
fixed to the tool (``frame_from_poses``), which also finds how it sits there. The VR frame has y
up and z towards the operator (see ``PoseInput``); a base has x forward and z up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.paired_poses import fit_pairs
from calibration.poses import nearest_rotation, pose
from teleop.errors import DeviceError
from teleop.messages import FloatArray

FEWEST_POINTS = 4
LEAST_SPREAD_M = 0.03
"""Root mean square of the points along the second of their main directions: on a line they turn
freely."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameFit:
    """A frame in another, and how well the pairs agree with it."""

    frame_in_base: FloatArray
    """Shape (4, 4)."""
    residual_m: FloatArray
    """Shape (N,), of every pair."""
    residual_rad: FloatArray | None
    """Shape (N,); None where only points were given."""
    kept: tuple[int, ...]
    controller_in_tool: FloatArray | None = None
    """Shape (4, 4), where it was found too."""

    @property
    def heading_rad(self) -> float:
        """Heading of the frame's forward direction (-z) in the base, 0 along the base's x axis:
        an arm's ``operator_yaw_rad``."""
        forward = -self.frame_in_base[:3, 2]
        return math.atan2(forward[1], forward[0])

    @property
    def tilt_rad(self) -> float:
        """Angle between the frame's up (y) and the base's (z): both level gives 0."""
        return math.acos(min(1.0, max(-1.0, float(self.frame_in_base[2, 1]))))


def frame_from_points(in_base: FloatArray, in_frame: FloatArray, what: str) -> FrameFit:
    """The rigid transform that takes points of the frame to the base (Kabsch, without scale).

    Args:
        in_base: Shape (N, 3), m.
        in_frame: Shape (N, 3), m, the same points.
        what: What is calibrated, for messages.

    Raises:
        DeviceError: too few points, or on one line.
    """
    if len(in_base) < FEWEST_POINTS:
        raise DeviceError(f"{what}: {len(in_base)} points, at least {FEWEST_POINTS} are needed")
    centre_base, centre_frame = in_base.mean(axis=0), in_frame.mean(axis=0)
    spread_m = np.linalg.svd(in_base - centre_base, compute_uv=False) / math.sqrt(len(in_base))
    if spread_m[1] < LEAST_SPREAD_M:
        raise DeviceError(
            f"{what}: the points lie on one line within {spread_m[1] * 1e3:.0f} mm; "
            "choose some beside it, a hand's length away"
        )
    rotation = nearest_rotation((in_base - centre_base).T @ (in_frame - centre_frame))
    frame_in_base = pose(rotation, centre_base - rotation @ centre_frame)
    gaps = in_base - (in_frame @ rotation.T + frame_in_base[:3, 3])
    residual_m = np.linalg.norm(gaps, axis=1)
    return FrameFit(frame_in_base, residual_m, None, tuple(range(len(in_base))))


def frame_from_poses(
    tool_in_base: Sequence[FloatArray], controller_in_frame: Sequence[FloatArray], what: str
) -> FrameFit:
    """The frame from a controller that moved with the tool, however it is held there.

    Args:
        tool_in_base: N poses (4, 4) from the arm's joints.
        controller_in_frame: N poses (4, 4) from the headset or base stations.
        what: What is calibrated, for messages.

    Raises:
        DeviceError: too few poses, or they do not turn about two axes.
    """
    fit = fit_pairs(tool_in_base, controller_in_frame, what)
    return FrameFit(fit.z, fit.residual_m, fit.residual_rad, fit.kept, fit.x)
