"""Names, units and version of the episode format: the one place both sides agree on.

A topic's stream group is its topic path under ``/streams`` (a camera's ``frame`` is dropped:
``camera/cam_high``). A stream's datasets are the message's fields. Every dataset has a
``units`` attribute.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from enum import IntFlag
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from teleop.messages import Frame, Message

FORMAT = "tandem-episode"
VERSION = 1

STREAMS = "streams"
ROWS = "rows"
OBSERVATIONS = "observations"
ACTION = "action"

PARTIAL_SUFFIX = ".partial"
"""A folder of journals: an episode that is being recorded, or was cut off."""
DISCARDED_SUFFIX = ".discarded"
"""A folder that the operator discarded and whose deletion was cut off."""
TEMPORARY_SUFFIX = ".hdf5.tmp"
EPISODE_SUFFIX = ".hdf5"
META_NAME = "meta.json"

ROOT_ATTRIBUTES = (
    "format",
    "schema_version",
    "sim",
    "task",
    "instruction",
    "operator",
    "outcome",
    "backend",
    "job",
    "scene",
    "rig",
    "calibration",
    "software_version",
    "wall_start",
    "start_ns",
    "stop_ns",
    "row_hz",
    "rates_hz",
    "gaps",
    "verdict",
    "recovered",
    "notes",
)
"""Attributes of the file's root that every episode has. ``scene``, ``rig``, ``calibration``,
``rates_hz``, ``gaps``, ``verdict`` and ``notes`` are JSON."""
TAGS = "tags"
"""Attribute of the root, a JSON list; files of the first recorders lack it."""

UNITLESS = "1"
TEXT = "text"

_UNITS = {
    "effort": "A; N m of a Franka",
    "gripper_effort": "A",
    "gripper": "1 (0 closed, 1 open)",
    "gripper_velocity": "1/s",
    "actions": "rad, grippers 1",
    "object_pose": "m, quaternion wxyz",
    "quaternion_wxyz": UNITLESS,
    "values": "JSON, unit in each name",
}
_SUFFIX_UNITS = (
    ("_ns", "ns"),
    ("_ms", "ms"),
    ("_nm", "N m"),
    ("_rad_s", "rad/s"),
    ("_rad", "rad"),
    ("_m", "m"),
)

_NOT_COLUMNS = ("stamp_ns", "seq", "data")


class Flag(IntFlag):
    """What is wrong with a row's sample of one stream."""

    MISSING = 1
    """Nothing had arrived yet."""
    STALE = 2
    """Older than the stream's period plus the rig's ``warn_late_s``."""
    REPEATED = 4
    """The same sample as in the row before, though the stream is at least as fast as the rows
    (by a factor of two, so that a slightly shifted phase does not count)."""
    GAP = 8
    """Sequence numbers were lost between the row before and this one."""
    FROZEN = 16
    """A camera frame whose bytes equal those of the frame before it."""


def stream_of(topic: str) -> str:
    """The stream's path under ``/streams``."""
    return topic.removesuffix("/frame")


def units_of(field: str, kind: str = "") -> str:
    """The unit of a message field, from its name; ``kind`` is its annotation."""
    if field in _UNITS:
        return _UNITS[field]
    for suffix, unit in _SUFFIX_UNITS:
        if field.endswith(suffix):
            return unit
    return TEXT if kind == "str" else UNITLESS


def columns_of(message_type: type[Message]) -> list[tuple[str, str]]:
    """Name and annotation of each field that becomes a dataset."""
    return [(f.name, str(f.type)) for f in fields(message_type) if f.name not in _NOT_COLUMNS]


def column(kind: str, values: Sequence[Any]) -> NDArray[Any] | None:
    """One message field of all samples as an array, first axis the samples.

    Unmeasured (None) becomes NaN. Arrays of unequal length, such as action chunks, are padded
    with NaN. None is returned when the field was never measured, so that its shape is unknown.
    """
    match kind:
        case "int":
            return np.array(values, np.int64)
        case "bool":
            return np.array(values, np.uint8)
        case "str":
            return text_column(values)
        case "dict[str, float]":
            return text_column([json.dumps(v, sort_keys=True) for v in values])
        case "float" | "float | None":
            if all(v is None for v in values):
                return None
            return np.array([np.nan if v is None else v for v in values], np.float64)
        case "FloatArray" | "FloatArray | None":
            return _array_column(values)
        case _:
            raise TypeError(f"no dataset type for a message field of type {kind}")


def text_column(values: Sequence[str]) -> NDArray[Any]:
    """Fixed-length UTF-8; the shortest length that holds every value."""
    encoded = [v.encode() for v in values]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def _array_column(values: Sequence[Any]) -> NDArray[np.float64] | None:
    known = [v for v in values if v is not None]
    if not known:
        return None
    shape = known[0].shape
    if len(known) == len(values) and all(v.shape == shape for v in known):
        return np.array(values, np.float64)
    width = tuple(np.max([v.shape for v in known], axis=0))
    out = np.full((len(values), *width), np.nan)
    for row, value in zip(out, values, strict=True):
        if value is not None:
            row[tuple(slice(n) for n in value.shape)] = value
    return out


def is_camera(message_type: type[Message]) -> bool:
    """Whether a stream's samples are images."""
    return message_type is Frame


def text_of(value: Any) -> str:
    """An HDF5 string, whatever way h5py hands it over."""
    return value.decode() if isinstance(value, bytes) else cast(str, value)
