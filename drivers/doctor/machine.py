"""The doctor's looks at this machine: packages, clocks, processors, real time, disk."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from drivers.doctor.checks import Check, Status
from teleop.clock import NS_PER_S, MonotonicClock
from teleop.rig import Rig

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

GUIDING = ("mujoco", "mink", "qpsolvers")
"""Modules that arms guided in Cartesian space need; every extra of an input device brings them.
The vendors' packages are missed by their drivers, each in its device's own line."""

COARSEST_CLOCK_S = 1e-6
STEADY_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
"""Clock sources that are read without a slow access to a device."""
TIME_ERROR = 5
"""What adjtimex(2) returns while the wall clock is not synchronised."""
TIMEX_BYTES = 512
"""More than a struct timex has anywhere; zeros ask and set nothing."""
SLOW_GOVERNORS = ("powersave", "conservative")
NEEDED_PRIORITY = 99
"""What libfranka raises its control thread to."""

TRIAL_BYTES = 64 << 20
"""Enough to fill the write cache of a memory card, and written in a second by a slow disk."""
BLOCK_BYTES = 1 << 20
ENOUGH_TIMES = 3
"""Speed of the disk over that of the recording: the finished episode is written beside it,
and other programs write too."""
COPIES = 2
"""The journals and the finished file exist side by side for a moment."""


# -- packages -------------------------------------------------------------------------------


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


def rig_package_checks(rig: Rig, emulate: bool) -> Iterator[Check]:
    """What this rig needs beyond the core, and beyond its devices' own packages."""
    guided = [name for name, arm in rig.followers.items() if arm.input is not None]
    missing = [m for m in GUIDING if importlib.util.find_spec(m) is None]
    if guided and missing:
        seen = f"{', '.join(missing)} not installed, which guide the tool of {', '.join(guided)}"
        yield Check("fail", "packages [ik]", seen, "run: pip install 'tandem-rig[ik]'")
    compiled = {"spacemouse", "openvr"}.intersection(c.driver for c in rig.inputs.values())
    if emulate and compiled and shutil.which("gcc") is None:
        seen = f"no C compiler, by which the emulated {' and '.join(sorted(compiled))} is built"
        yield Check("fail", "compiler", seen, "run: sudo apt install gcc libc6-dev")


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


# -- clocks and processors ------------------------------------------------------------------


def machine_checks(rig: Rig, emulate: bool, sysfs: Path = Path("/sys")) -> Iterator[Check]:
    """Clocks, number of processors, how they save power, and what real time is allowed.

    Args:
        rig: The rig, whose arms ask for more or less.
        emulate: Whether no hardware is used: an emulated robot waits for its commands.
        sysfs: Where the kernel shows its settings.
    """
    yield clock_check(sysfs)
    yield from wall_clock_checks()
    processors = len(os.sched_getaffinity(0))
    seen = f"{processors} for {len(rig.arms)} arms and {len(rig.cameras)} cameras"
    if processors < 2:
        remedy = "give this machine two or more, or expect late ticks"
        yield Check("warn", "processors", seen, remedy)
    else:
        yield Check("ok", "processors", seen)
    yield from _governor_checks(sysfs)
    if not emulate and any(arm.driver == "franka" for arm in rig.arms.values()):
        limit = NEEDED_PRIORITY if os.geteuid() == 0 else own_priority_limit()
        yield from real_time_checks(sysfs, limit, os.uname().version)


def clock_check(sysfs: Path = Path("/sys")) -> Check:
    """Whether the clock that stamps everything is fine and quick."""
    resolution_s = time.get_clock_info("monotonic").resolution
    remedy = "choose the clock source tsc when booting Linux"
    if resolution_s > COARSEST_CLOCK_S:
        seen = f"monotonic clock moves in steps of {resolution_s * 1e3:g} ms"
        return Check("warn", "clock", seen, remedy)
    seen = f"monotonic, resolution {resolution_s * 1e9:.0f} ns"
    file = sysfs / "devices/system/clocksource/clocksource0/current_clocksource"
    source = file.read_text().strip() if file.exists() else ""
    if source and source not in STEADY_CLOCKS:
        return Check("warn", "clock", f"{seen}, from the slow source {source}", remedy)
    return Check("ok", "clock", f"{seen}, from {source}" if source else seen)


def wall_clock_checks() -> Iterator[Check]:
    """Whether the date that episodes and certificates get is right."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):  # not Linux
        return
    if state == TIME_ERROR:
        seen = "not synchronised, so episodes may get a wrong date"
        yield Check("warn", "wall clock", seen, "run: sudo timedatectl set-ntp true")


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


def own_priority_limit() -> int:
    """The real-time priority that this user may ask for."""
    hard = resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
    return NEEDED_PRIORITY if hard == resource.RLIM_INFINITY else hard


def real_time_checks(sysfs: Path, limit: int, kernel: str) -> Iterator[Check]:
    """Whether a robot that wants a command each millisecond is likely to get it.

    Args:
        sysfs: Where the kernel shows its settings.
        limit: Highest real-time priority that this user may ask for.
        kernel: The kernel's version line.
    """
    if limit < NEEDED_PRIORITY:
        remedy = (
            "write '@realtime - rtprio 99' into /etc/security/limits.d/tandem.conf, run: sudo "
            "groupadd -f realtime && sudo usermod -aG realtime $USER, then log out and in again"
        )
        seen = f"rtprio limit {limit}, {NEEDED_PRIORITY} is wanted for the Franka's 1 kHz"
        yield Check("warn", "real-time priority", seen, remedy)
    else:
        yield Check("ok", "real-time priority", f"up to {NEEDED_PRIORITY} is allowed")
    flag = sysfs / "kernel/realtime"
    if "PREEMPT_RT" in kernel or (flag.exists() and flag.read_text().strip() == "1"):
        yield Check("ok", "kernel", "PREEMPT_RT")
    else:
        seen = "without PREEMPT_RT, so commands of a Franka may come late"
        remedy = "install a real-time kernel (Ubuntu Pro: pro enable realtime-kernel)"
        yield Check("warn", "kernel", seen, remedy)


# -- disk -----------------------------------------------------------------------------------


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
