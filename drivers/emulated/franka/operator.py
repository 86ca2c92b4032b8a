"""The person who guides an emulated Franka by hand to its target, or to some place."""

from __future__ import annotations

import numpy as np

from drivers.emulated.franka.server import FrankaEmulator
from drivers.emulated.operators.aim import aim_m
from drivers.emulated.operators.expert import minimum_jerk
from drivers.emulated.plant import FRANKA, FRANKA_BASE_M, FRANKA_BASE_WXYZ, Plant
from teleop.kinematics import ArmKinematics
from teleop.messages import FloatArray
from teleop.rig import ArmModel
from teleop.rotations import ToolPose, quaternion_inverse, rotated

TICK_S = 0.02
REACH_S = 2.5
"""Time of a reach across the table."""
NEAR_M = 0.012
STAY_S = 1.0
IK_STEPS = 200


class FrankaOperator:
    """Pulls the arm's joints towards a pose that has the tool at its target.

    Args:
        plant: Where target and tool are.
        franka: The emulator, whose hand this is.
        model: The arm, with the limits that the hand keeps.
    """

    def __init__(self, plant: Plant, franka: FrankaEmulator, model: ArmModel) -> None:
        self._plant = plant
        self._franka = franka
        self._kinematics = ArmKinematics.of(model)
        self.begin(0)

    def begin(self, episode: int) -> None:
        """Forget the last episode; the hand lets go."""
        self.finished = False
        self._episode = episode
        self._began_s: float | None = None
        self._next_s = 0.0
        self._near_s = 0.0
        self._held = False

    def act(self, phase: str, now_s: float) -> None:
        """Let the hand do what it would do now."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + TICK_S
        if phase != "running":
            if self._held:
                self._franka.hand_to(None)
                self._held = False
            return
        if self._began_s is None:
            self._plan(now_s)
        self._pull(now_s)

    def _plan(self, now_s: float) -> None:
        self._began_s = now_s
        self._from = np.array(self._franka.state()["q"])
        self._aim_m = aim_m(self._plant, FRANKA, self._episode)
        self._to = self._solved(self._from)

    def _pull(self, now_s: float) -> None:
        assert self._began_s is not None
        part = minimum_jerk((now_s - self._began_s) / REACH_S)
        self._franka.hand_to(list(self._from + part * (self._to - self._from)))
        self._held = True
        off = np.linalg.norm(self._aim_m - self._plant.data.site(f"{FRANKA}/tcp").xpos)
        self._near_s = self._near_s + TICK_S if off < NEAR_M else 0.0
        self.finished = self._near_s > STAY_S

    def _solved(self, start_rad: FloatArray) -> FloatArray:
        """Joints, shape (7,), that have the tool at its aim, pointing as it does now."""
        arm = self._kinematics
        arm.prefer(start_rad)
        world = self._aim_m - FRANKA_BASE_M
        target_m = rotated(quaternion_inverse(np.array(FRANKA_BASE_WXYZ)), world)
        wanted = ToolPose(target_m, arm.forward(start_rad).quaternion_wxyz)
        joints = start_rad
        for _ in range(IK_STEPS):
            joints = arm.solve(wanted, joints, TICK_S)
        return joints
