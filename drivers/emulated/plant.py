"""The physics of the emulated rig: arms, table and task objects in one MuJoCo model.

The plant knows nothing of servos or people. Each step it takes a torque per axis from the servo
bank and one from the operator's hand, and moves on by 2 ms. An axis is a joint, or the servo of
a gripper; a follower's fingers hang on that servo by a crank (see ``scene/follower.xml``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

import teleop
from drivers.emulated.tasks import OBJECTS, Referee, TaskSpec, task_named
from teleop.errors import DeviceError, UnknownNameError
from teleop.messages import FloatArray

SCENE = Path(__file__).parent / "scene"
ARMS = ("left_follower", "left_leader", "right_follower", "right_leader")
FRANKA = "franka"
"""The name that a Franka has in the emulated rig. It is shown where its own emulator has it."""
AXES = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
AXES_PER_ARM = len(AXES)
GRIPPER_RAD = {"follower": (-0.6213, 1.4910), "leader": (-0.6842, 0.3083)}
"""Servo angle closed and open by role: PUPPET_ and MASTER_GRIPPER_JOINT_CLOSE and _OPEN of
tonyzhaozh/aloha ``constants.py``, the same as in ``hardware.yaml``."""
START_RAD = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)
"""START_ARM_POSE of tonyzhaozh/aloha; where the arms stand when the plant is made."""
FR3 = Path(teleop.__file__).parent / "models" / "fr3.xml"
FRANKA_BASE_M = (0.0, 0.15, 0.0)
FRANKA_BASE_WXYZ = (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))
"""A Franka stands alone, at the operator's side of the table, and looks away from the operator."""
FRANKA_START_RAD = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
"""The ready pose of Franka's own examples (libfranka, examples_common)."""
JUDGE_STEPS = 10
"""Physics steps between two looks at the task's stage (20 ms)."""
DIVERGED = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


def role_of(arm: str) -> str:
    """``leader`` or ``follower``.

    Raises:
        UnknownNameError: the emulated rig has no such arm.
    """
    if arm not in (*ARMS, FRANKA):
        raise UnknownNameError("emulated arm", arm, (*ARMS, FRANKA))
    return "follower" if arm == FRANKA else arm.rsplit("_", 1)[1]


def build_model(
    arms: Sequence[str], task: str, add: Callable[[mujoco.MjSpec], None] = lambda spec: None
) -> mujoco.MjModel:
    """The scene with only these arms and only this task's objects, and what ``add`` puts there.

    Two processes that call this with the same arguments have the same ``qpos`` layout.

    Raises:
        UnknownNameError: no such arm or task.
    """
    wanted = task_named(task, arms).objects
    for arm in arms:
        role_of(arm)
    spec = mujoco.MjSpec.from_file(str(SCENE / "aloha.xml"))
    for arm in ARMS:
        if arm not in arms:
            spec.delete(spec.body(f"{arm}/base"))
    for thing in OBJECTS:
        if thing not in wanted:
            spec.delete(spec.body(thing))
    if FRANKA in arms:
        frame = spec.worldbody.add_frame(pos=FRANKA_BASE_M, quat=FRANKA_BASE_WXYZ)
        spec.attach(mujoco.MjSpec.from_file(str(FR3)), prefix=f"{FRANKA}/", frame=frame)
    for side in ("left", "right"):
        if f"{side}_follower" in arms:
            spec.camera(f"{side}_follower/wrist_cam").name = f"cam_{side}_wrist"
    add(spec)
    return spec.compile()


class Plant:
    """The emulated rig's physics. Axes are ordered by arm, then as in ``AXES``.

    Args:
        arms: any of the four ALOHA names, in the order in which axes are wanted, and ``franka``.
        task: name of the task whose objects lie on the table.
        seed: with the episode number decides where they lie.
        heavy: leaders that hang on no counterbalance, so that whoever guides them feels their
            weight.

    Raises:
        UnknownNameError: no such arm or task.
    """

    def __init__(
        self, arms: Sequence[str], task: str, seed: int, heavy: Collection[str] = ()
    ) -> None:
        self.shown = tuple(arms)
        """All arms of the scene."""
        self.arms = tuple(arm for arm in arms if arm != FRANKA)
        """Those that servos drive."""
        self.task: TaskSpec = task_named(task, arms)
        self.model = build_model(arms, task)
        for body in range(self.model.nbody):
            if self.model.body(body).name.split("/")[0] in heavy:
                self.model.body_gravcomp[body] = 0.0
        self.data = mujoco.MjData(self.model)
        self.step_s: float = self.model.opt.timestep
        self._seed = seed
        self._steps = 0
        joints = [self.model.joint(f"{arm}/{axis}") for arm in self.arms for axis in AXES]
        self._axis_qpos = np.array([j.qposadr[0] for j in joints], dtype=np.intp)
        self._axis_dof = np.array([j.dofadr[0] for j in joints], dtype=np.intp)
        names = [f"{FRANKA}/joint{i}" for i in range(1, 8)] if FRANKA in arms else []
        franka = [self.model.joint(name) for name in names]
        self._franka_qpos = np.array([j.qposadr[0] for j in franka], dtype=np.intp)
        self._franka_dof = np.array([j.dofadr[0] for j in franka], dtype=np.intp)
        objects = [self.model.joint(name) for name in self.task.objects]
        self._object_qpos = _ranges([j.qposadr[0] for j in objects], 7)
        self._object_dof = _ranges([j.dofadr[0] for j in objects], 6)
        self._shown_franka = np.array(FRANKA_START_RAD)
        self._referee = Referee(self.task, self.model)
        for arm in self.arms:
            self.set_arm(arm, np.array(START_RAD), 0.0)
        self.reset(0)

    @property
    def time_s(self) -> float:
        """Simulated time since the plant was made."""
        return float(self.data.time)

    @property
    def axis_angle_rad(self) -> FloatArray:
        """Shape (7 * arms,), a copy."""
        return np.asarray(self.data.qpos[self._axis_qpos])

    @property
    def axis_rate_rad_s(self) -> FloatArray:
        """Shape (7 * arms,), a copy."""
        return np.asarray(self.data.qvel[self._axis_dof])

    def axes_of(self, arm: str) -> slice:
        """Where an arm's axes stand among all axes.

        Raises:
            UnknownNameError: the arm is not in this plant.
        """
        if arm not in self.arms:
            raise UnknownNameError("arm of the plant", arm, self.arms)
        first = self.arms.index(arm) * AXES_PER_ARM
        return slice(first, first + AXES_PER_ARM)

    def step(self, torque_nm: FloatArray, hand_torque_nm: FloatArray) -> None:
        """Move on by one time step.

        Args:
            torque_nm: shape (7 * arms,), what the servos put on their axes.
            hand_torque_nm: same shape, what a person's hand adds.

        Raises:
            DeviceError: the physics diverged (a torque was not finite or absurdly large).
        """
        self.data.qfrc_applied[self._axis_dof] = torque_nm + hand_torque_nm
        if len(self._franka_qpos):
            self.data.qpos[self._franka_qpos] = self._shown_franka
            self.data.qvel[self._franka_dof] = 0.0
        mujoco.mj_step(self.model, self.data)
        self._steps += 1
        if self._steps % JUDGE_STEPS == 0:
            self._check()
            self._referee.judge(self.data)

    def _check(self) -> None:
        for warning in DIVERGED:
            if self.data.warning[warning].number:
                raise DeviceError(
                    f"emulated plant: the physics diverged at {self.time_s:.2f} s "
                    f"({warning.name}); check the torques that were put in"
                )

    def reset(self, episode: int) -> None:
        """Place the task's objects for an episode; the arms stay where they are."""
        self.data.qpos[self._object_qpos] = self.task.place(self._seed, episode)
        self.data.qvel[self._object_dof] = 0.0
        self._referee.reset()
        mujoco.mj_forward(self.model, self.data)

    def show_franka(self, joints_rad: FloatArray) -> None:
        """Put the Franka where its own emulator has it, shape (7,)."""
        self._shown_franka = joints_rad

    def set_arm(self, arm: str, joints_rad: FloatArray, gripper_opening: float) -> None:
        """Put an arm somewhere at once, at rest. For start-up and tests; nothing moves it so.

        Args:
            arm: name of the arm.
            joints_rad: shape (6,).
            gripper_opening: 0 closed ... 1 open, linear in the servo's angle.
        """
        axes = self.axes_of(arm)
        closed, opened = GRIPPER_RAD[role_of(arm)]
        servo = closed + (opened - closed) * gripper_opening
        self.data.qpos[self._axis_qpos[axes]] = [*joints_rad, servo]
        self.data.qvel[self._axis_dof[axes]] = 0.0
        if role_of(arm) == "follower":
            self._put_fingers(arm, servo)
        mujoco.mj_forward(self.model, self.data)

    def _put_fingers(self, arm: str, servo_rad: float) -> None:
        """Solve the crank's coupling by hand, so that teleporting does not excite it."""
        for finger in ("left_finger", "right_finger"):
            joint = self.model.joint(f"{arm}/{finger}")
            coupling = np.flatnonzero(self.model.eq_obj1id == joint.id)[0]
            poly = self.model.eq_data[coupling, :5]
            self.data.qpos[joint.qposadr[0]] = np.polynomial.polynomial.polyval(servo_rad, poly)
            self.data.qvel[joint.dofadr[0]] = 0.0

    def object_pose(self) -> FloatArray:
        """Shape (N, 7): x y z (m, world) and quaternion w x y z of each task object."""
        return np.asarray(self.data.qpos[self._object_qpos])

    def task_state(self) -> tuple[int, int, bool, FloatArray]:
        """Stage, last stage, success, and the objects' poses (N, 7)."""
        return self._referee.stage, self.task.max_stage, self._referee.success, self.object_pose()

    def snapshot(self) -> FloatArray:
        """All that a renderer needs: ``qpos``, a copy."""
        return np.array(self.data.qpos)

    def restore(self, qpos: FloatArray) -> None:
        """Show a snapshot, at rest."""
        self.data.qpos[:] = qpos
        self.data.qvel[:] = 0.0
        mujoco.mj_forward(self.model, self.data)


def _ranges(first: Sequence[int], count: int) -> NDArray[np.intp]:
    """Shape (len(first), count): ``count`` consecutive indices from each first one."""
    return np.array(first, dtype=np.intp).reshape(-1, 1) + np.arange(count, dtype=np.intp)
