"""Journals read back as arrays: the first half of building an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from recorder import schema
from recorder.align import StreamStamps
from recorder.journal import JournalReader, journal_name
from recorder.meta import StreamPlan
from teleop import topics, wire
from teleop.errors import EpisodeError, WireError
from teleop.messages import Frame, Message


@dataclass(slots=True, eq=False)
class Stream:
    """One stream of a recording: N samples."""

    plan: StreamPlan
    message_type: type[Message]
    stamps: StreamStamps
    columns: dict[str, tuple[NDArray[Any], str]] = field(default_factory=dict)
    """Dataset name to values (N, ...) and unit."""
    images: Images | None = None
    lost_bytes: int = 0
    """Torn tail of the journal."""
    unreadable: int = 0
    """Camera frames left out because they are no image of the stream's size."""

    @property
    def path(self) -> str:
        """Path under ``/streams``."""
        return schema.stream_of(self.plan.topic)

    def release(self) -> None:
        """Close the journal that the images lie in."""
        if self.images is not None:
            self.images.data.clear()
            self.images.reader.close()


@dataclass(slots=True, eq=False)
class Images:
    """Frames as they lie in the journal, not copied."""

    encoding: str
    width: int
    height: int
    data: list[memoryview]
    reader: JournalReader


def read_stream(folder: Path, plan: StreamPlan) -> Stream:
    """Read one journal.

    Raises:
        EpisodeError: the journal is damaged in its head or holds foreign messages.
    """
    path = folder / journal_name(plan.topic)
    message_type = topics.row_of(plan.topic).message
    if not path.exists():
        return Stream(plan, message_type, _stamps([], plan))
    reader = JournalReader(path)
    if message_type is Frame:
        return _read_frames(reader, plan)
    with reader:
        heads, messages = [], []
        for record in reader:
            heads.append((record.seq, record.stamp_ns, record.arrival_ns))
            messages.append(_decode(record.payload, path))
        stream = Stream(plan, message_type, _stamps(heads, plan), lost_bytes=reader.lost_bytes)
    for name, kind in schema.columns_of(message_type):
        values = schema.column(kind, [getattr(m, name) for m in messages])
        if messages and values is not None:
            stream.columns[name] = (values, schema.units_of(name, kind))
    return stream


def read_messages(folder: Path, topic: str) -> list[Message]:
    """All messages of a low-rate topic; empty when it was not recorded."""
    path = folder / journal_name(topic)
    if not path.exists():
        return []
    with JournalReader(path) as reader:
        return [_decode(record.payload, path) for record in reader]


def _decode(payload: memoryview, path: Path) -> Message:
    try:
        return wire.decode(payload)
    except WireError as error:
        raise EpisodeError(f"{path}: a record is not one of our messages ({error})") from error


def _stamps(heads: list[tuple[int, int, int]], plan: StreamPlan) -> StreamStamps:
    table = np.array(heads, np.int64).reshape(-1, 3)
    return StreamStamps(table[:, 1], table[:, 2], table[:, 0], plan.nominal_hz)


def _read_frames(reader: JournalReader, plan: StreamPlan) -> Stream:
    """Frames stay where they are; only their heads are looked at."""
    heads: list[tuple[int, int, int]] = []
    images: Images | None = None
    device_arrival_ns: list[int] = []
    frozen: list[bool] = []
    unreadable = 0
    for record in reader:
        device_ns, encoding, width, height = wire.FRAME_HEADER.unpack_from(
            record.payload, wire.HEADER.size
        )
        data = record.payload[wire.HEADER.size + wire.FRAME_HEADER.size :]
        if images is None:
            images = Images(wire.ENCODINGS[encoding], width, height, [], reader)
        if not _fits(images, wire.ENCODINGS[encoding], data):
            unreadable += 1
            continue
        frozen.append(bool(images.data) and _same(images.data[-1], data))
        images.data.append(data)
        heads.append((record.seq, record.stamp_ns, record.arrival_ns))
        device_arrival_ns.append(device_ns)
    stamps = _stamps(heads, plan)
    stamps = StreamStamps(
        stamps.stamp_ns, stamps.arrival_ns, stamps.seq, plan.nominal_hz, np.array(frozen, bool)
    )
    stream = Stream(plan, Frame, stamps, {}, images, reader.lost_bytes, unreadable)
    if heads:
        stream.columns["device_arrival_ns"] = (np.array(device_arrival_ns, np.int64), "ns")
    else:
        reader.close()
    return stream


def _fits(images: Images, encoding: str, data: memoryview) -> bool:
    """Whether a frame has the stream's encoding and size, by its own header."""
    if encoding != images.encoding:
        return False
    if encoding == "rgb8":
        return len(data) == images.width * images.height * 3
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return (width, height) == (images.width, images.height)


def _same(before: memoryview, now: memoryview) -> bool:
    return len(before) == len(now) and bytes(before) == bytes(now)
