"""Actions by time from overlapping, late, missing and faulty chunks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.chunks import GRACE_ROWS, STALE_HOLD_S, ChunkScheduler
from policies.deployment import ChunkMode, DeployOptions
from teleop.clock import ns_from_s
from teleop.messages import ActionChunk, FloatArray

DT_NS = 20_000_000
ROWS = 10


def chunk(first_row: int, values: FloatArray | float, rows: int = ROWS) -> ActionChunk:
    """A chunk of one joint that begins at row ``first_row`` of the common grid."""
    actions = np.broadcast_to(np.asarray(values, float).reshape(-1, 1), (rows, 1)).copy()
    t0_ns = first_row * DT_NS
    return ActionChunk(t0_ns, 0, t0_ns, DT_NS, actions, first_row, first_row, "test")


def scheduler(
    mode: ChunkMode = "ensemble",
    decay: float = 0.01,
    blend_s: float = 0.0,
    per_s: float = math.inf,
    column: str = "left/waist",
    replan_rows: int = 1,
    execute_rows: int | None = None,
) -> ChunkScheduler:
    options = DeployOptions(mode, decay, replan_rows, execute_rows, blend_s)
    made = ChunkScheduler([column], options, joint_blend_per_s=per_s)
    made.start(np.zeros(1), 0)
    return made


def played(play: ChunkScheduler, now_ns: int) -> float:
    """The action due, which there must be."""
    action = play.action_at(now_ns)
    assert action is not None
    return float(action[0])


def test_the_action_of_a_row_is_due_at_its_time() -> None:
    """At t0 + i dt exactly row i is returned."""
    play = scheduler()
    play.add(chunk(0, np.arange(ROWS)), 0)
    due = [play.action_at(i * DT_NS) for i in range(ROWS)]
    assert [float(a[0]) for a in due if a is not None] == pytest.approx(list(range(ROWS)))


def test_between_rows_the_action_is_interpolated() -> None:
    """A quarter of the way from row 3 to row 4 is 3.25; the last row lasts one row time."""
    play = scheduler()
    play.add(chunk(0, np.arange(ROWS)), 0)
    quarter = play.action_at(3 * DT_NS + DT_NS // 4)
    assert quarter is not None
    assert quarter[0] == pytest.approx(3.25)
    last = play.action_at(ROWS * DT_NS - 1)
    assert last is not None
    assert last[0] == pytest.approx(ROWS - 1)


def test_a_chunk_that_has_run_out_gives_nothing() -> None:
    """From t0 + rows * dt on there is no action, and the instant is counted as held."""
    play = scheduler()
    play.add(chunk(0, 1.0), 0)
    assert play.action_at(ROWS * DT_NS) is None
    assert play.counts.held == 1


def test_a_late_chunk_begins_in_its_middle() -> None:
    """Rows that were due before the chunk came are simply past."""
    play = scheduler()
    play.add(chunk(0, np.arange(ROWS)), 6 * DT_NS)
    action = play.action_at(6 * DT_NS)
    assert action is not None
    assert action[0] == pytest.approx(6.0)


def test_a_chunk_that_is_wholly_past_is_counted_and_dropped() -> None:
    """Nothing of it is ever played."""
    play = scheduler()
    assert not play.add(chunk(0, 1.0), ROWS * DT_NS)
    assert play.counts.late == 1
    assert play.action_at(ROWS * DT_NS) is None


def test_a_positive_decay_favours_the_oldest_plan() -> None:
    """Weights are exp(-m n) with n rows after the oldest: the sign convention of ACT."""
    play = scheduler(decay=0.1)
    play.add(chunk(0, 0.0), 0)
    play.add(chunk(5, 1.0), 5 * DT_NS)
    action = play.action_at(5 * DT_NS)
    newer = np.exp(-0.1 * 5)
    assert action is not None
    assert action[0] == pytest.approx(newer / (1 + newer))


def test_a_negative_decay_favours_the_newest_plan() -> None:
    """The other sign, as some other projects use it."""
    play = scheduler(decay=-1.0)
    play.add(chunk(0, 0.0), 0)
    play.add(chunk(5, 1.0), 5 * DT_NS)
    action = play.action_at(5 * DT_NS)
    assert action is not None
    assert action[0] > 0.99


def test_an_exact_zero_is_an_action_like_any_other() -> None:
    """Zeros take part in the average; the reference code of ACT drops them by mistake."""
    play = scheduler(decay=0.0)
    play.add(chunk(0, 0.0), 0)
    play.add(chunk(1, 1.0), DT_NS)
    action = play.action_at(2 * DT_NS)
    assert action is not None
    assert action[0] == pytest.approx(0.5)


def test_the_newest_chunk_alone_counts_in_newest_mode() -> None:
    """After the seam has faded, the older plan has no part."""
    play = scheduler("newest", blend_s=0.04)
    play.add(chunk(0, 0.0), 0)
    play.action_at(0)
    play.add(chunk(2, 1.0), 2 * DT_NS)
    after = [play.action_at(row * DT_NS) for row in (2, 3, 4, 5)]
    assert [float(a[0]) for a in after if a is not None] == pytest.approx([0.0, 0.5, 1.0, 1.0])


def test_a_seam_follows_the_replaced_plan_while_it_fades() -> None:
    """The blend starts where the older plan is now, not where it was a tick ago."""
    play = scheduler("newest", blend_s=0.2, per_s=1.0)
    slope = np.arange(ROWS) * 0.01
    play.add(chunk(0, slope), 0)
    play.action_at(0)
    play.action_at(DT_NS)
    play.add(chunk(2, 0.02 + slope + 0.1), 2 * DT_NS)
    action = play.action_at(2 * DT_NS)
    assert action is not None
    assert action[0] == pytest.approx(0.02)


@given(
    jump=st.floats(-0.5, 0.5),
    gap_rows=st.integers(0, 60),
    mode=st.sampled_from(["ensemble", "newest"]),
)
@settings(max_examples=60, deadline=None)
def test_resuming_after_a_hold_adds_no_step(jump: float, gap_rows: int, mode: ChunkMode) -> None:
    """After a stall of any length the command moves by at most 0.02 rad per 10 ms."""
    play = scheduler(mode, blend_s=0.1, per_s=1.0)
    play.add(chunk(0, 0.1), 0)
    last = 0.0
    for ms in range(0, 2400, 10):
        now_ns = ms * 1_000_000
        if now_ns == (ROWS + gap_rows) * DT_NS:
            play.add(chunk(ROWS + gap_rows, 0.1 + jump, rows=50), now_ns)
        action = play.action_at(now_ns)
        if action is not None:
            assert abs(float(action[0]) - last) <= 0.02
            last = float(action[0])
    assert last == pytest.approx(0.1 + jump)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (chunk(1, np.r_[np.nan, np.zeros(ROWS - 1)]), "NaN"),
        (ActionChunk(0, 0, 0, DT_NS, np.zeros((ROWS, 2)), 1, 1, "test"), "shape"),
        (ActionChunk(0, 0, 0, DT_NS, np.zeros(ROWS), 1, 1, "test"), "shape"),
        (ActionChunk(0, 0, 0, 0, np.zeros((ROWS, 1)), 1, 1, "test"), "row time"),
        (chunk(1000, 1.0), "from now"),
        (chunk(3, 1.0), "from now"),
    ],
)
def test_a_faulty_chunk_is_refused_and_the_good_one_plays_on(fault: ActionChunk, word: str) -> None:
    """NaN, a wrong shape, no row time and a plan for another day never reach the arms."""
    play = scheduler()
    play.add(chunk(0, 0.5), 0)
    assert not play.add(fault, DT_NS)
    assert play.counts.refused == 1
    assert word in play.last_fault
    action = play.action_at(DT_NS)
    assert action is not None
    assert action[0] == pytest.approx(0.5)


def test_an_old_chunk_does_not_come_back() -> None:
    """A plan made before the newest one is out of order and is not played."""
    play = scheduler("newest")
    play.add(chunk(4, 1.0), 4 * DT_NS)
    assert not play.add(chunk(3, 0.0), 4 * DT_NS)
    assert play.counts.out_of_order == 1
    action = play.action_at(4 * DT_NS)
    assert action is not None
    assert action[0] == pytest.approx(1.0)


def test_a_plan_of_the_future_does_not_shut_out_those_of_the_present() -> None:
    """One wrong date costs one plan; a plan dated up to a row ahead is played in its time."""
    play = scheduler("newest")
    assert not play.add(chunk(4, 9.0), 0)
    assert play.add(chunk(1, 0.5), DT_NS)
    assert played(play, DT_NS) == pytest.approx(0.5)
    assert play.add(chunk(2, 0.7), DT_NS)
    assert played(play, DT_NS) == pytest.approx(0.5)
    assert played(play, 2 * DT_NS) == pytest.approx(0.7)


def test_a_plan_that_is_too_old_is_told() -> None:
    """Wholly past, or older than another: in words with its number, until the next start."""
    play = scheduler()
    play.add(chunk(2, 0.1), 2 * DT_NS)
    play.add(chunk(1, 0.1), 2 * DT_NS)
    assert play.last_fault == "chunk 1 is older than a plan in play, the start or a hold"
    play.add(chunk(0, 0.1), 50 * DT_NS)
    assert play.last_fault == "chunk 0 began 1.0 s ago and was past when it came"
    play.start(np.zeros(1), 60 * DT_NS)
    assert play.last_fault == ""


def test_plans_made_before_the_start_are_refused() -> None:
    """What was planned while waiting does not move the arms once the episode runs."""
    play = scheduler()
    play.start(np.zeros(1), 5 * DT_NS)
    assert not play.add(chunk(4, 1.0), 5 * DT_NS)
    assert play.action_at(5 * DT_NS) is None


def test_starting_forgets_chunks_and_blends_from_the_held_pose() -> None:
    """The first action of an episode is the pose that was being held."""
    play = scheduler(blend_s=0.1)
    play.add(chunk(0, 9.0), 0)
    play.start(np.array([0.3]), DT_NS)
    assert play.action_at(DT_NS) is None
    play.add(chunk(2, 0.5), 2 * DT_NS)
    action = play.action_at(2 * DT_NS)
    assert action is not None
    assert action[0] == pytest.approx(0.3)


@pytest.mark.parametrize("mode", ["ensemble", "newest"])
def test_no_plan_survives_a_start(mode: ChunkMode) -> None:
    """After a handover neither plans in play nor those still on their way have any part."""
    play = scheduler(mode)
    for row in range(4):
        play.add(chunk(row, 9.0), row * DT_NS)
        play.action_at(row * DT_NS)
    play.start(np.array([0.3]), 5 * DT_NS)
    assert play.action_at(5 * DT_NS) is None
    assert play.newest is None
    assert not play.add(chunk(4, 9.0), 5 * DT_NS)
    play.add(chunk(5, 0.5), 6 * DT_NS)
    assert played(play, 6 * DT_NS) == pytest.approx(0.5)


def test_a_plan_from_before_a_hold_is_stale() -> None:
    """The arms have stopped since: neither its first row nor its middle is true any more."""
    play = scheduler()
    play.add(chunk(0, 0.1), 0)
    end_ns = ROWS * DT_NS
    assert play.action_at(end_ns) is None
    assert play.action_at(end_ns + ns_from_s(STALE_HOLD_S)) is None
    late_ns = end_ns + ns_from_s(STALE_HOLD_S)
    assert not play.add(chunk(ROWS - 1, 5.0, rows=50), late_ns)
    assert play.counts.out_of_order == 1
    assert play.add(chunk(ROWS + 1, 0.2, rows=50), late_ns)


def test_a_short_gap_is_bridged_by_the_plan_that_was_on_its_way() -> None:
    """A plan a row too late still counts: nothing has stopped yet."""
    play = scheduler()
    play.add(chunk(0, 0.1), 0)
    assert play.action_at(ROWS * DT_NS) is None
    play.add(chunk(ROWS - 1, 0.1), (ROWS + 1) * DT_NS)
    assert played(play, (ROWS + 1) * DT_NS) == pytest.approx(0.1)


def test_the_one_row_of_a_single_step_policy_lasts_until_the_next_comes() -> None:
    """Each action acts as soon as it is there, unblended, and no instant is held between."""
    play = ChunkScheduler(["left/waist"], DeployOptions.for_chunk(1))
    play.start(np.zeros(1), 0)
    inference_ns = DT_NS // 2
    seen = []
    for ms in range(0, 400, 5):
        now_ns = ms * 1_000_000
        if now_ns % DT_NS == inference_ns:
            row = now_ns // DT_NS
            play.add(chunk(row, 0.05 * row, rows=1), now_ns)
        if now_ns > inference_ns:
            seen.append(played(play, now_ns) - 0.05 * ((now_ns - inference_ns) // DT_NS))
    assert seen == pytest.approx(np.zeros(len(seen)))
    assert play.counts.held == 0


def test_a_single_step_policy_that_falls_silent_leads_to_a_hold() -> None:
    """Its last action does not stay in force for ever."""
    play = ChunkScheduler(["left/waist"], DeployOptions.for_chunk(1))
    play.start(np.zeros(1), 0)
    play.add(chunk(0, 0.01, rows=1), 0)
    until_ns = (1 + GRACE_ROWS) * DT_NS
    assert play.action_at(until_ns - 1) is not None
    assert play.action_at(until_ns) is None


def test_rows_beyond_the_execution_horizon_are_not_played() -> None:
    """Four rows of ten, then the last of them while the next plan may be late, then a hold."""
    play = scheduler("newest", replan_rows=4, execute_rows=4)
    play.add(chunk(0, np.arange(ROWS)), 0)
    assert played(play, 3 * DT_NS) == pytest.approx(3.0)
    assert played(play, 5 * DT_NS) == pytest.approx(3.0)
    assert play.action_at((4 + GRACE_ROWS) * DT_NS) is None


def test_rows_that_came_too_late_are_counted() -> None:
    """Six of ten were past when the plan came."""
    play = scheduler()
    play.add(chunk(0, 0.0), 6 * DT_NS)
    assert play.counts.late_rows == 6


def test_a_gripper_is_never_half_way_between_open_and_closed() -> None:
    """Plans that disagree about when to close: one of them is followed, not their mean."""
    play = scheduler(decay=0.0, column="left/gripper")
    play.start(np.ones(1), 0)
    for row in range(5):
        closing_at = 5 if row < 3 else 7
        opening = (np.arange(ROWS) + row < closing_at).astype(float)
        play.add(chunk(row, opening), row * DT_NS)
    openings = [played(play, row * DT_NS) for row in range(9)]
    assert set(openings) == {0.0, 1.0}
    assert openings[4] == 1.0
    assert openings[5] == 0.0  # three of five plans have closed


def test_grippers_that_nearly_agree_are_averaged_like_joints() -> None:
    """A small difference is noise, and its mean is smoother."""
    play = scheduler(decay=0.0, column="left/gripper")
    play.start(np.full(1, 0.5), 0)
    play.add(chunk(0, 0.4), 0)
    play.add(chunk(1, 0.6), DT_NS)
    assert played(play, 2 * DT_NS) == pytest.approx(0.5)


def test_a_joint_is_a_place_on_its_range_and_is_not_wrapped() -> None:
    """From 3.1 to -3.1 rad the way leads through 0: servos do not turn through half a turn."""
    play = scheduler()
    play.add(chunk(0, np.array([3.1, -3.1]), rows=2), 0)
    assert played(play, DT_NS // 2) == pytest.approx(0.0)


def test_a_plan_beyond_its_bounds_is_cut_before_it_is_blended() -> None:
    """From a held pose outside the bounds the command moves in smoothly, without a jump."""
    play = ChunkScheduler(["left/waist"], DeployOptions(), [-1.0], [1.0])
    play.start(np.array([1.5]), 0)
    play.add(chunk(0, 7.0, rows=200), 0)
    way = [played(play, ms * 1_000_000) for ms in range(0, 2000, 10)]
    assert way[0] == pytest.approx(1.5)
    assert np.abs(np.diff(way)).max() <= 0.0101
    assert way[-1] == pytest.approx(1.0)


def test_a_fading_seam_does_not_lead_out_of_the_bounds() -> None:
    """The plan turns round while the offset of the start still fades."""
    play = ChunkScheduler(["left/waist"], DeployOptions(blend_s=0.5), [0.0], [1.0])
    play.start(np.zeros(1), 0)
    play.add(chunk(0, np.where(np.arange(ROWS) < 5, 1.0, 0.0)), 0)
    way = [played(play, ms * 1_000_000) for ms in range(0, 200, 10)]
    assert min(way) >= 0.0


def test_a_long_history_of_decay_does_not_overflow() -> None:
    """A steep preference for the newest plan is exact, however far the plans lie apart."""
    play = scheduler(decay=-50.0)
    play.add(chunk(0, 1.0, rows=100), 0)
    play.add(chunk(80, 2.0, rows=100), 80 * DT_NS)
    assert played(play, 80 * DT_NS) == pytest.approx(2.0)
