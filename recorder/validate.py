"""Every fault of an episode file, in words. An empty list means the file is sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import simplejpeg
from pydantic import ValidationError

from recorder import schema
from recorder.align import NO_SAMPLE, StreamStamps, align, gaps_of
from recorder.episode import open_file
from recorder.jpeg_filter import FILTER_ID
from recorder.quality import Verdict
from teleop.errors import EpisodeError
from teleop.rig import Rig

_HEADS = ("stamp_ns", "arrival_ns", "seq")
"""What every stream has."""

SAMPLED_FRAMES = 20
"""Frames decoded per camera unless all are asked for: first, last, and evenly between."""
OPTIONAL_UNMEASURED = ("qvel", "effort")
"""Observations in which NaN says "not measured"."""


def validate(path: Path | str, *, all_frames: bool = False) -> list[str]:
    """Check one file.

    Args:
        path: The file.
        all_frames: Decode every camera frame instead of a sample.

    Returns:
        One sentence per fault.
    """
    path = Path(path)
    try:
        file = open_file(path)
    except EpisodeError as error:
        return [str(error)]
    with file:
        found: list[str] = []
        for check in _checks(file, all_frames):
            try:
                for fault in check:
                    found.append(fault)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                # one damaged part must not hide what the other checks find
                found.append(f"{path}: damaged inside ({str(error).splitlines()[0]})")
        return found


def _checks(file: h5py.File, all_frames: bool) -> Iterator[Iterator[str]]:
    missing = [*_missing_parts(file)]
    yield iter(missing)
    if missing:
        return
    yield _bad_attributes(file)
    yield _without_units(file)
    streams = _stream_groups(file)
    for name, group in streams.items():
        yield _stream_faults(name, group)
        if "image" in group:
            yield _image_faults(name, group["image"], all_frames)
    whole = {n: g for n, g in streams.items() if all(head in g for head in _HEADS)}
    yield _row_faults(file, whole)
    yield _observation_faults(file)
    yield _gap_faults(file, whole)


def _stream_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """All native streams by name."""
    found: dict[str, h5py.Group] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and "topic" in item.attrs:
            found[name] = item

    file[schema.STREAMS].visititems(visit)
    return found


def _missing_parts(file: h5py.File) -> Iterator[str]:
    for name in schema.ROOT_ATTRIBUTES:
        if name not in file.attrs:
            yield f"attribute {name} is missing"
    parts = [
        schema.STREAMS,
        f"{schema.ROWS}/stamp_ns",
        *(f"{schema.OBSERVATIONS}/{n}" for n in ("qpos", "qvel", "effort", "images")),
        schema.ACTION,
    ]
    for part in parts:
        if part not in file:
            yield f"/{part} is missing"


def _bad_attributes(file: h5py.File) -> Iterator[str]:
    readers: dict[str, Callable[[str], object]] = {
        "scene": json.loads,
        "rig": Rig.model_validate_json,
        "calibration": json.loads,
        "rates_hz": json.loads,
        "gaps": json.loads,
        "verdict": Verdict.from_json,
        "notes": json.loads,
    }
    for name, read in readers.items():
        try:
            read(schema.text_of(file.attrs[name]))
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            yield f"attribute {name} is not readable: {str(error).splitlines()[0]}"
    if int(file.attrs["stop_ns"]) < int(file.attrs["start_ns"]):
        yield "attribute stop_ns is before start_ns"


def _without_units(file: h5py.File) -> Iterator[str]:
    bare: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "units" not in item.attrs:
            bare.append(name)

    file.visititems(visit)
    yield from (f"/{name} has no attribute units" for name in bare)


def _stream_faults(name: str, group: h5py.Group) -> Iterator[str]:
    where = f"/{schema.STREAMS}/{name}"
    if absent := [head for head in _HEADS if head not in group]:
        yield f"{where}: {', '.join(absent)} missing"
        return
    count = group["stamp_ns"].shape[0]
    for field, dataset in group.items():
        if isinstance(dataset, h5py.Dataset) and dataset.shape[0] != count:
            yield f"{where}/{field}: {dataset.shape[0]} samples, stamp_ns has {count}"
    for head in _HEADS:
        backward = np.flatnonzero(np.diff(group[head][:]) < 0)
        if len(backward):
            yield f"{where}/{head} goes backward at sample {int(backward[0]) + 1}"
    if len(repeats := np.flatnonzero(np.diff(group["seq"][:]) == 0)):
        yield f"{where}/seq repeats at sample {int(repeats[0]) + 1}"
    if (group["arrival_ns"][:] < group["stamp_ns"][:]).any():
        yield f"{where}: a sample arrived before it was taken"


def _gap_faults(file: h5py.File, streams: dict[str, h5py.Group]) -> Iterator[str]:
    stored = json.loads(file.attrs["gaps"])
    for name, group in streams.items():
        lost = gaps_of(group["seq"][:])
        if lost:
            yield f"/{schema.STREAMS}/{name}: {lost} messages were lost while recording"
        if stored.get(name, 0) != lost:
            yield f"attribute gaps says {stored.get(name, 0)} for {name}, its seq says {lost}"


def _image_faults(name: str, images: h5py.Dataset, all_frames: bool) -> Iterator[str]:
    where = f"/{schema.STREAMS}/{name}/image"
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        yield f"{where}: {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)"
        return
    properties = images.id.get_create_plist()
    if properties.get_nfilters() == 0:
        return  # raw pixels
    count, height, width, _ = images.shape
    identity, _, values, _ = properties.get_filter(0)
    if identity != FILTER_ID or values[1:] != (width, height, 1):
        wanted = f"{FILTER_ID} (quality, {width}, {height}, 1)"
        yield f"{where}: filter {identity} {values}, expected {wanted}"
        return
    chosen = (
        range(count)
        if all_frames
        else np.unique(np.linspace(0, count - 1, SAMPLED_FRAMES).astype(int))
    )
    for i in chosen:
        if fault := _frame_fault(images, int(i), (height, width)):
            yield f"{where}[{i}]: {fault}"


def _frame_fault(images: h5py.Dataset, i: int, size: tuple[int, int]) -> str:
    try:
        _, data = images.id.read_direct_chunk((i, 0, 0, 0))
        found = simplejpeg.decode_jpeg_header(data)[:2]
        if found != size:
            return f"image of {found[1]}x{found[0]}, expected {size[1]}x{size[0]}"
        simplejpeg.decode_jpeg(data)
    except (OSError, ValueError, RuntimeError) as error:
        return f"cannot be decoded ({error})"
    return ""


def _row_faults(file: h5py.File, streams: dict[str, h5py.Group]) -> Iterator[str]:
    rows = file[schema.ROWS]
    rows_ns = rows["stamp_ns"][:]
    if len(rows_ns) == 0:
        yield "the episode has no rows"
        return
    row_hz = float(file.attrs["row_hz"])
    steps = np.diff(rows_ns)
    if len(steps) and np.abs(steps - 1e9 / row_hz).max() > 1:
        yield f"/{schema.ROWS}/stamp_ns is not an even grid of {row_hz:g} Hz"
    rig = Rig.model_validate_json(schema.text_of(file.attrs["rig"]))
    for name, group in streams.items():
        if f"{name}_index" not in rows:
            if group.attrs["required"]:
                yield f"/{schema.ROWS}/{name}_index is missing"
            continue
        stamps = StreamStamps(
            group["stamp_ns"][:],
            group["arrival_ns"][:],
            group["seq"][:],
            float(group.attrs["nominal_hz"]) or None,
        )
        wanted = align(stamps, rows_ns, row_hz, rig.recording.warn_late_s)
        index, age_ns = rows[f"{name}_index"][:], rows[f"{name}_age_ns"][:]
        if not np.array_equal(index, wanted.index):
            k = int(np.flatnonzero(index != wanted.index)[0])
            yield (
                f"/{schema.ROWS}/{name}_index[{k}] is {index[k]}, the newest sample that had "
                f"arrived is {wanted.index[k]}"
            )
        elif not np.array_equal(age_ns, wanted.age_ns):
            k = int(np.flatnonzero(age_ns != wanted.age_ns)[0])
            yield f"/{schema.ROWS}/{name}_age_ns[{k}] is {age_ns[k]}, expected {wanted.age_ns[k]}"
        elif group.attrs["required"] and (index == NO_SAMPLE).any():
            yield f"/{schema.ROWS}/{name}_index: rows without a sample of a required stream"


def _observation_faults(file: h5py.File) -> Iterator[str]:
    count = file[f"{schema.ROWS}/stamp_ns"].shape[0]
    observations = file[schema.OBSERVATIONS]
    width = observations["qpos"].shape[1]
    tables = [(f"/{schema.OBSERVATIONS}/{n}", observations[n]) for n in ("qpos", "qvel", "effort")]
    for where, table in [*tables, (f"/{schema.ACTION}", file[schema.ACTION])]:
        if table.shape != (count, width):
            yield f"{where} has shape {table.shape}, expected {(count, width)}"
        names = table.attrs.get("names", ())
        if len(names) != table.shape[1]:
            yield f"{where}: {len(names)} column names for {table.shape[1]} columns"
        values = table[:]
        if where.rsplit("/", 1)[-1] in OPTIONAL_UNMEASURED:
            values = np.nan_to_num(values, nan=0.0)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            yield f"{where}: {len(bad)} rows hold NaN or infinity, first row {int(bad[0])}"
    for camera, images in observations["images"].items():
        if images.shape[0] != count:
            yield f"/{schema.OBSERVATIONS}/images/{camera}: {images.shape[0]} rows of {count}"
