"""The replay commander: recorded commands at their recorded times."""

import numpy as np
import pytest
from commander_stage import TICK_NS, Stage

from recorder.replay_node import ReplayNode, Trajectory
from teleop.errors import EpisodeError
from teleop.rig import Rig

SECONDS = 2.0


@pytest.fixture
def followers(aloha: Rig) -> Rig:
    """The rig as replay runs it: without leaders."""
    arms = {n: a.model_dump() | {"leader": None} for n, a in aloha.followers.items()}
    return aloha.replaced(arms=arms)


def wave(rig: Rig, arm: str) -> Trajectory:
    """Two seconds of the waist swinging and the gripper closing."""
    times_s = np.arange(0.005, SECONDS, 0.01)
    poses = np.tile(rig.arm_model(arm).start_rad, (len(times_s), 1))
    poses[:, 0] = 0.3 * np.sin(2 * np.pi * times_s / SECONDS)
    return Trajectory(times_s, poses, 1 - times_s / SECONDS)


def stage_of(rig: Rig, speed: float = 1.0) -> Stage:
    trajectories = {arm: wave(rig, arm) for arm in rig.followers}
    return Stage(rig, ReplayNode("commander", rig, "run", trajectories, speed))


def test_a_trajectory_is_interpolated_and_holds_its_ends() -> None:
    """By time, not by count."""
    trajectory = Trajectory(np.array([1.0, 2.0]), np.array([[0.0], [1.0]]), np.array([1.0, 0.0]))
    assert trajectory.at(0.0).position_rad.tolist() == [0.0]
    assert trajectory.at(1.25).position_rad.tolist() == [0.25]
    assert trajectory.at(1.25).gripper == 0.75
    assert trajectory.at(9.0).position_rad.tolist() == [1.0]


def test_replay_ramps_to_the_first_pose_then_repeats_the_episode(followers: Rig) -> None:
    """The commands equal the recording, interpolated at the time since it began to run."""
    stage = stage_of(followers)
    stage.home()
    assert stage.pose["left_follower"] == pytest.approx(
        wave(followers, "left_follower").at(0.0).position_rad
    )
    stage.enter("ready")
    stage.ticks(5)
    stage.enter("running")
    begin = len(stage.sent)
    stage.ticks(150)
    started_ns = stage.sent[begin][0]
    for now_ns, arm, command in stage.sent[begin:]:
        wanted = wave(followers, arm).at((now_ns - started_ns) / 1e9)
        assert command.position_rad == pytest.approx(wanted.position_rad)
        assert command.gripper == pytest.approx(wanted.gripper)
        assert command.source == "replay"


def test_replay_finishes_at_the_end_and_holds_the_last_pose(followers: Rig) -> None:
    """The session ends the episode when the state is ``finished``."""
    stage = stage_of(followers)
    stage.run()
    stage.ticks(195)
    assert stage.node.health(stage.now_ns).state == "following"
    stage.ticks(10)
    assert stage.node.health(stage.now_ns).state == "finished"
    last = wave(followers, "left_follower").at(SECONDS)
    assert dict(stage.tick())["left_follower"].position_rad == pytest.approx(last.position_rad)


def test_half_speed_takes_twice_as_long(followers: Rig) -> None:
    """Option ``speed``."""
    stage = stage_of(followers, speed=0.5)
    stage.run()
    stage.ticks(100)
    half_way = wave(followers, "left_follower").at(0.5)
    assert stage.pose["left_follower"] == pytest.approx(half_way.position_rad)
    stage.ticks(290)
    assert stage.node.health(stage.now_ns).state == "following"
    stage.ticks(15)
    assert stage.node.health(stage.now_ns).state == "finished"


def test_the_tracking_error_is_reported_per_joint(followers: Rig) -> None:
    """A joint that stays 0.05 rad off is reported so, the others as tracked."""
    stage = stage_of(followers)
    stage.run()
    started_ns = stage.now_ns
    for _ in range(210):
        seconds = (stage.now_ns + TICK_NS - started_ns) / 1e9
        for arm in followers.followers:
            stage.pose[arm] = wave(followers, arm).at(seconds).position_rad.copy()
            stage.pose[arm][2] += 0.05
        stage.tick()
    health = stage.node.health(stage.now_ns)
    assert health.values["left_follower_elbow_tracking_rms_rad"] == pytest.approx(0.05)
    assert health.values["left_follower_elbow_tracking_max_rad"] == pytest.approx(0.05)
    assert health.values["left_follower_waist_tracking_max_rad"] == pytest.approx(0.0, abs=1e-9)
    assert "left_follower tracking error rms/max rad: waist 0.000/0.000" in health.detail
    assert "elbow 0.050/0.050" in health.detail


def test_leaders_get_no_command(aloha: Rig) -> None:
    """They hold by themselves when a rig has them."""
    stage = stage_of(aloha)
    stage.run()
    stage.ticks(20)
    stage.enter("stopping")
    stage.ticks(5)
    assert {arm for _, arm, _ in stage.sent} == set(aloha.followers)


def test_a_speed_that_is_no_speed_is_refused(followers: Rig) -> None:
    """One sentence, before anything moves."""
    with pytest.raises(EpisodeError, match="speed 0"):
        stage_of(followers, speed=0.0)
