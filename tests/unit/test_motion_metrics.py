"""Jerk and steps at seams, on motions with known answers."""

from pathlib import Path

import numpy as np
import pytest
from policy_episodes import ARMS, Scribe, small_rig, state_of

from policies.motion_metrics import motion_from, motion_of, smoothness
from recorder.builder import build
from recorder.meta import Meta
from recorder.recorder_node import plan_streams
from recorder.recording import Recording
from teleop import topics
from teleop.messages import (
    POSITION,
    ActionChunk,
    ArmApplied,
    ArmCommand,
    EpisodeEvent,
    FloatArray,
    TaskState,
)

ROW_NS = 20_000_000
NO_SEAMS = np.empty(0, np.int64)


def test_a_steady_motion_has_no_jerk() -> None:
    """Third differences of a ramp and of a parabola vanish."""
    rows = np.arange(20.0)
    motion = motion_from(np.stack([0.01 * rows, 0.001 * rows**2], axis=1), NO_SEAMS)
    assert motion.jerk == pytest.approx(0.0, abs=1e-12)


def test_the_jerk_of_a_cubic_is_six_times_its_factor() -> None:
    """The third difference of a row's cube is 6, averaged over both columns."""
    rows = np.arange(10.0)
    motion = motion_from(np.stack([rows**3, 0 * rows], axis=1), NO_SEAMS)
    assert motion.jerk == pytest.approx(3.0)


def test_steps_at_seams_are_told_from_others() -> None:
    """A jump of 0.5 at row 4, steps of 0.1 elsewhere."""
    action = 0.1 * np.arange(8.0)[:, None] + 0.4 * (np.arange(8)[:, None] >= 4)
    motion = motion_from(action, np.array([4]))
    assert motion.seam_steps == pytest.approx([0.5])
    assert motion.inside_steps == pytest.approx([0.1] * 6)


def test_a_plan_in_force_at_the_first_row_is_no_step() -> None:
    """Nothing comes before row 0."""
    motion = motion_from(np.zeros((5, 1)), np.array([0]))
    assert len(motion.seam_steps) == 0
    assert len(motion.inside_steps) == 4


def test_steps_of_several_rollouts_are_pooled() -> None:
    """The largest is the largest of all; without seams there is no number."""
    still = motion_from(np.zeros((6, 1)), NO_SEAMS)
    moving = motion_from(0.2 * np.arange(6.0)[:, None], NO_SEAMS)
    together = smoothness([still, moving])
    assert together.inside_largest == pytest.approx(0.2)
    assert np.isnan(together.seam_p99)
    assert np.isnan(smoothness([]).jerk)


def write_rollout(
    folder: Path,
    action: FloatArray,
    plans_at: list[int],
    delay: int,
    holding: range = range(0),
    heard_after: int = 0,
) -> Path:
    """A policy's episode at 50 Hz, both arms alike.

    Args:
        folder: Where to.
        action: Shape (T,): the waist's command at each row; the gripper does the opposite.
        plans_at: Rows from which on a plan is commanded.
        delay: Rows from a command to the arm that applies it.
        holding: Rows at which the arms obey nobody.
        heard_after: Rows from then until the recorder hears of the plan.
    """
    rig = small_rig()
    rig = rig.replaced(cameras={}, tasks={"transfer_cube": {"instruction": "test"}})
    streams = plan_streams(rig, "transfer_cube")
    meta = Meta(
        task="transfer_cube",
        instruction="",
        operator="",
        episode=0,
        start_ns=0,
        wall_start="",
        software_version="test",
        rig=rig.model_dump(mode="json"),
        calibration={},
        job="deploy",
        scene=(0, 0),
        streams=streams,
    )

    def plan_ns(row: int) -> int:
        """When the plan behind a row's command began, 0 without one."""
        return max((at for at in plans_at if at <= row), default=0) * ROW_NS

    scribe = Scribe(Recording(folder, meta, 60.0))
    scribe.say(topics.SESSION_EVENT, EpisodeEvent(0, 0, "start", 0, "transfer_cube", "unknown", ""))
    for row, waist in enumerate(action):
        now_ns = scribe.now_ns = row * ROW_NS
        if row - heard_after in plans_at:
            made = row - heard_after
            t0_ns = made * ROW_NS
            chunk = ActionChunk(t0_ns, made, t0_ns, ROW_NS, np.zeros((5, 14)), made, made, "test")
            scribe.say(topics.POLICY_CHUNK, chunk)
        joints = np.array([waist, -0.96, 1.16, 0.0, -0.3, 0.0])
        opening = 10.0 * (row % 2)
        for arm in ARMS:
            valid_ns = now_ns + 10 * ROW_NS
            command = ArmCommand(
                now_ns, row, joints, opening, valid_ns, "policy", "test", POSITION, plan_ns(row)
            )
            obeyed = row - delay if row >= delay and row not in holding else -1
            origin_ns = plan_ns(obeyed)
            applied = ArmApplied(now_ns, row, joints, opening, obeyed, origin_ns, "follow", 0)
            scribe.say(topics.arm_command(arm), command)
            scribe.say(topics.arm_applied(arm), applied)
            scribe.say(topics.arm_state(arm), state_of(np.append(joints, opening), row, now_ns))
        scribe.say(
            topics.TASK_STATE,
            TaskState(now_ns, row, "transfer_cube", 0, 4, False, np.zeros((1, 7))),
        )
    scribe.say(
        topics.SESSION_EVENT,
        EpisodeEvent(scribe.now_ns, 1, "stop", 0, "transfer_cube", "failure", ""),
    )
    scribe.recording.stop()
    return build(scribe.recording.folder, scribe.recording.target).path


@pytest.mark.parametrize("delay", [0, 2])
def test_a_seam_is_where_the_arm_first_obeys_a_new_plan(tmp_path: Path, delay: int) -> None:
    """However long after its arrival that is; grippers, which jump at every row, do not count."""
    action = np.zeros(20)
    action[10 + delay :] = 0.3
    motion = motion_of(write_rollout(tmp_path, action, [5, 10], delay))
    assert motion.seam_steps == pytest.approx([0.0, 0.3])
    assert motion.inside_steps.max() == 0.0
    assert len(motion.inside_steps) == 17


def test_a_seam_does_not_depend_on_when_the_recorder_heard_of_the_plan(tmp_path: Path) -> None:
    """The commander may have had it earlier: commands say from which plan they are."""
    action = np.where(np.arange(20) >= 10, 0.3, 0.0)
    motion = motion_of(write_rollout(tmp_path, action, [5, 10], 0, heard_after=3))
    assert motion.seam_steps == pytest.approx([0.0, 0.3])
    assert motion.inside_steps.max() == 0.0


def test_an_episode_without_a_policy_has_no_seams(tmp_path: Path) -> None:
    """A person's motion is all inside."""
    motion = motion_of(write_rollout(tmp_path, 0.01 * np.arange(8.0), [], 0))
    assert len(motion.seam_steps) == 0
    assert motion.inside_steps == pytest.approx([0.01] * 7)


def test_an_arm_that_held_for_a_while_moves_no_seam(tmp_path: Path) -> None:
    """The plan of row 5 stays the plan of row 5, whatever the arm did at rows 9 to 11."""
    action = np.where(np.arange(20) >= 5, 0.3, 0.0)
    motion = motion_of(write_rollout(tmp_path, action, [5], 0, holding=range(9, 12)))
    assert motion.seam_steps == pytest.approx([0.3])
