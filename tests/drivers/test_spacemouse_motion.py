"""What a puck's reports come to, in made-up time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import PuckReading
from drivers.spacemouse.motion import SETTLE_NS, PuckMotion
from teleop.clock import ns_from_s
from teleop.messages import FloatArray

MS = 1_000_000
PERIOD_NS = 8 * MS


def deflection(x: float = 0.0, yaw: float = 0.0) -> FloatArray:
    return np.array([x, 0.0, 0.0, 0.0, 0.0, yaw])


def settled(deadzone: float = 0.05, silence_s: float = 0.1) -> tuple[PuckMotion, int]:
    """A puck that was at rest when opened, and the time."""
    motion = PuckMotion(deadzone, silence_s)
    motion.restart(0)
    motion.tick(SETTLE_NS)
    return motion, SETTLE_NS


def last_x(readings: list[PuckReading]) -> float:
    return float(readings[-1].linear[0])


def report(motion: PuckMotion, axes: FloatArray, now_ns: int) -> list[PuckReading]:
    motion.axes(axes, now_ns)
    return motion.tick(now_ns)


def test_what_is_beyond_the_deadzone_reaches_from_zero_to_one() -> None:
    """No step at the deadzone's edge, full scale at full deflection, both ways."""
    motion, now_ns = settled(deadzone=0.1)
    for pushed, meant in ((0.1, 0.0), (0.1009, 0.001), (0.55, 0.5), (1.0, 1.0), (-1.2, -1.0)):
        assert last_x(report(motion, deflection(pushed), now_ns)) == pytest.approx(meant, abs=1e-9)


def test_a_deflection_that_is_not_repeated_ends_after_the_silence() -> None:
    """Believed for the configured time and not a millisecond more; health says so."""
    motion, now_ns = settled(silence_s=0.1)
    assert last_x(report(motion, deflection(0.7), now_ns)) > 0
    assert motion.tick(now_ns + 100 * MS) == []
    end = motion.tick(now_ns + 101 * MS)
    assert last_x(end) == 0
    assert end[-1].stamp_ns == now_ns + 101 * MS
    assert "fell silent while deflected" in motion.fault
    assert motion.silences == 1


def test_it_is_believed_again_when_it_soon_speaks_again() -> None:
    """The fault ends with the next report."""
    motion, now_ns = settled()
    report(motion, deflection(0.7), now_ns)
    motion.tick(now_ns + 150 * MS)
    assert last_x(report(motion, deflection(0.5), now_ns + 200 * MS)) > 0
    assert motion.fault == ""


def test_after_a_long_silence_it_must_be_let_go_first() -> None:
    """An arm that stood still does not set off when a radio comes back; health asks for it."""
    motion, now_ns = settled()
    report(motion, deflection(0.7), now_ns)
    motion.tick(now_ns + 200 * MS)
    assert last_x(report(motion, deflection(0.5), now_ns + 300 * MS)) == 0
    assert "let go of it" in motion.fault
    report(motion, deflection(0.0), now_ns + 310 * MS)
    assert motion.fault == ""
    assert last_x(report(motion, deflection(0.5), now_ns + 320 * MS)) > 0


def test_a_held_puck_that_repeats_itself_keeps_counting() -> None:
    """Ten seconds of the same report are ten seconds of motion."""
    motion, now_ns = settled()
    for _ in range(1250):
        now_ns += PERIOD_NS
        assert last_x(report(motion, deflection(0.5), now_ns)) > 0.4
    assert motion.silences == 0


def test_a_silent_puck_at_rest_is_told_as_zeros() -> None:
    """So that whoever listens knows that it is there."""
    motion, now_ns = settled()
    told = [r for i in range(1, 101) for r in motion.tick(now_ns + i * 10 * MS)]
    assert len(told) == 50
    assert not any(r.linear.any() or r.angular.any() for r in told)
    assert motion.fault == ""


def test_a_puck_that_is_pushed_when_opened_moves_nothing_until_let_go() -> None:
    """A jammed puck, or one with a book on it, does not drive the arm off at the start."""
    motion = PuckMotion(0.05, 0.1)
    motion.restart(0)
    told = [
        r for t in range(0, ns_from_s(1), PERIOD_NS) for r in report(motion, deflection(0.6), t)
    ]
    assert not any(r.linear.any() for r in told)
    assert "was deflected when it was opened" in motion.fault
    report(motion, deflection(0.0), ns_from_s(1))
    assert motion.fault == ""
    assert last_x(report(motion, deflection(0.6), ns_from_s(1) + PERIOD_NS)) > 0


def test_a_zero_that_is_a_little_off_is_taken_off() -> None:
    """What a worn puck reports at rest counts as rest, and the rest of its way counts in full."""
    motion = PuckMotion(0.05, 0.1)
    motion.restart(0)
    for i, t in enumerate(range(0, SETTLE_NS + PERIOD_NS, PERIOD_NS)):
        report(motion, deflection(yaw=0.1 + 0.003 * (i % 2)), t)
    at_rest = report(motion, deflection(yaw=0.1), SETTLE_NS + 2 * PERIOD_NS)
    assert not at_rest[-1].angular.any()
    pushed = report(motion, deflection(yaw=0.6), SETTLE_NS + 3 * PERIOD_NS)
    assert pushed[-1].angular[2] == pytest.approx((0.5 - 0.05) / 0.95, abs=0.005)


def test_a_puck_that_reports_zero_is_believed_over_its_offset() -> None:
    """A light hand at the start must not become a drift later."""
    motion = PuckMotion(0.05, 0.1)
    motion.restart(0)
    for t in range(0, SETTLE_NS + PERIOD_NS, PERIOD_NS):
        report(motion, deflection(0.12), t)
    assert last_x(report(motion, deflection(0.0), ns_from_s(1))) == 0
    assert last_x(report(motion, deflection(0.12), ns_from_s(1.1))) > 0


def test_each_change_of_a_button_is_told_however_short() -> None:
    """A press and a release that were read at once are two readings."""
    motion, now_ns = settled()
    motion.buttons(frozenset({"button_1"}), now_ns)
    motion.buttons(frozenset(), now_ns + 1)
    told = motion.tick(now_ns + 2)
    assert [r.buttons for r in told] == [{"button_1"}, frozenset()]


def test_reports_read_at_once_come_to_the_newest_state() -> None:
    """Old deflections are not worked off one by one."""
    motion, now_ns = settled()
    for x in (0.2, 0.9, 0.4, 0.0):
        motion.axes(deflection(x), now_ns)
    told = motion.tick(now_ns)
    assert len(told) == 1
    assert last_x(told) == 0


def test_the_last_word_of_a_lost_puck_is_that_all_was_let_go() -> None:
    """Whatever was pushed and pressed when it went."""
    motion, now_ns = settled()
    motion.buttons(frozenset({"button_0"}), now_ns)
    motion.axes(deflection(1.0), now_ns)
    last = motion.lost(now_ns + MS)[-1]
    assert not last.linear.any()
    assert last.buttons == frozenset()


@given(
    st.lists(st.tuples(st.floats(-1.5, 1.5), st.integers(0, 300)), min_size=1, max_size=40),
    st.floats(0, 0.5),
)
def test_no_sequence_of_reports_and_pauses_leaves_a_silent_puck_deflected(
    reports: list[tuple[float, int]], deadzone: float
) -> None:
    """After the silence it is zero, and never beyond full scale before."""
    motion = PuckMotion(deadzone, 0.1)
    now_ns = 0
    told: list[PuckReading] = []
    for x, pause_ms in reports:
        told += report(motion, deflection(x), now_ns)
        now_ns += pause_ms * MS
        told += motion.tick(now_ns)
    told += motion.tick(now_ns + 101 * MS) + motion.tick(now_ns + 130 * MS)
    assert all(np.abs(r.linear).max() <= 1 for r in told)
    assert last_x(told) == 0
