import subprocess
import sys

import numpy as np
import pytest
from guided_arm import (
    FRANKA_BOX,
    MODELS,
    MS,
    PERIOD_S,
    SETTINGS,
    TICK_NS,
    VIPER_BOX,
    Guided,
    viper_model,
)

from teleop.cartesian_guide import CartesianGuide
from teleop.commander import Pose
from teleop.errors import RigError
from teleop.limits import JointLimiter, limits_of
from teleop.rig import Rig, Safety
from teleop.rig_cartesian import CartesianSettings, HandSettings
from teleop.rig_parts import Workspace
from teleop.rotations import length
from teleop.workspace import Curb


@pytest.fixture(params=sorted(MODELS))
def guided(request: pytest.FixtureRequest) -> Guided:
    return Guided(MODELS[request.param]())


def test_the_tool_follows_the_hand(guided: Guided) -> None:
    """Forward 5 cm, left 8 cm and up 6 cm, to a millimetre."""
    guided.grip()
    guided.move((-0.08, 0.06, -0.05))
    assert guided.moved_m == pytest.approx([0.05, 0.08, 0.06], abs=1e-3)
    guided.check_caps()


def test_a_hand_that_comes_back_brings_the_tool_back(guided: Guided) -> None:
    """After a triangle of 20 cm a side the tool is where it was, to 0.1 mm."""
    guided.grip()
    guided.move((-0.08, 0.06, -0.05))
    guided.move((0.16, 0.0, 0.0))
    guided.move((-0.08, -0.06, 0.05))
    guided.stay(200)
    assert length(guided.moved_m) < 1e-4


def test_nothing_moves_with_an_open_clutch(guided: Guided) -> None:
    """Not the joints and not the gripper, whatever hand and trigger do."""
    guided.stay(3)
    guided.trigger = 0.7
    guided.move((0.5, -0.2, 0.3))
    for command in guided.commands:
        assert (command.position_rad == guided.start.position_rad).all()
        assert command.gripper == 0.0
    assert guided.guide.state == "idle"
    assert guided.guide.origin_ns == 0


def test_letting_go_brakes_the_arm_and_leaves_it_there(guided: Guided) -> None:
    """In the middle of a motion: at rest within 0.2 s and 3 cm, and it never comes back."""
    guided.grip()
    guided.move((-0.1, 0.0, 0.0), ticks=20)
    for part in range(10):
        guided.hand = guided.hand + np.array([0.004 * part, 0.0, 0.0])
        guided.stay()
    let_go = guided.tool_m
    guided.squeeze = 0.0
    guided.stay(20)
    stopped = guided.commands[-1].position_rad
    assert length(guided.tool_m - let_go) < 0.03
    tools = [guided.arm.forward(c.position_rad).position_m[1] for c in guided.commands[-22:]]
    assert (np.diff(tools) <= 1e-6).all()
    guided.move((0.3, 0.0, 0.0))
    assert (guided.commands[-1].position_rad == stopped).all()


def test_the_arms_own_limits_follow_without_overshoot() -> None:
    """Capped reaches to and fro, and one let go of half way: 12 mm off at most."""
    guided = Guided(viper_model())
    limiter = JointLimiter(limits_of(viper_model(), Safety()))
    limiter.reset(guided.start.position_rad, 0.0)
    guided.grip()
    for sign in (1, -1, 1, -1):
        guided.move((-0.12 * sign, 0.1 * sign, -0.1 * sign), ticks=40)
    for _ in range(25):
        guided.hand = guided.hand + np.array([-0.004, 0.003, 0.0])
        guided.stay()
    guided.squeeze = 0.0
    guided.stay(50)
    for command in guided.commands:
        setpoint = limiter.limit(command.position_rad, command.gripper, PERIOD_S)
        sent = guided.arm.forward(setpoint.position_rad).position_m
        asked = guided.arm.forward(command.position_rad).position_m
        assert length(sent - asked) < 0.012


def test_the_gripper_follows_the_trigger_while_the_clutch_is_closed(guided: Guided) -> None:
    """Released is open; let go of the clutch, the gripper stays."""
    guided.trigger = 1.0
    guided.grip()
    assert guided.commands[-1].gripper == 0.0
    guided.trigger = 0.75
    guided.stay()
    assert guided.commands[-1].gripper == 0.25
    guided.squeeze = 0.0
    guided.stay()
    guided.trigger = 0.0
    guided.stay(5)
    assert guided.commands[-1].gripper == 0.25


def test_a_finger_that_relaxed_while_the_clutch_was_open_drops_nothing(guided: Guided) -> None:
    """Pressed again, the gripper stays as it is until the trigger has passed it."""
    guided.grip()
    guided.stay(5)
    assert guided.commands[-1].gripper == 0.0
    for trigger in (0.3, 0.8):
        guided.trigger = trigger
        guided.stay()
        assert guided.commands[-1].gripper == 0.0
    guided.trigger = 1.0
    guided.stay()
    guided.trigger = 0.2
    guided.stay()
    assert guided.commands[-1].gripper == pytest.approx(0.8)


def test_a_gripper_worked_by_a_button_opens_and_closes_at_its_rate() -> None:
    """Two strokes per second; with no clutch, since a press is an act of its own."""
    settings = CartesianSettings(hand=HandSettings(gripper="button"))
    guided = Guided(viper_model(), settings=settings)
    guided.guide.toggle_gripper()
    guided.silence(25)
    assert guided.commands[-1].gripper == pytest.approx(0.5)
    guided.silence(30)
    assert guided.commands[-1].gripper == 1.0
    guided.guide.toggle_gripper()
    guided.silence(60)
    assert guided.commands[-1].gripper == 0.0


def test_the_box_holds_and_is_felt(guided: Guided) -> None:
    """A hand that goes a metre up stops the tool at the lid, in state limited with one pulse."""
    guided.grip()
    guided.guide.pulse()
    guided.move((0.0, 1.0, 0.0), ticks=120)
    lid = VIPER_BOX.max_m[2] if len(guided.start.position_rad) == 6 else FRANKA_BOX.max_m[2]
    assert lid - 0.02 <= guided.tool_m[2] <= lid
    assert guided.guide.state == "limited"
    assert guided.guide.pulse() == 0.6
    assert guided.guide.pulse() == 0.0


def test_a_hand_faster_than_the_cap_is_caught_up_with(guided: Guided) -> None:
    """20 cm in 60 ms: the tool goes on at its cap until it is there."""
    guided.grip()
    guided.move((-0.2, 0.0, 0.0), ticks=7)
    assert guided.moved_m[1] == pytest.approx(0.2, abs=2e-3)
    guided.check_caps()
    assert guided.guide.state == "engaged"


def test_states_are_felt_as_they_begin(guided: Guided) -> None:
    """Engaging, letting go and losing the hand each give one pulse of their own strength."""
    guided.grip()
    assert (guided.guide.state, guided.guide.pulse()) == ("engaged", 0.3)
    guided.stay(5)
    assert guided.guide.pulse() == 0.0
    guided.squeeze = 0.0
    guided.stay()
    assert (guided.guide.state, guided.guide.pulse()) == ("idle", 0.2)
    guided.tracked = False
    guided.stay()
    assert (guided.guide.state, guided.guide.pulse()) == ("lost", 1.0)


def test_commands_name_the_reading_they_came_from(guided: Guided) -> None:
    """The stamp of the newest sample while it moves the arm, none while it does not."""
    guided.grip()
    guided.hear(age_ns=3 * MS)
    guided.tick()
    assert guided.guide.origin_ns == guided.now_ns - TICK_NS - 3 * MS
    guided.squeeze = 0.0
    guided.stay()
    assert guided.guide.origin_ns == 0


def test_begin_takes_over_from_any_pose() -> None:
    """The second episode begins where the arm is then, with nothing left of the first."""
    guided = Guided(viper_model())
    guided.grip()
    guided.move((0.0, 0.1, 0.0))
    there = Pose(np.array([0.3, -0.8, 1.0, 0.1, 0.2, 0.0]), 0.4)
    guided.guide.begin(there, guided.now_ns)
    guided.stay(20)
    assert (guided.commands[-1].position_rad == there.position_rad).all()
    assert guided.commands[-1].gripper == 0.4


def test_a_puck_moves_the_tool_and_stops_with_it() -> None:
    """Half a second forward at full push, then centred: some 12 cm, and soon at rest."""
    guided = Guided(viper_model(), "twist")
    for _ in range(50):
        guided.push(1, 0, 0, 0, 0, 0)
    for _ in range(15):
        guided.push(0, 0, 0, 0, 0, 0)
    stopped = guided.commands[-1].position_rad
    assert guided.moved_m == pytest.approx([0.12, 0, 0], abs=1e-2)
    guided.silence(100)
    assert (guided.commands[-1].position_rad == stopped).all()
    assert guided.guide.state == "idle"
    guided.check_caps(0.25, 0.6)


def test_a_puck_pushed_against_the_lid_does_not_wind_up() -> None:
    """After five seconds of pushing up, down is down at once."""
    guided = Guided(viper_model(), "twist")
    for _ in range(500):
        guided.push(0, 0, 1, 0, 0, 0)
    assert guided.guide.state == "limited"
    top = guided.tool_m[2]
    for _ in range(25):
        guided.push(0, 0, -1, 0, 0, 0)
    assert guided.tool_m[2] < top - 0.03


def test_braking_ends_inside_the_box() -> None:
    """Lost while it still rises fast, right below the lid."""
    lid = Guided(viper_model()).tool_m[2] + 0.06
    box = Workspace(min_m=(-1.0, -1.0, -1.0), max_m=(1.0, 1.0, lid))
    boxed = Guided(viper_model().model_copy(update={"workspace": box}))
    boxed.grip()
    for _ in range(14):
        boxed.hand = boxed.hand + np.array([0.0, 0.02, 0.0])
        boxed.stay()
    boxed.tracked = False
    boxed.stay(30)
    assert max(boxed.arm.forward(c.position_rad).position_m[2] for c in boxed.commands) <= lid


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_slower_input_lags_little_more(guided: Guided, every: int) -> None:
    """A hand at 0.2 m/s, heard 100, 50 or 33 times a second: under 16 mm behind, 80 ms."""
    guided.grip()
    behind = []
    start = guided.tool_m[1]
    for tick in range(90):
        guided.hand = guided.hand + np.array([-0.002, 0.0, 0.0])
        if tick % every == 0:
            guided.hear()
        guided.tick()
        behind.append(0.002 * (tick + 1) - (guided.tool_m[1] - start))
    assert max(behind[50:]) < 0.016


def test_a_puck_pushed_beyond_reach_does_not_wind_up() -> None:
    """Without a box: five seconds forward leave the arm stretched and limited, back is back."""
    guided = Guided(viper_model().model_copy(update={"workspace": None}), "twist")
    for _ in range(500):
        guided.push(1, 0, 0, 0, 0, 0)
    assert guided.guide.state == "limited"
    assert guided.guide.curb & Curb.REACH
    far = guided.tool_m[0]
    for _ in range(50):
        guided.push(-1, 0, 0, 0, 0, 0)
    assert guided.tool_m[0] < far - 0.05


def test_a_gripper_on_a_trigger_has_no_toggle() -> None:
    """The button does nothing there; else it would fight the trigger."""
    guided = Guided(viper_model())
    guided.guide.toggle_gripper()
    guided.silence(50)
    assert guided.commands[-1].gripper == 0.0


def test_an_arm_without_kinematics_cannot_be_guided(aloha: Rig) -> None:
    """Named by its arm."""
    model = aloha.arm_models["vx300s"].model_copy(update={"kinematics": None})
    with pytest.raises(RigError, match="left_follower"):
        CartesianGuide("left_follower", model, "pose", SETTINGS, 0.0, PERIOD_S)


def test_without_the_extra_the_guide_can_be_imported_and_says_what_to_install() -> None:
    """In an interpreter where mink cannot be imported."""
    script = """
import sys
sys.modules["mink"] = None
import teleop.cartesian_guide
try:
    import teleop.kinematics
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'tandem-rig[ik]'" in done.stdout
