import numpy as np
import pytest

from bench.operator_success import DirectRig
from drivers.emulated.operators.hand import CAP_NM
from drivers.emulated.operators.operator import ScriptedOperator
from drivers.emulated.plant import ARMS, GRIPPER_RAD, Plant
from teleop.errors import UnknownNameError

LEADERS = [ARMS.index("left_leader"), ARMS.index("right_leader")]
FOLLOWERS = [ARMS.index("left_follower"), ARMS.index("right_follower")]


@pytest.mark.parametrize(("task", "limit_s"), [("transfer_cube", 8.0), ("insertion", 12.0)])
def test_the_operator_does_the_task_by_pulling_the_leaders(task: str, limit_s: float) -> None:
    """Three poses, through hand, leaders, servos and followers, in the time of the task."""
    rig = DirectRig(task, seed=50)
    results = [rig.run(episode) for episode in range(3)]
    assert [result.success for result in results] == [True] * 3
    assert max(result.seconds for result in results) < limit_s


def test_the_same_seed_and_episode_are_the_same_motion() -> None:
    """To the last bit, also after another episode was begun in between."""
    one, two = DirectRig("transfer_cube", seed=9), DirectRig("transfer_cube", seed=9)
    two.operator.begin(5)
    assert one.run(1) == two.run(1)
    assert np.array_equal(one.plant.snapshot(), two.plant.snapshot())


def test_episodes_differ_as_a_persons_do() -> None:
    """Another seed of the hand gives another motion over the same table."""
    first, other = DirectRig("free", seed=1), DirectRig("free", seed=2)
    assert first.run(0).seconds != other.run(0).seconds


def test_in_ready_the_hands_close_the_leader_grippers_only() -> None:
    """The handles end closed; no joint feels the hand."""
    plant = Plant(ARMS, "free", seed=0)
    for arm in ("left_leader", "right_leader"):
        plant.set_arm(arm, np.zeros(6), 0.8)
    operator = ScriptedOperator(plant, seed=0)
    for _ in range(500):
        hand = operator.hand_torque_nm("ready", plant.time_s)
        assert not hand.reshape(-1, 7)[:, :6].any()
        plant.step(np.zeros(28), hand)
    closed = GRIPPER_RAD["leader"][0]
    assert plant.axis_angle_rad.reshape(-1, 7)[LEADERS, 6] == pytest.approx([closed] * 2, abs=0.02)


@pytest.mark.parametrize("phase", ["starting", "homing", "stopping", "done"])
def test_in_all_other_phases_the_hands_are_off(phase: str) -> None:
    """Homing is the servos' work."""
    operator = ScriptedOperator(Plant(ARMS, "transfer_cube", seed=0), seed=0)
    assert not operator.hand_torque_nm(phase, 1.0).any()


def test_a_hand_never_pulls_harder_than_a_hand_and_never_touches_a_follower() -> None:
    """Even when the leaders are locked and do not come along."""
    plant = Plant(ARMS, "transfer_cube", seed=0)
    operator = ScriptedOperator(plant, seed=0)
    strongest = np.zeros(28)
    for step in range(1500):  # the plant is never stepped: the arms are stuck
        hand = operator.hand_torque_nm("running", 0.002 * step)
        strongest = np.maximum(strongest, np.abs(hand))
    assert not strongest.reshape(-1, 7)[FOLLOWERS].any()
    assert (strongest.reshape(-1, 7)[LEADERS] <= CAP_NM).all()
    assert strongest.max() == CAP_NM.max()


def test_when_finished_the_hands_keep_still() -> None:
    """The wanted pose no longer moves, so that the episode's end is quiet."""
    rig = DirectRig("free", seed=0)
    rig.run(0)
    before = rig.plant.axis_angle_rad.reshape(-1, 7)[LEADERS]
    rig.go_on("running", 0.3)
    assert rig.operator.finished
    assert rig.plant.axis_angle_rad.reshape(-1, 7)[LEADERS] == pytest.approx(before, abs=2e-3)


def test_a_task_for_two_hands_is_refused_on_a_rig_with_one() -> None:
    """The missing arm is named before anything moves."""
    plant = Plant(["right_leader", "right_follower"], "insertion", seed=0)
    with pytest.raises(UnknownNameError, match="left_leader"):
        ScriptedOperator(plant, seed=0)


def test_one_pair_of_arms_can_move_freely() -> None:
    """The free task asks only for the arms that are there."""
    plant = Plant(["right_leader", "right_follower"], "free", seed=0)
    operator = ScriptedOperator(plant, seed=0)
    while not operator.finished:
        plant.step(np.zeros(14), operator.hand_torque_nm("running", plant.time_s))
        assert plant.time_s < 10
    assert np.abs(plant.axis_angle_rad[:7]).max() > 0.3
