import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.emulated.plant import ARMS, AXES, Plant
from teleop.errors import RigError, UnknownNameError
from teleop.kinematics import ArmKinematics
from teleop.messages import FloatArray
from teleop.rig_parts import Workspace
from teleop.rotations import (
    ToolPose,
    length,
    quaternion_of,
    quaternion_product,
    rotated,
    turn_between,
)
from teleop.workspace import approached

DT_S = 0.01
VIPER = AXES[:-1]
VIPER_START = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0])
VIPER_SPEED = 3.14
FRANKA = tuple(f"joint{i}" for i in range(1, 8))
FRANKA_START = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])
ARM = {
    "vx300s": (VIPER, VIPER_START),
    "wx250s": (VIPER, VIPER_START),
    "fr3": (FRANKA, FRANKA_START),
    "panda": (FRANKA, FRANKA_START),
}


def kinematics(name: str, workspace: Workspace | None = None) -> ArmKinematics:
    joints, start = ARM[name]
    wide = np.full(len(joints), 7.0)
    made = ArmKinematics(
        name,
        "tcp",
        joints,
        -wide,
        wide,
        np.full(len(joints), VIPER_SPEED),
        workspace=workspace,
        speed_m_s=0.5,
        rotation_rad_s=1.5,
    )
    made.prefer(start)
    return made


def followed(arm: ArmKinematics, start: FloatArray, path: list[ToolPose]) -> FloatArray:
    """Joint angles along a path of the tool, shape (N + 1, J)."""
    joints = [start]
    target = arm.forward(start)
    for wanted in path:
        target = approached(target, wanted, 0.5 * DT_S, 1.5 * DT_S)[0]
        target = approached(arm.forward(joints[-1]), target, 0.01, 0.1)[0]
        joints.append(arm.solve(target, joints[-1], DT_S))
    return np.array(joints)


def turned(pose: ToolPose, by: tuple[float, float, float]) -> ToolPose:
    turn = quaternion_of(np.array(by))
    return ToolPose(pose.position_m, quaternion_product(turn, pose.quaternion_wxyz))


def denavit_hartenberg(joints: FloatArray) -> FloatArray:
    """The tool of a Franka with its hand, shape (4, 4), from the published parameters (Craig)."""
    a = (0, 0, 0, 0.0825, -0.0825, 0, 0.088, 0)
    d = (0.333, 0, 0.316, 0, 0.384, 0, 0, 0.107)
    alpha = np.array((0, -1, 1, 1, -1, 1, 1, 0)) * np.pi / 2
    pose = np.eye(4)
    for i, angle in enumerate([*joints, 0.0]):
        c, s, ca, sa = np.cos(angle), np.sin(angle), np.cos(alpha[i]), np.sin(alpha[i])
        pose = pose @ np.array(
            [
                [c, -s, 0, a[i]],
                [s * ca, c * ca, -sa, -d[i] * sa],
                [s * sa, c * sa, ca, d[i] * ca],
                [0, 0, 0, 1],
            ]
        )
    h = np.sqrt(0.5)
    return pose @ np.array([[h, h, 0, 0], [-h, h, 0, 0], [0, 0, 1, 0.1034], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["fr3", "panda"])
def test_a_franka_stands_where_its_published_parameters_put_it(name: str) -> None:
    """Position and all three axes of the tool, in fifty postures."""
    arm = kinematics(name)
    for joints in np.random.default_rng(0).uniform(-2, 2, size=(50, 7)):
        joints[3], joints[5] = -1 - abs(joints[3]) / 2, 1 + abs(joints[5])
        pose, expected = arm.forward(joints), denavit_hartenberg(joints)
        assert pose.position_m == pytest.approx(expected[:3, 3], abs=1e-7)
        for column, axis in enumerate(np.eye(3)):
            assert rotated(pose.quaternion_wxyz, axis) == pytest.approx(
                expected[:3, column], abs=1e-7
            )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_viperx_stands_where_the_emulated_one_does(side: str) -> None:
    """The tool in the base's frame, against the plant's own, in twenty postures."""
    arm = kinematics("vx300s")
    plant = Plant(ARMS, "free", seed=0)
    base = plant.model.body(f"{side}_follower/base")
    for joints in np.random.default_rng(1).uniform(-1, 1, size=(20, 6)):
        plant.set_arm(f"{side}_follower", joints, 0.5)
        pose = arm.forward(joints)
        site = plant.data.site(f"{side}_follower/tcp")
        world = np.array(base.pos) + rotated(np.array(base.quat), pose.position_m)
        assert site.xpos == pytest.approx(world, abs=1e-6)
        facing = quaternion_product(np.array(base.quat), pose.quaternion_wxyz)
        for column, axis in enumerate(np.eye(3)):
            assert rotated(facing, axis) == pytest.approx(
                site.xmat.reshape(3, 3)[:, column], abs=1e-6
            )


def test_a_widowx_reaches_as_far_as_interbotix_says() -> None:
    """All joints at zero: 0.458325 m forward, 0.36065 m up (its published home matrix)."""
    pose = kinematics("wx250s").forward(np.zeros(6))
    assert pose.position_m == pytest.approx([0.458325, 0, 0.36065], abs=1e-9)
    assert pose.quaternion_wxyz == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize("name", ["vx300s", "wx250s", "fr3", "panda"])
def test_a_tool_pose_within_reach_is_reached(name: str) -> None:
    """Some 14 cm away and tilted for a grasp, to 0.1 mm and 2 mrad in two seconds."""
    arm = kinematics(name)
    start = ARM[name][1]
    here = arm.forward(start)
    tilted = turned(here, (0.0, 1.0 if len(start) == 6 else 0.5, 0.0))
    goal = ToolPose(here.position_m + np.array([0.05, 0.08, -0.1]), tilted.quaternion_wxyz)
    reached = arm.forward(followed(arm, start, [goal] * 200)[-1])
    assert length(reached.position_m - goal.position_m) < 1e-4
    assert length(turn_between(goal.quaternion_wxyz, reached.quaternion_wxyz)) < 2e-3


def test_joints_may_be_named_in_any_order() -> None:
    """The messages' order is the rig file's, not the model's."""
    plain = kinematics("vx300s")
    wide = np.full(6, 7.0)
    order = [3, 0, 5, 1, 4, 2]
    names = tuple(VIPER[i] for i in order)
    mixed = ArmKinematics("vx300s", "tcp", names, -wide, wide, np.full(6, 1.0))
    joints = np.array([0.3, -0.8, 1.0, 0.4, -0.5, 0.2])
    expected = plain.forward(joints)
    assert mixed.forward(joints[order]).position_m == pytest.approx(expected.position_m)
    mixed.prefer(joints[order])
    goal = ToolPose(expected.position_m + np.array([0.001, 0, 0]), expected.quaternion_wxyz)
    moved = mixed.forward(mixed.solve(goal, joints[order], DT_S)).position_m
    assert moved == pytest.approx(goal.position_m, abs=1e-5)


@pytest.mark.parametrize("speed_rad_s", [0.3, 1.2])
@pytest.mark.parametrize("beside_rad", [0.0, 0.05, 0.1, 0.2])
def test_a_wrist_swept_beside_its_singularity_does_not_flip(
    beside_rad: float, speed_rad_s: float
) -> None:
    """A level ViperX tool, yawed a little, is tilted down by 69 degrees.

    The wrist straightens on the way, where the exact solution would roll the forearm by up to
    half a turn. It stays within 70 degrees, the tool in place, and the pose is reached.
    """
    arm = kinematics("vx300s")
    here = turned(arm.forward(VIPER_START), (0.0, 0.0, beside_rad))
    yaws = np.linspace(0, 1, 20)
    path = [turned(arm.forward(VIPER_START), (0.0, 0.0, beside_rad * y)) for y in yaws]
    tilts = np.arange(0.0, 1.2, speed_rad_s * DT_S)
    path += [turned(here, (0.0, tilt, 0.0)) for tilt in tilts]
    path += [turned(here, (0.0, 1.2, 0.0))] * 100
    joints = followed(arm, VIPER_START, path)
    assert abs(joints[:, 3]).max() < 1.2
    off = [length(arm.forward(q).position_m - here.position_m) for q in joints]
    assert max(off) < 3e-3
    reached = arm.forward(joints[-1])
    assert length(turn_between(path[-1].quaternion_wxyz, reached.quaternion_wxyz)) < 5e-3


@pytest.mark.parametrize("name", ["vx300s", "fr3"])
def test_an_arm_stretched_out_of_reach_comes_to_rest(name: str) -> None:
    """No hunting around the straight elbow; and it comes back."""
    arm = kinematics(name)
    start = ARM[name][1]
    here = arm.forward(start)
    far = ToolPose(here.position_m + np.array([0.8, 0.1, 0.2]), here.quaternion_wxyz)
    joints = followed(arm, start, [far] * 500 + [here] * 400)
    assert abs(np.diff(joints[400:500], axis=0)).max() < 0.1 * DT_S
    assert length(arm.forward(joints[-1]).position_m - here.position_m) < 1e-3


def test_nothing_better_to_do_is_to_stay() -> None:
    """Asked for where it is, the arm does not drift in a thousand ticks."""
    for name in ("vx300s", "fr3"):
        arm = kinematics(name)
        start = ARM[name][1]
        joints = followed(arm, start, [arm.forward(start)] * 1000)
        assert abs(joints[-1] - start).max() < 1e-6


number = st.floats(-1.5, 1.5)
vector = st.tuples(number, number, number)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["vx300s", "fr3"]),
    goals=st.lists(st.tuples(vector, vector), min_size=1, max_size=4),
)
def test_no_target_exceeds_a_limit(name: str, goals: list[tuple[tuple, tuple]]) -> None:
    """Joint speed, tool speed and box hold whatever pose is asked for, a metre away too."""
    box = Workspace(min_m=(0.1, -0.3, 0.05), max_m=(0.6, 0.3, 0.6))
    arm = kinematics(name, box)
    joints = ARM[name][1]
    last = arm.forward(joints)
    for position, turn in goals:
        goal = ToolPose(np.array(position), quaternion_of(np.array(turn)))
        for _ in range(25):
            solved = arm.solve(goal, joints, DT_S)
            assert (abs(solved - joints) <= VIPER_SPEED * DT_S + 1e-9).all()
            pose = arm.forward(solved)
            assert (pose.position_m >= np.array(box.min_m) - 1e-9).all()
            assert (pose.position_m <= np.array(box.max_m) + 1e-9).all()
            step = length(pose.position_m - last.position_m)
            assert step <= 0.5 * DT_S * 1.03
            turned_by = length(turn_between(last.quaternion_wxyz, pose.quaternion_wxyz))
            assert turned_by <= 1.5 * DT_S * 1.03
            joints, last = solved, pose


def test_an_arm_that_starts_outside_its_limits_may_only_come_in() -> None:
    """Beyond a joint's end and outside the box it stays, or moves inward."""
    box = Workspace(min_m=(0.1, -0.3, 0.55), max_m=(0.6, 0.3, 0.8))
    arm = kinematics("vx300s", box)
    start = VIPER_START.copy()
    start[4] = -1.9
    low = arm.forward(start).position_m
    assert low[2] < 0.55
    joints = followed(arm, start, [ToolPose(np.array([0.3, 0, 0.0]), np.array([1.0, 0, 0, 0]))] * 9)
    assert (joints[:, 4] >= -1.9 - 1e-9).all()
    assert all(arm.forward(q).position_m[2] >= low[2] - 1e-9 for q in joints)


def test_a_motion_out_of_the_box_or_beyond_a_joint_is_not_kept() -> None:
    """The arm stays where it was; a motion within both is kept."""
    start = VIPER_START
    height = kinematics("vx300s").forward(start).position_m[2]
    arm = kinematics("vx300s", Workspace(min_m=(0, -1, 0), max_m=(1, 1, height + 0.005)))
    up, down = start.copy(), start.copy()
    up[4] -= 0.1
    down[4] += 0.1
    assert arm.kept(start, up) is start
    assert arm.kept(start, down) is down
    low = start.copy()
    low[1] = -1.86
    assert arm.kept(start, low) is start


def test_unknown_models_joints_and_tools_are_named() -> None:
    """With what is known instead."""
    wide = np.full(6, 7.0)
    with pytest.raises(UnknownNameError, match=r"vx30s.*vx300s"):
        ArmKinematics("vx30s", "tcp", VIPER, -wide, wide, wide)
    with pytest.raises(UnknownNameError, match=r"elbo.*elbow"):
        ArmKinematics("vx300s", "tcp", ("elbo",), -wide[:1], wide[:1], wide[:1])
    with pytest.raises(UnknownNameError, match=r"hand.*tcp"):
        ArmKinematics("vx300s", "hand", VIPER, -wide, wide, wide)


def test_a_model_of_ones_own_is_read_from_its_file(tmp_path) -> None:
    """Joints that the arm does not command stay at zero; nonsense is refused by its path."""
    text = """<mujoco><worldbody><body><joint name="turn" axis="0 0 1"/><geom size="0.1"/>
      <body pos="1 0 0"><joint name="finger" type="slide"/><geom size="0.1"/>
      <site name="tip" pos="1 0 0"/></body></body></worldbody>
      <actuator><motor joint="finger"/></actuator></mujoco>"""
    file = tmp_path / "mine.xml"
    file.write_text(text)
    one = np.ones(1)
    arm = ArmKinematics(str(file), "tip", ("turn",), -4 * one, 4 * one, one)
    assert arm.forward(np.array([np.pi / 2])).position_m == pytest.approx([0, 2, 0])
    file.write_text("<mujoco><nonsense/></mujoco>")
    with pytest.raises(RigError, match=r"mine\.xml"):
        ArmKinematics(str(file), "tip", ("turn",), -one, one, one)
