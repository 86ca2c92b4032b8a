"""``tandem calibrate camera``: intrinsics, with the operator holding a ChArUco board."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from calibration.board import Board, Corners
from calibration.cameras import CameraFit, calibrate, undistorted
from calibration.coverage import Coverage, coverage_picture
from calibration.result_values import CameraValues
from calibration.results import Result, make_result
from drivers.base import CameraDevice
from drivers.calibrate.guide import Guide, StoppedError
from drivers.identity import identity_of
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import Frame
from teleop.rig import Rig

POLL_S = 0.02
SEARCH_EVERY_S = 0.25
"""Looking for the board takes some 20 ms of a processor."""
HINT_EVERY_S = 2.5
STILL_PX = 1.0
"""Between two looks: a moving board is blurred, and its rows are not of one moment."""
GIVE_UP_S = 180.0
PATIENCE_S = 30.0
"""Without anything new, until parts of the picture count as hidden."""


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """What is to be calibrated."""

    name: str
    board: Board = field(default_factory=Board)
    give_up_s: float = GIVE_UP_S
    picture: Path | None = None
    """Where the coverage is drawn; beside it, ``*_undistorted``, what a straight lens would see."""
    made_by: str = ""


def calibrate_camera(
    plan: CameraPlan, rig: Rig, camera: CameraDevice, clock: Clock, guide: Guide
) -> tuple[Result, CameraFit]:
    """Watch the board until every part of the picture and every tilt was seen.

    Args:
        plan: Which camera and board.
        rig: The rig.
        camera: Connected.
        clock: Of the camera.
        guide: Hears what to do next; asked once before the beginning.

    Raises:
        StoppedError: by the operator.
        DeviceError: the board was not seen well enough in time.
    """
    config = rig.cameras[plan.name]
    board = plan.board
    text = f"hold the board ({board.columns} x {board.rows} squares) in view of {plan.name}"
    if not guide.ready(text):
        raise StoppedError(f"{plan.name}: stopped; nothing was saved")
    coverage = Coverage(config.width, config.height)
    last = _collect(plan, camera, clock, guide, coverage)
    if coverage.unseen:
        guide.say(
            f"no board was seen in the {', '.join(coverage.unseen)} of the picture (fingers?): "
            "distortion there is a guess"
        )
    fit = calibrate(coverage.views, config.width, config.height, plan.name)
    if plan.picture is not None:
        _write(plan.picture, coverage_picture(coverage.views, fit))
        beside = plan.picture.with_stem(f"{plan.picture.stem}_undistorted")
        _write(beside, undistorted(last, fit.intrinsics))
    return _result(plan, rig, fit, len(coverage.unseen)), fit


def _collect(
    plan: CameraPlan, camera: CameraDevice, clock: Clock, guide: Guide, coverage: Coverage
) -> NDArray[np.uint8]:
    """Fill the coverage; returns the last picture, grey."""
    give_up_ns = clock.now_ns() + ns_from_s(plan.give_up_s)
    look_ns = hint_ns = clock.now_ns()
    done, moved_on_ns = 0.0, clock.now_ns()
    before: Corners | None = None
    grey = np.zeros((1, 1), np.uint8)
    while wants := coverage.missing():
        now_ns = clock.now_ns()
        if now_ns > give_up_ns:
            raise DeviceError(
                f"{plan.name}: not enough of the board was seen within {plan.give_up_s:g} s; "
                f"still wanted: {'; '.join(wants[:3])}"
            )
        if coverage.part > done:
            done, moved_on_ns = coverage.part, now_ns
        if coverage.hidden and now_ns - moved_on_ns > ns_from_s(PATIENCE_S):
            break
        if now_ns >= hint_ns:
            guide.say(f"{coverage.part:4.0%}  {wants[0]}")
            hint_ns = now_ns + ns_from_s(HINT_EVERY_S)
        frames = camera.take(now_ns)
        if frames and now_ns >= look_ns:
            look_ns = now_ns + ns_from_s(SEARCH_EVERY_S)
            grey = grey_of(frames[-1])
            seen = plan.board.detect(grey)
            if before is not None and _is_still(before, seen):
                coverage.add(seen)
            before = seen
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(POLL_S))
    return grey


def _is_still(before: Corners, now: Corners) -> bool:
    _, mine, theirs = np.intersect1d(before.ids, now.ids, return_indices=True)
    if len(mine) == 0:
        return False
    gaps = np.linalg.norm(before.pixels[mine] - now.pixels[theirs], axis=1)
    return float(np.median(gaps)) < STILL_PX


def grey_of(frame: Frame) -> NDArray[np.uint8]:
    """A frame as a grey picture (H, W).

    Raises:
        DeviceError: it does not decode.
    """
    try:
        grey = simplejpeg.decode_jpeg(frame.data, colorspace="GRAY")
    except ValueError as error:
        raise DeviceError(f"a camera frame does not decode ({error}); check its cable") from error
    return cast(NDArray[np.uint8], grey)[..., 0]


def _result(plan: CameraPlan, rig: Rig, fit: CameraFit, unseen: int) -> Result:
    lens = fit.intrinsics
    values = CameraValues.model_validate(
        {
            "width": lens.width,
            "height": lens.height,
            "matrix": lens.matrix.tolist(),
            "distortion": lens.distortion.tolist(),
        }
    )
    residuals = {
        "rms_px": fit.rms_px,
        "straightness_px": fit.straightness_px,
        "worst_view_px": float(np.nanmax(fit.view_px[list(fit.kept)])),
        "focal_sigma_px": fit.sigma_focal_px,
        "centre_sigma_px": fit.sigma_centre_px,
        "views": len(fit.kept),
        "views_left_out": len(fit.view_px) - len(fit.kept),
        "parts_unseen": unseen,
    }
    devices = {plan.name: identity_of(plan.name, rig)}
    return make_result("camera", plan.name, values, residuals, devices, plan.made_by)


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    try:
        written = cv2.imwrite(str(path), picture)
    except cv2.error as error:
        raise DeviceError(f"{path}: the picture cannot be written: {error}") from error
    if not written:
        raise DeviceError(f"{path}: the picture cannot be written; does its folder exist?")


def report(fit: CameraFit) -> list[str]:
    """The result in words."""
    matrix = fit.intrinsics.matrix
    left_out = len(fit.view_px) - len(fit.kept)
    return [
        f"focal length {matrix[0, 0]:.1f} x {matrix[1, 1]:.1f} px (+- {fit.sigma_focal_px:.2f})",
        f"centre {matrix[0, 2]:.1f}, {matrix[1, 2]:.1f} px (+- {fit.sigma_centre_px:.2f})",
        f"reprojection error {fit.rms_px:.3f} px over {len(fit.kept)} views"
        + (f", {left_out} left out" if left_out else ""),
        f"straight lines are straight within {fit.straightness_px:.3f} px after undistortion",
    ]
