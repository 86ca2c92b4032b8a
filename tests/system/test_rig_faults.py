"""The whole emulated rig, in virtual time, with something breaking in the middle of an episode.

Every outcome is words in a heartbeat, a flagged gap and a verdict in the file, and arms that
hold; never a crash, never a silent repeat, never motion beyond the limits.
"""

from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from drivers.emulated.world import EmulatedWorld, build_world
from recorder.schema import Flag
from teleop import messages as m
from teleop.assembly import Job
from teleop.clock import NS_PER_S, ns_from_s
from teleop.errors import DeviceError
from teleop.limits import Limited
from teleop.rig import Rig
from teleop.rig_files import load_rig
from teleop.runs import LockstepRig
from teleop.session import Action
from tests.system.rig_under_fault import (
    BREAK_S,
    Outcome,
    Witness,
    change_commands,
    for_seconds,
    run_broken,
    stop_clear_confirm,
    until_phase,
)

ROOT = Path(__file__).parents[2]
REACTION_NS = ns_from_s(0.4)
"""A stale command counts after 0.1 s, then the arm brakes and the servo's lag settles."""


@pytest.fixture(scope="module")
def rig() -> Rig:
    """The demo's rig: arms at 50 Hz, one small camera."""
    return load_rig(ROOT / "docs/rigs/demo.yaml")


def stale_rows(outcome: Outcome, stream: str) -> int:
    flags = outcome.episode.flags(stream)
    return int(np.count_nonzero(flags & Flag.STALE))


def test_an_unplugged_leader_stops_its_follower_and_comes_back_without_a_jump(
    rig: Rig, tmp_path: Path
) -> None:
    """The follower holds; the gap is flagged; after re-plugging nothing moves beyond limits."""

    def unplug(run: LockstepRig) -> None:
        run.world.chains["right_leader"].faults.unplugged = True

    def replug(run: LockstepRig) -> None:
        run.world.chains["right_leader"].faults.unplugged = False

    outcome = run_broken(rig, tmp_path, unplug, replug)
    assert "right_leader" in outcome.complaints("right_leader")
    assert "right_leader" in outcome.complaints("commander")
    assert outcome.stands_still(
        "right_follower", outcome.broken_ns + REACTION_NS, outcome.mended_ns
    )
    assert stale_rows(outcome, "arm/right_leader/state") > 50
    assert outcome.episode.verdict.level == "fail"
    assert any("right_leader" in reason for reason in outcome.episode.verdict.reasons)
    assert outcome.within_limits()


def test_an_unplugged_follower_is_named_and_comes_back_holding(rig: Rig, tmp_path: Path) -> None:
    """Lost, then connected again; it does not move by itself."""

    def unplug(run: LockstepRig) -> None:
        run.world.chains["left_follower"].faults.unplugged = True

    def replug(run: LockstepRig) -> None:
        run.world.chains["left_follower"].faults.unplugged = False

    outcome = run_broken(rig, tmp_path, unplug, replug)
    assert "left_follower" in outcome.complaints("left_follower")
    states = outcome.states_of("left_follower", outcome.mended_ns + 2 * NS_PER_S)
    assert set(states) <= {"hold"}, states
    assert outcome.stands_still(
        "left_follower", outcome.mended_ns + ns_from_s(1.5), outcome.mended_ns + 3 * NS_PER_S
    )
    assert stale_rows(outcome, "arm/left_follower/state") > 50
    assert outcome.episode.verdict.level == "fail"
    assert outcome.within_limits()


def test_an_overloaded_servo_is_named_and_the_arm_holds(rig: Rig, tmp_path: Path) -> None:
    """The fault tells the joint; the other arms go on; the episode is kept."""

    def overload(run: LockstepRig) -> None:
        run.world.chains["right_follower"].faults.overload(4)

    outcome = run_broken(rig, tmp_path, overload)
    words = outcome.complaints("right_follower")
    assert "fault" in words
    assert "elbow" in words
    assert "overload" in words
    assert set(outcome.states_of("left_follower", outcome.mended_ns)) & {"follow"}
    assert outcome.episode.length > 300
    assert outcome.within_limits()


def test_a_brown_out_of_a_follower_stays_a_fault_that_tells_the_remedy(
    rig: Rig, tmp_path: Path
) -> None:
    """All servos restart limp; the arm is not driven on as if nothing had happened."""
    outcome = run_broken(
        rig, tmp_path, lambda run: run.world.chains["right_follower"].faults.brown_out()
    )
    assert "lost torque: power dipped?" in outcome.complaints("right_follower")
    assert "clear it by emergency stop" in outcome.complaints("commander")
    assert outcome.states_of("right_follower", outcome.mended_ns) == ["fault"]
    assert outcome.within_limits()


@pytest.mark.parametrize("servo_id", [9, 4], ids=["gripper", "elbow"])
def test_after_an_overload_the_operator_clears_it_and_records_on(
    rig: Rig, tmp_path: Path, servo_id: int
) -> None:
    """Emergency stop, clear, confirm: it holds. Start: it homes and completes an episode."""
    job = Job("record", "transfer_cube", 2, tmp_path, cameras=())
    witness = Witness(rig)
    with LockstepRig(rig, job, [witness]) as run:
        until_phase(run, "running", BREAK_S)
        run.world.chains["right_follower"].faults.overload(servo_id)
        for_seconds(run, 2.0)
        arm = run.nodes["right_follower"]
        assert arm.health(run.clock.now_ns()).state == "fault"
        stop_clear_confirm(run)
        assert arm.health(run.clock.now_ns()).state == "hold"
        assert run.session.phase == "stopped"
        for_seconds(run, 1.0)
        quiet_since_ns = run.clock.now_ns() - NS_PER_S
        poses = [
            s.position_rad for s in witness.states["right_follower"] if s.stamp_ns > quiet_since_ns
        ]
        assert np.ptp(poses, axis=0).max() < 0.02
        run.session.act(Action.START)
        until_phase(run, "running")
        run.run(lambda: run.session.finished, 120)
    first, second = run.session.results
    assert (first.outcome, second.outcome) == ("unknown", "success")
    assert first.index != second.index
    assert second.verdict == "pass"


def test_a_servo_absent_at_start_is_one_sentence_and_nothing_runs(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arm, joint and id, before any episode."""

    def world_without_a_gripper(*args: object) -> EmulatedWorld:
        built = build_world(*args)  # type: ignore[arg-type]
        built.chains["left_follower"].faults.servo_absent.add(9)
        return built

    monkeypatch.setattr("drivers.emulated.world.build_world", world_without_a_gripper)
    with pytest.raises(DeviceError) as caught:
        LockstepRig(rig, Job("record", "transfer_cube", 1, tmp_path, cameras=()))
    assert str(caught.value).startswith("left_follower: no answer from gripper (id 9)")
    assert "check the cables" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_commands_with_nan_are_refused_by_joint_name_and_the_arm_holds(
    rig: Rig, tmp_path: Path
) -> None:
    """None of them comes through; when the commander is sane again the arm ramps back."""

    def spoilt(command: m.ArmCommand) -> m.ArmCommand:
        return replace(command, position_rad=command.position_rad * [1, 1, np.nan, 1, 1, 1])

    outcome = run_broken(
        rig,
        tmp_path,
        lambda run: change_commands(run, "right_follower", spoilt),
        lambda run: change_commands(run, "right_follower", lambda command: command),
    )
    assert "command with elbow = nan" in outcome.refusals("right_follower")
    assert outcome.stands_still(
        "right_follower", outcome.broken_ns + REACTION_NS, outcome.mended_ns
    )
    assert outcome.states_of("right_follower", outcome.mended_ns)[-1] in ("ramp", "follow", "hold")
    assert all(np.isfinite(a.position_rad).all() for a in outcome.witness.applied["right_follower"])
    assert outcome.within_limits()


def test_a_command_one_radian_away_is_approached_within_the_limits(
    rig: Rig, tmp_path: Path
) -> None:
    """Let through bit by bit, and the record says which limit it was."""
    off = np.array([1.0, 0, 0, 0, 0, 0])
    outcome = run_broken(
        rig,
        tmp_path,
        lambda run: change_commands(
            run, "right_follower", lambda c: replace(c, position_rad=c.position_rad + off)
        ),
        lambda run: change_commands(run, "right_follower", lambda c: c),
    )
    flags = [Limited(a.limited) for a in outcome.applied_while_broken("right_follower")]
    assert flags[1] & Limited.STEP
    assert any(flag & Limited.VELOCITY for flag in flags)
    waist = [a.position_rad[0] for a in outcome.applied_while_broken("right_follower")]
    assert np.ptp(waist) > 0.9
    assert outcome.within_limits()


def test_a_second_commander_is_refused_by_name_and_the_first_is_still_obeyed(
    rig: Rig, tmp_path: Path
) -> None:
    """Every other command comes from somebody else, who wants the arm elsewhere."""
    turn = count()

    def sometimes_another(command: m.ArmCommand) -> m.ArmCommand:
        if next(turn) % 2:
            return command
        there = command.position_rad + 0.3
        return replace(command, source="policy", lease="other.1", position_rad=there)

    outcome = run_broken(
        rig, tmp_path, lambda run: change_commands(run, "right_follower", sometimes_another)
    )
    assert "lease 'other.1' of policy refused" in outcome.refusals("right_follower")
    assert "stop that commander first" in outcome.refusals("right_follower")
    assert outcome.states_of("right_follower", outcome.broken_ns) == ["follow"]
    assert outcome.within_limits()
    assert outcome.episode.outcome == "success"


def test_lost_and_corrupt_replies_cost_samples_and_nothing_else(rig: Rig, tmp_path: Path) -> None:
    """One reply in ten lost or damaged: retried, counted, and the arm still follows."""

    def noise(run: LockstepRig) -> None:
        for chain in run.world.chains.values():
            chain.faults.drop.probability = 0.05
            chain.faults.corrupt.probability = 0.05

    outcome = run_broken(rig, tmp_path, noise)
    for arm in rig.followers:
        assert "follow" in outcome.states_of(arm, outcome.mended_ns)
    assert outcome.episode.outcome in ("success", "failure")
    assert outcome.within_limits()


def test_a_frozen_camera_fails_the_verdict_by_name(rig: Rig, tmp_path: Path) -> None:
    """The same picture again and again is seen and told."""

    outcome = run_broken(
        rig,
        tmp_path,
        lambda run: run.world.cameras["cam_high"].freeze(),
        lambda run: run.world.cameras["cam_high"].thaw(),
        cameras=("cam_high",),
    )
    assert "frozen" in outcome.complaints("cam_high")
    assert outcome.episode.verdict.level == "fail"
    assert any("cam_high" in reason for reason in outcome.episode.verdict.reasons)


def test_an_unplugged_camera_leaves_a_flagged_gap_and_no_repeats(rig: Rig, tmp_path: Path) -> None:
    """Rows in the outage are stale, the frames that are there are all different."""

    outcome = run_broken(
        rig,
        tmp_path,
        lambda run: run.world.cameras["cam_high"].unplug(),
        lambda run: run.world.cameras["cam_high"].replug(),
        cameras=("cam_high",),
    )
    assert "lost: unplugged" in outcome.complaints("cam_high")
    assert stale_rows(outcome, "camera/cam_high") > 50
    seq = outcome.episode.stream("camera/cam_high").seq
    assert np.diff(seq).max() > 30
    assert outcome.episode.verdict.level == "fail"
