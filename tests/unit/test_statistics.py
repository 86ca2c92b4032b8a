"""Intervals of success rates, and the test for pairs."""

import pytest

from policies.statistics import mcnemar, wilson


def test_an_interval_matches_published_values() -> None:
    """15 of 20 gives 53.1 % to 88.8 % (Wilson 1927, as tabulated by Newcombe 1998)."""
    low, high = wilson(15, 20)
    assert low == pytest.approx(0.531, abs=5e-4)
    assert high == pytest.approx(0.888, abs=5e-4)


def test_no_failure_still_leaves_doubt() -> None:
    """20 of 20 reaches 1 at the top and well below it at the bottom."""
    low, high = wilson(20, 20)
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(0.839, abs=5e-4)


def test_successes_and_failures_mirror_each_other() -> None:
    """The interval of k successes is one minus that of k failures."""
    low, high = wilson(3, 17)
    assert wilson(14, 17) == pytest.approx((1 - high, 1 - low))


def test_without_trials_nothing_is_known() -> None:
    """Zero trials give the whole range."""
    assert wilson(0, 0) == (0.0, 1.0)


def test_impossible_counts_are_refused() -> None:
    """More successes than trials is a mistake of the caller."""
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(5, 4)


def test_the_pair_test_matches_the_binomial_by_hand() -> None:
    """1 against 8: (1 + 9) / 2^9 at one end, both ends make 0.0390625."""
    assert mcnemar(1, 8) == pytest.approx(0.0390625)
    assert mcnemar(8, 1) == mcnemar(1, 8)


def test_an_even_split_or_none_tells_nothing() -> None:
    """The probability is never above 1."""
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 0) == 1.0


def test_hundreds_of_one_sided_pairs_do_not_overflow() -> None:
    """0 against 900 is as sure as a number can be."""
    assert mcnemar(0, 900) == pytest.approx(2 * 2.0**-900)


def test_negative_counts_are_refused() -> None:
    """A mistake of the caller."""
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 3)
