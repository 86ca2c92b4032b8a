"""Forward and inverse kinematics of one arm, from a model without meshes.

Inverse kinematics is differential: each tick solves a small quadratic program for the joint
motion that brings the tool nearest to where it is wanted, within the joints' ranges and speeds,
the workspace and the caps on the tool. Near a singularity the one joint motion that hardly moves
the tool is slowed down and tied to the posture the episode began in: the arm lets that direction
go for a while, and comes back to it on the same branch instead of flipping its wrist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from teleop.errors import MissingExtraError, RigError, UnknownNameError
from teleop.kinematic_models import kinematic_model_file
from teleop.messages import FloatArray
from teleop.rig_parts import Workspace
from teleop.rotations import ToolPose, length
from teleop.workspace import Box

if TYPE_CHECKING:
    from teleop.rig import ArmModel

try:
    import mink
    import mujoco
    import qpsolvers
except ImportError as error:
    raise MissingExtraError("mink", "ik", "Cartesian teleoperation") from error

SOLVER = "daqp"

ROTATION_COST_M = 0.05
"""A radian of error weighs as much as this many metres. Little, so that where an arm cannot do
both, the tool stays in place and its direction is let go."""
POSTURE_COST = 0.003
"""Enough to decide what the tool leaves open (a redundant elbow); turns the tool by less than
0.1 degree in reach of the posture."""
POSTURE_GAIN = 0.05
"""Share of the way back to the preferred posture in one tick: half a second at 100 Hz."""
DAMPING = 1e-6
"""Keeps the program convex; far below the square of any gain worth having."""
FAR_DAMPING = 10.0
"""Damping per squared error (m^2): an arm stretched towards what it cannot reach comes to rest
instead of hunting around its straight elbow."""

# Tuned on sweeps of a ViperX's wrist through its singularity, 0 to 12 degrees beside it, at 0.3
# and 1.2 rad/s: the forearm stays within 1 rad of where it was, and the tool within 2 mm.
NEAR_SINGULAR_M = 0.02
"""Smallest gain from joints to tool, m per rad, below which an arm counts as near singular: on a
ViperX the wrist within 100 degrees of straight, on a Franka the elbow within 15."""
SINGULAR_COST = 5e-4
"""Weight, m^2 per rad^2, of the tie to the posture at a singularity, a radian away from it."""
SINGULAR_GAIN = 0.02
"""Share of the way home in one tick that the tie asks for."""
SINGULAR_RAD_S = 1.0
"""How fast the joints may move there in the way that hardly moves the tool."""


ROUNDING_RAD = 1e-6
"""By how much the solver may overstep a bound: its own tolerance."""


class _Bounds(mink.Limit):
    """The limits of one tick as rows of ``G dq <= h``; standing still always satisfies them."""

    def __init__(self, low: FloatArray, high: FloatArray, rate: FloatArray, box: Box) -> None:
        self._low, self._high, self._rate, self._box = low, high, rate, box
        joints = len(low)
        self._rows = np.vstack([np.eye(joints), -np.eye(joints), np.zeros((8, joints))])
        self._bound = np.ones(2 * joints + 8)
        self._bounded = np.concatenate([np.isfinite(box.high), np.isfinite(box.low)])

    def set(self, q: FloatArray, position_m: FloatArray, jacobian: FloatArray, dt_s: float) -> None:
        """For a posture, its tool's position, and the position's Jacobian (3, J) in the base."""
        joints = len(q)
        step = self._rate * dt_s
        self._bound[:joints] = np.minimum(step, np.maximum(self._high - q, 0.0))
        self._bound[joints : 2 * joints] = np.minimum(step, np.maximum(q - self._low, 0.0))
        room = np.concatenate([self._box.high - position_m, position_m - self._box.low])
        box = slice(2 * joints, 2 * joints + 6)
        self._bound[box] = np.where(self._bounded, np.maximum(room, 0.0), 1.0)
        rows = np.vstack([jacobian, -jacobian])
        self._rows[box] = np.where(self._bounded[:, None], rows, 0.0)
        self._rows[-2:] = 0.0

    def hold(self, start: FloatArray, end: FloatArray) -> bool:
        """Whether a motion of the joints ends within their ranges, or comes nearer to them."""
        low = np.minimum(self._low, start) - ROUNDING_RAD
        return bool(
            (end >= low).all() and (end <= np.maximum(self._high, start) + ROUNDING_RAD).all()
        )

    def slow(self, motion: FloatArray, most_rad: float) -> None:
        """Bound one motion of the joints, a unit vector of shape (J,), in this tick too."""
        self._rows[-2], self._rows[-1] = motion, -motion
        self._bound[-2:] = most_rad

    def compute_qp_inequalities(
        self, configuration: mink.Configuration, dt: float
    ) -> mink.Constraint:
        """As mink asks for it."""
        return mink.Constraint(self._rows, self._bound)


class ArmKinematics:
    """One arm's kinematics, in the frame of its base.

    Args:
        model: A model of ``teleop/models`` by name, or the path of an MJCF file whose base is at
            the origin.
        tool: The site that is guided.
        joint_names: The arm's joints in the order of its messages; any other joint of the model
            stays at zero.
        min_rad: Shape (J,); the model's own ranges hold too.
        max_rad: Shape (J,).
        max_velocity_rad_s: Shape (J,).
        workspace: Box that ``solve`` keeps the tool in.
        speed_m_s: Cap on the tool's speed.
        rotation_rad_s: Cap on the tool's turning.

    Raises:
        UnknownNameError: no such model, joint or site.
        RigError: the file cannot be read as a model.
    """

    def __init__(
        self,
        model: str,
        tool: str,
        joint_names: Sequence[str],
        min_rad: FloatArray,
        max_rad: FloatArray,
        max_velocity_rad_s: FloatArray,
        *,
        workspace: Workspace | None = None,
        speed_m_s: float = math.inf,
        rotation_rad_s: float = math.inf,
    ) -> None:
        compiled, ranges = _compiled(model, tool, joint_names)
        self._tool = tool
        self._site = compiled.site(tool).id
        # The model's order is along the chain, the messages' is the rig file's.
        addresses = [int(compiled.joint(name).qposadr[0]) for name in joint_names]
        self._ours = np.argsort(addresses)
        self._theirs = np.array(addresses, dtype=np.intp)
        self._configuration = mink.Configuration(compiled)
        self._data = mujoco.MjData(compiled)
        self._box = Box(workspace)
        self._rate = max_velocity_rad_s[self._ours]
        low = np.maximum(min_rad, ranges[:, 0])[self._ours]
        high = np.minimum(max_rad, ranges[:, 1])[self._ours]
        self._bounds = _Bounds(low, high, self._rate, self._box)
        self._speed_m_s, self._rotation_rad_s = speed_m_s, rotation_rad_s
        self._frame = mink.FrameTask(tool, "site", 1.0, ROTATION_COST_M, lm_damping=FAR_DAMPING)
        self._posture = mink.PostureTask(compiled, POSTURE_COST, gain=POSTURE_GAIN)
        self._weight = np.repeat([1.0, ROTATION_COST_M], 3)[:, None]
        self.prefer(np.clip(np.zeros(len(joint_names)), min_rad, max_rad))

    @classmethod
    def of(cls, model: ArmModel, speed_share: float = 1.0, **caps: Any) -> ArmKinematics:
        """Those of an arm model of a rig, with its joints' limits.

        Args:
            model: It must name ``kinematics``.
            speed_share: Part of the joints' speed limits that may be used.
            **caps: ``workspace``, ``speed_m_s``, ``rotation_rad_s``.
        """
        joints = model.joints
        fastest = [joint.max_velocity_rad_s or model.max_velocity_rad_s for joint in joints]
        return cls(
            str(model.kinematics),
            model.tool,
            tuple(joint.name for joint in joints),
            np.array([joint.min_rad for joint in joints]),
            np.array([joint.max_rad for joint in joints]),
            speed_share * np.array(fastest),
            **caps,
        )

    def prefer(self, position_rad: FloatArray) -> None:
        """Take a posture of shape (J,) as the one to stay near, where the tool leaves a choice."""
        self._preferred = position_rad[self._ours]
        self._posture.set_target(self._preferred)

    def forward(self, position_rad: FloatArray) -> ToolPose:
        """Where the tool is at joint angles of shape (J,)."""
        return self._placed(position_rad[self._ours])

    def solve(self, pose: ToolPose, position_rad: FloatArray, dt_s: float) -> FloatArray:
        """The joint angles one tick later, as near to a pose as the limits let them come.

        Args:
            pose: Where the tool is wanted.
            position_rad: Where the joints were commanded last, shape (J,).
            dt_s: The tick.

        Returns:
            Joint angles, shape (J,); the same as before when there is no way on.
        """
        q = position_rad[self._ours]
        step = self._step(pose, q, dt_s)
        for part in (1.0, 0.5, 0.25):
            if self._stays(q, q + part * step):
                return (q + part * step)[self._theirs]
        return position_rad

    def kept(self, start_rad: FloatArray, end_rad: FloatArray) -> FloatArray:
        """The end of a small motion that keeps the ranges and the box, else its start; (J,)."""
        inside = self._stays(start_rad[self._ours], end_rad[self._ours])
        return end_rad if inside else start_rad

    def _stays(self, start: FloatArray, end: FloatArray) -> bool:
        """Whether a motion, in the model's order, ends within the ranges and the box.

        Who is outside may stay, or come inward.
        """
        if not self._bounds.hold(start, end):
            return False
        low, high = self._box.bounds_from(self._placed(start).position_m)
        reached = self._placed(end).position_m
        return bool((low <= reached).all() and (reached <= high).all())

    def _placed(self, q: FloatArray) -> ToolPose:
        self._data.qpos[:] = q
        mujoco.mj_kinematics(self._configuration.model, self._data)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._site])
        return ToolPose(self._data.site_xpos[self._site].copy(), quaternion)

    def _step(self, pose: ToolPose, q: FloatArray, dt_s: float) -> FloatArray:
        """Joint motion of one tick in the model's order, shape (J,)."""
        configuration = self._configuration
        configuration.update(q)
        here = configuration.get_transform_frame_to_world(self._tool, "site")
        jacobian = configuration.get_frame_jacobian(self._tool, "site")
        linear = here.rotation().as_matrix() @ jacobian[:3]
        self._bounds.set(q, here.translation(), linear, dt_s)
        self._frame.set_target(mink.SE3(np.concatenate([pose.quaternion_wxyz, pose.position_m])))
        tie = self._tie(q, jacobian, dt_s)
        problem = mink.build_ik(
            configuration, [self._frame, self._posture], dt_s, DAMPING, limits=[self._bounds]
        )
        if tie is not None:
            problem.P += tie[0]
            problem.q -= tie[1]
        solution = qpsolvers.solve_problem(problem, solver=SOLVER)
        if not solution.found or solution.x is None or not np.isfinite(solution.x).all():
            return np.zeros_like(q)
        most = self._rate * dt_s
        step: FloatArray = np.minimum(np.maximum(solution.x, -most), most)
        # The caps on the tool hold for what the joints do, not only for what was asked.
        moved = jacobian @ step
        return step * min(
            1.0,
            self._speed_m_s * dt_s / max(length(moved[:3]), 1e-12),
            self._rotation_rad_s * dt_s / max(length(moved[3:]), 1e-12),
        )

    def _tie(
        self, q: FloatArray, jacobian: FloatArray, dt_s: float
    ) -> tuple[FloatArray, FloatArray] | None:
        """Near a singularity, slow the joint motion that hardly moves the tool, and tie it home.

        That motion is where a wrist or an elbow would whip round. The tie grows steeply with the
        way from home, so it leaves small turns alone and holds before the arm changes branch.

        Returns:
            What to add to the program's quadratic part (J, J), and take from its linear part (J,).
        """
        _, gains, motions = np.linalg.svd(self._weight * jacobian, full_matrices=False)
        lost = 1.0 - float(gains[-1]) / NEAR_SINGULAR_M
        if lost <= 0.0:
            return None
        motion: FloatArray = motions[-1]
        self._bounds.slow(motion, SINGULAR_RAD_S / lost**3 * dt_s)
        away = float(motion @ (self._preferred - q))
        cost = SINGULAR_COST * lost**2 * away**4
        return cost * np.outer(motion, motion), cost * SINGULAR_GAIN * away * motion


def _compiled(
    model: str, tool: str, joint_names: Sequence[str]
) -> tuple[mujoco.MjModel, FloatArray]:
    """The model with these joints alone, and their ranges, shape (J, 2)."""
    path = kinematic_model_file(model)
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise RigError(str(path), [f"not a MuJoCo model: {error}"]) from error
    joints = {joint.name: joint for joint in spec.joints}
    for name in joint_names:
        if name not in joints:
            raise UnknownNameError(f"joint of model {model}", name, joints)
    sites = [site.name for site in spec.sites]
    if tool not in sites:
        raise UnknownNameError(f"site of model {model}", tool, sites)
    for part in (*spec.equalities, *spec.actuators, *spec.tendons, *spec.sensors, *spec.keys):
        spec.delete(part)
    for name, joint in joints.items():
        if name not in joint_names:
            spec.delete(joint)
    compiled = spec.compile()
    limited = [bool(compiled.joint(name).limited[0]) for name in joint_names]
    ranges = np.array([compiled.joint(name).range for name in joint_names])
    ranges[~np.array(limited)] = (-np.inf, np.inf)
    # Ours hold instead, see _Bounds: mink's would refuse an arm that starts beyond its range.
    compiled.jnt_limited[:] = 0
    return compiled, ranges
