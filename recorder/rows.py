"""The aligned part of an episode: rows, observations, actions, and the facts for its verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recorder import schema
from recorder.align import Alignment, align, columns_by_row, row_grid
from recorder.quality import Complaint, EpisodeFacts, StreamFacts, Verdict, judge
from recorder.streams import Stream
from teleop import topics
from teleop.limits import Limited
from teleop.messages import FloatArray
from teleop.rig import Rig

_ALIGNED_RATES = ("arm", "camera", "task")
"""Kinds of streams that are put on the rows."""

_OBSERVED = {
    "qpos": ("position_rad", "gripper", "rad, grippers 0 closed to 1 open"),
    "qvel": ("velocity_rad_s", "gripper_velocity", "rad/s, grippers 1/s"),
    "effort": ("effort", "gripper_effort", "A"),
}
_CUT = int(Limited.POSITION | Limited.STEP)
"""Limits that say a command was out of bounds; speed limits are part of normal motion."""
CUT_COUNTS_RAD = 0.1
"""A leader reaches a few degrees beyond its follower's range when both rest; what is cut
there is below this, and no more than the servos' own lag in motion."""
MAX_SLIPPED_S = 0.05
"""What an emulation may lose against the clock: about one camera frame."""


def write(parent: h5py.Group, name: str, values: NDArray[Any], units: str) -> h5py.Dataset:
    """One dataset with its unit."""
    if values.dtype.kind == "S":
        dtype = h5py.string_dtype("utf-8", values.dtype.itemsize)
        dataset = parent.create_dataset(name, data=values.astype(dtype))
    else:
        dataset = parent.create_dataset(name, data=values)
    dataset.attrs["units"] = units
    return dataset


def joint_names(rig: Rig, arm: str) -> tuple[str, ...]:
    """Names of an arm's columns: its joints, then ``gripper`` if it has one."""
    model = rig.arm_model(arm)
    names = tuple(joint.name for joint in model.joints)
    return (*names, "gripper") if model.gripper is not None else names


def column_names(rig: Rig) -> tuple[str, ...]:
    """Names of the columns of qpos and action: the acting arms in order of name."""
    return tuple(f"{arm}/{joint}" for arm in sorted(rig.acting) for joint in joint_names(rig, arm))


def write_rows(
    file: h5py.File,
    rig: Rig,
    streams: Mapping[str, Stream],
    span_ns: tuple[int, int],
    complaints: list[Complaint],
) -> tuple[Verdict, int]:
    """Align, write ``/rows``, ``/observations`` and ``/action``, and judge.

    Args:
        file: Being written; the streams are in it.
        rig: Whose acting arms give the columns.
        streams: By path.
        span_ns: Start and stop of the episode.
        complaints: Found before, part of the verdict.

    Returns:
        The verdict and the number of rows.
    """
    required = [s.stamps for s in streams.values() if s.plan.required]
    rows_ns = row_grid(required, *span_ns, rig.rates.row_hz)
    group = file.create_group(schema.ROWS)
    write(group, "stamp_ns", rows_ns, "ns")
    alignments: dict[str, Alignment] = {}
    for path, stream in streams.items():
        if topics.row_of(stream.plan.topic).rate in _ALIGNED_RATES or path == topics.POLICY_CHUNK:
            found = align(stream.stamps, rows_ns, rig.rates.row_hz, rig.recording.warn_late_s)
            alignments[path] = found
            write(group, f"{path}_index", found.index, schema.UNITLESS)
            write(group, f"{path}_age_ns", found.age_ns, "ns")
            write(group, f"{path}_flags", found.flags, "bits: " + _flag_legend())
    _write_observations(file, rig, streams, alignments, len(rows_ns))
    facts = _facts(rig, streams, alignments, rows_ns, span_ns, complaints)
    return judge(facts), len(rows_ns)


def _flag_legend() -> str:
    return ", ".join(f"{flag.value} {(flag.name or '').lower()}" for flag in schema.Flag)


def _write_observations(
    file: h5py.File,
    rig: Rig,
    streams: Mapping[str, Stream],
    alignments: Mapping[str, Alignment],
    row_count: int,
) -> None:
    group = file.create_group(schema.OBSERVATIONS)
    names = list(column_names(rig))
    arms = sorted(rig.acting)

    def side_by_side(topic: Any, joints: str, gripper: str) -> FloatArray:
        parts = [
            _arm_rows(rig, arm, streams, alignments, (topic(arm), joints, gripper), row_count)
            for arm in arms
        ]
        return np.concatenate(parts, axis=1) if parts else np.zeros((row_count, 0))

    position = side_by_side(topics.arm_state, *_OBSERVED["qpos"][:2])
    for name, (joints, gripper, units) in _OBSERVED.items():
        values = side_by_side(topics.arm_state, joints, gripper)
        _name_columns(write(group, name, values, units), names)
    action = side_by_side(topics.arm_applied, "position_rad", "gripper")
    for column, name in enumerate(names):
        arm, joint = name.split("/")
        if arm in rig.guided and joint != "gripper":
            # Nobody commanded it: what it did next is what it was to do.
            action[:-1, column] = position[1:, column]
            action[-1:, column] = position[-1:, column]
    _name_columns(write(file, schema.ACTION, action, _OBSERVED["qpos"][2]), names)
    images = group.create_group("images")
    for path, stream in streams.items():
        if stream.images is not None and stream.images.data:
            _write_view(images, file, path, alignments[path])


def _name_columns(dataset: h5py.Dataset, names: list[str]) -> None:
    dataset.attrs.create("names", names, dtype=h5py.string_dtype())


def _arm_rows(
    rig: Rig,
    arm: str,
    streams: Mapping[str, Stream],
    alignments: Mapping[str, Alignment],
    source: tuple[str, str, str],
    row_count: int,
) -> FloatArray:
    """One arm's joints and gripper on the rows, (T, J or J+1), NaN where not measured."""
    path, joints, gripper = source
    names = joint_names(rig, arm)
    out = np.full((row_count, len(names)), np.nan)
    stream = streams.get(path)
    if stream is None or row_count == 0:
        return out
    index = alignments[path].index
    columns = {n: stream.columns[n][0] for n in (joints, gripper) if n in stream.columns}
    aligned = columns_by_row(columns, index)
    if joints in aligned:
        out[:, : aligned[joints].shape[1]] = aligned[joints]
    if names[-1] == "gripper" and gripper in aligned:
        out[:, -1] = aligned[gripper]
    return out


def _write_view(images: h5py.Group, file: h5py.File, path: str, alignment: Alignment) -> None:
    """Rows as a virtual dataset over the native frames; nothing is stored twice.

    Rows without a frame read as black and are flagged as missing.
    """
    source = file[f"{schema.STREAMS}/{path}/image"]
    frame = source.shape[1:]
    index = alignment.index
    source_name = source.name.encode()
    view_space = h5py.h5s.create_simple((len(index), *frame))
    source_space = h5py.h5s.create_simple(source.shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for first, count in _runs(index):
        view_space.select_hyperslab((first, 0, 0, 0), (count, *frame))
        source_space.select_hyperslab((int(index[first]), 0, 0, 0), (count, *frame))
        properties.set_virtual(view_space, b".", source_name, source_space)
    view_space.select_all()
    name = path.split("/")[-1].encode()
    identity = h5py.h5d.create(images.id, name, h5py.h5t.STD_U8LE, view_space, properties)
    view = h5py.Dataset(identity)
    view.attrs["units"] = schema.UNITLESS
    view.attrs["colorspace"] = "RGB"


def _runs(index: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First row and length of each run of rows that hold consecutive samples."""
    if len(index) == 0:
        return []
    breaks = np.flatnonzero((np.diff(index) != 1) | (index[:-1] < 0)) + 1
    first = np.concatenate([[0], breaks])
    last = np.concatenate([breaks, [len(index)]])
    return [(int(a), int(b - a)) for a, b in zip(first, last, strict=True) if index[a] >= 0]


def _facts(
    rig: Rig,
    streams: Mapping[str, Stream],
    alignments: Mapping[str, Alignment],
    rows_ns: NDArray[np.int64],
    span_ns: tuple[int, int],
    complaints: list[Complaint],
) -> EpisodeFacts:
    position_rad = {}
    limited = {}
    for arm in sorted(rig.arms):
        source = (topics.arm_state(arm), "position_rad", "")
        joints = len(rig.arm_model(arm).joints)
        position_rad[arm] = _arm_rows(rig, arm, streams, alignments, source, len(rows_ns))[
            :, :joints
        ]
    for arm in sorted(rig.acting):
        limited[arm] = _limited_rows(rig, arm, streams, alignments, len(rows_ns))
    return EpisodeFacts(
        recording=rig.recording,
        start_ns=span_ns[0],
        stop_ns=span_ns[1],
        rows_ns=rows_ns,
        streams={
            path: StreamFacts(s.stamps, alignments.get(path), s.plan.required, s.images is not None)
            for path, s in streams.items()
        },
        position_rad=position_rad,
        limited=limited,
        leader_of=_led(rig, streams),
        joint_names={arm: joint_names(rig, arm) for arm in rig.arms},
        extra=[
            *complaints,
            *_faults(rig, streams),
            *_emergency_stop(streams, span_ns),
            *_slips(streams),
        ],
    )


def _faults(rig: Rig, streams: Mapping[str, Stream]) -> Iterator[Complaint]:
    """Arms that reported a fault: what they did then is nothing to learn from."""
    for arm in sorted(rig.arms):
        stream = streams.get(topics.node_health(arm))
        if stream is None or "state" not in stream.columns:
            continue
        states, details = (stream.columns[name][0] for name in ("state", "detail"))
        in_fault = np.flatnonzero(states == b"fault")
        if len(in_fault):
            words = bytes(details[in_fault[0]]).decode("utf-8", "replace")
            yield Complaint("fail", f"{arm}: fault: {words}")


def _emergency_stop(streams: Mapping[str, Stream], span_ns: tuple[int, int]) -> Iterator[Complaint]:
    """The last thing that this episode shows is not the end of a task."""
    stream = streams.get(topics.SESSION_STOP)
    if stream is None or "engaged" not in stream.columns:
        return
    stamp_ns = stream.stamps.stamp_ns
    within = (stamp_ns >= span_ns[0]) & (stamp_ns <= span_ns[1])
    if (within & (stream.columns["engaged"][0] != 0)).any():
        yield Complaint("warn", "ended by emergency stop")


def _slips(streams: Mapping[str, Stream]) -> Iterator[Complaint]:
    """An emulation that lost time: its arms jumped while the clock went on."""
    stream = streams.get(topics.node_health("emulator"))
    if stream is None or "values" not in stream.columns:
        return
    values = (json.loads(bytes(text)) for text in stream.columns["values"][0])
    slipped_s = [v["slipped_s"] for v in values if "slipped_s" in v]
    if slipped_s and (more_s := slipped_s[-1] - slipped_s[0]) > MAX_SLIPPED_S:
        yield Complaint(
            "warn",
            f"the emulation slipped {more_s:.1f} s behind real time: "
            "this machine is too slow for it",
        )


def _limited_rows(
    rig: Rig,
    arm: str,
    streams: Mapping[str, Stream],
    alignments: Mapping[str, Alignment],
    row_count: int,
) -> NDArray[np.bool_]:
    """Rows in which a limit cut the command, and by more than ``CUT_COUNTS_RAD``."""
    let = streams.get(topics.arm_applied(arm))
    if let is None or row_count == 0 or "limited" not in let.columns:
        return np.zeros(row_count, bool)
    bits = let.columns["limited"][0][alignments[topics.arm_applied(arm)].index]
    asked, passed = (
        _arm_rows(rig, arm, streams, alignments, (topic, "position_rad", ""), row_count)
        for topic in (topics.arm_command(arm), topics.arm_applied(arm))
    )
    # A row without a command is NaN here and compares as not cut.
    cut: NDArray[np.bool_] = (bits & _CUT != 0) & (np.abs(asked - passed) > CUT_COUNTS_RAD).any(1)
    return cut


def _led(rig: Rig, streams: Mapping[str, Stream]) -> dict[str, str]:
    """Followers that a leader led in this episode, by what their commands say."""
    led = {}
    for name, arm in rig.followers.items():
        command = streams.get(topics.arm_command(name))
        if arm.leader is None or command is None or "source" not in command.columns:
            continue
        if (command.columns["source"][0] == b"teleop").all():
            led[name] = arm.leader
    return led
