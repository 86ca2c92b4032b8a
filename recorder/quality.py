"""Is this episode good enough to learn from? A verdict with its reasons.

Each check looks at measured numbers and returns complaints; the worst one is the verdict.
Thresholds that a rig may want to change are in ``hardware.yaml`` under ``recording``; the
others are constants here, each with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from recorder.align import Alignment, StreamStamps, gaps_of, rate_of
from recorder.schema import Flag
from teleop.clock import NS_PER_S
from teleop.messages import FloatArray
from teleop.rig import Recording

Level = Literal["pass", "warn", "fail"]

MAX_STALE_FRACTION = 0.01
"""Rows with a stale sample: one hiccup of a few frames passes, being flagged in the file."""
FAIL_STALE_FRACTION = 0.05
FAIL_GAP_FRACTION = 0.01
"""Lost messages; any at all is worth a warning, since the bus loses none when healthy."""
MAX_FROZEN_FRACTION = 0.05
"""Camera frames equal to their predecessor: sensor noise makes two real ones differ."""
FAIL_FROZEN_FRACTION = 0.2
FROZEN_COUNTS_RAD = 0.02
"""Equal frames count only while a follower moves: a rendered scene at rest repeats exactly."""
MAX_LIMITED_FRACTION = 0.2
"""Rows whose command was cut at a joint's range or at the step limit."""
MAX_RESIDUAL_RAD = 0.2
"""RMS of leader minus follower per joint: an arm that lags shows 0.02 to 0.07 rad."""
IDLE_RAD = 0.02
"""A joint that moves less than this, about a degree, does nothing."""
LATE_START_S = 0.5
"""Time between the start of the episode and its first row."""

_ORDER: tuple[Level, ...] = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing found."""

    level: Level
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the operator is told when an episode closes."""

    level: Level
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, complaints: list[Complaint]) -> Self:
        """The worst level, and all reasons, worst first."""
        ordered = sorted(complaints, key=lambda c: -_ORDER.index(c.level))
        level = ordered[0].level if ordered else "pass"
        return cls(level, tuple(c.reason for c in ordered))

    def to_json(self) -> str:
        return json.dumps({"level": self.level, "reasons": list(self.reasons)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        content = json.loads(text)
        return cls(content["level"], tuple(content["reasons"]))


@dataclass(frozen=True, slots=True, eq=False)
class StreamFacts:
    """One stream as the episode has it."""

    stamps: StreamStamps
    alignment: Alignment | None
    """None when the stream is not on the rows."""
    required: bool
    is_camera: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeFacts:
    """All that the checks look at."""

    recording: Recording
    start_ns: int
    stop_ns: int
    rows_ns: NDArray[np.int64]
    streams: Mapping[str, StreamFacts]
    position_rad: Mapping[str, FloatArray]
    """Joint positions by arm, each (T, J)."""
    limited: Mapping[str, NDArray[np.bool_]]
    """By follower, (T,): its command was cut at a range or a step limit."""
    leader_of: Mapping[str, str]
    joint_names: Mapping[str, tuple[str, ...]]
    extra: list[Complaint] = field(default_factory=list)
    """Found while the file was built, such as unreadable images."""


def judge(facts: EpisodeFacts) -> Verdict:
    """Run all checks."""
    complaints = [*facts.extra, *_rows(facts)]
    for name, stream in facts.streams.items():
        complaints += _rate(name, stream, facts)
        complaints += _gaps(name, stream)
        if stream.alignment is not None and stream.required and len(facts.rows_ns):
            complaints += _staleness(name, stream.alignment)
        if stream.is_camera and stream.alignment is not None:
            complaints += _frozen(name, stream.alignment, facts)
    if len(facts.rows_ns) > 1:
        complaints += _motion(facts)
    return Verdict.of(complaints)


def _rows(facts: EpisodeFacts) -> Iterator[Complaint]:
    if len(facts.rows_ns) == 0:
        yield Complaint("fail", "no row: a required stream is missing or the episode is empty")
        return
    late_s = (int(facts.rows_ns[0]) - facts.start_ns) / NS_PER_S
    if late_s > LATE_START_S:
        last = max(
            (name for name, s in facts.streams.items() if s.required),
            key=lambda name: int(facts.streams[name].stamps.arrival_ns[0]),
        )
        yield Complaint("warn", f"rows begin {late_s:.1f} s late: {last} arrived last")
    missing = np.zeros(len(facts.rows_ns), bool)
    for stream in facts.streams.values():
        if stream.required and stream.alignment is not None:
            missing |= (stream.alignment.flags & Flag.MISSING) != 0
    if missing.any():
        yield Complaint("fail", f"{int(missing.sum())} rows lack a required sample")


def _rate(name: str, stream: StreamFacts, facts: EpisodeFacts) -> Iterator[Complaint]:
    nominal_hz = stream.stamps.nominal_hz
    if nominal_hz is None or not stream.required:
        return
    count = len(stream.stamps.stamp_ns)
    if count == 0:
        yield Complaint("fail", f"{name} has no samples")
        return
    if (facts.stop_ns - facts.start_ns) * nominal_hz < 5 * NS_PER_S:
        return  # too few periods for a rate
    rate_hz = rate_of(stream.stamps.stamp_ns)
    least_hz = facts.recording.min_rate_fraction * nominal_hz
    if rate_hz < least_hz:
        yield Complaint("fail", f"{name} ran at {rate_hz:.1f} of {nominal_hz:g} Hz")
    # a stream that stops early keeps its mean rate, so its end is looked at by itself
    silent_s = (facts.stop_ns - int(stream.stamps.arrival_ns[-1])) / NS_PER_S
    if silent_s > max(10 / nominal_hz, 10 * facts.recording.warn_late_s):
        yield Complaint("fail", f"{name} was silent for the last {silent_s:.1f} s")


def _gaps(name: str, stream: StreamFacts) -> Iterator[Complaint]:
    lost = gaps_of(stream.stamps.seq)
    if lost == 0:
        return
    total = lost + len(stream.stamps.seq)
    level: Level = "fail" if lost > FAIL_GAP_FRACTION * total and stream.required else "warn"
    yield Complaint(level, f"{name} lost {lost} of {total} messages")


def _staleness(name: str, alignment: Alignment) -> Iterator[Complaint]:
    stale = (alignment.flags & Flag.STALE) != 0
    fraction = float(stale.mean())
    if fraction <= MAX_STALE_FRACTION:
        return
    worst_s = int(alignment.age_ns.max()) / NS_PER_S
    level: Level = "fail" if fraction > FAIL_STALE_FRACTION else "warn"
    yield Complaint(
        level, f"{name} is stale in {100 * fraction:.1f} % of rows, at worst {worst_s:.2f} s old"
    )


def _frozen(name: str, alignment: Alignment, facts: EpisodeFacts) -> Iterator[Complaint]:
    moving = _moving_rows(facts)
    if not moving.any():
        return
    frozen = ((alignment.flags & Flag.FROZEN) != 0) & moving
    fraction = float(frozen.sum() / moving.sum())
    if fraction > MAX_FROZEN_FRACTION:
        level: Level = "fail" if fraction > FAIL_FROZEN_FRACTION else "warn"
        yield Complaint(
            level, f"{name} repeats the same image in {100 * fraction:.0f} % of moving rows"
        )


def _moving_rows(facts: EpisodeFacts) -> NDArray[np.bool_]:
    """Rows within which some follower joint moves faster than ``FROZEN_COUNTS_RAD`` a row."""
    moving = np.zeros(len(facts.rows_ns), bool)
    for arm in facts.limited:
        step = np.abs(np.diff(facts.position_rad[arm], axis=0)).max(axis=1, initial=0.0)
        moving[1:] |= step > FROZEN_COUNTS_RAD
    return moving


def _motion(facts: EpisodeFacts) -> Iterator[Complaint]:
    widest_rad = 0.0
    for arm, limited in facts.limited.items():
        position = facts.position_rad[arm]
        widest_rad = max(widest_rad, float(np.nanmax(np.ptp(position, axis=0), initial=0.0)))
        if limited.mean() > MAX_LIMITED_FRACTION:
            yield Complaint(
                "warn", f"{arm}: the limits cut the command in {100 * limited.mean():.0f} % of rows"
            )
        if not np.isfinite(position).all():
            yield Complaint("fail", f"{arm}: positions are missing in some rows")
        yield from _residual(facts, arm, position)
    if facts.limited and widest_rad < IDLE_RAD:
        yield Complaint("warn", f"idle: no follower joint moved more than {widest_rad:.3f} rad")


def _residual(facts: EpisodeFacts, arm: str, position: FloatArray) -> Iterator[Complaint]:
    leader = facts.leader_of.get(arm)
    if leader is None or leader not in facts.position_rad:
        return
    rms = np.sqrt(np.mean((facts.position_rad[leader] - position) ** 2, axis=0))
    worst = int(np.argmax(rms))
    if rms[worst] > MAX_RESIDUAL_RAD:
        joint = facts.joint_names[arm][worst]
        yield Complaint("warn", f"{arm} is {rms[worst]:.2f} rad (RMS) off its leader at {joint}")
