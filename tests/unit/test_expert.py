import numpy as np
import pytest

from drivers.emulated.operators.expert import ArmSolver, ToolPose, minimum_jerk
from drivers.emulated.plant import ARMS, START_RAD, Plant

SIDES = ("left", "right")


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant(ARMS, "free", seed=0)


@pytest.mark.parametrize("side", SIDES)
def test_the_solver_stands_where_the_follower_stands(plant: Plant, side: str) -> None:
    """Its single arm has the same tool position as the arm in the scene."""
    pose = ArmSolver(plant, side).start(np.array(START_RAD))
    assert pose.position_m == pytest.approx(plant.data.site(f"{side}_follower/tcp").xpos, abs=1e-6)
    assert pose.pitch_rad == pytest.approx(START_RAD[1] + START_RAD[2] + START_RAD[4])
    assert pose.roll_rad == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("x", "y", "z"), [(0.1, 0.4, 0.03), (0.2, 0.6, 0.03), (0.0, 0.5, 0.24)])
def test_the_solved_joints_bring_the_real_follower_there(
    side: str, x: float, y: float, z: float
) -> None:
    """Reached in a second from the start pose, pads within 3 mm, without flipping the forearm."""
    plant = Plant(ARMS, "free", seed=0)
    solver = ArmSolver(plant, side)
    begin = solver.start(np.array(START_RAD))
    goal = ToolPose(np.array([x if side == "right" else -x, y, z]), np.deg2rad(60), 0.0)
    for tick in range(1, 61):
        joints = solver.solve(begin.towards(goal, minimum_jerk(tick / 50)))
    plant.set_arm(f"{side}_follower", joints, 1.0)
    assert plant.data.site(f"{side}_follower/tcp").xpos == pytest.approx(goal.position_m, abs=3e-3)
    assert abs(joints[3]) < 0.3


def test_the_solver_stays_within_what_the_leader_can_reach(plant: Plant) -> None:
    """A tool pose out of reach ends at joint limits that leader and follower share."""
    solver = ArmSolver(plant, "left")
    solver.start(np.array(START_RAD))
    for _ in range(200):
        joints = solver.solve(ToolPose(np.array([-0.47, 0.5, 0.9]), -2.5, 0.0))
    for name, angle in zip(("waist", "shoulder", "elbow", "forearm_roll"), joints, strict=False):
        for arm in ("left_leader", "left_follower"):
            low, high = plant.model.joint(f"{arm}/{name}").range
            assert low - 1e-6 <= angle <= high + 1e-6, f"{arm}/{name}"


def test_minimum_jerk_starts_and_ends_at_rest() -> None:
    """Progress is 0 and 1 at and beyond the ends, a half in the middle."""
    assert [minimum_jerk(part) for part in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 0.5, 1, 1]
