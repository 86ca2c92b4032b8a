"""The verdict: each thing that spoils an episode is named, and a good one passes."""

from dataclasses import replace

import numpy as np
import pytest

from recorder.align import StreamStamps, align
from recorder.quality import Complaint, EpisodeFacts, StreamFacts, Verdict, judge
from teleop.clock import NS_PER_S
from teleop.rig import Recording

SECONDS = 4.0
ROW_HZ = 50.0
ROWS_NS = (np.arange(int(SECONDS * ROW_HZ) + 1) * (NS_PER_S / ROW_HZ)).astype(np.int64)


def stream(
    hz: float,
    *,
    keep: np.ndarray | None = None,
    until_s: float = SECONDS,
    frozen: np.ndarray | None = None,
    rows_ns: np.ndarray = ROWS_NS,
) -> StreamFacts:
    """A stream at this rate over the whole episode; ``keep`` selects what was not lost."""
    stamp = (np.arange(int(until_s * hz) + 1) * (NS_PER_S / hz)).astype(np.int64)
    seq = np.arange(len(stamp))
    keep = np.ones(len(stamp), bool) if keep is None else keep[: len(stamp)]
    stamps = StreamStamps(
        stamp[keep], stamp[keep], seq[keep], hz, None if frozen is None else frozen[: keep.sum()]
    )
    return StreamFacts(stamps, align(stamps, rows_ns, ROW_HZ, 0.05), True, frozen is not None)


def good(rows_ns: np.ndarray = ROWS_NS) -> EpisodeFacts:
    """An arm that follows its leader, and a camera."""
    time_s = rows_ns / NS_PER_S
    q = np.column_stack([np.sin(3 * time_s), 0.1 * time_s])
    return EpisodeFacts(
        recording=Recording(),
        start_ns=0,
        stop_ns=int(ROWS_NS[-1]),
        rows_ns=rows_ns,
        streams={
            "arm/follow/state": stream(100, rows_ns=rows_ns),
            "camera/high": stream(30, frozen=np.zeros(1000, bool), rows_ns=rows_ns),
        },
        position_rad={"lead": q + 0.05, "follow": q},
        limited={"follow": np.zeros(len(rows_ns), bool)},
        leader_of={"follow": "lead"},
        joint_names={"follow": ("waist", "elbow")},
    )


def with_stream(name: str, facts: StreamFacts, rows_ns: np.ndarray = ROWS_NS) -> EpisodeFacts:
    """The good episode with one stream replaced."""
    base = good(rows_ns)
    return replace(base, streams={**base.streams, name: facts})


def test_a_good_episode_passes_without_remark() -> None:
    """No reasons."""
    assert judge(good()) == Verdict("pass", ())


def test_the_worst_complaint_decides_and_comes_first() -> None:
    """Reasons are kept, worst first."""
    verdict = Verdict.of([Complaint("warn", "a"), Complaint("fail", "b")])
    assert verdict == Verdict("fail", ("b", "a"))


def test_a_verdict_survives_its_file() -> None:
    """To JSON and back."""
    verdict = Verdict("warn", ("x",))
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_one_lost_message_is_a_warning() -> None:
    """It names the stream and counts."""
    keep = np.ones(1000, bool)
    keep[50] = False
    verdict = judge(with_stream("arm/follow/state", stream(100, keep=keep)))
    assert verdict == Verdict("warn", ("arm/follow/state lost 1 of 401 messages",))


def test_many_lost_messages_fail() -> None:
    """More than one in a hundred."""
    keep = np.arange(1000) % 20 != 5
    verdict = judge(with_stream("arm/follow/state", stream(100, keep=keep)))
    assert verdict.level == "fail"
    assert "lost 20 of 401" in verdict.reasons[0]


def test_a_slow_stream_fails_with_its_rate() -> None:
    """20 of 30 Hz is below the rig's nine tenths."""
    slow = stream(20, frozen=np.zeros(1000, bool))
    slow = replace(slow, stamps=replace(slow.stamps, nominal_hz=30.0))
    verdict = judge(with_stream("camera/high", slow))
    assert verdict.level == "fail"
    assert "camera/high ran at 20.0 of 30 Hz" in verdict.reasons


def test_a_stream_that_stops_early_fails() -> None:
    """Its mean rate was fine, its rows are stale."""
    verdict = judge(with_stream("arm/follow/state", stream(100, until_s=3.0)))
    assert verdict.level == "fail"
    assert any("silent for the last 1.0 s" in reason for reason in verdict.reasons)
    assert any("stale in" in reason for reason in verdict.reasons)


def test_an_absent_stream_fails() -> None:
    """No sample, no rows."""
    empty = StreamStamps(*(np.zeros(0, np.int64) for _ in range(3)), 100.0)
    no_rows = np.zeros(0, np.int64)
    absent = StreamFacts(empty, align(empty, no_rows, ROW_HZ, 0.05), True)
    verdict = judge(with_stream("arm/follow/state", absent, no_rows))
    assert "arm/follow/state has no samples" in verdict.reasons
    assert verdict.level == "fail"


@pytest.mark.parametrize(("share", "level"), [(0.02, "pass"), (0.15, "warn"), (0.6, "fail")])
def test_a_frozen_camera_is_noticed_while_the_arm_moves(share: float, level: str) -> None:
    """The share of repeated images decides."""
    frozen = np.random.default_rng(1).random(1000) < share
    assert judge(with_stream("camera/high", stream(30, frozen=frozen))).level == level


def test_equal_images_of_a_resting_scene_are_no_fault() -> None:
    """A rendered scene at rest repeats exactly."""
    facts = with_stream("camera/high", stream(30, frozen=np.ones(1000, bool)))
    still = {name: 0.1 * q for name, q in facts.position_rad.items()}
    assert judge(replace(facts, position_rad=still)).level == "pass"


def test_a_follower_far_from_its_leader_is_named_with_the_joint() -> None:
    """RMS over the episode."""
    facts = good()
    away = facts.position_rad["lead"] + np.array([0.0, 0.3])
    verdict = judge(replace(facts, position_rad={**facts.position_rad, "lead": away}))
    assert verdict == Verdict("warn", ("follow is 0.35 rad (RMS) off its leader at elbow",))


def test_an_episode_in_which_nothing_moves_is_a_warning() -> None:
    """The operator forgot to start, or the arm was held."""
    facts = good()
    still = {name: np.zeros_like(q) for name, q in facts.position_rad.items()}
    verdict = judge(replace(facts, position_rad=still))
    assert verdict.level == "warn"
    assert verdict.reasons[0].startswith("idle")


def test_commands_that_are_cut_most_of_the_time_are_a_warning() -> None:
    """The policy learns from what passed, but the operator wanted something else."""
    facts = good()
    cut = np.ones(len(ROWS_NS), bool)
    verdict = judge(replace(facts, limited={"follow": cut}))
    assert verdict == Verdict("warn", ("follow: the limits cut the command in 100 % of rows",))


def test_missing_positions_fail() -> None:
    """NaN in what a policy would learn from."""
    facts = good()
    broken = facts.position_rad["follow"].copy()
    broken[7, 0] = np.nan
    verdict = judge(replace(facts, position_rad={"follow": broken}))
    assert "follow: positions are missing in some rows" in verdict.reasons


def test_rows_that_begin_late_name_the_stream_that_was_waited_for() -> None:
    """Here the camera."""
    keep = np.arange(1000) >= 60
    rows_ns = ROWS_NS[100:]
    late = stream(30, keep=keep, frozen=np.zeros(1000, bool), rows_ns=rows_ns)
    verdict = judge(with_stream("camera/high", late, rows_ns))
    assert any("rows begin 2.0 s late: camera/high" in reason for reason in verdict.reasons)
