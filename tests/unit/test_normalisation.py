"""Statistics of columns and images, and the maps they define."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.normalisation import (
    STD_FLOOR,
    MapName,
    column_statistics,
    fault,
    image_statistics,
)

RNG = np.random.default_rng(0)
TABLE = RNG.normal([0.0, 3.0, -1.0], [1.0, 0.2, 5.0], (2000, 3))
MAPS: tuple[MapName, ...] = ("standard", "range", "quantile")


def test_the_standard_map_gives_zero_mean_and_unit_deviation() -> None:
    """Each column for itself."""
    mapped = column_statistics(TABLE, "standard").normalise(TABLE)
    assert mapped.mean(0) == pytest.approx(np.zeros(3), abs=1e-9)
    assert mapped.std(0) == pytest.approx(np.ones(3))


def test_the_range_map_gives_exactly_minus_one_to_one() -> None:
    """Smallest and largest value."""
    mapped = column_statistics(TABLE, "range").normalise(TABLE)
    assert mapped.min(0) == pytest.approx(-np.ones(3))
    assert mapped.max(0) == pytest.approx(np.ones(3))


def test_the_quantile_map_is_not_squeezed_by_few_wild_values() -> None:
    """98 % of the values lie in [-1, 1]; the wild one is not clipped."""
    table = TABLE.copy()
    table[5, 0] = 50.0
    mapped = column_statistics(table, "quantile").normalise(table)
    assert np.mean(np.abs(mapped[:, 0]) <= 1) == pytest.approx(0.98, abs=0.002)
    assert mapped[5, 0] > 10


@given(
    st.sampled_from(MAPS),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    st.floats(-1e3, 1e3),
)
def test_what_is_normalised_is_restored(map: MapName, column: list[float], value: float) -> None:
    """For any column, also a constant one, and for values it has never seen."""
    statistics = column_statistics(np.array(column)[:, None], map)
    there = statistics.normalise(np.array([value]))
    assert statistics.restore(there) == pytest.approx(np.array([value]), abs=1e-8)


@pytest.mark.parametrize("map", MAPS)
def test_a_column_that_rests_is_not_blown_up(map: MapName) -> None:
    """Sensor noise of a thousandth stays small after the map, and the column is told."""
    table = TABLE.copy()
    table[:, 1] = 0.5 + RNG.uniform(-1e-3, 1e-3, len(table))
    statistics = column_statistics(table, map)
    assert np.abs(statistics.normalise(table)[:, 1]).max() < 0.11
    assert statistics.std[1] == STD_FLOOR
    assert statistics.constant() == (1,)


def test_numbers_that_are_none_are_found() -> None:
    """Row and column of the first."""
    table = TABLE.copy()
    table[7, 2] = np.nan
    found = fault(table)
    assert found is not None
    assert found[:2] == (7, 2)


def test_a_single_wild_value_is_found_in_a_small_table() -> None:
    """The usual spread is that of the other values, not one that the wild value makes itself."""
    table = TABLE[:100].copy()
    table[42, 0] = 3000.0
    found = fault(table)
    assert found is not None
    assert found[:2] == (42, 0)
    assert "reaches 3000" in found[2]


def test_a_joint_that_moves_once_in_a_long_while_is_not_called_broken() -> None:
    """A gripper that is closed in one row of a thousand, all its stroke."""
    table = np.zeros((5000, 1))
    table[::1000] = 1.0
    assert fault(table) is None


def test_image_statistics_are_those_of_the_pixels() -> None:
    """Per channel, in units of 0..1."""
    images = np.repeat(np.repeat(RNG.integers(0, 256, (4, 6, 8, 3)), 2, 1), 2, 2).astype(np.uint8)
    images[..., 2] = 51
    statistics = image_statistics(list(images))
    values = images.reshape(-1, 3) / 255
    assert statistics.mean == pytest.approx(values.mean(0))
    assert statistics.std[:2] == pytest.approx(values.std(0)[:2])
    assert statistics.std[2] == STD_FLOOR
