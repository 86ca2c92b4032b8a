"""The one definition of "synchronized".

Row k stands for an instant of the row grid. Per stream it holds the newest sample that had
*arrived* by then, which is what a policy running on the rig would have seen, together with
the sample's age since capture. A sample that is missing, stale, repeated or frozen, or behind
lost ones, is flagged; it is never silently repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recorder.schema import Flag
from teleop.clock import NS_PER_S

IntArray = NDArray[np.int64]
FlagArray = NDArray[np.uint8]

NO_SAMPLE = -1
"""Index and age of a row for which nothing had arrived."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamStamps:
    """When the N samples of one stream were taken and arrived."""

    stamp_ns: IntArray
    """Shape (N,)."""
    arrival_ns: IntArray
    """Shape (N,)."""
    seq: IntArray
    """Shape (N,)."""
    nominal_hz: float | None = None
    """None for a stream without a rate, such as a policy's chunks."""
    frozen: NDArray[np.bool_] | None = None
    """Shape (N,). Cameras: the image equals the one before it, byte for byte."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """One stream on the row grid of T rows."""

    index: IntArray
    """Shape (T,). Sample of each row, ``NO_SAMPLE`` where none had arrived."""
    age_ns: IntArray
    """Shape (T,). Row's time minus the sample's capture stamp, ``NO_SAMPLE`` where none."""
    flags: FlagArray
    """Shape (T,). Bits of ``schema.Flag``."""


def row_grid(
    required: Sequence[StreamStamps], start_ns: int, stop_ns: int, row_hz: float
) -> IntArray:
    """Times of the rows.

    The grid begins at ``start_ns``, or at the first instant by which every required stream
    has arrived if that is later, and ends at ``stop_ns`` at the latest.

    Returns:
        Shape (T,), ns; empty when a required stream never arrived.
    """
    if any(len(s.arrival_ns) == 0 for s in required):
        return np.zeros(0, np.int64)
    first_ns = max([start_ns, *(int(s.arrival_ns[0]) for s in required)])
    if stop_ns < first_ns:
        return np.zeros(0, np.int64)
    count = int((stop_ns - first_ns) * row_hz // NS_PER_S) + 1
    # each row is rounded by itself, so that the grid does not drift at rates such as 30 Hz
    offsets: IntArray = np.rint(np.arange(count) * (NS_PER_S / row_hz)).astype(np.int64)
    return offsets + first_ns


def align(stream: StreamStamps, rows_ns: IntArray, row_hz: float, late_s: float) -> Alignment:
    """Put one stream on the row grid.

    Args:
        stream: The samples in the order of their arrival.
        rows_ns: Shape (T,), the grid.
        row_hz: Rate of the grid.
        late_s: Age beyond the stream's own period from which a sample counts as stale.
    """
    # a step back of the arrival clock must not hide samples that had arrived
    arrival_ns = np.maximum.accumulate(stream.arrival_ns)
    index = np.searchsorted(arrival_ns, rows_ns, side="right") - 1
    index = index.astype(np.int64)
    missing = index < 0
    if len(stream.stamp_ns) == 0:
        age_ns = np.full(len(rows_ns), NO_SAMPLE, np.int64)
    else:
        age_ns = np.where(missing, NO_SAMPLE, rows_ns - stream.stamp_ns[index])
    return Alignment(index, age_ns, _flags(stream, index, age_ns, row_hz, late_s))


def _flags(
    stream: StreamStamps, index: IntArray, age_ns: IntArray, row_hz: float, late_s: float
) -> FlagArray:
    flags = np.zeros(len(index), np.uint8)
    missing = index < 0
    flags[missing] |= np.uint8(Flag.MISSING)
    if stream.nominal_hz is None:
        return flags
    flags[~missing & (age_ns > stale_after_ns(stream.nominal_hz, late_s))] |= np.uint8(Flag.STALE)
    if len(index) > 1:
        before, now = index[:-1], index[1:]
        if stream.nominal_hz >= 2 * row_hz:
            flags[1:][(now == before) & (now >= 0)] |= np.uint8(Flag.REPEATED)
        lost = np.concatenate([[0], np.cumsum(np.diff(stream.seq) - 1)])
        if len(stream.seq):
            gap = (before >= 0) & (lost[now] > lost[np.maximum(before, 0)])
            flags[1:][gap] |= np.uint8(Flag.GAP)
    if stream.frozen is not None and len(stream.frozen):
        flags[~missing & stream.frozen[index]] |= np.uint8(Flag.FROZEN)
    return flags


def stale_after_ns(nominal_hz: float, late_s: float) -> int:
    """Age beyond which a sample counts as stale: its period plus the allowance."""
    return round((1 / nominal_hz + late_s) * NS_PER_S)


def gaps_of(seq: IntArray) -> int:
    """How many messages were lost, by their sequence numbers."""
    steps = np.diff(seq)
    return int((steps[steps > 1] - 1).sum())


def rate_of(stamp_ns: IntArray) -> float:
    """Mean rate between the first and the last of these instants, Hz; 0 for fewer than two."""
    if len(stamp_ns) < 2 or stamp_ns[-1] <= stamp_ns[0]:
        return 0.0
    return float((len(stamp_ns) - 1) * NS_PER_S / (stamp_ns[-1] - stamp_ns[0]))


def columns_by_row(
    columns: Mapping[str, NDArray[np.float64]], index: IntArray
) -> dict[str, NDArray[np.float64]]:
    """Sample columns (N, ...) on the grid (T, ...); rows without a sample are NaN."""
    out = {}
    for name, values in columns.items():
        if len(values) == 0:
            out[name] = np.full((len(index), *values.shape[1:]), np.nan)
            continue
        rows = values[index]
        rows[index < 0] = np.nan
        out[name] = rows
    return out
