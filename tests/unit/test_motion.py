"""Ramps from pose to pose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleop.errors import SafetyError
from teleop.motion import SHORTEST_S, Ramp

angle = st.floats(-3, 3)


@settings(max_examples=50, deadline=None)
@given(start=st.tuples(angle, angle), goal=st.tuples(angle, angle), speed=st.floats(0.1, 3))
def test_a_ramp_keeps_its_speed_and_joins_its_ends(
    start: tuple[float, float], goal: tuple[float, float], speed: float
) -> None:
    """From start to goal, at rest at both ends, no joint faster than allowed."""
    ramp = Ramp(np.array(start), np.array(goal), speed)
    times = np.linspace(0, ramp.duration_s, 500)
    path = np.array([ramp.at(t)[0] for t in times])
    assert path[0] == pytest.approx(start)
    assert path[-1] == pytest.approx(goal)
    speeds = np.abs(np.diff(path, axis=0)) / times[1]
    assert speeds.max() <= speed * 1.001
    assert speeds[[0, -1]].max() <= 0.01 * speed + 1e-9


def test_the_slowest_joint_sets_the_duration_and_uses_the_speed_it_may() -> None:
    """A ramp is no slower than needed."""
    ramp = Ramp(np.zeros(2), np.array([0.1, 2.0]), 0.8)
    times = np.linspace(0, ramp.duration_s, 1001)
    path = np.array([ramp.at(t)[0][1] for t in times])
    assert np.diff(path).max() / times[1] == pytest.approx(0.8, rel=1e-3)


def test_an_acceleration_limit_stretches_a_ramp() -> None:
    """Peak acceleration stays below it."""
    ramp = Ramp(np.zeros(1), np.array([0.5]), 3.0, max_acceleration_rad_s2=1.0)
    times = np.linspace(0, ramp.duration_s, 1001)
    path = np.array([ramp.at(t)[0][0] for t in times])
    assert np.abs(np.diff(path, 2)).max() / times[1] ** 2 == pytest.approx(1.0, rel=1e-2)


def test_the_gripper_moves_with_the_joints() -> None:
    """Its own rate may stretch the ramp."""
    ramp = Ramp(np.zeros(1), np.zeros(1), 1.0, gripper=(0.0, 1.0), max_gripper_velocity_1_s=0.5)
    assert ramp.duration_s == pytest.approx(1.875 / 0.5)
    assert ramp.at(0.0)[1] == 0.0
    assert ramp.at(ramp.duration_s / 2)[1] == pytest.approx(0.5)
    assert ramp.at(99.0)[1] == 1.0


def test_no_distance_takes_the_shortest_time() -> None:
    """And ``finished`` tells."""
    ramp = Ramp(np.ones(2), np.ones(2), 1.0)
    assert ramp.duration_s == SHORTEST_S
    assert not ramp.finished(SHORTEST_S / 2)
    assert ramp.finished(SHORTEST_S)


@pytest.mark.parametrize("goal", [np.zeros(3), np.array([0.0, np.nan])])
def test_poses_that_do_not_fit_are_refused(goal: np.ndarray) -> None:
    """Another arm's pose, or a joint that was not measured."""
    with pytest.raises(SafetyError):
        Ramp(np.zeros(2), goal, 1.0)
