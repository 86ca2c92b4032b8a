"""The single looks of the doctor: packages, processor, topic ports, disk, and an arm's parts.

Each function looks at one thing, already opened where that is needed, and returns what it found.
"""

from __future__ import annotations

import grp
import importlib
import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from calibration.joints import finger_distance_m, gripper_scale
from drivers.arm_faults import TEMPERATURE, VOLTAGE
from drivers.base import Arm, DeviceHealth
from drivers.dynamixel_bus import check_latency_timer
from drivers.dynamixel_port import programs_using
from teleop.addresses import topics_of
from teleop.bus import Bus
from teleop.clock import NS_PER_S, Clock, MonotonicClock
from teleop.errors import BusError, DeviceError, TandemError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm

Status = Literal["ok", "warn", "fail"]

CORE = ("numpy", "h5py", "msgpack", "zmq", "cv2", "simplejpeg", "dynamixel_sdk")
"""Imported for good: a package may be there and its system libraries not."""

EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "sim": (("mujoco", "mink", "qpsolvers"), "--emulate, --lockstep and tandem evaluate"),
    "train": (
        ("torch", "safetensors", "tqdm", "tyro"),
        "tandem train, tandem deploy and tandem evaluate",
    ),
    "plot": (("matplotlib",), "the pictures of tandem inspect and tandem train"),
}
"""Extra: its modules, and the commands that need them."""

COARSEST_CLOCK_S = 1e-6
SLOW_GOVERNORS = ("powersave", "conservative")

READINGS = 50
"""Enough for one bad cable contact in twenty packets to show."""
POSE_MARGIN_RAD = 0.15
"""An arm at rest hangs a little beyond its limits."""
OPENING_MARGIN = 0.15
"""Fingers give way: a gripper squeezed or spread by hand reads beyond 0 and 1."""

TRIAL_BYTES = 64 << 20
"""Enough to fill the write cache of a memory card, and written in a second by a slow disk."""
BLOCK_BYTES = 1 << 20
ENOUGH_TIMES = 3
"""Speed of the disk over that of the recording: the finished episode is written beside it,
and other programs write too."""
COPIES = 2
"""The journals and the finished file exist side by side for a moment."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    status: Status
    thing: str
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.thing}: {self.seen}" + (
            f"; {self.remedy}" if self.remedy else ""
        )


def failed(thing: str, error: TandemError) -> Check:
    """An error as a finding; errors are one sentence "thing: seen; remedy"."""
    sentence = str(error).removeprefix(f"{thing}: ")
    seen, _, remedy = sentence.rpartition("; ")
    return Check("fail", thing, seen, remedy) if seen else Check("fail", thing, sentence)


def package_checks(emulate: bool) -> list[Check]:
    """Whether everything that commands import is there; extras only warn unless used now."""
    checks = [_core_check()]
    for extra, (modules, purpose) in EXTRAS.items():
        thing = f"packages [{extra}]"
        if missing := [m for m in modules if importlib.util.find_spec(m) is None]:
            status: Status = "fail" if emulate and extra == "sim" else "warn"
            seen = f"{', '.join(missing)} not installed, which {purpose} need"
            checks.append(Check(status, thing, seen, f"run: pip install 'tandem-rig[{extra}]'"))
        else:
            found = ", ".join(f"{module} {_version(module)}" for module in modules)
            checks.append(Check("ok", thing, found))
    return checks


def _core_check() -> Check:
    broken = []
    for module in CORE:
        try:
            importlib.import_module(module)
        except ImportError as error:
            broken.append(f"{module} cannot be imported ({error})")
    if broken:
        return Check("fail", "packages", "; ".join(broken), "run: pip install tandem-rig")
    return Check("ok", "packages", ", ".join(f"{m} {_version(m)}" for m in CORE))


def _version(module: str) -> str:
    names = {"cv2": "opencv-python-headless", "zmq": "pyzmq", "dynamixel_sdk": "dynamixel-sdk"}
    try:
        return version(names.get(module, module))
    except PackageNotFoundError:  # installed by other means, such as a distribution's opencv
        return "of unknown version"


def machine_checks(rig: Rig, sysfs: Path = Path("/sys")) -> list[Check]:
    """Clock resolution, number of processors and how they save power."""
    resolution_s = time.get_clock_info("monotonic").resolution
    checks = [Check("ok", "clock", f"monotonic, resolution {resolution_s * 1e9:.0f} ns")]
    if resolution_s > COARSEST_CLOCK_S:
        seen = f"monotonic clock moves in steps of {resolution_s * 1e3:g} ms"
        checks = [Check("warn", "clock", seen, "choose the clock source tsc when booting Linux")]
    processors = len(os.sched_getaffinity(0))
    seen = f"{processors} for {len(rig.arms)} arms and {len(rig.cameras)} cameras"
    if processors < 2:
        remedy = "give this machine two or more, or expect late ticks"
        checks.append(Check("warn", "processors", seen, remedy))
    else:
        checks.append(Check("ok", "processors", seen))
    return [*checks, *_governor_checks(sysfs)]


def _governor_checks(sysfs: Path) -> list[Check]:
    files = sysfs.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    governors = sorted({file.read_text().strip() for file in files})
    if not governors:  # a virtual machine: its host decides
        return []
    seen = f"governor {', '.join(governors)}"
    if any(governor in SLOW_GOVERNORS for governor in governors):
        remedy = "late ticks are likelier; run: sudo cpupower frequency-set -g performance"
        return [Check("warn", "processor speed", seen, remedy)]
    return [Check("ok", "processor speed", seen)]


def topic_checks(rig: Rig) -> Check:
    """Whether all topics that this machine publishes can be bound now."""
    thing = "topic ports"
    endpoints = rig.network.endpoints
    ours = [t for t in topics_of(rig) if t not in endpoints or endpoints[t].peer is None]
    faults = []
    try:
        with Bus(rig) as bus:
            for topic in ours:
                try:
                    bus.publisher([topic]).close()
                except BusError as error:
                    faults.append(str(error))
    except BusError as error:  # its keys are not in order
        return failed(thing, error)
    if faults:
        seen = f"{len(faults)} of {len(ours)} cannot be bound, the first: {faults[0]}"
        return Check("fail", thing, seen, "stop the other session")
    first, host = rig.network.base_port, rig.network.host
    return Check("ok", thing, f"{len(ours)} are free on {host} from {first} on")


def serial_port_check(arm: str, port: str, ours: Collection[int] = ()) -> Check:
    """Whether an arm's port is there, permitted, not in use and named stably.

    Args:
        arm: Name of the arm.
        port: Path of the port.
        ours: Processes that may have it open: an emulator at its other end.
    """
    thing, path = f"{arm} port", Path(port)
    if not path.exists():
        dangling = f" (a link to {path.readlink()})" if path.is_symlink() else ""
        remedy = f"plug the arm in, or correct its port in the rig file; {_ports_here()}"
        return Check("fail", thing, f"{port}{dangling} does not exist", remedy)
    if not path.is_char_device():
        remedy = f"correct its port in the rig file; {_ports_here()}"
        return Check("fail", thing, f"{port} is not a serial port", remedy)
    if not os.access(path, os.R_OK | os.W_OK):
        group = _group_of(path)
        remedy = f"run: sudo usermod -aG {group} $USER, then log out and in again"
        if group == "root":  # nobody should join that
            remedy = "give it to the group dialout by a udev rule, and join that group"
        return Check("fail", thing, f"{port} is for root and the group {group} only", remedy)
    users = [u for u in programs_using(port) if not u.endswith(tuple(f"(pid {p})" for p in ours))]
    if users:
        remedy = "close that program first: two on one bus take each other's answers"
        return Check("fail", thing, f"{port} is open in {', '.join(users)}", remedy)
    if not path.is_symlink() and not path.is_relative_to("/dev/serial"):
        names = [str(link) for link in _stable_ports() if link.resolve() == path.resolve()]
        remedy = f"use {names[0]}" if names else "make a name by a udev rule with its serial number"
        seen = f"{port} is a name that depends on the order of plugging in"
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, f"{port} is {path.resolve()}, permitted and free")


def _stable_ports() -> list[Path]:
    return sorted(Path("/dev/serial/by-id").glob("*"))


def _ports_here() -> str:
    names = ", ".join(str(link) for link in _stable_ports())
    return f"this machine has {names or 'no USB serial port'}"


def _group_of(path: Path) -> str:
    number = path.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:  # a container without the host's groups
        return str(number)


def latency_check(name: str, config: DynamixelArm, sysfs: Path) -> Check:
    """Whether the USB adapter hands bytes over soon enough."""
    limit_ms = config.usb_latency_timer_ms
    try:
        check_latency_timer(name, config.port, limit_ms, sysfs)
    except DeviceError as error:
        return failed(name, error)
    return Check("ok", f"{name} adapter", f"its latency timer, if it has one, is {limit_ms} ms")


def servo_check(name: str, health: DeviceHealth, servos: int, rig: Rig) -> Check:
    """Temperature, supply voltage and hardware errors of all servos."""
    thing, safety = f"{name} servos", rig.safety
    if not health.ok:
        remedy = "remove the cause, then switch the arm's power off and on"
        return Check("fail", thing, health.detail, remedy)
    heat = _values(health, TEMPERATURE)
    volts = _values(health, VOLTAGE)
    if len(heat) < servos or len(volts) < servos:
        seen = f"only {len(heat)} of {servos} tell their temperature"
        return Check("fail", thing, seen, "check the cables between the servos")
    hottest, weakest = max(heat, key=heat.__getitem__), min(volts, key=volts.__getitem__)
    seen = (
        f"no error, hottest {hottest} with {heat[hottest]:.0f} C, "
        f"supply {volts[weakest]:.1f} to {max(volts.values()):.1f} V"
    )
    if heat[hottest] > safety.max_temperature_c:
        remedy = f"over {safety.max_temperature_c:g} C: let the arm cool at its rest pose"
        return Check("fail", thing, seen, remedy)
    if volts[weakest] < safety.min_voltage_v:
        remedy = f"under {safety.min_voltage_v:g} V at {weakest}: check power supply and plugs"
        return Check("fail", thing, seen, remedy)
    return Check("ok", thing, seen)


def _values(health: DeviceHealth, ending: str) -> dict[str, float]:
    return {k.removesuffix(ending): v for k, v in health.values.items() if k.endswith(ending)}


def bus_check(name: str, arm: Arm, period_s: float, clock: Clock) -> Check:
    """How long readings take, and whether some had to be repeated.

    Raises:
        DeviceError: a reading failed for good.
    """
    thing = f"{name} bus"
    spent_s = []
    for _ in range(READINGS):
        start_ns = clock.now_ns()
        arm.read()
        spent_s.append((clock.now_ns() - start_ns) / 1e9)
    median_s = statistics.median(spent_s)
    repeated = arm.poll_health().values.get("read_retries", 0.0)
    seen = f"{READINGS} readings of {median_s * 1e3:.1f} ms, {repeated:.0f} repeated"
    if median_s > period_s:
        remedy = f"over the {period_s * 1e3:g} ms of rates.arm_hz: raise baud or lower the rate"
        return Check("warn", thing, seen, remedy)
    if repeated:
        remedy = "packets get lost: check the bus cables and plugs, and the USB hub"
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, seen)


def pose_check(name: str, arm: Arm, rig: Rig) -> Check:
    """Whether joints read within their limits and the gripper within its calibrated range.

    Raises:
        DeviceError: the arm cannot be read.
    """
    thing, reading = f"{name} pose", arm.read()
    joints = rig.arm_model(name).joints
    low = np.array([joint.min_rad for joint in joints]) - POSE_MARGIN_RAD
    high = np.array([joint.max_rad for joint in joints]) + POSE_MARGIN_RAD
    angles = reading.position_rad
    beyond = [
        f"{joint.name} at {angle:.2f} rad ({joint.min_rad:g} to {joint.max_rad:g})"
        for joint, angle, out in zip(joints, angles, (angles < low) | (angles > high), strict=True)
        if out
    ]
    if beyond:
        remedy = "check limits and drive modes in the rig file, and how the horn is mounted"
        return Check("warn", thing, f"beyond its limits: {', '.join(beyond)}", remedy)
    if reading.gripper is None:
        return Check("ok", thing, "all joints within their limits, no gripper")
    seen = f"gripper opening {reading.gripper:.2f}{_fingers(name, rig, reading.gripper)}"
    if not -OPENING_MARGIN <= reading.gripper <= 1 + OPENING_MARGIN:
        remedy = f"0 is closed, 1 open: set gripper_closed_rad and gripper_open_rad of {name}"
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, f"all joints within their limits, {seen}")


def _fingers(name: str, rig: Rig, opening: float) -> str:
    """How far apart the fingers should be seen; empty when the crank is not described."""
    gripper, scale = rig.arm_model(name).gripper, gripper_scale(rig.arms[name], rig.arm_model(name))
    if gripper is None or scale is None or not gripper.horn_radius_m or not gripper.arm_length_m:
        return ""
    angle = scale.angle_rad(opening)
    half_m = finger_distance_m(angle, gripper.horn_radius_m, gripper.arm_length_m)
    return f", fingers {2000 * half_m:.0f} mm apart"


def disk_checks(rig: Rig, out: Path, bytes_per_s: float) -> list[Check]:
    """Room and speed of the disk that episodes would go to.

    Args:
        rig: Gives the longest episode and the reserve.
        out: The folder; it need not exist yet.
        bytes_per_s: What a recording with all cameras writes.
    """
    folder = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    thing = f"disk of {out}"
    longest_s = max((task.max_seconds for task in rig.tasks.values()), default=0.0)
    needed = rig.recording.min_free_bytes + COPIES * longest_s * bytes_per_s
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Check("fail", thing, f"cannot be looked at: {error}", "choose another --out")]
    seen = f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for {longest_s:g} s"
    if free < needed:
        return [Check("fail", thing, seen, "make room or choose another --out")]
    return [Check("ok", thing, seen), _disk_speed_check(thing, folder, bytes_per_s)]


def _disk_speed_check(thing: str, folder: Path, needed_per_s: float) -> Check:
    try:
        per_s = write_speed(folder)
    except OSError as error:
        seen = f"cannot be written to: {error.strerror or error}"
        return Check("fail", thing, seen, "correct the permissions or choose another --out")
    seen = f"writes {per_s / 1e6:.0f} MB/s, a recording makes {needed_per_s / 1e6:.1f} MB/s"
    remedy = "choose a faster disk by --out, or fewer or smaller cameras"
    if per_s < needed_per_s:
        return Check("fail", thing, seen, remedy)
    if per_s < ENOUGH_TIMES * needed_per_s:
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, seen)


def write_speed(folder: Path) -> float:
    """Bytes per second that really reach the disk; leaves nothing behind.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    block = os.urandom(BLOCK_BYTES)  # some disks and file systems compress
    clock = MonotonicClock()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        start_ns = clock.now_ns()
        for _ in range(TRIAL_BYTES // BLOCK_BYTES):
            if file.write(block) != BLOCK_BYTES:
                raise OSError("the disk is full")
        os.fsync(file.fileno())
    return TRIAL_BYTES * NS_PER_S / (clock.now_ns() - start_ns)
