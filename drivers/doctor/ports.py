"""The doctor's looks at serial ports: there, permitted, free, stably named, quick; and whose."""

from __future__ import annotations

import grp
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from drivers.doctor.checks import Check, failed, install_udev
from drivers.dynamixel.bus import check_latency_timer
from drivers.dynamixel.port import programs_using
from teleop.errors import DeviceError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm

PROGRAMS = (
    ("xs_sdk", "an Interbotix ROS node"),
    ("interbotix", "an Interbotix ROS program"),
    ("roscore", "ROS"),
    ("rosmaster", "ROS"),
    ("roslaunch", "ROS"),
    ("ros2", "ROS 2"),
    ("lerobot", "LeRobot"),
    ("DynamixelWizard", "Dynamixel Wizard"),
    ("dynamixel_wizard", "Dynamixel Wizard"),
    ("ModemManager", "ModemManager, which tries every new serial port for a modem"),
    ("brltty", "brltty, which takes USB serial adapters for Braille displays"),
    ("tandem", "Tandem"),
)
"""How the names of programs begin that take serial ports, and what they are."""
RIVALS = (
    *("xs_sdk", "interbotix", "roscore", "rosmaster", "lerobot"),
    *("DynamixelWizard", "dynamixel_wizard", "ModemManager", "brltty"),
)
"""Those that want a servo bus for themselves, or spoil it."""
SERVICES = ("ModemManager", "brltty")
ROS = ("xs_sdk", "interbotix", "roscore", "rosmaster")
WORDS_LOOKED_AT = 4
"""Of a command line: interpreter, options, script or module."""


def serial_port_check(arm: str, port: str, ours: Collection[int] = ()) -> Check:
    """Whether an arm's port is there, permitted, not in use and named stably.

    Args:
        arm: Name of the arm.
        port: Path of the port.
        ours: Processes that may have it open, and their children: an emulator at its other end.
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
            remedy = f"run: {install_udev()}, and join the group dialout"
        return Check("fail", thing, f"{port} is for root and the group {group} only", remedy)
    users = [user for user in programs_using(port) if not _may_stay(_pid_of(user), ours)]
    if users:
        remedy = "close that program first: two on one bus take each other's answers"
        return Check("fail", thing, f"{port} is open in {', '.join(map(_known, users))}", remedy)
    if not path.is_symlink() and not path.is_relative_to("/dev/serial"):
        names = [str(link) for link in _stable_ports() if link.resolve() == path.resolve()]
        remedy = f"use {names[0]}" if names else "make a name: tandem doctor --udev shows how"
        seen = f"{port} is a name that depends on the order of plugging in"
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, f"{port} is {path.resolve()}, permitted and free")


def latency_check(name: str, config: DynamixelArm, sysfs: Path) -> Check:
    """Whether the USB adapter hands bytes over soon enough."""
    limit_ms = config.usb_latency_timer_ms
    try:
        check_latency_timer(name, config.port, limit_ms, sysfs)
    except DeviceError as error:
        check = failed(name, error)
        lasting = f"{check.remedy} (for good: {install_udev()})"
        return Check("fail", name, check.seen, lasting)
    return Check("ok", f"{name} adapter", f"its latency timer, if it has one, is {limit_ms} ms")


def rival_checks(rig: Rig, proc: Path = Path("/proc")) -> Iterator[Check]:
    """Programs that run now and are known to take servo ports, whether or not they have one yet."""
    if not any(isinstance(arm, DynamixelArm) for arm in rig.arms.values()):
        return
    ros_is_ours = any(arm.driver == "interbotix" for arm in rig.arms.values())
    for entry in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        begins, what = _kind_of(entry)
        if begins not in RIVALS or (ros_is_ours and begins in ROS):
            continue
        remedy = "end it before the rig starts"
        if begins in SERVICES:
            remedy = f"{remedy}, or keep it away for good: sudo apt purge {begins.lower()}"
        seen = f"{begins} (pid {entry.name}) runs; it is {what}"
        yield Check("warn", "other programs", seen, remedy)


def _known(user: str) -> str:
    """``name (pid N)`` with what it is, where that is known."""
    _, what = _kind_of(Path("/proc") / str(_pid_of(user)))
    return f"{user}, which is {what}" if what else user


def _pid_of(user: str) -> int:
    return int(user.rpartition("(pid ")[2].rstrip(")"))


def _may_stay(pid: int, ours: Collection[int]) -> bool:
    """Whether a process is one of ours, was started by one, or has ended meanwhile.

    A child that is just being started holds its parent's files for a moment.
    """
    while pid > 1 and pid not in ours:
        try:
            status = (Path("/proc") / str(pid) / "stat").read_text()
        except OSError:  # it has ended
            return True
        pid = int(status.rpartition(")")[2].split()[1])
    return pid in ours


def _kind_of(process: Path) -> tuple[str, str]:
    """The beginning of ``PROGRAMS`` that a process matches, and what that is; or two blanks."""
    try:
        line = (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return "", ""
    words = line.decode(errors="replace").split("\0")[:WORDS_LOOKED_AT]
    names = [Path(word).name for word in words]
    for begins, what in PROGRAMS:
        if any(name.startswith(begins) for name in names):
            return begins, what
    return "", ""


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
