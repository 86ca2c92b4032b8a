"""Input devices of a rig: what people guide arms with, other than leader arms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from teleop.rig_parts import Model, Name, Positive

VR_BUTTONS = ("trigger", "squeeze", "touchpad", "thumbstick", "a", "b", "menu")
"""Bits of ``PoseInput.buttons``; the first six in the order of WebXR's xr-standard mapping, where
``a`` is A or X and ``b`` is B or Y."""
SPACEMOUSE_BUTTONS = tuple(f"button_{i}" for i in range(32))
"""Bits of ``TwistInput.buttons``, as the HID report numbers them."""
PILOT_BUTTONS = ("check", "circle", "cross", "up", "down", "left", "right")
"""The buttons on a Franka's wrist, by Desk's names."""

Meaning = Literal[
    "start",
    "stop",
    "start_stop",
    "success",
    "failure",
    "redo",
    "quit",
    "emergency_stop",
    "gripper",
]
"""What a button asks for; ``start_stop`` starts an episode or ends it, ``gripper`` opens or
closes the gripper that the device guides."""
Buttons = dict[str, Meaning]


class SpaceMouse(Model):
    """A 6-D puck, read by ``pyspacemouse``."""

    driver: Literal["spacemouse"] = "spacemouse"
    path: str | None = None
    """``/dev/hidrawN``, or a udev link to it: needed with two of them. Else the first found."""
    device: str | None = None
    """Kind of puck by pyspacemouse's name; else as the USB ids tell."""
    library: str | None = None
    """The hidapi library (hidraw flavour) to load; the system's when not given."""
    deadzone: float = Field(default=0.05, ge=0, le=0.5)
    silence_s: Positive = Field(default=0.1, le=1)
    """Deflected and silent for this long counts as let go: the device repeats a held puck."""
    buttons: Buttons = {"button_0": "gripper", "button_1": "start_stop"}


class OpenVrInput(Model):
    """A controller or tracker of SteamVR, read by ``openvr``."""

    driver: Literal["openvr"] = "openvr"
    hand: Literal["left", "right"] | None = None
    """By SteamVR's role; either this or ``serial``."""
    serial: str | None = None
    """By serial number, as SteamVR shows it; the only way to bind a tracker."""
    runtime: str | None = None
    """Folder of an OpenVR runtime; the system's SteamVR when not given."""
    buttons: Buttons = {"a": "start_stop", "b": "redo"}


class WebXrInput(Model):
    """A controller or hand of a headset, or a phone, that has opened our page."""

    driver: Literal["webxr"] = "webxr"
    hand: Literal["left", "right"]
    buttons: Buttons = {"a": "start_stop", "b": "redo"}


class FrankaPilot(Model):
    """The buttons on a Franka's wrist, which only Desk tells of."""

    driver: Literal["franka_desk"] = "franka_desk"
    address: str
    """Host of the robot's control box, with a port if that is not 443."""
    username: str
    password_file: Path
    """A file that holds the password and nobody else may read."""
    arm: Name
    """The arm whose gripper the ``gripper`` button works."""
    buttons: Buttons = {"check": "start_stop", "circle": "gripper", "cross": "redo"}


Input = Annotated[
    SpaceMouse | OpenVrInput | WebXrInput | FrankaPilot, Field(discriminator="driver")
]

BUTTONS: Mapping[str, tuple[str, ...]] = {
    "spacemouse": SPACEMOUSE_BUTTONS,
    "openvr": VR_BUTTONS,
    "webxr": VR_BUTTONS[:6],
    "franka_desk": PILOT_BUTTONS,
}
"""Names of the button bits, by driver; WebXR tells no ``menu``."""

HUBS = ("openvr", "webxr")
"""Drivers of which one node serves all inputs: SteamVR allows one client object per process, and
a headset opens one page for both hands."""


class WebXrServer(Model):
    """Where the page for headsets and phones is served."""

    host: str = "127.0.0.1"
    """Loopback reaches a headset by ``adb reverse``; else this machine's address in the network."""
    port: int = Field(default=8443, ge=1024, le=65535)
    view: Name | None = None
    """The camera shown in the headset."""
    view_fps: Positive = 30.0
    certificate: Path | None = None
    """PEM files; a self-signed pair is made and kept when not given."""
    key: Path | None = None
    max_age_s: Positive = Field(default=0.1, le=1)
    """Poses older than this on the rig's clock are dropped."""


def nodes_of(inputs: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The nodes that serve a rig's inputs: node name to the inputs it serves, in order of name."""
    nodes: dict[str, tuple[str, ...]] = {}
    for name, config in sorted(inputs.items()):
        node = config.driver if config.driver in HUBS else name
        nodes[node] = (*nodes.get(node, ()), name)
    return nodes


def mask_of(driver: str, pressed: frozenset[str]) -> int:
    """Pressed buttons as bits."""
    return sum(1 << i for i, name in enumerate(BUTTONS[driver]) if name in pressed)
