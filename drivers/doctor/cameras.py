"""The doctor's look at cameras: all of them running at their configured rates, at the same time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from drivers.base import CameraDevice, DeviceHealth
from drivers.doctor.checks import Check, driver_warnings, failed, refusal_of, warnings
from drivers.registry import open_camera
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError, TandemError
from teleop.rig import OpenCvCamera, Rig

CAPTURE_S = 2.0
"""At least the window in which the driver measures its rate."""
CAPTURE_POLL_S = 0.05
REPEATS_TOLERATED = 0.02
JPEG_BYTES_PER_PIXEL = 0.4
"""For cameras that could not be tried: what webcams make at most."""
STATE_BYTES, STATES_PER_ARM = 300, 3
"""One message of a seven-joint arm, rounded up; state, command and what was let through."""
TRACE_HZ = 1000.0
"""A Franka's own samples are recorded too, one more message of that size each."""


@dataclass(slots=True)
class CameraTrial:
    """What became of one camera while all of them were running."""

    name: str
    config: OpenCvCamera
    device: CameraDevice
    error: TandemError | None = None
    told: list[str] = field(default_factory=list)
    """The driver's warnings on opening it: settings that did not take."""
    images: int = 0
    image_bytes: int = 0
    before: DeviceHealth = field(default_factory=DeviceHealth)
    after: DeviceHealth = field(default_factory=DeviceHealth)

    @property
    def bytes_per_s(self) -> float:
        """What it makes at its configured rate; an upper estimate when it gave no image."""
        pixels = self.config.width * self.config.height
        size = self.image_bytes / self.images if self.images else JPEG_BYTES_PER_PIXEL * pixels
        return size * self.config.fps

    def open(self) -> None:
        """Connect, keeping the error."""
        self.error = refusal_of(self.device)

    def take(self, now_ns: int) -> None:
        """Count what has come."""
        if self.error is not None:
            return
        try:
            frames = self.device.take(now_ns)
        except DeviceError as error:
            self.error = error
            return
        self.images += len(frames)
        self.image_bytes += sum(len(frame.data) for frame in frames)


def try_cameras(rig: Rig, clock: Clock, seconds: float = CAPTURE_S) -> list[CameraTrial]:
    """Run all cameras of the rig at the same time: they share the USB bandwidth."""
    names = sorted(rig.cameras)
    trials = [
        CameraTrial(name, rig.cameras[name], open_camera(name, rig, clock, None)) for name in names
    ]
    if not trials:
        return []
    with ThreadPoolExecutor(len(trials)) as pool:
        try:
            with driver_warnings() as told:
                list(pool.map(CameraTrial.open, trials))
            for trial in trials:
                trial.told = [t for t in told if t.startswith(f"camera {trial.name}: ")]
                trial.before = trial.device.health()
            end_ns = clock.now_ns() + ns_from_s(seconds)
            while (now_ns := clock.now_ns()) < end_ns:
                clock.sleep_until_ns(now_ns + ns_from_s(CAPTURE_POLL_S))
                for trial in trials:
                    trial.take(clock.now_ns())
            for trial in trials:
                trial.after = trial.device.health()
        finally:
            list(pool.map(lambda trial: trial.device.close(), trials))
    return trials


def camera_checks(trial: CameraTrial, min_rate_fraction: float) -> Iterator[Check]:
    """One camera: opens, its settings, its rate and its images.

    Args:
        trial: What was seen of it.
        min_rate_fraction: Share of its configured rate below which recordings do not pass.
    """
    thing, config = f"camera {trial.name}", trial.config
    if isinstance(config.source, int) or config.source.startswith("/dev/video"):
        seen = f"{config.source} is a name that depends on the order of plugging in"
        remedy = "use its name under /dev/v4l/by-path, or make one: tandem doctor --udev shows how"
        yield Check("warn", thing, seen, remedy)
    if trial.error is not None:
        yield failed(thing, trial.error)
        return
    remedy = "correct it in the rig file to what `v4l2-ctl --list-ctrls-menus` offers"
    yield from warnings(trial.told, remedy)
    if not trial.after.ok:
        remedy = "check cable and power, and run fewer cameras on one USB controller"
        yield Check("fail", thing, trial.after.detail, remedy)
        return
    rate = trial.after.values.get("fps", 0.0)
    size_kb = trial.image_bytes / max(trial.images, 1) / 1e3
    seen = f"{config.width}x{config.height} at {rate:.1f} of {config.fps:g} fps, {size_kb:.0f} kB"
    if rate < min_rate_fraction * config.fps:
        remedy = (
            "spread the cameras over USB controllers, lower fps or size, "
            "or give it more light (auto exposure lengthens in the dark)"
        )
        yield Check("fail", thing, f"{seen}, with all cameras running", remedy)
    else:
        yield Check("ok", thing, f"{seen} an image, with all cameras running")
    yield from _image_checks(trial)


def _image_checks(trial: CameraTrial) -> Iterator[Check]:
    thing = f"camera {trial.name}"
    gone = {
        key: trial.after.values.get(key, 0.0) - trial.before.values.get(key, 0.0)
        for key in ("repeats", "corrupt")
    }
    if gone["repeats"] > max(1.0, REPEATS_TOLERATED * trial.images):
        seen = f"{gone['repeats']:.0f} images repeated the one before, {trial.images} were new"
        yield Check("warn", thing, seen, "set fps to what the camera really makes")
    if gone["corrupt"]:
        seen = f"{gone['corrupt']:.0f} images were damaged, {trial.images} were whole"
        yield Check("warn", thing, seen, "check its cable and the USB hub")


def recording_rate(rig: Rig, trials: Collection[CameraTrial]) -> float:
    """Bytes per second that a recording of the whole rig writes."""
    states = len(rig.arms) * STATES_PER_ARM * rig.rates.arm_hz
    traces = sum(TRACE_HZ for arm in rig.arms.values() if arm.driver == "franka")
    return (states + traces) * STATE_BYTES + sum(trial.bytes_per_s for trial in trials)
