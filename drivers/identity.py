"""What tells a device that is connected from another of its kind."""

from __future__ import annotations

from pathlib import Path

from calibration.rules import ADAPTER, identities_of
from teleop.rig import Rig


def identity_of(name: str, rig: Rig, sysfs: Path = Path("/sys")) -> dict[str, str]:
    """What tells a device of the rig from another; see ``calibration.rules``.

    A connected driver has checked that every servo is the model that the rig file names.
    """
    identity = identities_of(rig).get(name, {})
    port = getattr(rig.arms.get(name), "port", None)
    if port is not None and (serial := adapter_serial(str(port), sysfs)):
        identity[ADAPTER] = serial
    return identity


def identities_found(rig: Rig, sysfs: Path = Path("/sys")) -> dict[str, dict[str, str]]:
    """Of all arms and cameras of a real rig; none of an emulated one, which is as its file says."""
    if rig.backend != "hardware":
        return {}
    return {name: identity_of(name, rig, sysfs) for name in (*rig.arms, *rig.cameras)}


def adapter_serial(port: str, sysfs: Path = Path("/sys")) -> str:
    """Serial number of the USB adapter behind a serial port; empty where there is none."""
    device = sysfs / "class/tty" / Path(port).resolve().name / "device"
    if not device.exists():
        return ""
    for folder in device.resolve().parents:
        if (file := folder / "serial").is_file():
            return file.read_text(encoding="ascii", errors="replace").strip()
    return ""
