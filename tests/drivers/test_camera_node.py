"""The camera node in virtual time, and the lockstep camera it may hold."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from drivers.base import DeviceHealth
from drivers.camera.node import CameraNode
from drivers.emulated.camera.burnt_stamp import BurntStamp, burn, stamp_of
from drivers.emulated.camera.plant_camera import PlantCamera
from drivers.emulated.plant import Plant
from teleop.clock import NS_PER_S
from teleop.errors import DeviceLostError
from teleop.messages import Frame
from teleop.node import Inputs
from teleop.rig import OpenCvCamera as CameraConfig

FPS = 30.0
PERIOD_NS = round(NS_PER_S / FPS)


class PacedCamera:
    """A camera with a frame each period, 4 ms old when it arrives, and two faults."""

    def __init__(self) -> None:
        self.silent = False
        self.gone = False
        self.closed = False
        self._told = False
        self._seq = -1

    def connect(self) -> None:
        """Nothing to open."""

    def take(self, now_ns: int) -> list[Frame]:
        if self.gone:
            if not self._told:
                self._told = True
                raise DeviceLostError("camera cam: no longer delivers images; plug it in again")
            return []
        due = now_ns // PERIOD_NS
        if self.silent or due == self._seq:
            return []
        self._seq = due
        stamp_ns = due * PERIOD_NS - 4_000_000
        return [Frame(stamp_ns, due, now_ns, "jpeg", 4, 3, b"x")]

    def health(self) -> DeviceHealth:
        return DeviceHealth(values={"fps": FPS})

    def close(self) -> None:
        self.closed = True


def run(node: CameraNode, start_ns: int, seconds: float) -> tuple[list[Frame], int]:
    """Step the node at its period; returns the frames published and the time reached."""
    frames: list[Frame] = []
    now_ns = start_ns
    while now_ns < start_ns + seconds * NS_PER_S:
        for topic, message in node.step(Inputs(), now_ns):
            assert topic == "camera/cam/frame"
            assert isinstance(message, Frame)
            frames.append(message)
        now_ns += node.plan.period_ns
    return frames, now_ns


def test_each_frame_is_published_once_and_soon() -> None:
    """Every capture, in order, at most a quarter of the period after it came."""
    node = CameraNode("cam", PacedCamera(), FPS)
    frames, now_ns = run(node, 0, 2.0)
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert len(frames) == 60
    health = node.health(now_ns)
    assert (health.ok, health.state) == (True, "ok")
    assert health.values["fps"] == FPS
    assert 4.0 <= health.values["latency_mean_ms"] <= health.values["latency_max_ms"] < 4.0 + 8.4


def test_silence_is_frozen_and_ends() -> None:
    """A camera that is there and shows nothing new is named frozen until it does."""
    camera = PacedCamera()
    node = CameraNode("cam", camera, FPS)
    _, now_ns = run(node, 0, 0.5)
    camera.silent = True
    _, now_ns = run(node, now_ns, 0.1)
    assert node.health(now_ns).state == "ok"
    _, now_ns = run(node, now_ns, 0.4)
    health = node.health(now_ns)
    assert (health.ok, health.state) == (False, "frozen")
    assert "no image for 0.5 s" in health.detail
    camera.silent = False
    _, now_ns = run(node, now_ns, 0.1)
    assert node.health(now_ns).state == "ok"


def test_loss_is_reported_and_survived() -> None:
    """A lost camera does not end the node; frames after it carry on with a seq gap."""
    camera = PacedCamera()
    node = CameraNode("cam", camera, FPS)
    before, now_ns = run(node, 0, 0.5)
    camera.gone = True
    during, now_ns = run(node, now_ns, 1.0)
    health = node.health(now_ns)
    assert (during, health.ok, health.state) == ([], False, "lost")
    assert "plug it in" in health.detail
    camera.gone = False
    after, now_ns = run(node, now_ns, 0.5)
    assert after[0].seq > before[-1].seq + 20
    assert node.health(now_ns).state == "ok"


def test_a_camera_that_never_delivers_is_frozen_from_the_start() -> None:
    """Silence counts from the first step."""
    camera = PacedCamera()
    camera.silent = True
    node = CameraNode("cam", camera, FPS)
    _, now_ns = run(node, 5 * NS_PER_S, 1.0)
    assert node.health(now_ns).state == "frozen"


def test_closing_releases_the_camera() -> None:
    """The device is closed with its node."""
    camera = PacedCamera()
    CameraNode("cam", camera, FPS).close()
    assert camera.closed


@pytest.fixture
def plant() -> Plant:
    return Plant(("right_follower",), "transfer_cube", 0)


def lockstep_frames(plant: Plant, fps: float, seconds: float) -> list[Frame]:
    camera = PlantCamera(
        "cam_high", CameraConfig(source="virtual:cam", width=128, height=96, fps=fps), plant, True
    )
    camera.connect()
    node = CameraNode("cam", camera, fps)
    frames, _ = run(node, 1_000, seconds)
    node.close()
    return frames


@pytest.mark.parametrize("fps", [30.0, 50.0, 59.94])
def test_lockstep_has_exactly_one_frame_per_period(plant: Plant, fps: float) -> None:
    """No frame is doubled or missed although the node's ticks are rounded to nanoseconds."""
    frames = lockstep_frames(plant, fps, 3.0)
    period_ns = NS_PER_S / fps
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert len(frames) == pytest.approx(3.0 * fps, abs=1)
    for k, frame in enumerate(frames):
        assert abs(frame.stamp_ns - 1_000 - k * period_ns) < period_ns / 4


def test_lockstep_frames_are_the_same_bytes_each_time(plant: Plant) -> None:
    """Same plant, same times: byte-identical, which journals of two runs depend on."""
    first = lockstep_frames(plant, FPS, 0.2)
    again = lockstep_frames(plant, FPS, 0.2)
    assert [frame.data for frame in first] == [frame.data for frame in again]
    assert len({frame.data for frame in first}) == len(first)


def test_lockstep_picture_shows_the_moment_of_its_stamp(plant: Plant) -> None:
    """The burnt-in time read back from the decoded picture is the frame's capture stamp."""
    for number, frame in enumerate(lockstep_frames(plant, FPS, 0.2)):
        image = simplejpeg.decode_jpeg(frame.data)
        assert stamp_of(image) == BurntStamp(number, frame.stamp_ns)


def test_lockstep_faults_are_seen_by_the_node(plant: Plant) -> None:
    """Freeze and unplug of the emulated camera end as the same states as on the rig."""
    camera = PlantCamera(
        "cam_high", CameraConfig(source="virtual:cam", width=64, height=48, fps=FPS), plant
    )
    camera.connect()
    node = CameraNode("cam", camera, FPS)
    before, now_ns = run(node, 0, 0.2)
    camera.freeze()
    frozen, now_ns = run(node, now_ns, 0.5)
    health = node.health(now_ns)
    assert (frozen, health.state) == ([], "frozen")
    assert "same image" in health.detail
    camera.thaw()
    camera.unplug()
    _, now_ns = run(node, now_ns, 0.5)
    assert node.health(now_ns).state == "lost"
    camera.replug()
    after, now_ns = run(node, now_ns, 0.2)
    assert node.health(now_ns).state == "ok"
    assert after[0].seq >= before[-1].seq + 29
    node.close()


def test_an_image_without_stamp_has_none() -> None:
    """Nothing is read into a picture that carries no stamp, nor into a damaged one."""
    image = np.full((96, 128, 3), 90, np.uint8)
    assert stamp_of(image) is None
    burn(image, BurntStamp(7, 123_456_789))
    assert stamp_of(image) == BurntStamp(7, 123_456_789)
    image[:4, 8:12] = 255 - image[:4, 8:12]
    assert stamp_of(image) is None
    assert stamp_of(np.zeros((8, 8, 3), np.uint8)) is None
