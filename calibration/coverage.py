"""Whether views of a board tell enough of a camera, and in words what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.board import Corners
from calibration.cameras import FEWEST_CORNERS, CameraFit, Intrinsics
from teleop.messages import FloatArray

CELLS = 3
"""The picture in 3 x 3 cells: lens distortion shows in the outer ones."""
CORNERS_PER_CELL = 15
LEAST_TILT_RAD = math.radians(20)
"""The focal length is only told by tilted boards (Zhang 2000: best near 45 degrees)."""
TILTED_VIEWS = 2
"""Of each of the four ways."""
ENOUGH_VIEWS = 15
MOST_HIDDEN = 3
"""Parts of the picture that may stay unseen: a wrist camera always has its fingers in one row."""
SAME_PX = 10.0
"""A view whose corners lie this near to an earlier one's adds nothing."""

_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")
_WAYS = {
    "with its left side (in the picture) nearer": (0, -1.0),
    "with its right side (in the picture) nearer": (0, 1.0),
    "with its upper side nearer": (1, -1.0),
    "with its lower side nearer": (1, 1.0),
}
"""Tilts, by the component of the board's normal, away from the camera, that shows them and its
sign: the plane n . p = d is nearer where n . direction is larger."""


class Coverage:
    """Collects views of one camera.

    Args:
        width: px.
        height: px.
    """

    def __init__(self, width: int, height: int) -> None:
        self.views: list[Corners] = []
        self.counts: NDArray[np.int_] = np.zeros((CELLS, CELLS), np.int_)
        """Corners seen in each cell of the picture, rows from the top."""
        self.tilts = dict.fromkeys(_WAYS, 0)
        self._size = np.array([width, height])
        # Good enough to tell a tilt by: a lens of about 60 degrees.
        focal_px = 0.9 * max(width, height)
        matrix = np.array(
            [[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]]
        )
        self._rough = Intrinsics(width, height, matrix, np.zeros(5))

    def add(self, view: Corners) -> bool:
        """Take a view if it shows something new; returns whether it did."""
        if len(view.ids) < FEWEST_CORNERS or any(_alike(view, old) for old in self.views):
            return False
        self.views.append(view)
        cells = np.clip((view.pixels / self._size * CELLS).astype(int), 0, CELLS - 1)
        np.add.at(self.counts, (cells[:, 1], cells[:, 0]), 1)
        if (way := self._tilt_of(view)) is not None:
            self.tilts[way] += 1
        return True

    def _tilt_of(self, view: Corners) -> str | None:
        seen = self._rough.board_in_camera(view)
        if seen is None:
            return None
        normal = seen[:3, 2] * np.sign(seen[2, 2])
        lean = {way: sign * float(normal[axis]) for way, (axis, sign) in _WAYS.items()}
        way = max(lean, key=lambda name: lean[name])
        return way if lean[way] > math.sin(LEAST_TILT_RAD) else None

    def missing(self) -> list[str]:
        """What to show next, the most wanted first; empty when there is enough."""
        wants = [f"move the board to the {place} of the picture" for place in self.unseen]
        for way, count in self.tilts.items():
            if count < TILTED_VIEWS:
                wants.append(f"tilt the board by 30 to 45 degrees, {way}")
        if not wants and len(self.views) < ENOUGH_VIEWS:
            wants.append("show the board from a new place or angle")
        return wants

    @property
    def unseen(self) -> list[str]:
        """The parts of the picture in which too few corners were seen, in words."""
        places = zip(*np.nonzero(self.counts < CORNERS_PER_CELL), strict=True)
        return [f"{_ROWS[r]} {_COLUMNS[c]}" if (r, c) != (1, 1) else "middle" for r, c in places]

    @property
    def hidden(self) -> bool:
        """Whether all is there but for few parts of the picture, where something may stand."""
        rest = len(self.missing()) - len(self.unseen)
        return rest == 0 and len(self.unseen) <= MOST_HIDDEN and len(self.views) >= ENOUGH_VIEWS

    @property
    def part(self) -> float:
        """How much is done, 0 ... 1."""
        cells = np.minimum(self.counts / CORNERS_PER_CELL, 1.0).mean()
        tilts = np.mean([min(count / TILTED_VIEWS, 1.0) for count in self.tilts.values()])
        return float((cells + tilts + min(len(self.views) / ENOUGH_VIEWS, 1.0)) / 3)


def _alike(one: Corners, other: Corners) -> bool:
    _, mine, theirs = np.intersect1d(one.ids, other.ids, return_indices=True)
    if len(mine) < min(len(one.ids), len(other.ids)) / 2:
        return False
    gaps = np.linalg.norm(one.pixels[mine] - other.pixels[theirs], axis=1)
    return float(gaps.mean()) < SAME_PX


def coverage_picture(
    views: Sequence[Corners], fit: CameraFit, magnified: float = 100.0
) -> NDArray[np.uint8]:
    """All corners with their reprojection errors, magnified, on the picture's area.

    Returns:
        Shape (H, W, 3), BGR. Green: views kept; red: views left out.
    """
    lens = fit.intrinsics
    canvas = np.full((lens.height, lens.width, 3), 255, np.uint8)
    for k in range(1, CELLS):
        x, y = lens.width * k // CELLS, lens.height * k // CELLS
        cv2.line(canvas, (x, 0), (x, lens.height), (225, 225, 225), 1)
        cv2.line(canvas, (0, y), (lens.width, y), (225, 225, 225), 1)
    for i, view in enumerate(views):
        colour = (60, 140, 0) if i in fit.kept else (0, 0, 220)
        seen = lens.board_in_camera(view)
        if seen is None:
            continue
        back = lens.project(view.points_m @ seen[:3, :3].T + seen[:3, 3])
        for at, error in zip(view.pixels, view.pixels - back, strict=True):
            end = at + magnified * error
            cv2.circle(canvas, _px(at), 2, colour, -1, cv2.LINE_AA)
            cv2.line(canvas, _px(at), _px(end), colour, 1, cv2.LINE_AA)
    words = (
        f"{len(fit.kept)} of {len(views)} views, {fit.rms_px:.3f} px rms, "
        f"errors drawn x {magnified:g}"
    )
    cv2.putText(
        canvas, words, (8, lens.height - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1,
        cv2.LINE_AA,
    )  # fmt: skip
    return canvas


def _px(at: FloatArray) -> tuple[int, int]:
    return cast(tuple[int, int], tuple(round(float(v)) for v in at))
