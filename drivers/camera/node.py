"""Publishes the frames of one camera and says how it is doing."""

from __future__ import annotations

import logging
from collections import deque

from drivers.base import CameraDevice
from drivers.camera.intake import poll_period_ns, stale_after_ns
from drivers.registry import open_camera
from teleop import topics
from teleop.clock import NS_PER_S
from teleop.errors import DeviceLostError
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs

log = logging.getLogger(__name__)

_LATENCY_WINDOW_S = 2.0


class CameraNode:
    """One camera on the bus.

    ``health().state`` is ``ok``; ``frozen``: the camera is there and no new image comes;
    ``lost``: it is gone, and is taken up again when it comes back.

    Args:
        name: of the camera in the rig.
        device: connected.
        fps: nominal rate.
    """

    def __init__(self, name: str, device: CameraDevice, fps: float) -> None:
        self.name = name
        self._topic = topics.camera_frame(name)
        self.plan = NodePlan(period_ns=poll_period_ns(fps), publications=(self._topic,))
        self._device = device
        self._stale_after_ns = stale_after_ns(fps)
        self._last_frame_ns: int | None = None
        self._lost = ""
        self._latency_ns: deque[int] = deque(maxlen=max(2, round(fps * _LATENCY_WINDOW_S)))

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Publish what the camera captured since the last step; ``seq`` is the camera's own."""
        if self._last_frame_ns is None:
            self._last_frame_ns = now_ns
        try:
            frames = self._device.take(now_ns)
        except DeviceLostError as error:
            self._lost = str(error)
            log.error("%s", error)
            return []
        if not frames:
            return []
        if self._lost:
            log.warning("camera %s is back", self.name)
            self._lost = ""
        self._last_frame_ns = now_ns
        self._latency_ns.extend(now_ns - frame.stamp_ns for frame in frames)
        return [(self._topic, frame) for frame in frames]

    def health(self, now_ns: int) -> NodeHealth:
        """State as above, the device's counters, and the latency from capture to publishing."""
        device = self._device.health()
        silence_ns = now_ns - self._last_frame_ns if self._last_frame_ns is not None else 0
        values = {**device.values, "silence_s": silence_ns / NS_PER_S}
        if self._latency_ns:
            values["latency_mean_ms"] = sum(self._latency_ns) / len(self._latency_ns) / 1e6
            values["latency_max_ms"] = max(self._latency_ns) / 1e6
        if self._lost:
            return NodeHealth(False, "lost", device.detail or self._lost, values)
        if silence_ns > self._stale_after_ns:
            words = device.detail or f"no image for {silence_ns / NS_PER_S:.1f} s"
            return NodeHealth(False, "frozen", words, values)
        return NodeHealth(True, "ok", device.detail, values)

    def close(self) -> None:
        """Release the camera."""
        self._device.close()


def build(name: str, context: NodeContext) -> CameraNode:
    """The node of a camera of the rig, connected.

    Raises:
        DeviceError: the camera is absent, misconfigured or delivers nothing usable.
    """
    device = open_camera(name, context.rig, context.clock, context.world)
    device.connect()
    return CameraNode(name, device, context.rig.cameras[name].fps)
