"""A camera's intrinsics from views of a ChArUco board, by OpenCV.

Pixel coordinates are OpenCV's: the centre of the top left pixel is (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.board import Corners
from calibration.poses import pose, vector_from_rotation
from teleop.errors import DeviceError
from teleop.messages import FloatArray

FEWEST_VIEWS = 6
FEWEST_CORNERS = 8
"""Of one view, for it to count: a pose has six unknowns."""
OUTLIER_FACTOR = 3.0
"""A view with this many times the median error is left out: it moved, or was half hidden."""
OUTLIER_AT_LEAST_PX = 0.5
FEWEST_ON_LINE = 4
LEAST_TILT_RANGE_RAD = math.radians(20)
"""Between the board's leanings. Boards that lean alike fit any focal length, and the solver's own
uncertainty does not show it: flat boards gave 250 to 1580 px for 560, +- 0.1 to 33 px."""
STRAY_FACTOR, STRAY_AT_LEAST_PX = 4.0, 0.5
"""A corner off by more of the median, and more than this, is not the board's."""


@dataclass(frozen=True, slots=True, eq=False)
class Intrinsics:
    """How a camera maps directions to pixels: pinhole with OpenCV's five distortion terms."""

    width: int
    height: int
    matrix: FloatArray
    """Shape (3, 3), px."""
    distortion: FloatArray
    """Shape (5,): k1, k2, p1, p2, k3."""

    def project(self, points_m: FloatArray) -> FloatArray:
        """Shape (N, 2), px, of points (N, 3) in the camera's frame (x right, y down, z ahead)."""
        zero = np.zeros(3)
        pixels, _ = cv2.projectPoints(points_m, zero, zero, self.matrix, self.distortion)
        return cast(FloatArray, pixels).reshape(-1, 2)

    def straighten(self, pixels: FloatArray) -> FloatArray:
        """Shape (N, 2), px: where points (N, 2) lay if the lens did not distort."""
        column = np.asarray(pixels, np.float64).reshape(-1, 1, 2)
        straight = cv2.undistortPoints(column, self.matrix, self.distortion, P=self.matrix)
        return cast(FloatArray, straight).reshape(-1, 2)

    def board_in_camera(self, corners: Corners) -> FloatArray | None:
        """Pose (4, 4) of a board from its corners; None when they do not determine it."""
        if len(corners.ids) < FEWEST_CORNERS:
            return None
        points, pixels = corners.points_m, corners.pixels
        flat = points - np.array([*points[:, :2].mean(axis=0), 0.0])
        if np.linalg.svd(flat, compute_uv=False)[1] < 1e-3:
            return None  # all on one line
        try:
            found, turn, at = cv2.solvePnP(
                points, pixels, self.matrix, self.distortion, flags=cv2.SOLVEPNP_IPPE
            )
        except cv2.error:
            return None
        if not found:
            return None
        turn, at = cv2.solvePnPRefineLM(points, pixels, self.matrix, self.distortion, turn, at)
        return pose(cast(FloatArray, cv2.Rodrigues(turn)[0]), np.asarray(at))

    def board_scatter(self, corners: Corners, board: FloatArray, sigma_px: float) -> FloatArray:
        """Covariance (6, 6) of a board's pose vector (rotation vector, position) as found."""
        turn, at = vector_from_rotation(board[:3, :3]), board[:3, 3]
        _, slopes = cv2.projectPoints(corners.points_m, turn, at, self.matrix, self.distortion)
        by_pose = np.asarray(slopes)[:, :6]
        return np.asarray(np.linalg.inv(by_pose.T @ by_pose) * sigma_px**2)

    def without_strays(self, corners: Corners) -> Corners:
        """The corners that agree with the board's pose: one beside a finger may be off."""
        seen = self.board_in_camera(corners)
        if seen is None:
            return corners
        back = self.project(corners.points_m @ seen[:3, :3].T + seen[:3, 3])
        off_px = np.linalg.norm(back - corners.pixels, axis=1)
        good = off_px <= max(STRAY_FACTOR * float(np.median(off_px)), STRAY_AT_LEAST_PX)
        return Corners(corners.ids[good], corners.pixels[good], corners.points_m[good])


@dataclass(frozen=True, slots=True, eq=False)
class CameraFit:
    """Intrinsics and how far to trust them."""

    intrinsics: Intrinsics
    rms_px: float
    """Reprojection error over all corners of the views kept."""
    view_px: FloatArray
    """Shape (V,): the same of each view; NaN where it had too few corners."""
    kept: tuple[int, ...]
    """Indices of the views that the fit rests on."""
    sigma_focal_px: float
    sigma_centre_px: float
    straightness_px: float
    """Lines of the board after undistortion: root mean square distance from straight ones."""


def calibrate(views: Sequence[Corners], width: int, height: int, what: str) -> CameraFit:
    """Intrinsics from views of one board.

    Args:
        views: The corners seen in each picture.
        width: px.
        height: px.
        what: The camera, for messages.

    Raises:
        DeviceError: too few usable views, or they do not determine the intrinsics.
    """
    kept = [i for i, view in enumerate(views) if len(view.ids) >= FEWEST_CORNERS]
    fit = _fit([views[i] for i in kept], width, height, what)
    while len(kept) > FEWEST_VIEWS:
        allowed_px = max(OUTLIER_FACTOR * float(np.median(fit.view_px)), OUTLIER_AT_LEAST_PX)
        worst = int(np.argmax(fit.view_px))
        if fit.view_px[worst] <= allowed_px:
            break
        kept.pop(worst)
        fit = _fit([views[i] for i in kept], width, height, what)
    errors = [_view_error_px(view, fit.intrinsics) for view in views]
    return replace(fit, view_px=np.array(errors), kept=tuple(kept))


def _fit(views: Sequence[Corners], width: int, height: int, what: str) -> CameraFit:
    if len(views) < FEWEST_VIEWS:
        raise DeviceError(
            f"{what}: {len(views)} usable views of the board, at least {FEWEST_VIEWS} are needed "
            "and 20 are better; show it closer, whole and well lit"
        )
    points: list[Any] = [view.points_m.astype(np.float32) for view in views]
    pixels: list[Any] = [view.pixels.astype(np.float32) for view in views]
    guess = cast(Any, np.eye(3))
    rms, matrix, distortion, *_, sigma, _, per_view = cv2.calibrateCameraExtended(
        points, pixels, (width, height), guess, cast(Any, np.zeros(5))
    )
    lens = Intrinsics(width, height, np.asarray(matrix), np.asarray(distortion).reshape(-1)[:5])
    spread = np.asarray(sigma).reshape(-1)
    leaned_rad = _tilt_range_rad(views, lens)
    if not np.isfinite(lens.matrix).all() or leaned_rad < LEAST_TILT_RANGE_RAD:
        raise DeviceError(
            f"{what}: the views do not tell the focal length, the board leans alike in all "
            f"(within {math.degrees(leaned_rad):.0f} degrees); tilt it by 30 degrees, both ways"
        )
    return CameraFit(
        intrinsics=lens,
        rms_px=float(rms),
        view_px=np.asarray(per_view).reshape(-1),
        kept=tuple(range(len(views))),
        sigma_focal_px=float(spread[:2].max()),
        sigma_centre_px=float(spread[2:4].max()),
        straightness_px=straightness_px(views, lens),
    )


def _tilt_range_rad(views: Sequence[Corners], lens: Intrinsics) -> float:
    """Largest angle between two boards' faces."""
    poses = [seen for view in views if (seen := lens.board_in_camera(view)) is not None]
    normals = np.array([seen[:3, 2] for seen in poses])
    return float(np.arccos(np.clip(normals @ normals.T, -1, 1)).max()) if poses else 0.0


def _view_error_px(view: Corners, lens: Intrinsics) -> float:
    """Root mean square reprojection error of one view; NaN if its pose cannot be told."""
    seen = lens.board_in_camera(view)
    if seen is None:
        return float("nan")
    gaps = lens.project(view.points_m @ seen[:3, :3].T + seen[:3, 3]) - view.pixels
    return float(np.sqrt((gaps**2).sum(axis=1).mean()))


def straightness_px(views: Sequence[Corners], lens: Intrinsics) -> float:
    """How straight the board's lines are after undistortion, whatever its pose: an error of the
    lens model shows here even where it hides in the poses."""
    squares: list[NDArray[np.float64]] = []
    for view in views:
        straight = lens.straighten(view.pixels)
        for axis in (0, 1):
            along = np.round(view.points_m[:, axis], 6)
            for value in np.unique(along):
                line = straight[along == value]
                if len(line) >= FEWEST_ON_LINE:
                    _, _, vt = np.linalg.svd(line - line.mean(axis=0))
                    squares.append(((line - line.mean(axis=0)) @ vt[1]) ** 2)
    return float(np.sqrt(np.concatenate(squares).mean())) if squares else float("nan")


def undistorted(image: NDArray[np.uint8], lens: Intrinsics) -> NDArray[np.uint8]:
    """The picture as the same camera would take it with a lens that does not distort."""
    straight = cv2.undistort(image, lens.matrix, lens.distortion)
    return cast(NDArray[np.uint8], straight)
