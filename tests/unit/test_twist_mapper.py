import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleop.messages import TwistInput
from teleop.rig_cartesian import CartesianSettings, PuckSettings
from teleop.rotations import ToolPose, length, quaternion_of, turn_between
from teleop.twist_mapper import TwistMapper

MS = 1_000_000
START = ToolPose(np.array([0.3, 0.0, 0.2]), quaternion_of(np.array([0.1, 0.5, -0.3])))


class Pushed:
    """A puck read every 8 ms, and the target it moves."""

    def __init__(self, yaw: float = 0.0, **puck: object) -> None:
        self.mapper = TwistMapper(CartesianSettings(puck=PuckSettings(**puck)), yaw)
        self.now_ns = 1_000 * MS
        self.mapper.begin(self.now_ns)
        self.target = START

    def push(self, linear=(0, 0, 0), angular=(0, 0, 0), buttons: int = 0, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.now_ns += 8 * MS
            sample = TwistInput(
                self.now_ns, 0, np.array(linear, float), np.array(angular, float), buttons
            )
            self._follow([sample])

    def silence(self, ticks: int) -> None:
        for _ in range(ticks):
            self.now_ns += 8 * MS
            self._follow([])

    def _follow(self, samples: list[TwistInput]) -> None:
        wanted = self.mapper.follow(samples, self.now_ns, self.target, 0.008)
        self.target = self.target if wanted is None else wanted

    @property
    def moved_m(self) -> np.ndarray:
        return self.target.position_m - START.position_m

    @property
    def turned_rad(self) -> np.ndarray:
        return turn_between(START.quaternion_wxyz, self.target.quaternion_wxyz)


def test_a_full_push_moves_at_a_quarter_metre_per_second() -> None:
    """One second forward, as UMI has it."""
    puck = Pushed()
    puck.push(linear=(1, 0, 0), ticks=125)
    assert puck.moved_m == pytest.approx([0.25, 0, 0])
    assert puck.turned_rad == pytest.approx([0, 0, 0], abs=1e-12)


def test_a_full_twist_turns_about_the_axes_of_the_base() -> None:
    """However the tool is held, twisting the puck about z turns it about the vertical."""
    puck = Pushed()
    puck.push(angular=(0, 0, 1), ticks=125)
    assert puck.turned_rad == pytest.approx([0, 0, 0.6])


def test_the_push_is_seen_from_where_the_operator_stands() -> None:
    """An operator who looks along the base's y axis pushes forward along y."""
    puck = Pushed(yaw=np.pi / 2)
    puck.push(linear=(1, 0, 0), ticks=125)
    assert puck.moved_m == pytest.approx([0, 0.25, 0])


def test_a_silent_puck_stops_within_a_tenth_of_a_second() -> None:
    """Even though the last it said was a full push."""
    puck = Pushed()
    puck.push(linear=(1, 0, 0), ticks=10)
    puck.silence(100)
    assert puck.moved_m[0] <= 0.25 * 0.19
    assert puck.mapper.lost


def test_a_puck_lost_while_pushed_must_be_let_go_first() -> None:
    """Unplugged and plugged in again, still pushed: nothing moves until it was centred."""
    puck = Pushed()
    puck.push(linear=(1, 0, 0), ticks=10)
    puck.silence(50)
    before = puck.moved_m
    puck.push(linear=(1, 0, 0), ticks=50)
    assert puck.moved_m == pytest.approx(before)
    assert puck.mapper.lost
    puck.push()
    assert not puck.mapper.lost
    puck.push(linear=(1, 0, 0), ticks=10)
    assert puck.moved_m[0] > before[0]


def test_a_puck_pushed_as_the_episode_begins_must_be_let_go_first() -> None:
    """Else the arm would start with the episode."""
    puck = Pushed()
    puck.push(linear=(1, 0, 0), ticks=10)
    puck.mapper.begin(puck.now_ns)
    before = puck.moved_m
    puck.push(linear=(1, 0, 0), ticks=10)
    assert puck.moved_m == pytest.approx(before)
    assert not puck.mapper.engaged


def test_a_puck_at_rest_may_be_silent_for_as_long_as_it_likes() -> None:
    """It is not lost, and the next push moves at once."""
    puck = Pushed()
    puck.push(linear=(1, 0, 0))
    puck.push()
    puck.silence(500)
    assert not puck.mapper.lost
    before = puck.moved_m
    puck.push(linear=(1, 0, 0))
    assert puck.moved_m[0] > before[0]


def test_what_is_not_a_number_is_not_followed() -> None:
    """It counts as a fault: the puck must be let go."""
    puck = Pushed()
    puck.push(linear=(np.nan, 0, 0), ticks=5)
    puck.push(linear=(1, 0, 0), ticks=5)
    assert puck.moved_m == pytest.approx([0, 0, 0])
    assert puck.mapper.lost


def test_fine_and_enable_buttons_do_what_they_are_set_to() -> None:
    """Button 3 must be held, button 4 makes it slow."""
    puck = Pushed(enable="button_3", fine="button_4", fine_scale=0.4)
    puck.push(linear=(1, 0, 0), ticks=10)
    assert puck.moved_m == pytest.approx([0, 0, 0])
    puck.push(linear=(1, 0, 0), buttons=1 << 3 | 1 << 4, ticks=125)
    assert puck.moved_m == pytest.approx([0.1, 0, 0])


@pytest.mark.parametrize(
    ("axes", "moves", "turns"), [("translate", True, False), ("rotate", False, True)]
)
def test_a_puck_can_be_set_to_move_or_to_turn_only(axes: str, moves: bool, turns: bool) -> None:
    """The other half of the push is ignored."""
    puck = Pushed(axes=axes)
    puck.push(linear=(0, 1, 0), angular=(0, 1, 0), ticks=5)
    assert bool(puck.moved_m.any()) is moves
    assert (length(puck.turned_rad) > 1e-6) is turns


axis = st.floats(-5, 5) | st.just(float("nan")) | st.just(float("inf"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*[axis] * 6), max_size=40))
def test_no_push_is_faster_than_full_scale(pushes: list[tuple[float, ...]]) -> None:
    """Corners, overflow and nonsense included."""
    puck = Pushed()
    for push in pushes:
        before = puck.target
        puck.push(push[:3], push[3:])
        assert length(puck.target.position_m - before.position_m) <= 0.25 * 0.008 + 1e-12
        turn = turn_between(before.quaternion_wxyz, puck.target.quaternion_wxyz)
        assert length(turn) <= 0.6 * 0.008 + 1e-9
