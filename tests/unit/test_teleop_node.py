"""The teleoperation commander, phase by phase."""

import numpy as np
import pytest
from commander_stage import TICK_NS, Stage, leases, modes

from teleop import topics
from teleop.messages import LIMP, LIMP_GRIPPER, POSITION, ArmState
from teleop.rig import Rig
from teleop.teleop_node import FOLLOWER_START_GRIPPER, TeleopNode, joint_order

LEADERS = ("left_leader", "right_leader")
FOLLOWERS = ("left_follower", "right_follower")


@pytest.fixture
def stage(aloha: Rig) -> Stage:
    return Stage(aloha, TeleopNode("commander", aloha, "run"))


def start_rad(stage: Stage, arm: str) -> list[float]:
    return list(stage.rig.arm_model(arm).start_rad)


def test_nothing_is_commanded_before_the_session_asks(stage: Stage) -> None:
    """Starting and done are silent."""
    assert stage.ticks(20) == []
    stage.enter("done")
    assert stage.ticks(20) == []
    assert stage.node.health(stage.now_ns).state == "idle"


def test_homing_ramps_all_arms_to_their_start_pose(stage: Stage) -> None:
    """From where they are measured, at the homing velocity; leaders' grippers half open."""
    begin = {arm: pose.copy() for arm, pose in stage.pose.items()}
    stage.home()
    for arm in (*LEADERS, *FOLLOWERS):
        path = stage.path(arm)
        assert path[0] == pytest.approx(begin[arm], abs=1e-3)
        assert path[-1] == pytest.approx(start_rad(stage, arm))
        top = stage.rig.safety.homing_velocity_rad_s * TICK_NS / 1e9
        assert np.abs(np.diff(path, axis=0)).max() <= top * 1.001
    assert {stage.gripper[arm] for arm in LEADERS} == {0.5}
    assert {stage.gripper[arm] for arm in FOLLOWERS} == {FOLLOWER_START_GRIPPER}


def test_homing_begins_after_the_old_lease_has_run_out_everywhere(stage: Stage) -> None:
    """Each homing is a new turn with a lease of its own."""
    stage.home()
    first = leases(stage.ticks(3))
    stage.enter("homing", episode=1)
    quiet = stage.ticks(10)
    assert quiet == []
    second = leases(stage.ticks(10))
    assert len(first) == len(second) == 1
    assert first != second
    assert all(lease.startswith("run.") for lease in first | second)


def test_homing_waits_for_every_arm_and_says_for_which(stage: Stage) -> None:
    """An arm that does not speak cannot be ramped from where it is."""
    stage.silent = {"right_leader"}
    stage.enter("homing")
    assert stage.ticks(50) == []
    health = stage.node.health(stage.now_ns)
    assert health.state == "homing"
    assert health.detail == "waiting for a reading of right_leader"
    stage.silent = set()
    assert stage.ticks(2)


def test_an_arm_that_does_not_arrive_is_not_home(stage: Stage) -> None:
    """The joint and its distance are told."""
    stage.home()
    stage.pose["left_follower"][2] += 0.4
    stage.node.step(stage.inputs(), stage.now_ns + 20 * TICK_NS)
    health = stage.node.health(stage.now_ns)
    assert health.state == "homing"
    assert health.detail == "left_follower elbow is 0.400 rad from its start pose"


def test_ready_holds_followers_and_frees_the_leaders_grippers(stage: Stage) -> None:
    """So that the operator can close them to begin."""
    stage.home()
    stage.enter("ready")
    commands = stage.ticks(10)
    for leader in LEADERS:
        assert modes(commands, leader) == {LIMP_GRIPPER}
    for follower in FOLLOWERS:
        assert modes(commands, follower) == {POSITION}
        assert stage.pose[follower] == pytest.approx(start_rad(stage, follower))
    assert stage.node.health(stage.now_ns).state == "ready"


def test_running_maps_leader_to_follower_joint_to_joint(stage: Stage) -> None:
    """Gripper opening to gripper opening, and the leader's stamp as origin."""
    stage.run()
    stage.pose["left_leader"] = np.array([0.1, -0.9, 1.0, 0.2, -0.3, 0.4])
    stage.gripper["left_leader"] = 0.25
    commands = dict(stage.tick())
    assert commands["left_follower"].position_rad.tolist() == [0.1, -0.9, 1.0, 0.2, -0.3, 0.4]
    assert commands["left_follower"].gripper == 0.25
    assert commands["left_follower"].origin_ns == stage.now_ns
    assert commands["left_leader"].mode == LIMP
    assert stage.node.health(stage.now_ns).state == "following"


def test_a_leader_reading_becomes_a_command_at_once(stage: Stage) -> None:
    """Between two ticks, without waiting for the other arms, and only for its own follower."""
    stage.run()
    stage.now_ns += TICK_NS // 3
    inputs = stage.arriving([(topics.arm_state("right_leader"), stage.state("right_leader"))])
    assert [arm for arm, _ in stage.take(inputs)] == ["right_follower"]
    assert stage.node.plan.wake == "input"


def test_an_old_leader_reading_is_not_passed_on(stage: Stage) -> None:
    """The follower's command goes stale and it holds; the leader is named."""
    stage.run()
    stage.silent = {"left_leader"}
    for _ in range(15):
        commands = stage.tick(
            (topics.arm_state("left_leader"), stage.state("left_leader", age_ns=200_000_000))
        )
        assert "left_follower" not in dict(commands)
        assert "right_follower" in dict(commands)
    health = stage.node.health(stage.now_ns)
    assert not health.ok
    assert "no fresh reading of left_leader" in health.detail
    assert health.values["late_leader_readings"] == 15


def test_commands_live_as_long_as_the_rig_allows(stage: Stage) -> None:
    """``valid_until_ns`` is one stale time ahead; sequence numbers count up per arm."""
    stage.run()
    stage.ticks(5)
    mine = [(t, c) for t, arm, c in stage.sent if arm == "left_follower"]
    assert all(c.valid_until_ns == t + 100_000_000 for t, c in mine)
    assert [c.seq for _, c in mine] == list(range(len(mine)))


def test_stopping_holds_every_arm_where_it_is(stage: Stage) -> None:
    """Followers at their last command, leaders at their measured pose."""
    stage.run()
    stage.pose["left_leader"] = np.array([0.1, -0.9, 1.0, 0.2, -0.3, 0.4])
    stage.tick()
    stage.enter("stopping")
    stage.tick()
    stage.pose["left_leader"] = np.zeros(6)
    commands = dict(stage.tick())
    assert set(commands) == {*LEADERS, *FOLLOWERS}
    assert {command.mode for command in commands.values()} == {POSITION}
    for arm in ("left_leader", "left_follower"):
        assert commands[arm].position_rad.tolist() == [0.1, -0.9, 1.0, 0.2, -0.3, 0.4]


def test_an_emergency_stop_silences_the_commander_until_the_next_homing(stage: Stage) -> None:
    """Clearing it brings no command, whatever phase the session is in."""
    stage.run()
    before = leases(stage.ticks(3))
    stage.stop = True
    assert stage.ticks(30) == []
    assert stage.node.health(stage.now_ns).state == "stopped"
    stage.stop = False
    for phase in ("stopped", "running", "stopping"):
        stage.enter(phase)
        assert stage.ticks(30) == []
    stage.home()
    assert before.isdisjoint(leases(stage.ticks(3)))


def test_an_arms_refusal_is_passed_on(stage: Stage) -> None:
    """The operator reads the arm's own words."""
    stage.enter("homing")
    stage.ticks(20)
    words = "engage refused: elbow is commanded to 1.2 rad and measured at 0.4 rad"
    stage.refuse("left_follower", words)
    stage.tick()
    health = stage.node.health(stage.now_ns)
    assert (health.ok, health.state) == (False, "refused")
    assert health.detail == f"left_follower: {words}"
    stage.refuse("left_follower", "")
    stage.tick()
    assert stage.node.health(stage.now_ns).state == "homing"


def test_an_arms_fault_is_passed_on_while_following(stage: Stage) -> None:
    """A joint in overload is named to the session."""
    stage.run()
    stage.refuse("right_follower", "elbow (id 4) reports overload", ok=False)
    stage.tick()
    health = stage.node.health(stage.now_ns)
    assert health.state == "refused"
    assert health.detail == "right_follower: elbow (id 4) reports overload"


def test_a_leader_reading_without_gripper_keeps_the_followers(stage: Stage) -> None:
    """An unmeasured opening is not zero."""
    stage.run()
    stage.gripper["left_leader"] = 0.3
    stage.tick()
    stage.gripper["left_leader"] = None
    assert dict(stage.tick())["left_follower"].gripper == 0.3


def test_joints_are_matched_by_name(aloha: Rig) -> None:
    """A leader whose file lists its joints in another order is still mapped right."""
    model = aloha.arm_models["wx250s"].model_dump()
    model["joints"] = model["joints"][::-1]
    model["start_rad"], model["sleep_rad"] = model["start_rad"][::-1], model["sleep_rad"][::-1]
    models = {"wx250s": model, "vx300s": aloha.arm_models["vx300s"].model_dump()}
    rig = aloha.replaced(arm_models=models)
    assert joint_order(rig, "left_leader", "left_follower") == [5, 4, 3, 2, 1, 0]
    assert joint_order(aloha, "left_leader", "left_follower") == [0, 1, 2, 3, 4, 5]


def test_a_reading_with_an_unmeasured_joint_does_not_start_a_ramp(stage: Stage) -> None:
    """NaN is waited out, not planned from."""
    stage.pose["left_leader"][0] = np.nan
    stage.enter("homing")
    assert stage.ticks(30) == []
    assert "left_leader" in stage.node.health(stage.now_ns).detail


def test_readings_are_taken_from_the_topic_table(stage: Stage) -> None:
    """All arm commands are published here and nowhere else; states are listened to."""
    plan = stage.node.plan
    assert set(plan.publications) == {topics.arm_command(arm) for arm in stage.rig.arms}
    assert {topics.arm_state(arm) for arm in stage.rig.arms} <= set(plan.subscriptions)
    assert all(topics.row_of(topic) for topic in plan.subscriptions)
    assert topics.row_of("arm/left_leader/state").message is ArmState
