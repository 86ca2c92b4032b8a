"""The OpenCV camera driver, with the real cv2.VideoCapture reading an MJPEG server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import simplejpeg

from drivers.camera.jpeg_header import with_comment
from drivers.camera.opencv_camera import OpenCvCamera, apply_controls
from drivers.emulated.camera.mjpeg_camera import MjpegServer
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import Frame
from teleop.rig import OpenCvCamera as CameraConfig
from tests.waiting import wait_until

CLOCK = MonotonicClock()
FPS = 30.0
PATIENCE_S = 20.0


def jpeg_of(width: int = 160, height: int = 120, grey: bool = False) -> bytes:
    """A small picture with some content."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack((x % 256, y % 256, (x + y) % 256), axis=2).astype(np.uint8)
    if grey:
        return bytes(simplejpeg.encode_jpeg(image[..., :1].copy(), 90, colorspace="GRAY"))
    return bytes(simplejpeg.encode_jpeg(image, 90, colorspace="RGB", colorsubsampling="420"))


class Studio:
    """A server whose one camera is fed from a thread, each frame with its own number."""

    def __init__(self, picture: bytes) -> None:
        self.server = MjpegServer(["cam"])
        self.url = self.server.url("cam")
        self.sent: list[bytes] = []
        self._picture = picture
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        while not self._stop.wait(1 / FPS):
            frame = with_comment(self._picture, b"frame %d" % len(self.sent))
            self.sent.append(frame)
            self.server.publish("cam", frame)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.server.close()


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio(jpeg_of())
    yield made
    made.close()


@pytest.fixture
def open_camera() -> Iterator[Callable[..., OpenCvCamera]]:
    """Makes cameras and closes them after the test."""
    made: list[OpenCvCamera] = []

    def make(source: str | int, width: int = 160, height: int = 120) -> OpenCvCamera:
        config = CameraConfig(source=source, width=width, height=height, fps=FPS)
        made.append(OpenCvCamera("cam", config, CLOCK))
        return made[-1]

    yield make
    for camera in made:
        camera.close()


def frames_of(camera: OpenCvCamera, count: int) -> list[Frame]:
    """The next ``count`` frames or more."""
    got: list[Frame] = []

    def enough() -> bool:
        got.extend(camera.take(CLOCK.now_ns()))
        return len(got) >= count

    wait_until(enough, f"{count} frames")
    return got


def wait_for_loss(camera: OpenCvCamera) -> DeviceLostError:
    """The loss as told once by ``take``."""
    told: list[DeviceLostError] = []

    def lost() -> bool:
        try:
            camera.take(CLOCK.now_ns())
        except DeviceLostError as error:
            told.append(error)
        return bool(told)

    wait_until(lost, "the loss to be told")
    return told[0]


def test_jpeg_is_passed_through_byte_for_byte(
    studio: Studio, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """What the camera encoded is what the recorder gets, once each and in order."""
    camera = open_camera(studio.url)
    camera.connect()
    frames = frames_of(camera, 20)
    order = [studio.sent.index(frame.data) for frame in frames]
    assert order == sorted(set(order))
    assert camera.health().values["passthrough"] == 1
    assert (frames[0].encoding, frames[0].width, frames[0].height) == ("jpeg", 160, 120)


def test_stamps_and_seq_increase(studio: Studio, open_camera: Callable[..., OpenCvCamera]) -> None:
    """Stamps are of the monotonic clock, strictly increasing; seq has no gap."""
    before_ns = CLOCK.now_ns()
    camera = open_camera(studio.url)
    camera.connect()
    frames = frames_of(camera, 20)
    stamps = [frame.stamp_ns for frame in frames]
    assert all(a < b for a, b in pairwise(stamps))
    assert all(before_ns < f.stamp_ns <= f.arrival_ns <= CLOCK.now_ns() for f in frames)
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert 15 < camera.health().values["fps"] < 45


def test_frozen_camera_hands_on_nothing_and_says_so(
    studio: Studio, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """Repeats of one image are counted and not passed off as new; thawing leaves a seq gap."""
    camera = open_camera(studio.url)
    camera.connect()
    last = frames_of(camera, 3)[-1]
    studio.server.freeze("cam")
    wait_until(lambda: "same image" in camera.health().detail, "the freeze to be noticed")
    late = camera.take(CLOCK.now_ns())
    assert len({f.data for f in late}) == len(late)
    health = camera.health()
    assert not health.ok
    repeats = health.values["repeats"]
    assert repeats >= 3
    studio.server.thaw("cam")
    first = frames_of(camera, 1)[0]
    assert first.seq > last.seq + repeats
    assert camera.health().ok


def test_unplugged_camera_is_told_once_and_taken_up_again(
    studio: Studio, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """The loss is an error once, then silence; after re-plugging frames come with a seq gap."""
    camera = open_camera(studio.url)
    camera.connect()
    last = frames_of(camera, 3)[-1]
    studio.server.unplug("cam")
    assert "plug it in" in str(wait_for_loss(camera))
    wait_until(lambda: camera.health().values["reopen_attempts"] >= 2, "attempts to reopen")
    assert camera.take(CLOCK.now_ns()) == []
    assert "404" in camera.health().detail
    studio.server.replug("cam")
    frame = frames_of(camera, 1)[0]
    assert frame.seq > last.seq + 1
    assert frame.data in studio.sent[-60:]
    health = camera.health()
    assert health.ok
    assert health.values["losses"] == 1


def test_stalled_camera_is_reconnected(
    studio: Studio, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """A connection on which nothing comes is named at once and given up after two seconds."""
    camera = open_camera(studio.url)
    camera.connect()
    frames_of(camera, 3)
    studio.server.stall("cam")
    wait_until(lambda: "no image" in camera.health().detail, "the stall to be noticed")
    wait_for_loss(camera)
    studio.server.thaw("cam")
    assert frames_of(camera, 2)


def test_damaged_frames_are_dropped_and_counted(
    studio: Studio, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """A frame cut short reaches nobody and shows as a seq gap."""
    camera = open_camera(studio.url)
    camera.connect()
    frames_of(camera, 3)

    def damaged_seen() -> bool:
        studio.server.publish("cam", jpeg_of()[:-200])
        return camera.health().values["corrupt"] > 0

    wait_until(damaged_seen, "a damaged frame to be counted")
    frames = frames_of(camera, 5)
    assert all(frame.data in studio.sent for frame in frames)


def test_wrong_size_is_refused(studio: Studio, open_camera: Callable[..., OpenCvCamera]) -> None:
    """The message names both sizes."""
    with pytest.raises(DeviceError, match=r"cam.*160x120.*640x480"):
        open_camera(studio.url, 640, 480).connect()


def test_grey_jpeg_is_refused(open_camera: Callable[..., OpenCvCamera]) -> None:
    """Episodes hold colour images; a grey camera must be read in another format."""
    with (
        closing(Studio(jpeg_of(grey=True))) as studio,
        pytest.raises(DeviceError, match="grey"),
    ):
        open_camera(studio.url).connect()


def test_undecodable_jpeg_is_refused(open_camera: Callable[..., OpenCvCamera]) -> None:
    """A header alone does not make an image."""
    whole = jpeg_of()
    start_of_scan = whole.index(b"\xff\xda")
    with (
        closing(Studio(whole[: start_of_scan + 2] + b"\0\0\xff\xd9")) as studio,
        pytest.raises(DeviceError, match=r"do not decode|no picture"),
    ):
        open_camera(studio.url).connect()


def test_other_video_is_encoded_once(
    tmp_path: Path, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """What is not JPEG already becomes a JPEG of the same picture and the right colours."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MP4V"), FPS, (160, 120))
    blue_bgr = np.full((120, 160, 3), (200, 40, 20), np.uint8)
    for i in range(10):
        cv2.circle(blue_bgr, (20 + 10 * i, 60), 5, (255, 255, 255), -1)
        writer.write(blue_bgr)
    writer.release()
    camera = open_camera(path.as_uri())
    camera.connect()
    frame = frames_of(camera, 3)[0]
    assert camera.health().values["passthrough"] == 0
    decoded = simplejpeg.decode_jpeg(frame.data)
    assert np.abs(decoded[5, 5].astype(int) - (20, 40, 200)).max() < 25


class StubbornCapture:
    """A V4L2 capture that takes every property but the exposure."""

    def __init__(self) -> None:
        self.set_order: list[int] = []
        self.values: dict[int, float] = {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"MJPG")),
            cv2.CAP_PROP_FPS: 15.0,
        }

    def set(self, prop: int, value: float) -> bool:
        self.set_order.append(prop)
        self.values[prop] = 156.0 if prop == cv2.CAP_PROP_EXPOSURE else value
        return True

    def get(self, prop: int) -> float:
        return self.values.get(prop, 0.0)


def test_settings_are_read_back_and_what_did_not_take_is_said() -> None:
    """Automatic modes go off first; a refused value and another rate are named in words."""
    config = CameraConfig(source=0, width=160, height=120, fps=30, exposure=50, focus=5)
    capture = StubbornCapture()
    settings, faults = apply_controls(cast(cv2.VideoCapture, capture), config)
    assert settings == {"fps_set": 15.0, "exposure": 156.0, "focus": 5.0}
    assert faults == [
        "fps: asked 30, the camera took 15",
        "exposure: asked 50, the camera took 156",
    ]
    for automatic, value in (
        (cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_EXPOSURE),
        (cv2.CAP_PROP_AUTOFOCUS, cv2.CAP_PROP_FOCUS),
    ):
        assert capture.set_order.index(automatic) < capture.set_order.index(value)


def test_silent_camera_is_refused(open_camera: Callable[..., OpenCvCamera]) -> None:
    """A server that accepts and never sends is given up after a few seconds, and said so."""
    with (
        closing(MjpegServer(["cam"])) as server,
        pytest.raises(DeviceError, match=r"no picture|no image"),
    ):
        open_camera(server.url("cam")).connect()


def test_unknown_camera_of_a_server_is_named(
    studio: Studio, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """A 404 is told as such."""
    with pytest.raises(DeviceError, match="404"):
        open_camera(studio.url.replace("cam.", "other.")).connect()


def test_refused_connection_is_named(open_camera: Callable[..., OpenCvCamera]) -> None:
    """Nobody listens: the message says so and what to check."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DeviceError, match=r"refused.*check"):
            open_camera(f"http://127.0.0.1:{port}/cam.mjpg").connect()


def test_web_page_is_not_a_camera(open_camera: Callable[..., OpenCvCamera]) -> None:
    """Something answers, but not with pictures."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<h1>router</h1>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.raises(DeviceError, match="text/html"):
        open_camera(f"http://127.0.0.1:{server.server_address[1]}/").connect()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("source", "words"), [("/dev/no_such_camera", "no such device"), (9876, "/dev/video9876")]
)
def test_absent_device_is_named(
    source: str | int, words: str, open_camera: Callable[..., OpenCvCamera]
) -> None:
    """A path or index that is not there: says which and where to look."""
    with pytest.raises(DeviceError, match=words):
        open_camera(source).connect()


def test_a_file_is_not_a_camera(tmp_path: Path, open_camera: Callable[..., OpenCvCamera]) -> None:
    """A regular file given as device path is refused, not played."""
    path = tmp_path / "video"
    path.write_bytes(b"x")
    with pytest.raises(DeviceError, match="not a camera device"):
        open_camera(str(path)).connect()


def test_a_port_in_use_is_named() -> None:
    """Two camera servers on one port: the second says so."""
    first = MjpegServer(["cam"])
    with pytest.raises(DeviceError, match=str(first.port)):
        MjpegServer(["cam"], first.port)
    first.close()
