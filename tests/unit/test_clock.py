"""Deadlines are absolute, and missed ticks are skipped, not made up for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleop.clock import Ticker, VirtualClock


@given(st.lists(st.integers(0, 50), min_size=1, max_size=50))
def test_deadlines_stay_on_the_grid_whatever_the_lateness(delays: list[int]) -> None:
    """However late each tick is taken, the next deadline is the next grid point in the future."""
    ticker = Ticker(10, 1000)
    now = 1000
    for delay in delays:
        now = max(now, ticker.deadline_ns) + delay
        ticker.advance(now)
        assert ticker.deadline_ns > now
        assert ticker.deadline_ns - now <= 10
        assert (ticker.deadline_ns - 1000) % 10 == 0
    assert ticker.ticks + ticker.missed == (ticker.deadline_ns - 1000) // 10


def test_missed_ticks_are_counted() -> None:
    """A pause of three and a half periods misses three ticks."""
    ticker = Ticker(10, 0)
    assert ticker.advance(35) == 3
    assert (ticker.missed, ticker.deadline_ns, ticker.worst_late_ns) == (3, 40, 35)


def test_a_period_must_be_positive() -> None:
    """Zero would never end."""
    with pytest.raises(ValueError, match="positive"):
        Ticker(0, 0)


def test_virtual_time_moves_only_when_told() -> None:
    """Sleeping into the past does not turn the clock back."""
    clock = VirtualClock(5)
    clock.sleep_until_ns(9)
    clock.sleep_until_ns(3)
    assert clock.now_ns() == 9
