"""What a camera driver must know of a JPEG without decoding it.

ITU-T T.81 (JPEG) Annex B: a file starts with SOI, ends with EOI, and its size and number of
colour components stand in the start-of-frame segment.
"""

from __future__ import annotations

from dataclasses import dataclass

SOI = b"\xff\xd8"
EOI = b"\xff\xd9"
COMMENT = b"\xff\xfe"
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive Huffman: what the decoders here read."""
_START_OF_SCAN = 0xDA
_MAX_COMMENT = 65_533


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Size and colour of an image as its start-of-frame segment says."""

    width: int
    height: int
    components: int
    """1 grey, 3 colour."""


def complete(data: bytes) -> bytes | None:
    """The JPEG without the padding some cameras send after it; None when it is cut short."""
    if not data.startswith(SOI):
        return None
    if data.endswith(EOI):
        return data
    end = data.rfind(EOI) + len(EOI)
    if end < len(SOI) + len(EOI) or data[end:].strip(b"\0"):
        return None
    return data[:end]


def read_header(data: bytes) -> JpegHeader | None:
    """Size and colour; None when the bytes are not a JPEG with a readable header."""
    for marker, at, end in _segments(data):
        if marker in _START_OF_FRAME and end - at >= 6:
            height = int.from_bytes(data[at + 1 : at + 3], "big")
            width = int.from_bytes(data[at + 3 : at + 5], "big")
            return JpegHeader(width, height, data[at + 5])
    return None


def with_comment(data: bytes, comment: bytes) -> bytes:
    """The same image with a comment segment in front; the compressed picture is untouched."""
    if len(comment) > _MAX_COMMENT:
        raise ValueError(f"a JPEG comment holds {_MAX_COMMENT} bytes, got {len(comment)}")
    size = (len(comment) + 2).to_bytes(2, "big")
    return b"".join((SOI, COMMENT, size, comment, data[len(SOI) :]))


def comment_of(data: bytes) -> bytes | None:
    """The first comment segment, if there is one."""
    for marker, at, end in _segments(data):
        if marker == COMMENT[1]:
            return data[at:end]
    return None


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, end) of each segment's payload up to the compressed data."""
    found: list[tuple[int, int, int]] = []
    at = len(SOI)
    if not data.startswith(SOI):
        return found
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN or size < 2 or at + 2 + size > len(data):
            break
        found.append((marker, at + 4, at + 2 + size))
        at += 2 + size
    return found
