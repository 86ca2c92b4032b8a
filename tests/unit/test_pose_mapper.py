import numpy as np
import pytest

from teleop.messages import FloatArray, PoseInput
from teleop.pose_mapper import PoseMapper, base_from_room
from teleop.rig_cartesian import CartesianSettings, HandSettings
from teleop.rig_inputs import VR_BUTTONS
from teleop.rotations import (
    ToolPose,
    length,
    quaternion_of,
    quaternion_product,
    rotated,
    turn_between,
)

MS = 1_000_000
SAMPLE_NS = 10 * MS
TOOL = ToolPose(np.array([0.3, 0.0, 0.2]), quaternion_of(np.array([0.1, 0.5, -0.3])))
LEVEL = np.array([1.0, 0.0, 0.0, 0.0])
THUMBSTICK = 1 << VR_BUTTONS.index("thumbstick")


class Hand:
    """A controller sampled at 100 Hz, and the tool that follows it at once."""

    def __init__(self, yaw: float = 0.0, **hand: object) -> None:
        self.mapper = PoseMapper(CartesianSettings(hand=HandSettings(**hand)), yaw)
        self.now_ns = 1_000 * MS
        self.mapper.begin(self.now_ns)
        self.position: FloatArray = np.array([0.2, 1.1, -0.4])
        self.quaternion = LEVEL
        self.squeeze = 0.0
        self.buttons = 0
        self.tracked = True
        self.tool = TOOL

    def sample(self) -> PoseInput:
        self.now_ns += SAMPLE_NS
        return PoseInput(
            self.now_ns,
            0,
            self.position,
            self.quaternion,
            self.tracked,
            0.0,
            self.squeeze,
            np.zeros(2),
            self.buttons,
        )

    def hear(self, *samples: PoseInput) -> ToolPose | None:
        wanted = self.mapper.follow(samples, self.now_ns, self.tool)
        self.tool = self.tool if wanted is None else wanted
        return wanted

    def stay(self, samples: int = 1) -> None:
        for _ in range(samples):
            self.hear(self.sample())

    def grip(self) -> None:
        self.squeeze = 0.0
        self.stay()
        self.squeeze = 1.0
        self.stay()

    def move(self, by: tuple[float, float, float], samples: int = 50) -> None:
        """Along a straight line, then stay until the filter has arrived."""
        start = self.position
        for part in np.linspace(0, 1, samples):
            self.position = start + part * np.array(by)
            self.stay()
        self.stay(200)

    def turn(self, by: tuple[float, float, float], samples: int = 100) -> None:
        start = self.quaternion
        for part in np.linspace(0, 1, samples):
            self.quaternion = quaternion_product(quaternion_of(part * np.array(by)), start)
            self.stay()
        self.stay(200)

    @property
    def moved_m(self) -> FloatArray:
        return self.tool.position_m - TOOL.position_m

    @property
    def turned_rad(self) -> FloatArray:
        return turn_between(TOOL.quaternion_wxyz, self.tool.quaternion_wxyz)


@pytest.mark.parametrize(
    ("hand", "tool"),
    [((0, 0, -0.1), (0.1, 0, 0)), ((-0.1, 0, 0), (0, 0.1, 0)), ((0, 0.1, 0), (0, 0, 0.1))],
)
def test_forward_left_and_up_of_the_hand_are_those_of_the_tool(hand, tool) -> None:
    """For an operator who looks along the base's x axis."""
    operator = Hand()
    operator.grip()
    operator.move(hand)
    assert operator.moved_m == pytest.approx(tool, abs=1e-4)
    assert length(operator.turned_rad) < 1e-6


def test_an_operator_who_faces_the_arm_is_followed_as_he_sees_it() -> None:
    """Looking back along the base's x axis, his forward is its backward."""
    operator = Hand(yaw=np.pi)
    operator.grip()
    operator.move((0, 0.05, -0.1))
    assert operator.moved_m == pytest.approx([-0.1, 0, 0.05], abs=1e-4)


@pytest.mark.parametrize(
    ("hand", "tool"),
    [((0, 0, -0.5), (0.5, 0, 0)), ((-0.5, 0, 0), (0, 0.5, 0)), ((0, 0.5, 0), (0, 0, 0.5))],
)
def test_the_tool_turns_about_the_axis_the_hand_turns_about(hand, tool) -> None:
    """Roll, pitch and yaw alike, and the tool stays where it is."""
    operator = Hand()
    operator.grip()
    operator.turn(hand)
    assert operator.turned_rad == pytest.approx(tool, abs=1e-3)
    assert length(operator.moved_m) < 1e-9


def test_the_grip_may_be_taken_in_any_pose_of_the_hand() -> None:
    """A hand that is held askew moves the tool as a level one does."""
    operator = Hand()
    operator.quaternion = quaternion_of(np.array([1.0, -0.7, 2.0]))
    operator.grip()
    operator.move((0, 0, -0.1))
    assert operator.moved_m == pytest.approx([0.1, 0, 0], abs=1e-4)


def test_nothing_moves_while_the_clutch_is_open() -> None:
    """However far the hand goes, and a new grip starts from where the tool is."""
    operator = Hand()
    operator.stay(5)
    operator.move((0.4, -0.5, 1.0))
    assert operator.tool is TOOL
    operator.grip()
    operator.stay(20)
    assert length(operator.moved_m) < 1e-9


def test_a_hand_that_comes_back_brings_the_tool_back() -> None:
    """After a closed loop of moves and turns beyond half a turn."""
    operator = Hand()
    operator.grip()
    operator.move((0.1, 0.2, 0.05))
    operator.turn((0, 4.0, 0), samples=300)
    operator.move((-0.3, 0.0, 0.1))
    operator.move((0.2, -0.2, -0.15))
    operator.turn((0, -4.0, 0), samples=300)
    operator.stay(300)
    assert length(operator.moved_m) < 1e-6
    assert length(operator.turned_rad) < 1e-5


def test_the_fine_button_scales_the_hand_without_a_jump() -> None:
    """Pressed and let go in the middle of a grip, the tool goes on from where it is."""
    operator = Hand(scale=1.0, fine_scale=0.4)
    operator.grip()
    operator.move((0, 0, -0.1))
    operator.buttons = THUMBSTICK
    operator.stay()
    assert operator.moved_m == pytest.approx([0.1, 0, 0], abs=1e-4)
    operator.move((0, 0, -0.1))
    operator.buttons = 0
    operator.stay()
    assert operator.moved_m == pytest.approx([0.14, 0, 0], abs=1e-4)


def test_a_scaled_turn_goes_on_smoothly_beyond_half_a_turn() -> None:
    """Where a rotation vector would jump by a whole turn."""
    operator = Hand(scale=0.5)
    operator.grip()
    last = operator.tool.quaternion_wxyz
    for angle in np.arange(0, 5.0, 0.05):
        operator.quaternion = quaternion_of(np.array([0, angle, 0]))
        operator.stay()
        assert length(turn_between(last, operator.tool.quaternion_wxyz)) < 0.04
        last = operator.tool.quaternion_wxyz
    operator.stay(200)
    assert operator.turned_rad == pytest.approx([0, 0, 2.475], abs=1e-2)


@pytest.mark.parametrize(("jump_m", "turn_rad"), [(0.07, 0.0), (1.0, 0.0), (0.0, 0.5), (0.3, 3.0)])
def test_a_jump_of_the_hand_moves_nothing(jump_m: float, turn_rad: float) -> None:
    """More than 6 cm or 25 degrees in one sample: latched anew, and followed on from there."""
    operator = Hand()
    operator.grip()
    latches = operator.mapper.latches
    operator.position = operator.position + np.array([jump_m, 0, 0])
    operator.quaternion = quaternion_of(np.array([turn_rad, 0, 0]))
    operator.stay(100)
    assert length(operator.moved_m) < 1e-9
    assert length(operator.turned_rad) < 1e-9
    assert operator.mapper.latches == latches + 1
    operator.move((0, 0.05, 0))
    assert operator.moved_m == pytest.approx([0, 0, 0.05], abs=1e-4)


def test_a_stall_of_a_fifth_of_a_second_holds_and_goes_on() -> None:
    """Between 100 and 250 ms the tool waits; the clutch stays closed."""
    operator = Hand()
    operator.grip()
    operator.move((0, 0.05, 0))
    operator.now_ns += 150 * MS
    assert operator.hear() is None
    assert operator.mapper.engaged
    operator.move((0, 0.05, 0))
    assert operator.moved_m == pytest.approx([0, 0, 0.1], abs=1e-4)


@pytest.mark.parametrize("fault", ["silence", "untracked", "nan", "no rotation"])
def test_a_lost_hand_opens_the_clutch_and_needs_a_new_press(fault: str) -> None:
    """The grip held all along does not engage again; letting go and gripping does."""
    operator = Hand()
    operator.grip()
    position, quaternion = operator.position, operator.quaternion
    if fault == "silence":
        operator.now_ns += 260 * MS
        operator.hear()
    else:
        operator.tracked = fault != "untracked"
        operator.position = position * (np.nan if fault == "nan" else 1.0)
        operator.quaternion = quaternion * (0.0 if fault == "no rotation" else 1.0)
        operator.stay()
    assert operator.mapper.lost
    assert not operator.mapper.engaged
    operator.tracked, operator.position, operator.quaternion = True, position, quaternion
    operator.move((0, 0.05, 0))
    assert operator.mapper.lost
    assert length(operator.moved_m) < 1e-9
    operator.grip()
    assert operator.mapper.engaged
    assert not operator.mapper.lost
    operator.move((0, 0.05, 0))
    assert operator.moved_m == pytest.approx([0, 0, 0.05], abs=1e-4)


def test_a_burst_after_a_silence_does_not_engage() -> None:
    """Samples that show a gap of more than 250 ms open the clutch, if nobody saw the silence."""
    operator = Hand()
    operator.grip()
    operator.now_ns += 300 * MS
    operator.hear(operator.sample(), operator.sample())
    assert not operator.mapper.engaged


def test_a_press_too_short_to_be_seen_between_two_ticks_latches_anew() -> None:
    """Released and gripped within one tick, the hand is followed from its new place."""
    operator = Hand()
    operator.grip()
    operator.squeeze = 0.0
    released = operator.sample()
    operator.squeeze = 1.0
    operator.position = operator.position + np.array([0.3, 0, 0])
    operator.hear(released, operator.sample())
    operator.stay(50)
    assert length(operator.moved_m) < 1e-9
    assert operator.mapper.engaged


def test_a_clutch_held_as_the_episode_begins_does_not_engage() -> None:
    """It must be pressed after the start."""
    operator = Hand()
    operator.grip()
    operator.mapper.begin(operator.now_ns)
    operator.move((0, 0.1, 0))
    assert length(operator.moved_m) < 1e-9
    operator.grip()
    operator.move((0, 0.1, 0))
    assert operator.moved_m[2] == pytest.approx(0.1, abs=1e-4)


def test_a_trembling_finger_is_one_press() -> None:
    """Between the two thresholds a press goes on, and is not begun."""
    operator = Hand()
    operator.grip()
    latches = operator.mapper.latches
    for value in (0.55, 0.45, 0.55, 0.45):
        operator.squeeze = value
        operator.stay()
    assert operator.mapper.engaged
    assert operator.mapper.latches == latches
    operator.squeeze = 0.3
    operator.stay()
    operator.squeeze = 0.5
    operator.stay()
    assert not operator.mapper.engaged


def test_a_button_can_be_the_clutch() -> None:
    """For a device whose squeeze is taken."""
    operator = Hand(clutch="a")
    operator.squeeze = 1.0
    operator.stay(2)
    assert not operator.mapper.engaged
    operator.buttons = 1 << VR_BUTTONS.index("a")
    operator.stay()
    assert operator.mapper.engaged


def test_samples_out_of_order_are_dropped() -> None:
    """An older one that comes late changes nothing."""
    operator = Hand()
    operator.grip()
    late = operator.sample()
    operator.stay()
    operator.move((0, 0.1, 0))
    operator.hear(late)
    operator.stay()
    assert operator.moved_m[2] == pytest.approx(0.1, abs=1e-4)


def test_one_button_cannot_do_two_things() -> None:
    """A clutch on the trigger takes the trigger from the gripper."""
    with pytest.raises(ValueError, match="trigger"):
        HandSettings(clutch="trigger")
    assert HandSettings(clutch="trigger", gripper="button").clutch == "trigger"


def test_axes_of_room_and_base_are_both_right_handed() -> None:
    """(x, y, z) becomes (-z, -x, y)."""
    assert rotated(base_from_room(0.0), np.array([1.0, 2.0, 3.0])) == pytest.approx([-3, -1, 2])
