"""The emulated cameras of the process runner: own process, real driver, real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import simplejpeg

from drivers.camera.opencv_camera import OpenCvCamera
from drivers.emulated.camera.burnt_stamp import BurntStamp, stamp_of
from drivers.emulated.camera.mjpeg_camera import MjpegServer
from drivers.emulated.camera.process import CameraJob, CameraProcess
from drivers.emulated.plant import Plant
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import Frame
from teleop.rig import OpenCvCamera as CameraConfig
from tests.waiting import wait_until

CLOCK = MonotonicClock()
ARMS = ("right_follower",)
PATIENCE_S = 30.0


def config(source: str = "virtual:cam") -> CameraConfig:
    return CameraConfig(source=source, width=160, height=120, fps=30)


def job(**changes: object) -> CameraJob:
    cameras = {"cam_high": config(), "cam_right_wrist": config()}
    base: dict[str, object] = {"cameras": cameras, "backend": "sketch", "burn_in": True}
    return CameraJob(ARMS, "transfer_cube", **(base | changes))  # type: ignore[arg-type]


class Stage:
    """A plant shown to a camera process, and drivers that read its cameras."""

    def __init__(self) -> None:
        self.plant = Plant(ARMS, "transfer_cube", 0)
        self.process = CameraProcess(job(), self.plant.snapshot(), CLOCK.now_ns())
        self.cameras = {name: self._open(name) for name in ("cam_high", "cam_right_wrist")}

    def _open(self, name: str) -> OpenCvCamera:
        camera = OpenCvCamera(
            name, config(f"http://127.0.0.1:{self.process.port}/{name}.mjpg"), CLOCK
        )
        camera.connect()
        return camera

    def close(self) -> None:
        for camera in self.cameras.values():
            camera.close()
        self.process.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def stamp_in(frame: Frame) -> BurntStamp:
    stamp = stamp_of(simplejpeg.decode_jpeg(frame.data))
    assert stamp is not None, "the burnt-in stamp is not readable"
    return stamp


def test_pictures_show_the_pose_that_was_handed_over(stage: Stage) -> None:
    """The burnt-in time of the pictures becomes that of the newest pose, before it arrives."""
    for camera in stage.cameras.values():
        shown_ns = CLOCK.now_ns()
        stage.process.show(shown_ns, stage.plant.snapshot())
        seen: list[Frame] = []

        def newest_pose_seen(
            camera: OpenCvCamera = camera, seen: list[Frame] = seen, shown_ns: int = shown_ns
        ) -> bool:
            seen.extend(camera.take(CLOCK.now_ns()))
            return bool(seen) and stamp_in(seen[-1]).stamp_ns == shown_ns

        wait_until(newest_pose_seen, "a picture of the newest pose", PATIENCE_S)
        numbers = [stamp_in(frame).number for frame in seen]
        assert numbers == sorted(set(numbers))
        assert seen[-1].stamp_ns > shown_ns


def test_a_fault_can_be_asked_for_and_ended(stage: Stage) -> None:
    """Unplug and re-plug reach the server of the other process, for one camera only."""
    camera, other = stage.cameras["cam_high"], stage.cameras["cam_right_wrist"]
    stage.process.fault("cam_high", "unplug")
    lost: list[str] = []

    def told() -> bool:
        try:
            camera.take(CLOCK.now_ns())
        except DeviceLostError as error:
            lost.append(str(error))
        return bool(lost)

    wait_until(told, "the loss", PATIENCE_S)
    other.take(CLOCK.now_ns())
    wait_until(lambda: bool(other.take(CLOCK.now_ns())), "a frame of the other camera", PATIENCE_S)
    stage.process.fault("cam_high", "replug")
    wait_until(lambda: bool(camera.take(CLOCK.now_ns())), "the camera to be back", PATIENCE_S)
    with pytest.raises(ValueError, match="unplug"):
        stage.process.fault("cam_high", "explode")


def test_a_camera_that_the_scene_lacks_is_refused() -> None:
    """The rig asks for a view that nobody can render: said at start, with the known names."""
    plant = Plant(ARMS, "transfer_cube", 0)
    with pytest.raises(DeviceError, match=r"cam_hihg.*cam_high"):
        CameraProcess(job(cameras={"cam_hihg": config()}), plant.snapshot(), 0)


def test_a_taken_port_is_refused() -> None:
    """The server's port is in use: said at start."""
    plant = Plant(ARMS, "transfer_cube", 0)
    holder = MjpegServer(["cam"])
    with pytest.raises(DeviceError, match=str(holder.port)):
        CameraProcess(job(port=holder.port), plant.snapshot(), 0)
    holder.close()
