"""The doctor's look at the USB tree: what shares a bus or a hub with what, and how fast it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drivers.doctor.checks import Check
from teleop.rig import OpenCvCamera, Rig
from teleop.rig_dynamixel import DynamixelArm

FULL_SPEED_MBIT = 12.0
HIGH_SPEED_MBIT = 480.0
USABLE_SHARE = 0.8
"""Of a high-speed bus, what isochronous transfers may take (USB 2.0 specification, 5.6.4)."""
RAW_BYTES = {"YUYV": 2.0, "UYVY": 2.0, "RGB3": 3.0, "BGR3": 3.0, "GREY": 1.0, "NV12": 1.5}
"""Bytes of a pixel that is not compressed, by fourcc."""
CAMERAS_PER_HUB = 2
"""More than two cameras at a hub lose frames at ALOHA rigs (github.com/tonyzhaozh/aloha)."""


@dataclass(frozen=True, slots=True)
class UsbPlace:
    """Where a part of the rig is plugged in."""

    name: str
    path: str
    """Bus and ports as the kernel writes them: ``1-2.3`` is port 3 of the hub at port 2."""
    speed_mbit: float
    camera: OpenCvCamera | None

    @property
    def bus(self) -> str:
        """The bus; each has its bandwidth for itself."""
        return self.path.partition("-")[0]

    @property
    def hub(self) -> str:
        """The hub it is plugged into; empty at the machine's own ports."""
        return self.path.rpartition(".")[0]


def usb_checks(rig: Rig, sysfs: Path = Path("/sys")) -> Iterator[Check]:
    """The tree in one line, then what is wrong with it."""
    places = usb_places(rig, sysfs)
    if not places:
        return
    seen = ", ".join(f"{p.name} at {p.path} ({p.speed_mbit:g} Mbit/s)" for p in places)
    yield Check("ok", "usb", seen)
    yield from _slow_cameras(places)
    yield from _crowded_hubs(places)
    yield from _full_buses(places)


def _slow_cameras(places: list[UsbPlace]) -> Iterator[Check]:
    for place in places:
        if place.camera is not None and place.speed_mbit <= FULL_SPEED_MBIT:
            seen = f"{place.name} runs at {place.speed_mbit:g} Mbit/s"
            yield Check("fail", "usb", seen, "use another cable and port, without old hubs")


def _crowded_hubs(places: list[UsbPlace]) -> Iterator[Check]:
    hubs: dict[str, list[UsbPlace]] = defaultdict(list)
    for place in places:
        if place.hub:
            hubs[place.hub].append(place)
    for hub, here in sorted(hubs.items()):
        cameras = [p.name for p in here if p.camera is not None]
        arms = [p.name for p in here if p.camera is None]
        if len(cameras) > CAMERAS_PER_HUB:
            seen = f"{len(cameras)} cameras at the hub {hub}: {', '.join(cameras)}"
            yield Check("warn", "usb", seen, "plug them into ports of different controllers")
        if cameras and arms:
            seen = f"{', '.join(arms)} shares the hub {hub} with {', '.join(cameras)}"
            yield Check("warn", "usb", seen, "plug arms into the machine itself")


def _full_buses(places: list[UsbPlace]) -> Iterator[Check]:
    need: dict[str, float] = defaultdict(float)
    for place in places:
        if place.camera is not None and place.speed_mbit <= HIGH_SPEED_MBIT:
            need[place.bus] += raw_mbit(place.camera)
    for bus, mbit in sorted(need.items()):
        if mbit > USABLE_SHARE * HIGH_SPEED_MBIT:
            seen = f"uncompressed pictures on bus {bus} need {mbit:.0f} Mbit/s"
            most = USABLE_SHARE * HIGH_SPEED_MBIT
            remedy = f"it carries {most:.0f}: set fourcc: MJPG, or spread over controllers"
            yield Check("fail", "usb", seen, remedy)


def raw_mbit(camera: OpenCvCamera) -> float:
    """What an uncompressed camera sends; 0 for a compressed one, whose size is not known before."""
    size = RAW_BYTES.get(camera.fourcc, 0.0)
    return size * 8 * camera.width * camera.height * camera.fps / 1e6


def usb_places(rig: Rig, sysfs: Path = Path("/sys")) -> list[UsbPlace]:
    """All parts of the rig that are plugged into USB, in the order of the tree."""
    found = []
    for name, arm in rig.arms.items():
        if isinstance(arm, DynamixelArm):
            tty = sysfs / "class/tty" / Path(arm.port).resolve().name / "device"
            found.append(_place(name, tty, None))
    for name, camera in rig.cameras.items():
        source = camera.source
        path = f"/dev/video{source}" if isinstance(source, int) else source
        video = sysfs / "class/video4linux" / Path(path).resolve().name / "device"
        found.append(_place(name, video, camera))
    return sorted((p for p in found if p is not None), key=lambda place: place.path)


def _place(name: str, device: Path, camera: OpenCvCamera | None) -> UsbPlace | None:
    folder = usb_folder(device)
    if folder is None:
        return None
    return UsbPlace(name, folder.name, float((folder / "speed").read_text()), camera)


def usb_folder(device: Path) -> Path | None:
    """The USB device that a tty or video node belongs to, in the kernel's tree."""
    if not device.exists():
        return None
    for folder in (device.resolve(), *device.resolve().parents):
        if (folder / "busnum").is_file() and (folder / "speed").is_file():
            return folder
    return None
