import numpy as np
import pytest

from drivers.emulated.dynamixel.motors import LEADER_PASSIVE_DAMPING, POWERED_DAMPING
from drivers.emulated.plant import ARMS, GRIPPER_RAD, START_RAD, Plant, build_model, role_of
from drivers.emulated.tasks import TASKS
from teleop.errors import DeviceError, UnknownNameError
from teleop.rig import Rig


def none(plant: Plant) -> np.ndarray:
    return np.zeros(7 * len(plant.arms))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arms", [ARMS, ("right_follower",), ("left_leader", "left_follower"), ()])
def test_any_arms_and_any_task_make_a_plant(arms: tuple[str, ...], task: str) -> None:
    """Axes are seven per arm; only the task's objects lie on the table."""
    plant = Plant(arms, task, seed=0)
    plant.step(none(plant), none(plant))
    assert plant.axis_angle_rad.shape == plant.axis_rate_rad_s.shape == (7 * len(arms),)
    assert plant.task_state()[3].shape == (len(TASKS[task].objects), 7)


def test_an_unknown_arm_is_refused_with_the_nearest_names() -> None:
    """The message names the arm and a near one."""
    with pytest.raises(UnknownNameError, match=r"'left_folower'; did you mean left_follower"):
        Plant(["left_folower"], "free", seed=0)


def test_cameras_bear_the_names_of_the_rig(aloha: Rig) -> None:
    """Every camera of the shipped rig is in the scene, and the one for pictures."""
    model = build_model(sorted(aloha.arms), "free")
    assert {model.camera(i).name for i in range(model.ncam)} == {*aloha.cameras, "overview"}


def test_gripper_angles_are_those_of_the_shipped_rig(aloha: Rig) -> None:
    """The plant's physical truth and ``hardware.yaml`` agree."""
    for arm in ARMS:
        gripper = aloha.arm_model(arm).gripper
        assert gripper is not None
        assert GRIPPER_RAD[role_of(arm)] == (gripper.closed_rad, gripper.open_rad)


def test_passive_damping_is_what_the_servo_bank_reckons_with() -> None:
    """The scene files and the servo models carry the same numbers."""
    model = build_model(ARMS, "free")
    tables = {"follower": POWERED_DAMPING, "leader": LEADER_PASSIVE_DAMPING}
    for arm in ARMS:
        for axis, expected in tables[role_of(arm)].items():
            damping = model.dof_damping[model.joint(f"{arm}/{axis}").dofadr[0]]
            assert damping == expected, f"{arm}/{axis}"


def test_arms_left_alone_stay_where_they_are() -> None:
    """Gravity is compensated: a second without torque moves nothing."""
    plant = Plant(ARMS, "free", seed=0)
    before = plant.axis_angle_rad
    for _ in range(500):
        plant.step(none(plant), none(plant))
    assert np.abs(plant.axis_angle_rad - before).max() < 1e-3


@pytest.mark.parametrize("arm", ["left_follower", "right_leader"])
@pytest.mark.parametrize("axis", range(7))
def test_torque_turns_its_own_axis_its_own_way(arm: str, axis: int) -> None:
    """A positive torque on one axis raises that angle more than any other."""
    plant = Plant([arm], "free", seed=0)
    plant.set_arm(arm, np.array(START_RAD), 0.5)
    before = plant.axis_angle_rad
    torque = none(plant)
    torque[axis] = 3.0 if axis in (1, 2) else 0.5
    for _ in range(20):
        plant.step(torque, none(plant))
    moved = plant.axis_angle_rad - before
    assert moved[axis] > 1e-4
    assert np.argmax(np.abs(moved)) == axis


def test_servo_torque_and_hand_torque_add() -> None:
    """A hand that pulls as hard as the servo pushes leaves the axis still."""
    plant = Plant(["left_leader"], "free", seed=0)
    torque = np.full(7, 0.4)
    for _ in range(50):
        plant.step(torque, -torque)
    assert np.abs(plant.axis_rate_rad_s).max() < 1e-9


@pytest.mark.parametrize("opening", [0.0, 0.3, 0.7, 1.0])
def test_fingers_follow_the_crank_of_the_gripper_servo(opening: float) -> None:
    """Both slides stand where r sin(a) + sqrt(l^2 - r^2 cos^2(a)) says, within 0.5 mm."""
    plant = Plant(["left_follower"], "free", seed=0)
    closed, opened = GRIPPER_RAD["follower"]
    goal = closed + opening * (opened - closed)
    for _ in range(500):
        torque = none(plant)
        torque[6] = np.clip(4.0 * (goal - plant.axis_angle_rad[6]), -0.96, 0.96)
        plant.step(torque, none(plant))
    angle = plant.axis_angle_rad[6]
    assert angle == pytest.approx(goal, abs=0.02)
    finger = 0.022 * np.sin(angle) + np.sqrt(0.036**2 - (0.022 * np.cos(angle)) ** 2)
    left = plant.data.joint("left_follower/left_finger").qpos[0]
    right = plant.data.joint("left_follower/right_finger").qpos[0]
    assert (left, -right) == pytest.approx((finger, finger), abs=5e-4)


def test_reset_places_objects_by_seed_and_episode_and_leaves_the_arms() -> None:
    """The same numbers give the same table; other numbers another; arms do not jump."""
    one, two = Plant(ARMS, "insertion", seed=3), Plant(ARMS, "insertion", seed=3)
    other = Plant(ARMS, "insertion", seed=4)
    posture = np.array([0.3, -0.5, 0.8, 0.1, 0.2, -0.1])
    one.set_arm("left_follower", posture, 1.0)
    for plant in (one, two, other):
        plant.reset(7)
    assert np.array_equal(one.object_pose(), two.object_pose())
    assert not np.array_equal(one.object_pose(), other.object_pose())
    seventh = one.object_pose()
    one.reset(8)
    assert not np.array_equal(one.object_pose(), seventh)
    assert one.axis_angle_rad[:6] == pytest.approx(posture)


def test_a_snapshot_shows_the_same_scene_elsewhere() -> None:
    """Another plant of the same arms and task takes over all that is visible."""
    plant, viewer = Plant(ARMS, "transfer_cube", 1), Plant(ARMS, "transfer_cube", 2)
    plant.set_arm("right_follower", np.full(6, 0.2), 0.4)
    viewer.restore(plant.snapshot())
    assert viewer.data.geom_xpos == pytest.approx(plant.data.geom_xpos)


def test_a_snapshot_does_not_change_with_the_plant() -> None:
    """It is a copy."""
    plant = Plant(ARMS, "free", seed=0)
    snapshot = plant.snapshot()
    plant.set_arm("left_leader", np.full(6, 0.2), 0.4)
    assert not np.array_equal(snapshot, plant.snapshot())


def test_torque_that_is_no_number_is_reported_in_words(tmp_path, monkeypatch) -> None:
    """Diverged physics stops the emulation; it does not go on with nonsense."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its own log where it runs
    plant = Plant(["left_follower"], "free", seed=0)

    def push() -> None:
        for _ in range(20):
            plant.step(np.full(7, np.nan), none(plant))

    with pytest.raises(DeviceError, match="emulated plant: the physics diverged at"):
        push()
