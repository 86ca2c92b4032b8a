"""The teleoperation commander with input devices, and with arms guided by hand."""

from pathlib import Path

import numpy as np
import pytest
from commander_stage import TICK_NS, Stage, modes

from teleop import topics
from teleop.kinematics import ArmKinematics
from teleop.messages import GUIDE, POSITION, Message, OperatorAction, PoseInput, TwistInput
from teleop.rig_files import load_rig
from teleop.teleop_node import TeleopNode

RIGS = Path(__file__).parents[2] / "docs" / "rigs"
REACH_M = 0.1


def stage_of(name: str) -> Stage:
    rig = load_rig(RIGS / f"{name}.yaml")
    return Stage(rig, TeleopNode("commander", rig, "run"))


def hand(stage: Stage, squeeze: float, x: float = 0.0, z: float = 0.0) -> Message:
    """A controller in front of the operator, moved to the right by x and backwards by z."""
    quaternion, stick = np.array([1.0, 0, 0, 0]), np.zeros(2)
    position = np.array([x, 1.2, -0.3 + z])
    return PoseInput(stage.now_ns + TICK_NS, 0, position, quaternion, True, 0.0, squeeze, stick, 0)


def tool_m(stage: Stage, arm: str) -> np.ndarray:
    """Where an arm's last command has the tool, in its base frame."""
    return ArmKinematics.of(stage.rig.arm_model(arm)).forward(stage.path(arm)[-1]).position_m


def reach(stage: Stage, z: float) -> None:
    """Both hands grip, and go REACH_M in a second along the room's z axis."""
    for topic in ("left_hand", "right_hand"):
        assert topic in stage.rig.inputs
    for step in range(101):
        part = 0.0 if step < 5 else (step - 5) / 95
        stage.tick(
            *(
                (topics.input_pose(name), hand(stage, float(step > 1), z=part * z))
                for name in ("left_hand", "right_hand")
            )
        )


def test_tools_go_where_the_hands_go_as_the_operator_sees_it() -> None:
    """Arms that face each other: away from the operator is y in one base, -y in the other."""
    stage = stage_of("viperx_openvr")
    stage.run()
    begun = {arm: tool_m(stage, arm) for arm in stage.rig.followers}
    reach(stage, -REACH_M)
    moved = {arm: tool_m(stage, arm) - begun[arm] for arm in begun}
    assert moved["left_follower"] == pytest.approx([0.0, REACH_M, 0.0], abs=0.012)
    assert moved["right_follower"] == pytest.approx([0.0, -REACH_M, 0.0], abs=0.012)
    assert [cue.state for name, cue in stage.cues if name == "left_hand"] == ["idle", "engaged"]


def test_an_input_that_falls_silent_holds_its_arm_and_is_named() -> None:
    """Within the age of a command; the other follower goes on."""
    stage = stage_of("viperx_openvr")
    stage.run()
    reach(stage, -REACH_M)
    held = stage.path("left_follower")[-1]
    for step in range(40):
        stage.tick((topics.input_pose("right_hand"), hand(stage, 1.0, x=0.001 * step, z=-REACH_M)))
    late = stage.path("left_follower")[-25:]
    assert np.abs(late - late[0]).max() == 0.0
    assert np.abs(late[0] - held).max() < 0.05
    health = stage.node.health(stage.now_ns)
    assert not health.ok
    assert "left_hand is lost; left_follower holds" in health.detail
    assert "right_hand" not in health.detail
    assert stage.cues[-1][1].state == "lost"


def test_a_button_of_a_puck_closes_and_opens_the_gripper_it_guides() -> None:
    """At a rate, not at once."""
    stage = stage_of("viperx_spacemouse")
    stage.run()
    assert stage.gripper["left_follower"] == 1.0

    def ticks(count: int, *extra: tuple[str, Message]) -> None:
        for _ in range(count):
            still = TwistInput(stage.now_ns + TICK_NS, 0, np.zeros(3), np.zeros(3), 0)
            stage.tick((topics.input_twist("mouse"), still), *extra)
            extra = ()

    ticks(5)
    pressed = (topics.input_action("mouse"), OperatorAction(stage.now_ns, 0, "gripper"))
    ticks(3, pressed)
    assert 0.0 < stage.gripper["left_follower"] < 1.0
    ticks(100)
    assert stage.gripper["left_follower"] == 0.0
    ticks(100, pressed)
    assert stage.gripper["left_follower"] == 1.0


def test_an_arm_guided_by_hand_is_let_go_and_its_button_works_the_gripper() -> None:
    """It holds until the episode runs, and again where it was left when it ends."""
    stage = stage_of("franka_kinesthetic")
    stage.home()
    stage.enter("ready")
    assert modes(stage.ticks(5), "franka") == {POSITION}
    stage.enter("running")
    assert modes(stage.ticks(5), "franka") == {GUIDE}
    pressed = (topics.input_action("pilot"), OperatorAction(stage.now_ns, 0, "gripper"))
    assert stage.tick(pressed)[-1][1].gripper == 0.0
    assert stage.tick()[-1][1].gripper == 0.0
    stage.pose["franka"] = stage.pose["franka"] + 0.2
    stage.tick()
    stage.enter("stopping")
    [(_, command)] = stage.tick()
    assert command.mode == POSITION
    assert command.position_rad == pytest.approx(stage.pose["franka"])
