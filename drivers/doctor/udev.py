"""udev rules for a rig's devices: permissions, quick adapters, names that last."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from drivers.doctor.checks import install_udev
from drivers.doctor.usb import usb_folder
from drivers.spacemouse.hid import UDEV_FILE, UDEV_RULE
from teleop.errors import DeviceError, RigError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm
from teleop.rig_files import load_rig

FOLDER = Path("/etc/udev/rules.d")
DYNAMIXEL_FILE = str(FOLDER / "70-tandem-dynamixel.rules")
"""Below 73, where systemd turns the tag ``uaccess`` into a permission."""
FTDI = (("0403", "6014"), ("0403", "6001"))
"""USB ids of ROBOTIS U2D2 (FT232H), and of the older USB2Dynamixel (FT232R)."""
NAMES_FILE = str(FOLDER / "71-tandem-names.rules")
"""After 60-persistent-*.rules, which read the serial numbers."""

DYNAMIXEL_RULE = """\
# U2D2 adapters: hand bytes over after 1 ms, not 16; no modem; for the group dialout.
""" + "".join(
    f"""\
ACTION!="remove", SUBSYSTEM=="tty", ATTRS{{idVendor}}=="{vendor}", \
ATTRS{{idProduct}}=="{product}", ATTR{{device/latency_timer}}="1", \
ENV{{ID_MM_DEVICE_IGNORE}}="1", MODE="0660", GROUP="dialout", TAG+="uaccess"
"""
    for vendor, product in FTDI
)
NAMES_HEAD = """\
# Names that last. Unplug all but one device to see which is which, give each line its name, and
# take the # away at its beginning.
"""
RELOAD = (("udevadm", "control", "--reload-rules"), ("udevadm", "trigger"))


def rule_files(rig: Rig | None, sysfs: Path = Path("/sys")) -> dict[str, str]:
    """The rules, by the file that they belong into.

    Args:
        rig: The rig whose ports and cameras are to get names; without one, nobody's.
        sysfs: Where the kernel shows what is plugged in.
    """
    files = {DYNAMIXEL_FILE: DYNAMIXEL_RULE, UDEV_FILE: UDEV_RULE}
    if rig is not None and (lines := [*_port_names(rig, sysfs), *_camera_names(rig, sysfs)]):
        files[NAMES_FILE] = NAMES_HEAD + "".join(f"{line}\n" for line in lines)
    return files


def _port_names(rig: Rig, sysfs: Path) -> Iterator[str]:
    """A line for each adapter that is plugged in, with the names that the rig file wants."""
    wanted = [Path(a.port).name for a in rig.arms.values() if isinstance(a, DynamixelArm)]
    for tty in sorted((sysfs / "class/tty").glob("ttyUSB*")):
        folder = usb_folder(tty / "device")
        serial = folder / "serial" if folder is not None else None
        if folder is None or serial is None or not serial.is_file():
            continue
        yield (
            f'# SUBSYSTEM=="tty", ATTRS{{serial}}=="{serial.read_text().strip()}", '
            f'SYMLINK+="{" or ".join(wanted)}"'
        )


def _camera_names(rig: Rig, sysfs: Path) -> Iterator[str]:
    """The same for cameras, by the USB port: few cameras have a serial number of their own."""
    wanted = [Path(str(c.source)).name for c in rig.cameras.values()]
    seen = set()
    for video in sorted((sysfs / "class/video4linux").glob("video*")):
        folder = usb_folder(video / "device")
        if folder is None or folder in seen:
            continue
        seen.add(folder)
        yield (
            f'# SUBSYSTEM=="video4linux", ATTR{{index}}=="0", KERNELS=="{folder.name}", '
            f'SYMLINK+="{" or ".join(wanted)}"'
        )


def shown(files: Mapping[str, str]) -> str:
    """All files with their names, to be read or piped."""
    return "\n".join(f"# --- {name}\n{text}" for name, text in files.items())


def install(files: Mapping[str, str], root: Path = Path("/")) -> list[str]:
    """Write the files; names that somebody has edited are left alone.

    Another file that differs is kept beside ours as ``*.rules.old``, which udev does not read.

    Args:
        files: From ``rule_files``.
        root: Put before every name.

    Returns:
        What was done, and what is left to do, one line each.

    Raises:
        DeviceError: not permitted, or there is no udev.
    """
    done = []
    for name, text in files.items():
        path = root / name.lstrip("/")
        if name == NAMES_FILE and path.exists():
            done.append(f"{path} is there already, and stays as it is")
            continue
        try:
            kept = _put_aside(path, text) if path.exists() else ""
            if kept is None:
                done.append(f"{path} is up to date")
                continue
            path.write_text(text)
        except PermissionError:
            raise DeviceError(
                f"udev: {path} may be written by root only; run: {install_udev()}"
            ) from None
        except OSError as error:
            raise DeviceError(
                f"udev: {path} cannot be written ({error.strerror}); does this machine use udev?"
            ) from None
        done.append(f"{path} written{kept}")
    return done


def _put_aside(path: Path, text: str) -> str | None:
    """Keep a file that somebody has edited; says where, or None if it is as wanted."""
    if path.read_text() == text:
        return None
    old = path.with_name(f"{path.name}.old")
    path.replace(old)
    return f", what it was is in {old.name}"


def reload_rules() -> list[str]:
    """Have udev read its rules and use them; returns what is left to do."""
    if shutil.which("udevadm") is None:
        return ["udevadm is not here: restart the machine to use the rules"]
    for command in RELOAD:
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            return [f"{' '.join(command)} failed: unplug all devices, and plug them in again"]
    return ["in use now"]


def missing(rig: Rig, root: Path = Path("/")) -> list[str]:
    """Which devices of a rig have no rule of ours or of anybody, in words."""
    files = [*(root / "etc/udev/rules.d").glob("*.rules")]
    files += (root / "usr/lib/udev/rules.d").glob("*.rules")
    texts = [text for file in files if (text := _text(file))]
    lacking = []
    if any(isinstance(arm, DynamixelArm) for arm in rig.arms.values()) and not any(
        "latency_timer" in text and "0403" in text for text in texts
    ):
        lacking.append("U2D2 adapters")
    if any(c.driver == "spacemouse" for c in rig.inputs.values()) and not any(
        "hidraw" in text and "256f" in text.lower() for text in texts
    ):
        lacking.append("SpaceMice")
    return lacking


def run(hardware: Path, installs: bool) -> str:
    """``tandem doctor --udev`` and ``--install-udev``: what to print.

    Raises:
        DeviceError: the rules cannot be installed.
    """
    try:
        rig = load_rig(hardware)
    except RigError:  # permissions need no rig file
        rig = None
    files = rule_files(rig)
    if not installs:
        return shown(files).rstrip()
    return "\n".join([*install(files), *reload_rules()])


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
