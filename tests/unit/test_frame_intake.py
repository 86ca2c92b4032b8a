"""What happens to a camera's deliveries before they become frames."""

from __future__ import annotations

import numpy as np
import simplejpeg

from drivers.camera.intake import FrameIntake
from drivers.camera.jpeg_header import comment_of, complete, read_header, with_comment
from teleop.clock import NS_PER_S


def jpeg_of() -> bytes:
    """A small colour picture with some content."""
    y, x = np.mgrid[0:120, 0:160]
    image = np.stack((x, y, x + y), axis=2).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(image, 90, colorspace="RGB", colorsubsampling="420"))


def test_a_late_node_loses_the_oldest_frames_and_knows_it() -> None:
    """The queue is bounded; what fell out is counted and shows as a gap of seq."""
    intake = FrameIntake(160, 120, 10.0)
    for i in range(25):
        intake.accept(with_comment(jpeg_of(), b"%d" % i), None, i + 1)
    frames = intake.take()
    assert [frame.seq for frame in frames] == list(range(15, 25))
    assert intake.values(25)["drops"] == 15


def test_an_implausible_device_stamp_gives_way_to_arrival() -> None:
    """Capture stamps never run backwards."""
    intake = FrameIntake(160, 120, 30.0)
    for i, stamp_ns in enumerate((1000, 900, None)):
        intake.accept(with_comment(jpeg_of(), b"%d" % i), stamp_ns, 2000 + i)
    assert [frame.stamp_ns for frame in intake.take()] == [1000, 2001, 2002]


def test_why_no_new_image_comes_is_told_apart() -> None:
    """Repeats, damage and silence are different faults and get different words."""
    late_ns = 5 * NS_PER_S
    for bad, words in (
        (jpeg_of(), "same image came 2"),
        (b"junk", "2 damaged"),
        (None, "no image"),
    ):
        intake = FrameIntake(160, 120, 30.0)
        intake.accept(jpeg_of(), None, 1)
        assert intake.stale_words(2) == ""
        for arrival_ns in (2, 3):
            if bad is not None:
                intake.accept(bad, None, arrival_ns)
        assert words in intake.stale_words(late_ns)


def test_padding_is_cut_and_cut_frames_are_seen() -> None:
    """USB buffers are longer than the image; a truncated image has no end marker."""
    jpeg = jpeg_of()
    assert complete(jpeg + b"\0" * 100) == jpeg
    assert complete(jpeg[:-2]) is None
    assert complete(b"not a jpeg") is None
    header = read_header(jpeg)
    assert header is not None
    assert (header.width, header.height, header.components) == (160, 120, 3)
    assert comment_of(with_comment(jpeg, b"hello")) == b"hello"
