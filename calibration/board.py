"""The ChArUco board: a chessboard with a numbered marker in each white square.

Any part of it that is seen gives numbered corners. Its own frame lies in its face: origin at a
corner of the board, x along the rows of squares, y along the columns, z into the board.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from teleop.errors import DeviceError
from teleop.messages import FloatArray

Image = NDArray[np.uint8]

MODULES_PER_SQUARE = 10
"""Cells of 1/10 square: a marker of 4 x 4 bits and its border are 6 of them wide."""
MARKER_PART = 6 / MODULES_PER_SQUARE
GAP_PART = (1 - MARKER_PART) / 2
"""White between a square's corner and its marker, of the square's edge."""
MARGIN_MODULES = 5
"""White around the board in its picture: half a square, so that the outer markers are found."""
_SLOPE_PX = 2
"""Beyond the window that the corner search reads: one for gradients, one for blur."""
_DICTIONARY = cv2.aruco.DICT_4X4_100


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Inner corners of a board seen in one picture."""

    ids: NDArray[np.int32]
    """Shape (M,)."""
    pixels: FloatArray
    """Shape (M, 2)."""
    points_m: FloatArray
    """Shape (M, 3), in the board's frame."""


@dataclass(frozen=True, slots=True)
class Board:
    """A board as printed; the default fits an A4 sheet."""

    columns: int = 10
    rows: int = 7
    square_m: float = 0.025
    """Edge of a square, as measured on the print."""

    def __post_init__(self) -> None:
        markers = self.columns * self.rows // 2
        if min(self.columns, self.rows) < 3 or markers > 100 or self.square_m <= 0:
            raise DeviceError(
                f"calibration board of {self.columns} x {self.rows} squares of {self.square_m} m: "
                "it needs 3 or more each way, at most 200 in all, and a positive size"
            )

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of its squares, without the white margin."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def corner_points_m(self) -> FloatArray:
        """Shape ((columns - 1) * (rows - 1), 3): inner corners by id."""
        return np.asarray(self._aruco().getChessboardCorners(), np.float64)

    def _aruco(self) -> cv2.aruco.CharucoBoard:
        dictionary = cv2.aruco.getPredefinedDictionary(_DICTIONARY)
        marker_m = self.square_m * MARKER_PART
        size = (self.columns, self.rows)
        return cv2.aruco.CharucoBoard(size, self.square_m, marker_m, dictionary)

    def detect(self, image: Image) -> Corners:
        """The corners seen in a picture, grey (H, W) or colour (H, W, 3); none when not seen."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        pixels, ids, _, _ = cv2.aruco.CharucoDetector(self._aruco()).detectBoard(grey)
        if cast(Any, ids) is None or len(ids) == 0:
            return Corners(np.zeros(0, np.int32), np.zeros((0, 2)), np.zeros((0, 3)))
        numbers = np.asarray(ids, np.int32).reshape(-1)
        places = _refined(np.ascontiguousarray(grey), np.asarray(pixels, np.float32))
        return Corners(numbers, places, self.corner_points_m[numbers])

    def picture(self, pixels_per_module: int = 1) -> Image:
        """Grey picture of the board with its white margin, exact to the module."""
        cells = (self.columns * MODULES_PER_SQUARE, self.rows * MODULES_PER_SQUARE)
        # Drawn large and sampled in the middle of each module: OpenCV rounds edges.
        scale = 8
        large = self._aruco().generateImage((cells[0] * scale, cells[1] * scale))
        exact = np.asarray(large, np.uint8)[scale // 2 :: scale, scale // 2 :: scale]
        framed = np.pad(exact, MARGIN_MODULES, constant_values=255)
        return np.repeat(np.repeat(framed, pixels_per_module, 0), pixels_per_module, 1)

    def write(self, path: Path) -> None:
        """Write it for printing: ``.svg`` in true size, ``.png`` without a size.

        Raises:
            DeviceError: the file cannot be written, or is to be of another kind.
        """
        if path.suffix not in (".svg", ".png"):
            raise DeviceError(f"{path}: a board is written as .svg or .png; name such a file")
        image = self.picture(20)
        png = cv2.imencode(".png", image)[1].tobytes()
        data = self._svg(png, image.shape).encode() if path.suffix == ".svg" else png
        try:
            path.write_bytes(data)
        except OSError as error:
            raise DeviceError(
                f"{path}: the board cannot be written there: {error.strerror}; name another file"
            ) from error

    def _svg(self, png: bytes, shape: tuple[int, ...]) -> str:
        margin_m = 2 * MARGIN_MODULES / MODULES_PER_SQUARE * self.square_m
        width_mm, height_mm = ((side + margin_m) * 1e3 for side in self.size_m)
        data = base64.b64encode(png).decode("ascii")
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" '
            f'width="{width_mm:g}mm" height="{height_mm:g}mm" viewBox="0 0 {shape[1]} {shape[0]}">'
            f'<image width="{shape[1]}" height="{shape[0]}" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{data}"/></svg>\n'
        )


def _refined(grey: Image, pixels: NDArray[np.float32]) -> FloatArray:
    """Shape (M, 2): the corners once more, by a window that no marker reaches into.

    OpenCV's own window does reach into the markers, which moves corners by 0.2 to 0.4 px to
    one side (measured on exact pictures of 4 and 8 px per module with OpenCV 5.0).
    """
    flat = pixels.reshape(-1, 2)
    if len(flat) < 2:
        return flat.astype(np.float64)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2) + np.diag(np.full(len(flat), np.inf))
    square_px = float(np.percentile(apart.min(axis=1), 10))
    half = int(np.clip(GAP_PART * square_px - _SLOPE_PX, 2, 10))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 40, 1e-3)
    moved = cv2.cornerSubPix(grey, flat.reshape(-1, 1, 2).copy(), (half, half), (-1, -1), stop)
    return np.asarray(moved, np.float64).reshape(-1, 2)
