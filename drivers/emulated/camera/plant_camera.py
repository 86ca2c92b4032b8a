"""A camera of the lockstep world: photographs the plant when a frame is due."""

from __future__ import annotations

import logging

from drivers.base import DeviceHealth
from drivers.camera.intake import FrameIntake, poll_period_ns
from drivers.emulated.camera.rendering import SceneRenderer, choose_backend
from drivers.emulated.camera.shutter import Shutter
from drivers.emulated.plant import Plant
from teleop.clock import NS_PER_S, Ticker
from teleop.errors import DeviceLostError
from teleop.messages import Frame
from teleop.rig import OpenCvCamera as CameraConfig

log = logging.getLogger(__name__)


class PlantCamera:
    """See ``drivers.base.CameraDevice``. Exposure and transfer take no time here.

    Faults, as of a real camera: ``freeze`` repeats the last image, ``unplug`` loses the device.

    Args:
        name: of the camera in the rig and in the scene.
        config: size, rate and JPEG quality.
        plant: photographed as it stands when ``take`` is called.
        burn_in: draw number and stamp into the picture, see ``burnt_stamp``.
    """

    def __init__(
        self, name: str, config: CameraConfig, plant: Plant, burn_in: bool = False
    ) -> None:
        self._name = name
        self._config = config
        self._plant = plant
        self._burn_in = burn_in
        self._intake = FrameIntake(config.width, config.height, config.fps)
        self._renderer: SceneRenderer | None = None
        self._shutter: Shutter | None = None
        self._ticker: Ticker | None = None
        self._now_ns = 0
        self._last = b""
        self._frozen = False
        self._unplugged_ns: int | None = None
        self._loss_told = False

    def connect(self) -> None:
        """Start the renderer.

        Raises:
            DeviceError: OpenGL was found to work and then did not start.
        """
        backend = choose_backend()
        log.info("camera %s: rendered by %s", self._name, backend)
        self._renderer = SceneRenderer(self._plant.model, backend)
        self._shutter = Shutter(self._name, self._config, self._renderer, self._burn_in)

    def take(self, now_ns: int) -> list[Frame]:
        """The image due since the last call, if any.

        Raises:
            DeviceLostError: once, after ``unplug``.
        """
        if self._shutter is None:
            raise RuntimeError(f"camera {self._name}: take() before connect()")
        self._now_ns = now_ns
        period_ns = round(NS_PER_S / self._config.fps)
        if self._ticker is None:
            self._ticker = Ticker(period_ns, now_ns)
        # The node asks four times per frame, on ticks of its own rounding: the nearest one is
        # the frame's, so that there is exactly one image in each frame period.
        reach_ns = now_ns + poll_period_ns(self._config.fps) // 2
        if not self._ticker.due(reach_ns):
            return []
        self._ticker.advance(reach_ns)
        if self._unplugged_ns is not None:
            if self._loss_told:
                return []
            self._loss_told = True
            raise DeviceLostError(f"camera {self._name}: unplugged; plug it in again")
        if not (self._frozen and self._last):
            self._last = self._shutter.picture(self._plant.snapshot(), now_ns)
        self._intake.accept(self._last, now_ns, now_ns)
        return self._intake.take()

    def health(self) -> DeviceHealth:
        """Rate and counters, as of the last ``take``."""
        trouble = self._intake.stale_words(self._now_ns)
        if self._unplugged_ns is not None:
            trouble = "unplugged"
        return DeviceHealth(not trouble, trouble, self._intake.values(self._now_ns))

    def freeze(self) -> None:
        """Fault: deliver the last image again and again."""
        self._frozen = True

    def thaw(self) -> None:
        """End of ``freeze``."""
        self._frozen = False

    def unplug(self) -> None:
        """Fault: the device is gone."""
        self._unplugged_ns = self._now_ns
        self._loss_told = False

    def replug(self) -> None:
        """End of ``unplug``; the frames missed are a gap of ``seq``."""
        if self._unplugged_ns is not None:
            self._intake.skip_outage(self._now_ns - self._unplugged_ns)
        self._unplugged_ns = None

    def close(self) -> None:
        """Release the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
