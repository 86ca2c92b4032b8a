"""From where a gripper should go to leader joint angles.

The operator thinks in tool poses of the followers. Leader and follower joints are mirrored one
to one, so inverse kinematics on one follower arm gives the joints that the leader must take.

The tool's yaw is never asked for: it is the heading from the arm's base to the tool. Asking for
another yaw drives the wrist through its singularity, where the forearm flips by half a turn
(6 of 10 episodes instead of 20 of 20 in the prototype of this operator).
"""

from __future__ import annotations

from dataclasses import dataclass

import mink
import mujoco
import numpy as np

from drivers.emulated.plant import AXES, SCENE, Plant
from teleop.messages import FloatArray

TICK_S = 0.02
"""Time between two solutions; the hand moves linearly between them."""
JOINTS = AXES[:-1]


@dataclass(frozen=True, slots=True, eq=False)
class ToolPose:
    """Where a follower's finger pads are and how they point."""

    position_m: FloatArray
    """Shape (3,), world frame."""
    pitch_rad: float
    """0 level, positive pointing down."""
    roll_rad: float
    """About the fingers; 0 closes sideways."""

    def towards(self, other: ToolPose, part: float) -> ToolPose:
        """The pose a part (0 ... 1) of the way to another."""
        return ToolPose(
            self.position_m + part * (other.position_m - self.position_m),
            self.pitch_rad + part * (other.pitch_rad - self.pitch_rad),
            self.roll_rad + part * (other.roll_rad - self.roll_rad),
        )


def minimum_jerk(part: float) -> float:
    """Progress of a human reach at a part of its time (Flash and Hogan 1985); 0 ... 1 both."""
    s = min(max(part, 0.0), 1.0)
    return s * s * s * (10.0 - 15.0 * s + 6.0 * s * s)


class ArmSolver:
    """Differential inverse kinematics of one follower, by its side (``left`` or ``right``)."""

    def __init__(self, plant: Plant, side: str) -> None:
        self._base = np.array(plant.model.body(f"{side}_follower/base").pos)
        self._configuration = mink.Configuration(_single_arm(plant, side))
        self._tool = mink.FrameTask("tcp", "site", 1.0, 0.3, lm_damping=1e-3)
        # Holds the forearm's roll near zero, where the other joints leave it undecided.
        cost = np.where(np.array(JOINTS) == "forearm_roll", 3e-2, 1e-4)
        self._posture = mink.PostureTask(self._configuration.model, cost)
        self._limits = [mink.ConfigurationLimit(self._configuration.model)]

    def start(self, joints_rad: FloatArray) -> ToolPose:
        """Begin at a posture of shape (6,), and prefer it; returns the tool pose there."""
        self._configuration.update(np.array(joints_rad))
        self._posture.set_target(self._configuration.q)
        tool = self._configuration.get_transform_frame_to_world("tcp", "site")
        position = np.asarray(tool.translation())
        forward = tool.rotation().as_matrix()[:, 0]
        pitch = -float(np.arcsin(np.clip(forward[2], -1.0, 1.0)))
        level = ToolPose(position, pitch, 0.0)
        roll = (self._rotation(level).inverse() @ tool.rotation()).as_matrix()
        return ToolPose(position, pitch, float(np.arctan2(roll[2, 1], roll[1, 1])))

    def solve(self, pose: ToolPose) -> FloatArray:
        """One step of ``TICK_S`` towards a pose; returns the joints, shape (6,)."""
        self._tool.set_target(
            mink.SE3.from_rotation_and_translation(self._rotation(pose), pose.position_m)
        )
        velocity = mink.solve_ik(
            self._configuration, [self._tool, self._posture], TICK_S, "daqp", limits=self._limits
        )
        self._configuration.integrate_inplace(velocity, TICK_S)
        return np.array(self._configuration.q)

    def _rotation(self, pose: ToolPose) -> mink.SO3:
        reach = pose.position_m - self._base
        heading = float(np.arctan2(reach[1], reach[0]))
        return (
            mink.SO3.from_z_radians(heading)
            @ mink.SO3.from_y_radians(pose.pitch_rad)
            @ mink.SO3.from_x_radians(pose.roll_rad)
        )


def _single_arm(plant: Plant, side: str) -> mujoco.MjModel:
    """The follower alone, without fingers, within what its leader can reach as well."""
    spec = mujoco.MjSpec.from_file(str(SCENE / "follower.xml"))
    for body in ("gripper_prop_link", "left_finger_link", "right_finger_link"):
        spec.delete(spec.body(body))
    base = plant.model.body(f"{side}_follower/base")
    spec.body("base").pos = base.pos
    spec.body("base").quat = base.quat
    for name in JOINTS:
        leader = plant.model.joint(f"{side}_leader/{name}").range
        joint = spec.joint(name)
        low, high = joint.range
        joint.range = [max(low, leader[0]), min(high, leader[1])]
    return spec.compile()
