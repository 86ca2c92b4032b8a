"""Histograms of times, in a node's health and as a table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.latency import GROWTH, SMALLEST_MS, Histogram, Latencies, table

times_ms = st.lists(st.floats(0.0, 100_000.0), min_size=1, max_size=200)


@given(times_ms=times_ms, share=st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_right_within_a_bin(times_ms: list[float], share: float) -> None:
    """Never below the true one, and at most 5 % above it."""
    histogram = Histogram()
    for ms in times_ms:
        histogram.add(ms * 1e6)
    true = float(np.quantile(times_ms, share, method="inverted_cdf"))
    found = histogram.quantile_ms(share)
    assert found >= true * (1 - 1e-9) or true <= SMALLEST_MS
    assert found <= max(true * GROWTH, SMALLEST_MS) * (1 + 1e-9)
    assert histogram.max_ms == pytest.approx(max(times_ms))


def test_a_stage_in_which_nothing_was_late_shows_zero() -> None:
    """Times below zero, such as a plan that came early, count as none."""
    histogram = Histogram()
    histogram.add(-5e6)
    assert (histogram.quantile_ms(0.99), histogram.max_ms, histogram.count) == (0.0, 0.0, 1)


def test_the_table_shows_the_stages_that_were_measured() -> None:
    """In the order of the flow, with the number of times."""
    latencies = Latencies(("inference", "decode"))
    for ms in (10.0, 10.0, 40.0):
        latencies.add("inference", ms * 1e6)
    lines = table(latencies.values()).splitlines()
    assert lines[0] == "| stage, ms | p50 | p95 | p99 | max | times |"
    assert len(lines) == 3
    name, p50, _, p99, longest, count = (cell.strip() for cell in lines[2].strip("|").split("|"))
    assert (name, longest, count) == ("inference", "40.0", "3")
    assert float(p50) == pytest.approx(10.0, rel=0.06)
    assert float(p99) == pytest.approx(40.0, rel=0.06)


def test_without_measurements_there_is_no_table() -> None:
    """A teleoperated session has nothing to show."""
    assert table({}) == ""
