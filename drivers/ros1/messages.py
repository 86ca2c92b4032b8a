"""The messages and services of ``interbotix_xs_sdk`` as ROS 1 puts them on the wire.

A message is its fields one after the other, little-endian, without padding: numbers as they
are, a string as its length and its bytes, a list as its count and its elements
(wiki.ros.org/ROS/TCPROS). The md5 sums are those of ``interbotix_xs_msgs`` (noetic) and
``sensor_msgs`` 1.13; both ends compare them before they talk.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teleop.errors import WireError

Fields = tuple[tuple[str, str], ...]
"""Name and type of each field, in the order of the wire."""

NUMBERS = {
    "bool": "?",
    "int16": "h",
    "int32": "i",
    "uint32": "I",
    "float32": "f",
    "float64": "d",
}
"""Letters of the ``struct`` module."""

HEADER: Fields = (
    ("seq", "uint32"),
    ("stamp_s", "uint32"),
    ("stamp_ns", "uint32"),
    ("frame_id", "string"),
)
"""``std_msgs/Header``; its time is the sender's wall clock."""


@dataclass(frozen=True, slots=True)
class MessageType:
    """One kind of message."""

    name: str
    md5: str
    fields: Fields
    has_header: bool = False

    @property
    def definition(self) -> str:
        """The text from which both ends know it, without its header's."""
        lines = [f"{kind} {name}\n" for name, kind in self.fields]
        return "".join(["std_msgs/Header header\n"] * self.has_header + lines)

    def encode(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of a message; lists may be any sequence of numbers."""
        head = _encode(HEADER, _NO_HEADER) if self.has_header else b""
        return head + _encode(self.fields, values)

    def decode(self, data: bytes) -> dict[str, Any]:
        """The fields of a message, those of a header left out.

        Raises:
            WireError: the bytes are not such a message.
        """
        return _decode(self.name, (*HEADER, *self.fields) if self.has_header else self.fields, data)


@dataclass(frozen=True, slots=True)
class ServiceType:
    """One kind of service: what is asked and what is answered."""

    name: str
    md5: str
    request: Fields
    response: Fields = ()

    def encode_request(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of a request."""
        return _encode(self.request, values)

    def decode_response(self, data: bytes) -> dict[str, Any]:
        """The fields of an answer.

        Raises:
            WireError: the bytes are not such an answer.
        """
        return _decode(self.name, self.response, data)


_NO_HEADER = {"seq": 0, "stamp_s": 0, "stamp_ns": 0, "frame_id": ""}
_TARGET: Fields = (("cmd_type", "string"), ("name", "string"))
_REGISTER: Fields = (*_TARGET, ("reg", "string"), ("value", "int32"))

JOINT_STATE = MessageType(
    "sensor_msgs/JointState",
    "3066dcd76a6cfaef579bd0f34173e9fd",
    (
        ("name", "string[]"),
        ("position", "float64[]"),
        ("velocity", "float64[]"),
        ("effort", "float64[]"),
    ),
    has_header=True,
)
JOINT_GROUP_COMMAND = MessageType(
    "interbotix_xs_msgs/JointGroupCommand",
    "fa54c229b7238fc905e59a51a526f379",
    (("name", "string"), ("cmd", "float32[]")),
)
JOINT_SINGLE_COMMAND = MessageType(
    "interbotix_xs_msgs/JointSingleCommand",
    "79b74399c9cdcc4c0be32d540424ed2e",
    (("name", "string"), ("cmd", "float32")),
)
TORQUE_ENABLE = ServiceType(
    "interbotix_xs_msgs/TorqueEnable",
    "023452ade9f3d4979c75bd4e0d60f0c9",
    (*_TARGET, ("enable", "bool")),
)
REBOOT = ServiceType(
    "interbotix_xs_msgs/Reboot",
    "229067e7bfb48bf403b702d5f7f1ee93",
    (*_TARGET, ("enable", "bool"), ("smart_reboot", "bool")),
)
OPERATING_MODES = ServiceType(
    "interbotix_xs_msgs/OperatingModes",
    "cb68bef3d517c840b0a5cc0f73d64e36",
    (
        *_TARGET,
        ("mode", "string"),
        ("profile_type", "string"),
        ("profile_velocity", "int32"),
        ("profile_acceleration", "int32"),
    ),
)
REGISTER_VALUES = ServiceType(
    "interbotix_xs_msgs/RegisterValues",
    "27940ff80d633a7a6df113cf798c0f70",
    _REGISTER,
    (("values", "int32[]"),),
)
ROBOT_INFO = ServiceType(
    "interbotix_xs_msgs/RobotInfo",
    "873f2223b25122251d4d3641d8411cf6",
    _TARGET,
    (
        ("mode", "string"),
        ("profile_type", "string"),
        ("joint_names", "string[]"),
        ("joint_ids", "int16[]"),
        ("joint_lower_limits", "float32[]"),
        ("joint_upper_limits", "float32[]"),
        ("joint_velocity_limits", "float32[]"),
        ("joint_sleep_positions", "float32[]"),
        ("joint_state_indices", "int16[]"),
        ("num_joints", "int16"),
        ("name", "string[]"),
    ),
)

SERVICES = {
    "torque_enable": TORQUE_ENABLE,
    "reboot_motors": REBOOT,
    "set_operating_modes": OPERATING_MODES,
    "set_motor_registers": REGISTER_VALUES,
    "get_motor_registers": REGISTER_VALUES,
    "get_robot_info": ROBOT_INFO,
}
"""The services of the node that we use, by name below the robot's namespace."""


def _encode(fields: Fields, values: Mapping[str, Any]) -> bytes:
    parts = []
    for name, kind in fields:
        value = values[name]
        if kind == "string":
            parts.append(_text(value))
        elif kind == "string[]":
            parts += [struct.pack("<I", len(value)), *map(_text, value)]
        elif kind.endswith("[]"):
            letter = NUMBERS[kind[:-2]]
            parts.append(struct.pack(f"<I{len(value)}{letter}", len(value), *value))
        else:
            parts.append(struct.pack(f"<{NUMBERS[kind]}", value))
    return b"".join(parts)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def _decode(what: str, fields: Fields, data: bytes) -> dict[str, Any]:
    try:
        values, used = _fields_of(fields, data)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise WireError(f"not a {what}: {error}") from None
    if used != len(data):
        raise WireError(f"not a {what}: {len(data)} bytes where {used} are expected")
    return values


def _fields_of(fields: Fields, data: bytes) -> tuple[dict[str, Any], int]:
    """The values, and how many bytes they took."""
    values: dict[str, Any] = {}
    at = 0
    for name, kind in fields:
        if not kind.endswith("[]"):
            values[name], at = _value(kind, data, at)
            continue
        (count,) = struct.unpack_from("<I", data, at)
        at += 4
        if kind == "string[]":
            texts = []
            for _ in range(count):
                text, at = _value("string", data, at)
                texts.append(text)
            values[name] = texts
        else:
            form = struct.Struct(f"<{_bounded(count, data)}{NUMBERS[kind[:-2]]}")
            values[name] = list(form.unpack_from(data, at))
            at += form.size
    return values, at


def _value(kind: str, data: bytes, at: int) -> tuple[Any, int]:
    if kind != "string":
        form = struct.Struct(f"<{NUMBERS[kind]}")
        return form.unpack_from(data, at)[0], at + form.size
    (size,) = struct.unpack_from("<I", data, at)
    end = at + 4 + _bounded(size, data)
    if end > len(data):
        raise ValueError("it ends within a text")
    return data[at + 4 : end].decode(), end


def _bounded(count: int, data: bytes) -> int:
    if count > len(data):
        raise ValueError(f"it tells of {count} elements in {len(data)} bytes")
    return count
