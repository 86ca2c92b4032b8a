"""Journals to one HDF5 file: complete and on the disk before it gets its name.

The file is written beside the journals under a temporary name, synced, renamed, and only
then are the journals deleted; whenever this is cut off, doing it again gives the same result.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py

from recorder import rows, schema
from recorder.align import gaps_of, rate_of
from recorder.jpeg_filter import FILTER_ID, parameters
from recorder.meta import Meta, sync_path
from recorder.quality import Complaint, Verdict
from recorder.streams import Stream, read_messages, read_stream
from teleop import topics
from teleop.clock import NS_PER_S
from teleop.errors import EpisodeError, RecordingError
from teleop.messages import EpisodeEvent
from teleop.rig import Rig

ROOM_FACTOR = 1.1
"""Size of the finished file over that of the journals, with room to spare: the images are
the same bytes, and rows and attributes take a few hundred kilobytes per minute."""
ROOM_EXTRA_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Built:
    """A finished episode."""

    path: Path
    verdict: Verdict
    row_count: int
    seconds: float
    lost_bytes: dict[str, int]
    """Torn tails of journals, by topic."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """How the recording ended."""

    stop_ns: int
    outcome: str
    notes: tuple[str, ...]
    complete: bool


def build(folder: Path, target: Path, *, recovered: bool = False, cut_short: str = "") -> Built:
    """Make ``target`` from the journals in ``folder``, which may be deleted then.

    Args:
        folder: The ``.partial`` folder.
        target: The episode's final name, in a folder on the same disk.
        recovered: Stored in the file: it was finished after its recorder had gone.
        cut_short: Why recording ended before the operator wanted, a reason of the verdict.

    Raises:
        EpisodeError: the folder's content cannot be read, or ``target`` exists already.
        RecordingError: the disk is full or failing; the folder is kept.
    """
    meta = Meta.read(folder)
    _refuse_existing(target, folder)
    needed = room_needed(sum(f.stat().st_size for f in folder.iterdir()))
    temporary = target.with_name(target.name + ".tmp")
    streams = [read_stream(folder, plan) for plan in meta.streams]
    try:
        ending = _ending(folder, streams, meta)
        complaints = _complaints(streams, ending, recovered, cut_short)
        _check_room(temporary, needed)
        verdict, row_count = _write(temporary, needed, meta, streams, ending, complaints, recovered)
        sync_path(temporary)
        _refuse_existing(target, folder)
        temporary.replace(target)
        sync_path(target.parent)
    except OSError as error:
        raise RecordingError(
            f"{target.name} cannot be written ({error.strerror or error}) and needs "
            f"{needed / 1e6:.0f} MB; the recording is kept in {folder}: make room and run "
            "`tandem recover`"
        ) from error
    finally:
        for stream in streams:
            stream.release()
        temporary.unlink(missing_ok=True)  # gone already when it got its name
    seconds = (ending.stop_ns - meta.start_ns) / NS_PER_S
    lost = {s.plan.topic: s.lost_bytes for s in streams if s.lost_bytes}
    return Built(target, verdict, row_count, seconds, lost)


def _write(
    temporary: Path,
    needed: int,
    meta: Meta,
    streams: list[Stream],
    ending: _Ending,
    complaints: list[Complaint],
    recovered: bool,
) -> tuple[Verdict, int]:
    """Write the whole file; returns the verdict and the number of rows."""
    rig = meta.load_rig()
    with h5py.File(temporary, "w") as file:
        # A write that fails can take the process down within HDF5, so its space is taken first.
        os.posix_fallocate(file.id.get_vfd_handle(), 0, needed)
        for stream in streams:
            _write_stream(file, stream, rig)
        by_path = {s.path: s for s in streams}
        span_ns = (meta.start_ns, ending.stop_ns)
        verdict, row_count = rows.write_rows(file, rig, by_path, span_ns, complaints)
        _write_attributes(file, meta, rig, streams, ending, verdict, recovered)
        file.flush()
        size = file.id.get_filesize()
    os.truncate(temporary, size)
    h5py.File(temporary, "r").close()  # raises if HDF5 misses anything beyond that size
    return verdict, row_count


def room_needed(journal_bytes: int) -> int:
    """Disk space that finishing an episode of this many journal bytes takes."""
    return int(journal_bytes * ROOM_FACTOR) + ROOM_EXTRA_BYTES


def free_bytes(folder: Path) -> int:
    """Disk space left for us in a folder, which need not exist yet.

    Raises:
        OSError: neither the folder nor what it will lie in can be looked at.
    """
    stats = os.statvfs(next(f for f in (folder, *folder.absolute().parents) if f.exists()))
    return stats.f_bavail * stats.f_frsize


def _check_room(temporary: Path, needed: int) -> None:
    """Take the space once without HDF5, where a refusal is an ordinary error.

    Raises:
        OSError: disk full, quota used up, or a limit on the size of files.
    """
    with open(temporary, "wb") as file:
        if free_bytes(temporary.parent) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(file.fileno(), 0, needed)


def _ending(folder: Path, streams: list[Stream], meta: Meta) -> _Ending:
    events = [m for m in read_messages(folder, topics.SESSION_EVENT) if isinstance(m, EpisodeEvent)]
    notes = tuple(e.detail for e in events if e.kind == "note")
    stops = [e for e in events if e.kind == "stop" and e.episode == meta.episode]
    if stops:
        stop_ns = max(stops[-1].stamp_ns, meta.start_ns)
        return _Ending(stop_ns, stops[-1].outcome or "unknown", notes, True)
    arrivals = [int(s.stamps.arrival_ns[-1]) for s in streams if len(s.stamps.arrival_ns)]
    return _Ending(max([meta.start_ns, *arrivals]), "unknown", notes, False)


def _complaints(
    streams: list[Stream], ending: _Ending, recovered: bool, cut_short: str
) -> list[Complaint]:
    found = []
    if cut_short:
        found.append(Complaint("fail", f"cut short: {cut_short}"))
    elif not ending.complete:
        how = "recovered after the recorder was cut off" if recovered else "never stopped"
        found.append(Complaint("warn", f"{how}: the end and the outcome are unknown"))
    for stream in streams:
        if stream.unreadable:
            found.append(
                Complaint("warn", f"{stream.path}: {stream.unreadable} unreadable images left out")
            )
    return found


def _write_stream(file: h5py.File, stream: Stream, rig: Rig) -> None:
    group = file.create_group(f"{schema.STREAMS}/{stream.path}")
    group.attrs["topic"] = stream.plan.topic
    group.attrs["message"] = stream.message_type.__name__
    group.attrs["nominal_hz"] = stream.plan.nominal_hz or 0.0
    group.attrs["required"] = stream.plan.required
    for name, values in (
        ("stamp_ns", stream.stamps.stamp_ns),
        ("arrival_ns", stream.stamps.arrival_ns),
        ("seq", stream.stamps.seq),
    ):
        rows.write(group, name, values, schema.units_of(name))
    for name, (values, unit) in stream.columns.items():
        rows.write(group, name, values, unit)
    if stream.images is not None and stream.images.data:
        quality = rig.cameras[stream.path.split("/")[-1]].jpeg_quality
        _write_images(group, stream, quality)


def _write_images(group: h5py.Group, stream: Stream, quality: int) -> None:
    """Frames go in as they came: one chunk each, past the filter."""
    images = stream.images
    assert images is not None
    frame_shape = (images.height, images.width, 3)
    filtered = {}
    if images.encoding == "jpeg":
        filtered = {
            "compression": FILTER_ID,
            "compression_opts": parameters(quality, images.width, images.height),
        }
    dataset = group.create_dataset(
        "image",
        shape=(len(images.data), *frame_shape),
        chunks=(1, *frame_shape),
        dtype="u1",
        **filtered,
    )
    dataset.attrs["units"] = schema.UNITLESS
    dataset.attrs["colorspace"] = "RGB"
    for i, data in enumerate(images.data):
        dataset.id.write_direct_chunk((i, 0, 0, 0), data)


def _write_attributes(
    file: h5py.File,
    meta: Meta,
    rig: Rig,
    streams: list[Stream],
    ending: _Ending,
    verdict: Verdict,
    recovered: bool,
) -> None:
    rates_hz = {s.path: round(rate_of(s.stamps.stamp_ns), 3) for s in streams if s.plan.nominal_hz}
    gaps = {s.path: gaps_of(s.stamps.seq) for s in streams}
    attributes: Mapping[str, object] = {
        "format": schema.FORMAT,
        "schema_version": schema.VERSION,
        "sim": rig.backend != "hardware",
        "task": meta.task,
        "instruction": meta.instruction,
        "operator": meta.operator,
        "outcome": ending.outcome,
        "backend": rig.backend,
        "job": meta.job,
        "scene": json.dumps(meta.scene),
        "rig": json.dumps(meta.rig),
        "calibration": json.dumps(meta.calibration),
        "software_version": meta.software_version,
        "wall_start": meta.wall_start,
        "start_ns": meta.start_ns,
        "stop_ns": ending.stop_ns,
        "row_hz": rig.rates.row_hz,
        "rates_hz": json.dumps(rates_hz),
        "gaps": json.dumps(gaps),
        "verdict": verdict.to_json(),
        "recovered": recovered,
        "notes": json.dumps(ending.notes),
        schema.TAGS: json.dumps(meta.tags),
    }
    for name, value in attributes.items():
        file.attrs[name] = value


def _refuse_existing(target: Path, folder: Path) -> None:
    """A finished episode is never written over."""
    if target.exists():
        raise EpisodeError(
            f"{target} exists already and is not written over; the recording is kept in {folder}: "
            "move the file away and run `tandem recover`"
        )
