"""The commander that puts the arms to rest, phase by phase."""

import numpy as np
import pytest
from commander_stage import TICK_NS, Stage, leases, modes

from teleop.messages import LIMP, POSITION, Health
from teleop.rest_node import RestNode
from teleop.rig import Rig


@pytest.fixture
def stage(aloha: Rig) -> Stage:
    stage = Stage(aloha, RestNode("commander", aloha, "run"))
    for arm in stage.pose:
        stage.pose[arm] = np.array(aloha.arm_model(arm).start_rad)
        stage.gripper[arm] = 1.0
    return stage


def say(stage: Stage, arm: str, state: str, detail: str = "", ok: bool = True) -> None:
    stage.health[arm] = Health(stage.now_ns, 0, arm, ok, state, detail, {})


def test_all_arms_are_ramped_to_their_sleep_pose_with_closed_grippers(stage: Stage) -> None:
    """Leaders and followers, from where they are measured, at the homing velocity."""
    stage.home()
    top = stage.rig.safety.homing_velocity_rad_s * TICK_NS / 1e9
    for arm in stage.rig.arms:
        path = stage.path(arm)
        model = stage.rig.arm_model(arm)
        assert path[0] == pytest.approx(model.start_rad, abs=1e-3)
        assert path[-1] == pytest.approx(model.sleep_rad)
        assert np.abs(np.diff(path, axis=0)).max() <= top * 1.001
        assert stage.gripper[arm] == 0.0


def test_an_arm_that_does_not_arrive_is_told_by_its_joint(stage: Stage) -> None:
    """And by what it was to reach."""
    stage.home()
    stage.pose["left_follower"][2] += 0.4
    stage.node.step(stage.inputs(), stage.now_ns + 20 * TICK_NS)
    detail = stage.node.health(stage.now_ns).detail
    assert detail == "left_follower elbow is 0.400 rad from its sleep pose"


def test_ready_holds_and_running_asks_every_arm_to_let_go(stage: Stage) -> None:
    """Under one lease, at the arms' rate and not at every heartbeat."""
    stage.home()
    stage.enter("ready")
    held = stage.ticks(5)
    assert {c.mode for _, c in held} == {POSITION}
    assert len(held) == 5 * len(stage.rig.arms)
    stage.enter("running")
    asked = stage.ticks(5)
    assert all(modes(asked, arm) == {LIMP} for arm in stage.rig.arms)
    assert len(asked) == 5 * len(stage.rig.arms)
    assert len(leases(held + asked)) == 1
    assert stage.take(stage.inputs()) == []


def test_it_has_finished_when_every_arm_says_that_it_is_limp(stage: Stage) -> None:
    """Those that have not are named, with what they say."""
    stage.run()
    for arm in stage.rig.arms:
        say(stage, arm, "limp")
    say(stage, "right_leader", "hold")
    say(stage, "left_follower", "hold", "limp refused: elbow is measured at 1.2 rad")
    stage.tick()
    health = stage.node.health(stage.now_ns)
    assert health.state == "letting_go"
    assert health.detail == (
        "left_follower has not let go (limp refused: elbow is measured at 1.2 rad); "
        "right_leader has not let go"
    )
    say(stage, "left_follower", "limp")
    say(stage, "right_leader", "limp")
    stage.tick()
    health = stage.node.health(stage.now_ns)
    assert (health.ok, health.state) == (True, "finished")
    assert all(arm in health.detail for arm in stage.rig.arms)


def test_an_arm_never_heard_has_not_let_go(stage: Stage) -> None:
    """Silence is no consent."""
    stage.run()
    health = stage.node.health(stage.now_ns)
    assert health.state == "letting_go"
    assert all(f"{arm} has not let go" in health.detail for arm in stage.rig.arms)


def test_a_servo_that_keeps_its_torque_is_passed_on(stage: Stage) -> None:
    """Not well, in the arm's words."""
    stage.run()
    for arm in stage.rig.arms:
        say(stage, arm, "limp")
    say(stage, "left_leader", "fault", "elbow (id 4) failed", ok=False)
    stage.tick()
    health = stage.node.health(stage.now_ns)
    assert (health.ok, health.state) == (False, "refused")
    assert health.detail == "left_leader: elbow (id 4) failed"


def test_nothing_is_commanded_after_the_arms_let_go(stage: Stage) -> None:
    """To hold them at the end, as other commanders do, would switch them on again."""
    stage.run()
    stage.ticks(5)
    stage.enter("stopping")
    assert stage.ticks(40) == []
    stage.enter("done")
    assert stage.ticks(40) == []
