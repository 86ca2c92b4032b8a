"""Board, intrinsics and coverage against a camera that is known."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from calibration_views import BOARD, CORNER_NOISE_PX, LENS, board_in_view, seen, views

from calibration.board import Board, Corners
from calibration.cameras import calibrate, undistorted
from calibration.coverage import Coverage, coverage_picture
from calibration.poses import pose, rotation_from_vector
from teleop.errors import DeviceError


@pytest.mark.parametrize("pixels_per_module", [2, 4, 8])
@pytest.mark.parametrize("blur_px", [0.0, 0.7])
def test_corners_of_an_exact_picture_are_found_where_they_are(
    pixels_per_module: int, blur_px: float
) -> None:
    """OpenCV alone is 0.2 to 0.4 px off; markers beside a corner must not move it."""
    image = BOARD.picture(pixels_per_module)
    if blur_px:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur_px), np.uint8)
    corners = BOARD.detect(image)
    assert len(corners.ids) == 54
    modules = corners.points_m[:, :2] / BOARD.square_m * 10 + 5
    assert corners.pixels == pytest.approx(modules * pixels_per_module - 0.5, abs=0.01)


def test_a_picture_without_the_board_has_no_corners() -> None:
    """Noise is not taken for a board."""
    noise = np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8)
    assert len(BOARD.detect(noise).ids) == 0


def test_the_board_is_written_for_printing_in_true_size(tmp_path: Path) -> None:
    """An SVG of 275 x 200 mm: ten squares of 25 mm and a margin of half a square each side."""
    BOARD.write(tmp_path / "board.svg")
    text = (tmp_path / "board.svg").read_text()
    assert 'width="275mm" height="200mm"' in text
    BOARD.write(tmp_path / "board.png")
    back = cv2.imread(str(tmp_path / "board.png"), cv2.IMREAD_GRAYSCALE)
    assert len(BOARD.detect(np.asarray(back, np.uint8)).ids) == 54
    with pytest.raises(DeviceError, match="cannot be written"):
        BOARD.write(tmp_path / "absent" / "board.svg")
    with pytest.raises(DeviceError, match=r"\.svg or \.png"):
        BOARD.write(tmp_path / "board.pdf")


def test_a_board_that_cannot_be_is_refused() -> None:
    """Too small, or with more markers than there are."""
    for columns, rows in ((2, 7), (20, 20)):
        with pytest.raises(DeviceError, match="it needs 3 or more each way"):
            Board(columns, rows)


@pytest.mark.parametrize("seed", range(3))
def test_intrinsics_are_recovered(seed: int) -> None:
    """25 views with 0.15 px of noise: within three of its own standard deviations."""
    fit = calibrate(views(25, seed), 640, 480, "cam")
    found, true = fit.intrinsics.matrix, LENS.matrix
    assert found[[0, 1], [0, 1]] == pytest.approx(true[[0, 1], [0, 1]], abs=1.5)
    assert found[:2, 2] == pytest.approx(true[:2, 2], abs=2.0)
    assert abs(found[0, 0] - true[0, 0]) < 3 * fit.sigma_focal_px
    assert fit.rms_px == pytest.approx(CORNER_NOISE_PX * 2**0.5, rel=0.1)
    assert fit.straightness_px == pytest.approx(CORNER_NOISE_PX, rel=0.2)
    assert len(fit.kept) == 25
    # What counts is where points land, all over the picture.
    grid = np.array([[x, y, 1.0] for x in np.linspace(-0.5, 0.5, 9) for y in (-0.35, 0.0, 0.35)])
    apart = np.linalg.norm(fit.intrinsics.project(grid) - LENS.project(grid), axis=1)
    assert apart.max() < 1.5


def test_a_view_that_moved_is_left_out() -> None:
    """Half of its corners are of a moment later."""
    good = views(20, 0)
    moved = good[4].pixels.copy()
    moved[::2] += 4.0
    fit = calibrate([*good[:4], replace(good[4], pixels=moved), *good[5:]], 640, 480, "cam")
    assert 4 not in fit.kept
    assert len(fit.kept) == 19
    assert fit.view_px[4] > 1.0
    assert fit.rms_px < 0.25


def test_views_that_do_not_tell_the_focal_length_are_refused() -> None:
    """A board that is never tilted fits any focal length."""
    rng = np.random.default_rng(0)
    flat = []
    for _ in range(10):
        at = board_in_view(rng, 0.0, 0.3)
        at[2, 3] = 0.4
        flat.append(seen(at, rng))
    with pytest.raises(DeviceError, match="the board leans alike in all"):
        calibrate(flat, 640, 480, "cam")


def test_too_few_views_are_refused() -> None:
    """The message counts them and says what to do."""
    with pytest.raises(DeviceError, match="cam: 3 usable views of the board, at least 6"):
        calibrate(views(3, 0), 640, 480, "cam")


def test_undistortion_makes_lines_straight() -> None:
    """A picture through the lens, undistorted: the board's corners lie on straight lines."""
    fit = calibrate(views(25, 1), 640, 480, "cam")
    image = _photograph(board_in_view(np.random.default_rng(5), 0.3, 0.1))
    bent = BOARD.detect(image)
    straight = BOARD.detect(undistorted(image, fit.intrinsics))
    assert _bend_px(bent) > 0.5
    assert _bend_px(straight) < 0.15


def test_guidance_names_what_is_missing_until_nothing_is() -> None:
    """First the empty places, then the tilts; the same view twice adds nothing."""
    coverage = Coverage(640, 480)
    assert len(coverage.missing()) == 9 + 4
    rng = np.random.default_rng(0)
    middle = seen(pose(np.eye(3), np.array([0, 0, 0.45]) - [*np.array(BOARD.size_m) / 2, 0]), rng)
    assert coverage.add(middle)
    assert not coverage.add(middle)
    assert "move the board to the middle of the picture" not in coverage.missing()
    assert any("upper left" in want for want in coverage.missing())
    for view in views(40, 2):
        coverage.add(view)
    assert coverage.missing() == []
    assert coverage.part == 1.0


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ([0.0, 0.6, 0.0], "right side"),
        ([0.0, -0.6, 0.0], "left side"),
        ([0.6, 0.0, 0.0], "upper side"),
        ([-0.6, 0.0, 0.0], "lower side"),
    ],
)
def test_the_side_that_is_nearer_is_the_one_that_looks_larger(
    turn: list[float], words: str
) -> None:
    """The words about a tilt agree with the picture."""
    rotation = rotation_from_vector(np.array(turn))
    at = pose(rotation, np.array([0, 0, 0.4]) - rotation @ np.array([*BOARD.size_m, 0]) / 2)
    view = seen(at, np.random.default_rng(0))
    coverage = Coverage(640, 480)
    coverage.add(view)
    counted = [way for way, count in coverage.tilts.items() if count]
    assert len(counted) == 1
    assert words in counted[0]
    depth = view.points_m @ at[2, :3] + at[2, 3]
    nearest = view.pixels[depth.argmin()] - view.pixels.mean(axis=0)
    axis, sign = {"left": (0, -1), "right": (0, 1), "upper": (1, -1), "lower": (1, 1)}[
        words.split()[0]
    ]
    assert nearest[axis] * sign > 0


def test_the_coverage_picture_shows_every_view() -> None:
    """Corners of kept views in green; white paper elsewhere."""
    taken = views(10, 0)
    picture = coverage_picture(taken, calibrate(taken, 640, 480, "cam"))
    assert picture.shape == (480, 640, 3)
    green = (picture[..., 1] > 100) & (picture[..., 2] < 50) & (picture[..., 0] < 120)
    assert 1000 < green.sum() < 60_000


def _photograph(board_in_camera: np.ndarray) -> np.ndarray:
    """A board through ``LENS``, pixel by pixel."""
    grid = np.stack(np.meshgrid(np.arange(640.0), np.arange(480.0)), axis=-1).reshape(-1, 1, 2)
    rays = cv2.undistortPoints(grid, LENS.matrix, LENS.distortion).reshape(-1, 2)
    directions = np.column_stack((rays, np.ones(len(rays)))) @ board_in_camera[:3, :3]
    start = board_in_camera[:3, :3].T @ board_in_camera[:3, 3]
    on_board = directions * (start[2] / directions[:, 2])[:, None] - start
    scale = 8
    at = (on_board[:, :2] / BOARD.square_m * 10 + 5) * scale - 0.5
    maps = at.astype(np.float32).reshape(480, 640, 2)
    image = cv2.GaussianBlur(BOARD.picture(scale), (0, 0), 1.2)
    return cv2.remap(image, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderValue=200)


def _bend_px(corners: Corners) -> float:
    """Largest distance of a corner from the straight line of its row."""
    bends = []
    for y in np.unique(np.round(corners.points_m[:, 1], 6)):
        line = corners.pixels[np.round(corners.points_m[:, 1], 6) == y]
        if len(line) >= 6:
            centred = line - line.mean(axis=0)
            normal = np.linalg.svd(centred)[2][1]
            bends.append(float(np.abs(centred @ normal).max()))
    return max(bends)
