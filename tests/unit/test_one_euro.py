import numpy as np
import pytest

from teleop.one_euro import PositionFilter, RotationFilter
from teleop.rotations import (
    quaternion_of,
    quaternion_product,
    rotation_vector,
)

RATE_HZ = 90
DT_S = 1 / RATE_HZ


def reaches(distance: float) -> np.ndarray:
    """Six minimum-jerk reaches to and fro, 0.6 s each with 0.6 s rests, at 90 Hz."""
    time = np.arange(0, 7.2, DT_S)
    path = np.zeros_like(time)
    for k in range(6):
        s = np.clip((time - 1.2 * k) / 0.6, 0, 1)
        path += (-1) ** k * distance * s**3 * (10 - 15 * s + 6 * s * s)
    return path


def lag_s(wanted: np.ndarray, got: np.ndarray) -> float:
    """The delay of the wanted path that fits what came out best."""
    time = np.arange(len(wanted)) * DT_S
    delays = np.arange(0, 0.25, 0.001)
    errors = [np.square(np.interp(time - d, time, wanted) - got).mean() for d in delays]
    return float(delays[int(np.argmin(errors))])


def filtered_reach(beta_1_m: float) -> np.ndarray:
    path = reaches(0.3)
    smooth = PositionFilter(np.zeros(3), 1.0, beta_1_m)
    return np.array([smooth.take(np.array([x, 0.0, 0.0]), DT_S)[0] for x in path])


def test_a_reach_of_the_hand_comes_through_with_less_than_two_frames_of_lag() -> None:
    """0.3 m at a peak of 0.94 m/s: about 16 ms."""
    assert lag_s(reaches(0.3), filtered_reach(20.0)) < 0.02


def test_the_beta_of_textbooks_does_nothing_in_metres() -> None:
    """0.007 leaves the whole lag of the 1 Hz cutoff."""
    assert lag_s(reaches(0.3), filtered_reach(0.007)) > 0.1


def test_a_turn_of_the_hand_lags_no_more_than_its_reach() -> None:
    """One radian in 0.6 s, a peak of 3.1 rad/s."""
    path = reaches(1.0)
    smooth = RotationFilter(np.array([1.0, 0, 0, 0]), 1.0, 5.0)
    turns = [smooth.take(quaternion_of(np.array([0, a, 0])), DT_S) for a in path]
    assert lag_s(path, np.array([rotation_vector(q)[1] for q in turns])) < 0.022


def test_the_tremble_of_a_resting_hand_is_smoothed() -> None:
    """Of 0.5 mm and 3 mrad rms a quarter at most comes through."""
    noise = np.random.default_rng(0).normal(size=(900, 3))
    place = PositionFilter(np.zeros(3), 1.0, 20.0)
    turn = RotationFilter(np.array([1.0, 0, 0, 0]), 1.0, 5.0)
    placed = np.array([place.take(5e-4 * n, DT_S) for n in noise])
    turned = np.array([rotation_vector(turn.take(quaternion_of(3e-3 * n), DT_S)) for n in noise])
    assert placed[90:].std() < 0.25 * 5e-4
    assert turned[90:].std() < 0.25 * 3e-3


def test_a_hand_that_stays_is_reached() -> None:
    """Two seconds after a step both filters are there, whichever sign the quaternion came in."""
    goal = quaternion_product(quaternion_of(np.array([0.4, -1.0, 0.3])), quaternion_of(np.ones(3)))
    place = PositionFilter(np.zeros(3), 1.0, 20.0)
    turn = RotationFilter(quaternion_of(np.ones(3)), 1.0, 5.0)
    for k in range(2 * RATE_HZ):
        placed = place.take(np.array([0.1, -0.2, 0.3]), DT_S)
        turned = turn.take(goal * (-1) ** k, DT_S)
    assert placed == pytest.approx([0.1, -0.2, 0.3], abs=1e-4)
    assert abs(float(turned @ goal)) == pytest.approx(1.0, abs=1e-6)


def test_two_samples_of_the_same_instant_are_no_infinite_speed() -> None:
    """Stamps may repeat; the result stays finite."""
    smooth = PositionFilter(np.zeros(3), 1.0, 20.0)
    assert np.isfinite(smooth.take(np.array([0.01, 0, 0]), 0.0)).all()
