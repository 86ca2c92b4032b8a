"""Messages as bytes: a fixed header, then msgpack (state) or raw bytes (images).

Nothing here can run code on decoding; sizes are capped; whatever is not one of our messages
raises ``WireError``. Layout, little endian::

    magic 2s | version u8 | kind u8 | payload length u32 | stamp_ns i64 | seq u64 | payload

The payload of a ``Frame`` is ``arrival_ns i64 | encoding u8 | width u16 | height u16 | data``.
Any other payload is a msgpack list of the message's remaining fields in order; an array is
an extension of type 1: ``ndim u8 | ndim * u32 | float64 data``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import msgpack
import numpy as np

from teleop.errors import WireError
from teleop.messages import MESSAGE_TYPES, FloatArray, Frame, Message

VERSION = 1
HEADER = struct.Struct("<2sBBIqQ")
FRAME_HEADER = struct.Struct("<qBHH")
MAGIC = b"Td"
ARRAY_EXT = 1
MAX_STATE_BYTES = 4 << 20
MAX_FRAME_BYTES = 64 << 20
MAX_DIMENSIONS = 3
ENCODINGS = ("jpeg", "rgb8")

_TYPE_BY_KIND = {t.KIND: t for t in MESSAGE_TYPES}


def encode(message: Message) -> bytes:
    """The bytes of one message."""
    if isinstance(message, Frame):
        payload = (
            FRAME_HEADER.pack(
                message.arrival_ns,
                ENCODINGS.index(message.encoding),
                message.width,
                message.height,
            )
            + message.data
        )
    else:
        names = _FIELDS[type(message)]
        payload = msgpack.packb(
            [getattr(message, name) for name, _ in names], default=_pack_array, use_bin_type=True
        )
    head = HEADER.pack(MAGIC, VERSION, message.KIND, len(payload), message.stamp_ns, message.seq)
    return head + payload


def decode(data: bytes | memoryview) -> Message:
    """The message in these bytes.

    Raises:
        WireError: not one of our messages, of another version, too large, or malformed.
    """
    if len(data) < HEADER.size:
        raise WireError(f"{len(data)} bytes are too short for a message header")
    magic, version, kind, length, stamp_ns, seq = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"message begins with {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"message of wire version {version}, this program speaks {VERSION}")
    message_type = _TYPE_BY_KIND.get(kind)
    if message_type is None:
        raise WireError(f"unknown message kind {kind}")
    payload = memoryview(data)[HEADER.size :]
    limit = MAX_FRAME_BYTES if message_type is Frame else MAX_STATE_BYTES
    if length != len(payload) or length > limit:
        name = message_type.__name__
        raise WireError(f"{name}: {len(payload)} payload bytes, header says {length}")
    if message_type is Frame:
        return _decode_frame(payload, stamp_ns, seq)
    return _decode_state(message_type, payload, stamp_ns, seq)


def _decode_frame(payload: memoryview, stamp_ns: int, seq: int) -> Frame:
    if len(payload) < FRAME_HEADER.size:
        raise WireError("Frame: payload shorter than its header")
    arrival_ns, encoding, width, height = FRAME_HEADER.unpack_from(payload)
    if encoding >= len(ENCODINGS):
        raise WireError(f"Frame: unknown encoding {encoding}")
    data = bytes(payload[FRAME_HEADER.size :])
    if ENCODINGS[encoding] == "rgb8" and len(data) != width * height * 3:
        raise WireError(f"Frame: {len(data)} bytes for {width}x{height} rgb8")
    return Frame(stamp_ns, seq, arrival_ns, ENCODINGS[encoding], width, height, data)


def _decode_state(
    message_type: type[Message], payload: memoryview, stamp_ns: int, seq: int
) -> Message:
    try:
        values = msgpack.unpackb(payload, ext_hook=_unpack_array, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"{message_type.__name__}: payload is not msgpack ({error})") from None
    names = _FIELDS[message_type]
    if not isinstance(values, list) or len(values) != len(names):
        raise WireError(f"{message_type.__name__}: expected {len(names)} fields")
    for (name, fits), value in zip(names, values, strict=True):
        if not fits(value):
            raise WireError(f"{message_type.__name__}.{name}: unexpected {type(value).__name__}")
    return message_type(stamp_ns, seq, *values)


def _pack_array(value: object) -> msgpack.ExtType:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, dtype=np.float64)
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        return msgpack.ExtType(ARRAY_EXT, shape + array.tobytes())
    if isinstance(value, np.generic):
        raise TypeError(f"numpy scalar {value!r} in a message: convert it to a Python number")
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _unpack_array(code: int, data: bytes) -> FloatArray:
    if code != ARRAY_EXT or not data or data[0] > MAX_DIMENSIONS:
        raise ValueError(f"unknown extension {code}")
    ndim = data[0]
    start = 1 + 4 * ndim
    if len(data) < start:
        raise ValueError("array shape is cut off")
    shape = struct.unpack_from(f"<{ndim}I", data, 1)
    # reshape refuses a shape that does not match the data
    return np.frombuffer(data, np.float64, offset=start).reshape(shape)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numbers_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and _is_number(v) for k, v in value.items()
    )


_FITS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "float": _is_number,
    "float | None": lambda v: v is None or _is_number(v),
    "FloatArray": lambda v: isinstance(v, np.ndarray),
    "FloatArray | None": lambda v: v is None or isinstance(v, np.ndarray),
    "dict[str, float]": _is_numbers_by_name,
}

# Annotations are strings here (postponed evaluation), so they index the checks directly.
_FIELDS: dict[type[Message], list[tuple[str, Callable[[Any], bool]]]] = {
    t: [(f.name, _FITS[str(f.type)]) for f in fields(t) if f.name not in ("stamp_ns", "seq")]
    for t in MESSAGE_TYPES
    if t is not Frame
}
