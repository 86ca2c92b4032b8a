"""What a headset's page and the rig say to each other over one WebSocket.

The page sends a binary packet per frame of the headset (72 to 120 a second) and answers pings;
the rig sends pings, its view of things, haptic pulses, and camera pictures. Everything else is
JSON text. ``page/link.js`` and ``page/hands.js`` are the other side.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from teleop.errors import WireError
from teleop.messages import FloatArray
from teleop.rig_inputs import BUTTONS

VERSION = 1
"""Of the packets; page and rig come from one place, but a browser may hold an old page."""
HANDS = ("left", "right")
XR_STANDARD_BUTTONS = BUTTONS["webxr"]
"""Trigger, squeeze, touchpad, thumbstick, A or X, B or Y: indices 0 to 5 of the "xr-standard"
gamepad mapping (W3C, WebXR Gamepads Module). What follows differs from headset to headset."""

_HEADER = struct.Struct("<BBHId")  # version, flags, unused, seq, client_ms
_HAND = struct.Struct("<B3xI11f")  # flags, buttons, position, quaternion xyzw, trigger ... stick
PACKET_BYTES = _HEADER.size + len(HANDS) * _HAND.size
_RUNNING = 1
_PRESENT, _TRACKED = 1, 2
_MAX_POSITION_M = 1000.0
"""Further from the room's origin is no position."""
_NORM_TOLERANCE = 0.05

_VIEW = struct.Struct("<I4x")
"""Before a camera picture: its number, and room to keep what follows aligned."""
MAX_TEXT_BYTES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class HandSample:
    """One hand in one packet, in the headset's room frame (x right, y up, z backwards)."""

    present: bool
    """False: no such controller or hand, or the headset has taken it away from the page."""
    tracked: bool
    """False: the pose is the last one known, or a guess."""
    position_m: FloatArray
    """Shape (3,)."""
    quaternion_wxyz: FloatArray
    """Shape (4,), unit norm."""
    trigger: float
    squeeze: float
    stick: FloatArray
    """Shape (2,): right and forward."""
    buttons: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Packet:
    """What the page saw in one frame."""

    seq: int
    client_ms: float
    """The page's ``performance.now()``."""
    running: bool
    """False: the last packet of a session that the operator ended."""
    hands: dict[str, HandSample]
    """By ``HANDS``."""


def decode(data: bytes) -> Packet:
    """A packet from its bytes.

    Raises:
        WireError: wrong size or version, or numbers that mean nothing.
    """
    if len(data) != PACKET_BYTES:
        raise WireError(f"webxr: packet of {len(data)} bytes, not {PACKET_BYTES}")
    version, flags, _, seq, client_ms = _HEADER.unpack_from(data)
    if version != VERSION:
        raise WireError(f"webxr: packet version {version}, not {VERSION}; reload the page")
    if not math.isfinite(client_ms):
        raise WireError("webxr: packet without a time")
    hands = {
        hand: _decode_hand(hand, data, _HEADER.size + i * _HAND.size)
        for i, hand in enumerate(HANDS)
    }
    return Packet(seq, client_ms, bool(flags & _RUNNING), hands)


def _decode_hand(hand: str, data: bytes, offset: int) -> HandSample:
    flags, bits, *numbers = _HAND.unpack_from(data, offset)
    values = np.array(numbers)
    if not np.isfinite(values).all() or np.abs(values[:3]).max() > _MAX_POSITION_M:
        raise WireError(f"webxr: {hand} hand: numbers that are no pose")
    norm = float(np.linalg.norm(values[3:7]))
    if abs(norm - 1.0) > _NORM_TOLERANCE:
        raise WireError(f"webxr: {hand} hand: a quaternion of norm {norm:.3g}")
    pressed = (name for i, name in enumerate(XR_STANDARD_BUTTONS) if bits >> i & 1)
    return HandSample(
        present=bool(flags & _PRESENT),
        tracked=bool(flags & _PRESENT and flags & _TRACKED),
        position_m=values[:3],
        quaternion_wxyz=values[[6, 3, 4, 5]] / norm,
        trigger=float(np.clip(values[7], 0.0, 1.0)),
        squeeze=float(np.clip(values[8], 0.0, 1.0)),
        stick=np.clip(values[9:11], -1.0, 1.0),
        buttons=frozenset(pressed),
    )


def encode(packet: Packet) -> bytes:
    """The bytes of a packet, as the page makes them: for clients that are no browser."""
    parts = [_HEADER.pack(VERSION, _RUNNING * packet.running, 0, packet.seq, packet.client_ms)]
    for name in HANDS:
        hand = packet.hands[name]
        w, x, y, z = hand.quaternion_wxyz
        bits = sum(1 << i for i, b in enumerate(XR_STANDARD_BUTTONS) if b in hand.buttons)
        flags = _PRESENT * hand.present | _TRACKED * hand.tracked
        numbers = (*hand.position_m, x, y, z, w, hand.trigger, hand.squeeze, *hand.stick)
        parts.append(_HAND.pack(flags, bits, *numbers))
    return b"".join(parts)


def view_message(number: int, jpeg: bytes) -> bytes:
    """A camera picture for the page, which answers ``{"shown": number}``."""
    return _VIEW.pack(number & 0xFFFFFFFF) + jpeg


def decode_text(text: str) -> dict[str, Any]:
    """One JSON message.

    Raises:
        WireError: not a JSON object, or too long.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise WireError(f"webxr: message of {len(text)} characters")
    try:
        message = json.loads(text)
    except ValueError as error:
        raise WireError(f"webxr: message that is no JSON ({error})") from error
    if not isinstance(message, dict):
        raise WireError("webxr: message that is no JSON object")
    return cast(dict[str, Any], message)


def number_in(message: dict[str, Any], key: str) -> float:
    """A finite number of a JSON message.

    Raises:
        WireError: missing, or no number.
    """
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WireError(f"webxr: message with {key} = {value!r}")
    return float(value)
