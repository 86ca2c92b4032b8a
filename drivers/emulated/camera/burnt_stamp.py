"""A frame number and a time drawn into the picture, readable by code after JPEG.

Only such a picture proves which moment an image shows, whatever its file says. The pattern
is a row of black and white cells in the top left corner, wrapped at the image's width.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

CELL_PX = 4
"""Half a JPEG block: survives 4:2:0 and quality 50."""
_LAYOUT = struct.Struct(">IqH")
"""Number, stamp_ns, check sum."""
_BITS = _LAYOUT.size * 8
_CHECK_START = 0xFFFF
"""Not 0, or a black corner would be a valid stamp."""


@dataclass(frozen=True, slots=True)
class BurntStamp:
    """What is drawn into one image."""

    number: int
    """Counts the camera's images."""
    stamp_ns: int
    """The moment the image shows."""


def burn(image: Image, stamp: BurntStamp) -> None:
    """Draw the stamp into an image of shape (H, W, 3), in place."""
    body = struct.pack(">Iq", stamp.number, stamp.stamp_ns)
    payload = body + struct.pack(">H", binascii.crc_hqx(body, _CHECK_START))
    bits = np.unpackbits(np.frombuffer(payload, np.uint8))
    for row, line in enumerate(_lines(bits, image.shape[1])):
        cells = np.repeat(np.repeat(line[None] * np.uint8(255), CELL_PX, 0), CELL_PX, 1)
        image[row * CELL_PX : (row + 1) * CELL_PX, : cells.shape[1]] = cells[..., None]


def stamp_of(image: Image) -> BurntStamp | None:
    """The stamp of an image of shape (H, W, 3); None when there is none or it is unreadable."""
    per_line = image.shape[1] // CELL_PX
    lines = -(-_BITS // per_line)
    if lines * CELL_PX > image.shape[0]:
        return None
    corner = image[: lines * CELL_PX, : per_line * CELL_PX].mean(axis=2)
    cells = corner.reshape(lines, CELL_PX, per_line, CELL_PX)[:, 1:-1, :, 1:-1].mean(axis=(1, 3))
    payload = np.packbits(cells.reshape(-1)[:_BITS] > 127).tobytes()
    number, stamp_ns, check = _LAYOUT.unpack(payload)
    if check != binascii.crc_hqx(payload[:-2], _CHECK_START):
        return None
    return BurntStamp(number, stamp_ns)


def _lines(bits: NDArray[np.uint8], width: int) -> list[NDArray[np.uint8]]:
    per_line = width // CELL_PX
    return [bits[start : start + per_line] for start in range(0, len(bits), per_line)]
