"""The SteamVR driver: the real ``openvr`` package over an emulated runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from calibration.poses import rotation_from_quaternion
from drivers.base import HandReading
from teleop.clock import NS_PER_S
from teleop.rotations import quaternion_of_matrix
from tests.drivers.vr_bench import (
    TRACKER,
    Open,
    hand_at,
    sessions,
    skip_without_openvr,
    turned_about,
)

skip_without_openvr()


@pytest.fixture
def open_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Makes sessions and closes them after the test."""
    with sessions(tmp_path, monkeypatch) as make:
        yield make


# Poses


def test_a_hand_is_where_the_operator_holds_it(open_session: Open) -> None:
    """Position and rotation arrive in the input frame, stamped when they were asked for."""
    session = open_session()
    turn = turned_about((0.0, 1.0, 0.0), 0.5)
    session.runtime.move("hand", hand_at(0.25, 1.5, -0.75, quaternion_wxyz=turn))
    before_ns = session.clock.now_ns()
    hand = session.take()["hand"]
    assert hand.tracked
    np.testing.assert_allclose(hand.position_m, (0.25, 1.5, -0.75), atol=1e-6)
    np.testing.assert_allclose(hand.quaternion_wxyz, turn, atol=1e-6)
    assert before_ns <= hand.stamp_ns <= session.clock.now_ns()


def test_the_next_reading_is_the_newest_pose(open_session: Open) -> None:
    """No pose is delivered late: each one written is what the very next take returns."""
    session = open_session()
    for x in np.linspace(0.0, 1.0, 50):
        session.runtime.move("hand", hand_at(x))
        assert session.take()["hand"].position_m[0] == pytest.approx(x, abs=1e-6)


def test_a_rotation_never_flips_its_sign(open_session: Open) -> None:
    """Turning twice around, no two neighbouring quaternions are on opposite sides."""
    session = open_session()
    axis = (0.48, 0.6, 0.64)
    seen = []
    for angle in np.linspace(0.0, 4 * np.pi, 200):
        session.runtime.move("hand", hand_at(0.0, quaternion_wxyz=turned_about(axis, angle)))
        seen.append(session.take()["hand"].quaternion_wxyz)
    assert seen[0][0] > 0
    assert min(float(a @ b) for a, b in pairwise(seen)) > 0.99


def test_any_rotation_keeps_its_meaning_as_a_quaternion() -> None:
    """Half turns, which make other formulas divide by nothing, included."""
    rng = np.random.default_rng(4)
    turns = [rng.normal(size=4) for _ in range(500)]
    turns += [np.array(half) for half in ((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, -1, 1))]
    for turn in turns:
        matrix = np.zeros((3, 4))
        matrix[:, :3] = rotation_from_quaternion(turn)
        quaternion = quaternion_of_matrix(matrix.astype(np.float32).astype(np.float64))
        assert np.linalg.norm(quaternion) == pytest.approx(1.0)
        assert quaternion[0] >= 0
        np.testing.assert_allclose(rotation_from_quaternion(quaternion), matrix[:, :3], atol=1e-6)
    half = quaternion_of_matrix(np.column_stack((np.diag([-1.0, 1.0, -1.0]), np.zeros(3))))
    np.testing.assert_allclose(np.abs(half), (0, 0, 1, 0), atol=1e-9)
    np.testing.assert_allclose(quaternion_of_matrix(np.eye(3)), (1, 0, 0, 0))


def test_a_jump_is_passed_on_as_it_is(open_session: Open) -> None:
    """The driver does not smooth: whoever maps the pose decides what a leap means."""
    session = open_session()
    session.runtime.move("hand", hand_at(0.0))
    session.take()
    session.runtime.move("hand", hand_at(1.0))
    hand = session.take()["hand"]
    assert (hand.tracked, hand.position_m[0]) == (True, pytest.approx(1.0))


def test_a_pose_is_never_half_of_one_and_half_of_another(open_session: Open) -> None:
    """The runtime writes as fast as it can while we read; the library runs beside Python."""
    session = open_session()
    session.runtime.move("hand", hand_at(0.0, 0.0, 0.0))
    done = threading.Event()

    def write_without_pause() -> None:
        x = 0.0
        while not done.is_set():
            x = (x + 0.001) % 1.0
            session.runtime.move("hand", hand_at(x, x, x))

    writer = threading.Thread(target=write_without_pause)
    writer.start()
    try:
        seen: set[float] = set()
        while len(seen) < 40:
            x, y, z = session.take()["hand"].position_m
            assert x == y == z
            seen.add(x)
    finally:
        done.set()
        writer.join()


def test_a_reading_is_of_the_kind_that_the_node_publishes(open_session: Open) -> None:
    """Plain arrays and floats of the shapes that a message has."""
    hand = open_session().take()["hand"]
    assert isinstance(hand, HandReading)
    assert (hand.position_m.shape, hand.quaternion_wxyz.shape, hand.stick.shape) == (
        (3,),
        (4,),
        (2,),
    )
    assert {a.dtype for a in (hand.position_m, hand.quaternion_wxyz, hand.stick)} == {
        np.dtype(np.float64)
    }


# Which device is which


def test_two_hands_and_a_tracker_keep_apart(open_session: Open) -> None:
    """Two bound by hand and one by serial number, in one hub."""
    session = open_session(one="left", two="right", three=TRACKER)
    for i, name in enumerate(("one", "two", "three")):
        session.runtime.move(name, hand_at(float(i)))
    places = {name: hand.position_m[0] for name, hand in session.take().items()}
    assert places == {"one": 0.0, "two": 1.0, "three": 2.0}


def test_an_input_follows_the_hand_when_steamvr_swaps_them(open_session: Open) -> None:
    """Roles are SteamVR's to give, and it changes its mind as controllers wake up."""
    session = open_session(one="left", two="right")
    session.runtime.move("one", hand_at(1.0))
    session.runtime.move("two", hand_at(2.0))
    session.take()
    session.runtime.set_role("one", "right")
    session.runtime.set_role("two", "left")
    places = {name: hand.position_m[0] for name, hand in session.take().items()}
    assert places == {"one": 2.0, "two": 1.0}


def test_a_device_that_was_never_on_has_no_pose(open_session: Open) -> None:
    """Nothing is made up for it; health says what is there instead, and it may come later."""
    session = open_session(one="left", two="right")
    session.runtime.unplug("two")
    assert set(session.take()) == {"one"}
    health = session.hub.health()
    assert not health.ok
    assert "two: no controller is on in the right hand; SteamVR has" in health.detail
    assert "LHR-EMULATED-ONE" in health.detail
    session.runtime.replug("two")
    assert session.take()["two"].tracked
    assert session.hub.health().ok


# Faults


def test_lost_tracking_with_the_grip_held(open_session: Open) -> None:
    """Told at once, with the last pose that was believed in and the grip as it is."""
    session = open_session()
    session.runtime.move("hand", hand_at(0.5, squeeze=1.0))
    assert session.take()["hand"].tracked
    session.runtime.move("hand", hand_at(0.9, squeeze=1.0, tracked=False))
    hand = session.take()["hand"]
    assert (hand.tracked, hand.squeeze) == (False, 1.0)
    assert hand.position_m[0] == pytest.approx(0.5)
    assert "hand: is not tracked (result 201)" in session.hub.health().detail
    session.runtime.move("hand", hand_at(0.6, squeeze=1.0))
    hand = session.take()["hand"]
    assert (hand.tracked, hand.position_m[0]) == (True, pytest.approx(0.6))
    assert session.hub.health().ok


@pytest.mark.parametrize(
    ("valid", "result", "tracked"),
    [
        (True, 200, True),
        (False, 200, False),
        (True, 201, False),
        (False, 201, False),
        (True, 1, False),
        (True, 100, False),
        (True, 101, False),
        (True, 300, False),
    ],
)
def test_only_a_valid_pose_of_running_tracking_is_believed(
    open_session: Open, valid: bool, result: int, tracked: bool
) -> None:
    """SteamVR calls a pose valid that it only guesses."""
    session = open_session()
    session.runtime.set_tracking("hand", valid, result)
    assert session.take()["hand"].tracked is tracked


def test_a_pose_that_is_no_number_is_not_believed(open_session: Open) -> None:
    """Whatever the runtime says of it."""
    session = open_session()
    session.runtime.move("hand", hand_at(0.5))
    session.take()
    session.runtime.move("hand", hand_at(float("nan")))
    hand = session.take()["hand"]
    assert (hand.tracked, hand.position_m[0]) == (False, pytest.approx(0.5))


@pytest.mark.parametrize("bound_to", ["right", TRACKER])
def test_a_controller_switched_off_lets_everything_go(open_session: Open, bound_to: str) -> None:
    """With the grip held it goes off, and comes back under another number."""
    session = open_session(hand=bound_to)
    session.runtime.move("hand", hand_at(0.5, trigger=1.0, squeeze=1.0))
    assert session.take()["hand"].squeeze == 1.0
    first = session.runtime.index_of("hand")
    session.runtime.unplug("hand")
    hand = session.take()["hand"]
    assert (hand.tracked, hand.trigger, hand.squeeze) == (False, 0.0, 0.0)
    assert hand.buttons == frozenset()
    assert hand.position_m[0] == pytest.approx(0.5)
    assert not session.hub.health().ok
    session.runtime.replug("hand")
    session.runtime.move("hand", hand_at(0.7))
    hand = session.take()["hand"]
    assert session.runtime.index_of("hand") != first
    assert (hand.tracked, hand.position_m[0]) == (True, pytest.approx(0.7))


def test_buttons_that_never_arrive_are_a_fault(open_session: Open) -> None:
    """What a controller without a binding looks like: answered, packet 0, nothing pressed."""
    session = open_session()
    session.runtime.freeze_buttons("hand")
    session.runtime.move("hand", hand_at(0.0, squeeze=1.0))
    assert session.take()["hand"].tracked
    assert session.hub.health().ok
    session.clock.ahead_ns = 4 * NS_PER_S
    health = session.hub.health()
    assert not health.ok
    assert "hand: none of its buttons has arrived (oculus_touch); press one" in health.detail
    assert health.values["hand_packet"] == 0


def test_a_tracker_needs_no_buttons(open_session: Open) -> None:
    """Most have nothing wired to their contacts: a remark, no fault."""
    session = open_session(hand=TRACKER)
    session.runtime.freeze_buttons("hand")
    session.take()
    session.clock.ahead_ns = 4 * NS_PER_S
    health = session.hub.health()
    assert "none of its buttons" in health.detail
    assert health.ok


def test_an_empty_battery_is_mentioned(open_session: Open) -> None:
    """Before the controller goes off in the middle of an episode."""
    session = open_session()
    session.take()
    assert session.hub.health().values["hand_battery"] == pytest.approx(0.9)
    session.runtime.set_battery("hand", 0.05)
    health = session.hub.health()
    assert health.ok
    assert "battery at 5%; charge it" in health.detail
