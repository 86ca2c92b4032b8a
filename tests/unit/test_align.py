"""Alignment: a row holds what had arrived by its time, and says how good that is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.align import (
    NO_SAMPLE,
    StreamStamps,
    align,
    columns_by_row,
    gaps_of,
    rate_of,
    row_grid,
)
from recorder.schema import Flag

MS = 1_000_000


def stream(
    stamps_ms: list[float],
    latency_ms: float = 0.0,
    hz: float | None = 100.0,
    seq: list[int] | None = None,
) -> StreamStamps:
    """A stream sampled at these instants."""
    stamp = (np.array(stamps_ms, float) * MS).astype(np.int64)
    arrival = stamp + int(latency_ms * MS)
    return StreamStamps(stamp, arrival, np.array(seq or range(len(stamp)), np.int64), hz)


def rows(*times_ms: float) -> np.ndarray:
    """Row times."""
    return (np.array(times_ms) * MS).astype(np.int64)


def test_a_sample_counts_from_its_arrival_and_not_from_its_capture() -> None:
    """At 25 ms a sample taken at 20 ms that needs 8 ms is still under way."""
    found = align(stream([0, 10, 20], latency_ms=8), rows(25, 28), 50, 0.05)
    assert found.index.tolist() == [1, 2]
    assert found.age_ns.tolist() == [15 * MS, 8 * MS]


def test_a_row_before_the_first_arrival_is_flagged_missing() -> None:
    """Index and age say so, too."""
    found = align(stream([10]), rows(5, 10), 50, 0.05)
    assert found.index.tolist() == [NO_SAMPLE, 0]
    assert found.age_ns.tolist() == [NO_SAMPLE, 0]
    assert found.flags.tolist() == [Flag.MISSING, 0]


def test_a_stream_that_never_spoke_is_missing_in_every_row() -> None:
    """No samples, no crash."""
    found = align(stream([]), rows(0, 20), 50, 0.05)
    assert found.flags.tolist() == [Flag.MISSING, Flag.MISSING]


def test_an_old_sample_is_flagged_stale() -> None:
    """Older than its period of 10 ms plus the allowance of 50 ms."""
    found = align(stream([0, 10]), rows(10, 70, 71), 50, 0.05)
    assert [bool(f & Flag.STALE) for f in found.flags] == [False, False, True]


def test_a_fast_stream_that_stands_still_is_flagged_repeated() -> None:
    """At 100 Hz each 20 ms row must have a new sample."""
    found = align(stream([0, 10, 20]), rows(0, 20, 40), 50, 0.05)
    assert [bool(f & Flag.REPEATED) for f in found.flags] == [False, False, True]


def test_a_slow_stream_may_repeat() -> None:
    """A 30 Hz camera on 50 Hz rows repeats by nature."""
    found = align(stream([0, 33, 67], hz=30), rows(0, 20, 40, 60, 80), 50, 0.05)
    assert found.index.tolist() == [0, 0, 1, 1, 2]
    assert not found.flags.any()


def test_lost_messages_are_flagged_at_the_row_that_follows_them() -> None:
    """Sequence numbers 2 and 3 never came."""
    lossy = stream([0, 10, 40, 50], seq=[0, 1, 4, 5])
    found = align(lossy, rows(0, 20, 40, 60), 50, 0.05)
    assert [bool(f & Flag.GAP) for f in found.flags] == [False, False, True, False]
    assert gaps_of(lossy.seq) == 2


def test_frozen_images_are_flagged() -> None:
    """Rows whose camera frame equals the one before it."""
    base = stream([0, 20, 40], hz=50)
    frozen = np.array([False, True, False])
    camera = StreamStamps(base.stamp_ns, base.arrival_ns, base.seq, 50.0, frozen)
    found = align(camera, rows(0, 20, 40), 50, 0.05)
    assert [bool(f & Flag.FROZEN) for f in found.flags] == [False, True, False]


def test_rows_begin_when_all_required_streams_have_arrived() -> None:
    """The later of the two first arrivals, when that is after the start."""
    a, b = stream([0, 10, 20]), stream([13, 23])
    assert row_grid([a, b], 5 * MS, 60 * MS, 50).tolist() == rows(13, 33, 53).tolist()
    assert row_grid([a, b], 15 * MS, 40 * MS, 50).tolist() == rows(15, 35).tolist()


def test_there_are_no_rows_without_a_required_stream() -> None:
    """Nor when recording stopped before the last one came."""
    assert len(row_grid([stream([0]), stream([])], 0, 100 * MS, 50)) == 0
    assert len(row_grid([stream([50])], 0, 40 * MS, 50)) == 0


def test_the_grid_does_not_drift_at_uneven_periods() -> None:
    """After an hour at 30 Hz the last row is where it belongs."""
    grid = row_grid([], 0, 3600 * 1000 * MS, 30)
    assert len(grid) == 3600 * 30 + 1
    assert grid[-1] == 3600 * 1000 * MS


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    latencies=st.lists(st.integers(0, 30), min_size=60, max_size=60),
)
def test_no_row_holds_a_sample_from_its_future(steps: list[int], latencies: list[int]) -> None:
    """And no newer sample had arrived: checked against the definition, row by row."""
    stamp = np.cumsum(steps) * MS
    arrival = np.maximum.accumulate(stamp + np.array(latencies[: len(steps)]) * MS)
    samples = StreamStamps(stamp, arrival, np.arange(len(stamp)), 100.0)
    grid = rows(*range(0, int(arrival[-1] / MS) + 20, 20))
    found = align(samples, grid, 50, 0.05)
    for row_ns, index, age_ns in zip(grid, found.index, found.age_ns, strict=True):
        arrived = np.flatnonzero(arrival <= row_ns)
        assert index == (arrived[-1] if len(arrived) else NO_SAMPLE)
        if index >= 0:
            assert age_ns == row_ns - stamp[index] >= 0


def test_columns_follow_the_index_and_are_nan_where_nothing_had_arrived() -> None:
    """Missing rows are not a repeat of any sample."""
    out = columns_by_row({"q": np.array([[1.0], [2.0]])}, np.array([-1, 1, 0]))
    assert np.isnan(out["q"][0, 0])
    assert out["q"][1:, 0].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(("stamps_ms", "hz"), [([0, 10, 20], 100.0), ([5], 0.0), ([], 0.0)])
def test_the_rate_is_between_first_and_last(stamps_ms: list[float], hz: float) -> None:
    """Fewer than two samples have no rate."""
    assert rate_of(stream(stamps_ms).stamp_ns) == pytest.approx(hz)
