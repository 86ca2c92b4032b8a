"""``tandem doctor``: looks at every part of the rig, and says what to mend.

Devices are opened by the drivers that use them later, so that what passes here works there.
Nothing moves and torque is left as found; servo settings that differ from the rig file are put
right, as at every start, and told. A part that fails hides no other.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from drivers import doctor_checks as look
from drivers.arm_faults import TEMPERATURE
from drivers.base import Arm, CameraDevice, DeviceHealth
from drivers.doctor_checks import Check, failed
from drivers.dynamixel_health import SILENT_ROUNDS
from drivers.dynamixel_setup import servos_of
from drivers.registry import open_arm, open_camera
from teleop.clock import Clock, MonotonicClock, ns_from_s
from teleop.errors import DeviceError, MissingExtraError, RigError, TandemError
from teleop.processes import NodeSpec
from teleop.rig import OpenCvCamera, Rig
from teleop.rig_files import load_rig
from teleop.supervisor import Supervisor

FTDI_DEFAULT_MS = 16
WITH_SLOW_ADAPTER_S = 0.05

CAPTURE_S = 2.0
"""At least the window in which the driver measures its rate."""
CAPTURE_POLL_S = 0.05
REPEATS_TOLERATED = 0.02
JPEG_BYTES_PER_PIXEL = 0.4
"""For cameras that could not be tried: what webcams make at most."""
STATE_BYTES, STATES_PER_ARM = 300, 3
"""One message of a seven-joint arm, rounded up; state, command and what was let through."""


def examine(hardware: Path, emulate: bool, out: Path) -> Iterator[Check]:
    """All checks, each given out as soon as it is known.

    Args:
        hardware: The rig file.
        emulate: Start the emulated rig and look at that.
        out: Folder that episodes would be recorded into.
    """
    yield from look.package_checks(emulate)
    try:
        rig = load_rig(hardware)
    except RigError as error:
        for fault in error.faults:
            yield Check("fail", "rig file", f"{error.source}: {fault}")
        return
    seen = f"{hardware}: {rig.name}, {len(rig.arms)} arms, {len(rig.cameras)} cameras"
    yield Check("ok", "rig file", seen)
    yield from look.machine_checks(rig)
    with contextlib.ExitStack() as stack:
        emulator: tuple[int, ...] = ()
        if emulate:
            try:
                rig, pid = stack.enter_context(emulated_rig(rig))
            except TandemError as error:
                yield failed("emulated rig", error)
                return
            emulator = (pid,)
            yield Check("ok", "emulated rig", "runs")
        else:
            yield look.topic_checks(rig)
        clock = MonotonicClock()
        for name in sorted(rig.arms):
            yield from arm_checks(name, rig, clock, emulator)
        trials = try_cameras(rig, clock)
        for trial in trials:
            yield from camera_checks(trial, rig.recording.min_rate_fraction)
        yield from look.disk_checks(rig, out, recording_rate(rig, trials))


@contextlib.contextmanager
def emulated_rig(rig: Rig) -> Iterator[tuple[Rig, int]]:
    """The rig at emulated addresses, running, and the emulator's process id.

    Raises:
        MissingExtraError: the emulator's packages are not installed.
        NodeFailedError: the emulator does not start.
    """
    try:
        from drivers.emulated.addresses import process_rig
        from drivers.emulated.tasks import FREE
    except ImportError as error:
        raise MissingExtraError(error.name or str(error), "sim", "--emulate") from error

    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        emulated = process_rig(rig, Path(folder))
        options = {"task": FREE.name, "hands": False, "runtime_dir": folder}
        spec = NodeSpec("emulator", "drivers.emulated.emulator_node:build", "world", options)
        with Supervisor(emulated, [spec], Path(folder)) as supervisor:
            yield emulated, supervisor.pid(spec.name)


# -- arms -----------------------------------------------------------------------------------


def arm_checks(
    name: str,
    rig: Rig,
    clock: Clock,
    emulator: Collection[int] = (),
    sysfs: Path = Path("/sys"),
) -> Iterator[Check]:
    """One arm, from its port to its pose.

    Args:
        name: The arm's name in the rig.
        rig: The rig.
        clock: Times the readings.
        emulator: Processes that may have the port open.
        sysfs: Where the kernel shows USB adapters.
    """
    config = rig.arms[name]
    port = look.serial_port_check(name, config.port, emulator)
    yield port
    if port.status == "fail":
        return
    latency = look.latency_check(name, config, sysfs)
    yield latency
    if latency.status == "fail":
        rig = _patient(rig, name)  # the rest can be looked at all the same
    arm = open_arm(name, rig, clock, None)
    with driver_warnings() as told:
        refusal = _connect(arm)
    yield from _warnings(told, "")
    if refusal is not None:
        yield failed(name, refusal)
        return
    servos = len(servos_of(rig.arm_model(name)))
    try:
        seen = f"{servos} servos answer at {config.baud} baud and are the models described"
        yield Check("ok", name, seen)
        yield look.servo_check(name, _slow_readings(arm, servos), servos, rig)
        yield look.bus_check(name, arm, 1 / rig.rates.arm_hz, clock)
        yield look.pose_check(name, arm, rig)
    except DeviceError as error:
        yield failed(name, error)
    finally:
        arm.close()


def _patient(rig: Rig, name: str) -> Rig:
    """The rig with an arm whose USB adapter is allowed to be slow."""
    arm = rig.arms[name]
    slack = {
        "usb_latency_timer_ms": FTDI_DEFAULT_MS,
        "read_timeout_s": max(arm.read_timeout_s, WITH_SLOW_ADAPTER_S),
    }
    return rig.model_copy(update={"arms": {**rig.arms, name: arm.model_copy(update=slack)}})


def _slow_readings(arm: Arm, servos: int) -> DeviceHealth:
    """What the arm says once every servo has been asked both of its questions.

    A servo that stays silent is given the rounds after which the driver calls it so.
    """
    polls_per_round = 2 * servos
    for _ in range(SILENT_ROUNDS):
        for _ in range(polls_per_round):
            health = arm.poll_health()
        if not health.ok or sum(key.endswith(TEMPERATURE) for key in health.values) == servos:
            break
    return health


# -- cameras --------------------------------------------------------------------------------


@dataclass(slots=True)
class CameraTrial:
    """What became of one camera while all of them were running."""

    name: str
    config: OpenCvCamera
    device: CameraDevice
    error: DeviceError | None = None
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
        self.error = _connect(self.device)

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
        yield Check("warn", thing, seen, "use its name under /dev/v4l/by-path")
    if trial.error is not None:
        yield failed(thing, trial.error)
        return
    remedy = "correct it in the rig file to what `v4l2-ctl --list-ctrls-menus` offers"
    yield from _warnings(trial.told, remedy)
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
    states = len(rig.arms) * STATES_PER_ARM * rig.rates.arm_hz * STATE_BYTES
    return states + sum(trial.bytes_per_s for trial in trials)


# -- both -----------------------------------------------------------------------------------


def _connect(device: Arm | CameraDevice) -> DeviceError | None:
    """Connect; returns why it did not."""
    try:
        device.connect()
    except DeviceError as error:
        return error
    return None


@contextlib.contextmanager
def driver_warnings() -> Iterator[list[str]]:
    """Collect the drivers' warnings, which become findings instead of lines in between."""
    told: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno < logging.WARNING:
                logging.getLogger().handle(record)
            else:
                told.append(record.getMessage())

    logger, collector = logging.getLogger("drivers"), Collector()
    logger.addHandler(collector)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield told
    finally:
        logger.propagate = propagated
        logger.removeHandler(collector)


def _warnings(told: Collection[str], remedy: str) -> Iterator[Check]:
    """Warnings as findings; they begin with "thing: " as errors do."""
    for sentence in told:
        thing, _, seen = sentence.partition(": ")
        yield Check("warn", thing, seen, remedy)
