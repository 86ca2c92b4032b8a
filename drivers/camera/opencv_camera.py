"""Any camera that OpenCV opens: index, stable device path or URL.

A thread of its own reads the camera as fast as it delivers. JPEG is handed through as the
camera made it where the camera makes it (motion JPEG over USB or HTTP), else each image is
encoded once. Unplugging is noticed by that thread, which then keeps trying to open again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from drivers.base import DeviceHealth
from drivers.camera import jpeg_header
from drivers.camera import source as camera_source
from drivers.camera.intake import FrameIntake
from teleop.clock import NS_PER_S, Clock
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import Frame
from teleop.rig import OpenCvCamera as CameraConfig

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 2.0
"""Silence of a network camera after which its connection is given up and made anew."""
_FIRST_FRAME_TRIES = 5
"""USB cameras deliver cut frames while they start."""
_BACK_OFF_S = (0.25, 0.5, 1.0, 2.0)
"""Pauses between attempts to open a lost camera; the last one repeats."""
_STAMP_MAX_AGE_NS = NS_PER_S
"""A device stamp older than this is of another clock."""
_MANUAL_EXPOSURE, _AUTO_EXPOSURE = 1.0, 3.0
"""V4L2_EXPOSURE_MANUAL and V4L2_EXPOSURE_APERTURE_PRIORITY, what UVC cameras offer."""
_JPEG_FOURCCS = ("MJPG", "JPEG")

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A camera that has delivered its first image."""

    capture: cv2.VideoCapture
    passthrough: bool
    """It delivers JPEG itself."""
    device_stamps: bool
    """Its time property may be a capture stamp of our monotonic clock."""
    settings: dict[str, float]
    """As read back, by name."""
    faults: list[str]
    """Settings that did not take, in words."""


class OpenCvCamera:
    """One camera read by ``cv2.VideoCapture``; see ``drivers.base.CameraDevice``."""

    def __init__(self, name: str, config: CameraConfig, clock: Clock) -> None:
        self._name = name
        self._config = config
        self._clock = clock
        self._intake = FrameIntake(config.width, config.height, config.fps)
        self._opened: _Opened | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lost = ""
        """Why the camera is away; empty while it is there. Written by the thread."""
        self._loss_to_tell = False
        self._losses = 0
        self._attempts = 0

    def connect(self) -> None:
        """Open, apply the settings, see one good image, start reading.

        Raises:
            DeviceError: no such device, not openable, wrong size, no or no readable image.
        """
        self._opened = self._open()
        for fault in self._opened.faults:
            log.warning("camera %s: %s", self._name, fault)
        self._thread = threading.Thread(
            target=self._run, args=(self._opened,), name=f"camera-{self._name}", daemon=True
        )
        self._thread.start()

    def take(self, now_ns: int) -> list[Frame]:
        """All new images since the last call, oldest first; never waits.

        Raises:
            DeviceLostError: once, after the last image before the loss was taken.
        """
        if (frames := self._intake.take()) or not self._loss_to_tell:
            return frames
        self._loss_to_tell = False
        raise DeviceLostError(
            f"camera {self._name}: {self._lost or 'was away for a moment'}; "
            "plug it in again, it is tried again until it answers"
        )

    def health(self) -> DeviceHealth:
        """Rate, counters, settings as read back and those that did not take."""
        now_ns = self._clock.now_ns()
        opened = self._opened
        values = self._intake.values(now_ns)
        values["losses"] = float(self._losses)
        values["reopen_attempts"] = float(self._attempts)
        if opened is not None:
            values["passthrough"] = float(opened.passthrough)
            values["settings_not_applied"] = float(len(opened.faults))
            values.update(opened.settings)
        trouble = self._lost or self._intake.stale_words(now_ns)
        notes = [trouble] if trouble else (opened.faults if opened is not None else [])
        return DeviceHealth(ok=not trouble, detail="; ".join(notes), values=values)

    def close(self) -> None:
        """Stop reading and release the device."""
        self._stop.set()
        if self._thread is not None:
            # The thread releases the capture: doing it here while it reads would crash.
            self._thread.join(_OPEN_TIMEOUT_S + _READ_TIMEOUT_S)
            if self._thread.is_alive():
                log.warning("camera %s: still blocked in the device while closing", self._name)

    # The capture thread

    def _run(self, opened: _Opened | None) -> None:
        while not self._stop.is_set():
            if opened is None:
                opened = self._reopen()
            elif not self._read_into_intake(opened):
                opened.capture.release()
                opened = None
                self._note_loss()
        if opened is not None:
            opened.capture.release()

    def _read_into_intake(self, opened: _Opened) -> bool:
        ok, image = opened.capture.read()
        arrival_ns = self._clock.now_ns()
        if not ok:
            return False
        stamp_ns = _device_stamp_ns(opened.capture, arrival_ns) if opened.device_stamps else None
        self._intake.accept(self._jpeg(opened, cast(Image, image)), stamp_ns, arrival_ns)
        return True

    def _jpeg(self, opened: _Opened, image: Image) -> bytes:
        if opened.passthrough:
            return image.tobytes()
        return _encode(image, self._config.jpeg_quality)

    def _note_loss(self) -> None:
        if self._stop.is_set():
            return
        self._lost = "no longer delivers images"
        self._losses += 1
        self._loss_to_tell = True

    def _reopen(self) -> _Opened | None:
        """Try until the camera is back; None when asked to stop."""
        since_ns = self._clock.now_ns()
        attempt = 0
        while not self._stop.wait(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)]):
            attempt += 1
            self._attempts += 1
            try:
                opened = self._open()
            except DeviceError as error:
                self._lost = f"lost ({error})"
                continue
            self._intake.skip_outage(self._clock.now_ns() - since_ns)
            self._opened = opened
            self._lost = ""
            return opened
        return None

    # Opening

    def _open(self) -> _Opened:
        if camera_source.is_url(self._config.source):
            return self._open_url()
        return self._open_device()

    def _open_url(self) -> _Opened:
        camera_source.reach_loopback_directly(self._config.source)
        capture = self._capture(
            cv2.CAP_FFMPEG,
            (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _ms(_OPEN_TIMEOUT_S)),
            (cv2.CAP_PROP_READ_TIMEOUT_MSEC, _ms(_READ_TIMEOUT_S)),
        )
        # Format -1: the packets of the stream as they come, undecoded.
        is_jpeg = _fourcc(capture) in _JPEG_FOURCCS and capture.set(cv2.CAP_PROP_FORMAT, -1)
        faults = [
            f"{label} {wanted:g} is not applied: a network camera is set by its own means"
            for label, _, wanted in _wanted_controls(self._config)
        ]
        return self._proven(_Opened(capture, is_jpeg, False, {}, faults))

    def _open_device(self) -> _Opened:
        config = self._config
        capture = self._capture(cv2.CAP_V4L2)
        # The pixel format first: the sizes and rates on offer depend on it. The driver's own
        # number of buffers stays: with one, UVC has none to fill while we hold it and loses
        # every other frame, and our thread lets none grow old.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height)
        capture.set(cv2.CAP_PROP_FPS, config.fps)
        is_jpeg = _fourcc(capture) in _JPEG_FOURCCS and capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        settings, faults = apply_controls(capture, config)
        return self._proven(_Opened(capture, is_jpeg, True, settings, faults))

    def _capture(self, backend: int, *parameters: tuple[int, int]) -> cv2.VideoCapture:
        """An open capture.

        Raises:
            DeviceError: it does not open; says why as far as can be seen.
        """
        _quieten()
        source = self._config.source
        flat = [value for pair in parameters for value in pair]
        capture = cv2.VideoCapture(cast(Any, source), backend, flat)
        if not capture.isOpened():
            capture.release()
            raise DeviceError(f"camera {self._name}: {camera_source.why_not_open(source)}")
        return capture

    def _proven(self, opened: _Opened) -> _Opened:
        """The camera again once it has delivered one good image of the right size."""
        try:
            fault = self._first_image_fault(opened)
        except BaseException:
            opened.capture.release()
            raise
        if fault:
            opened.capture.release()
            raise DeviceError(f"camera {self._name}: {fault}")
        return opened

    def _first_image_fault(self, opened: _Opened) -> str:
        fault = ""
        start_ns = self._clock.now_ns()
        for _ in range(_FIRST_FRAME_TRIES):
            ok, image = opened.capture.read()
            if not ok:
                waited_s = (self._clock.now_ns() - start_ns) / NS_PER_S
                return fault or (
                    f"opened, but gave no image within {waited_s:.1f} s; check the cable, "
                    "the USB bandwidth (cameras per hub) and that nobody else reads it"
                )
            fault = self._image_fault(self._jpeg(opened, cast(Image, image)))
            if not fault:
                return ""
        return fault

    def _image_fault(self, delivered: bytes) -> str:
        jpeg = jpeg_header.complete(delivered)
        header = jpeg_header.read_header(jpeg) if jpeg is not None else None
        if jpeg is None or header is None:
            return "delivers images that are not whole JPEGs; check the cable and USB bandwidth"
        config = self._config
        if (header.width, header.height) != (config.width, config.height):
            return (
                f"gives {header.width}x{header.height} images where hardware.yaml asks for "
                f"{config.width}x{config.height}; set width and height to what it offers"
            )
        if header.components != 3:
            return "delivers grey JPEGs, colour is needed; use another fourcc such as YUYV"
        try:
            simplejpeg.decode_jpeg(jpeg, fastdct=True)
        except ValueError as error:
            return f"delivers JPEGs that do not decode ({error}); check cable and firmware"
        return ""


def _encode(image: Image, quality: int) -> bytes:
    return bytes(
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(image), quality, colorspace="BGR", colorsubsampling="420"
        )
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _fourcc(capture: cv2.VideoCapture) -> str:
    return int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1").upper()


def _device_stamp_ns(capture: cv2.VideoCapture, arrival_ns: int) -> int | None:
    """The V4L2 buffer's capture time where it is plausibly of our monotonic clock."""
    stamp_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1_000_000)
    return stamp_ns if 0 <= arrival_ns - stamp_ns <= _STAMP_MAX_AGE_NS else None


def _wanted_controls(config: CameraConfig) -> list[tuple[str, int, float]]:
    """(name, OpenCV property, value) of each image control the rig description sets."""
    table = (
        ("exposure", cv2.CAP_PROP_EXPOSURE, config.exposure),
        ("focus", cv2.CAP_PROP_FOCUS, config.focus),
        ("white_balance_k", cv2.CAP_PROP_WB_TEMPERATURE, config.white_balance_k),
        ("gain", cv2.CAP_PROP_GAIN, config.gain),
    )
    return [(label, prop, value) for label, prop, value in table if value is not None]


_AUTOMATIC_OFF: dict[str, tuple[int, float]] = {
    "exposure": (cv2.CAP_PROP_AUTO_EXPOSURE, _MANUAL_EXPOSURE),
    "focus": (cv2.CAP_PROP_AUTOFOCUS, 0.0),
    "white_balance_k": (cv2.CAP_PROP_AUTO_WB, 0.0),
}


def apply_controls(
    capture: cv2.VideoCapture, config: CameraConfig
) -> tuple[dict[str, float], list[str]]:
    """Set the image controls; returns what was read back, and what did not take in words."""
    settings = {"fps_set": float(capture.get(cv2.CAP_PROP_FPS))}
    faults = []
    if abs(settings["fps_set"] - config.fps) > 0.05 * config.fps:
        faults.append(f"fps: asked {config.fps:g}, the camera took {settings['fps_set']:g}")
    if (got := _fourcc(capture)) != config.fourcc.upper():
        faults.append(f"fourcc: asked {config.fourcc}, the camera took {got}")
    if config.exposure is None:
        capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, _AUTO_EXPOSURE)
    wanted: Sequence[tuple[str, int, float]] = _wanted_controls(config)
    for label, prop, value in wanted:
        if label in _AUTOMATIC_OFF:
            capture.set(*_AUTOMATIC_OFF[label])
        capture.set(prop, value)
        settings[label] = float(capture.get(prop))
        if abs(settings[label] - value) > max(0.5, 0.02 * abs(value)):
            faults.append(f"{label}: asked {value:g}, the camera took {settings[label]:g}")
    return settings, faults


def _quieten() -> None:
    """A lost camera is tried again and again; we report it, the libraries need not."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
