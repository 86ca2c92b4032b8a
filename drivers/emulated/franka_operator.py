"""The person who guides an emulated Franka by hand to its target."""

from __future__ import annotations

import mink
import mujoco
import numpy as np

from drivers.emulated.expert import minimum_jerk
from drivers.emulated.franka_server import FrankaEmulator
from drivers.emulated.plant import FR3, FRANKA, FRANKA_BASE_M, FRANKA_BASE_WXYZ, Plant
from teleop.messages import FloatArray

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
    """

    def __init__(self, plant: Plant, franka: FrankaEmulator) -> None:
        self._plant = plant
        self._franka = franka
        self._model = mujoco.MjModel.from_xml_path(str(FR3))
        self.begin(0)

    def begin(self, episode: int) -> None:
        """Forget the last episode; the hand lets go."""
        self.finished = False
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
        self._to = self._solved(self._from)

    def _pull(self, now_s: float) -> None:
        assert self._began_s is not None
        part = minimum_jerk((now_s - self._began_s) / REACH_S)
        self._franka.hand_to(list(self._from + part * (self._to - self._from)))
        self._held = True
        data = self._plant.data
        off = np.linalg.norm(data.body(f"target_{FRANKA}").xpos - data.site(f"{FRANKA}/tcp").xpos)
        self._near_s = self._near_s + TICK_S if off < NEAR_M else 0.0
        self.finished = self._near_s > STAY_S

    def _solved(self, start_rad: FloatArray) -> FloatArray:
        """Joints, shape (7,), that have the tool at its target, pointing as it does now."""
        configuration = mink.Configuration(self._model)
        q = np.array(self._model.qpos0)
        q[:7] = start_rad
        configuration.update(q)
        tool = mink.FrameTask("tcp", "site", 1.0, 0.3, lm_damping=1e-3)
        posture = mink.PostureTask(self._model, 1e-3)
        posture.set_target(q)
        here = configuration.get_transform_frame_to_world("tcp", "site")
        base = mink.SE3.from_rotation_and_translation(
            mink.SO3(np.array(FRANKA_BASE_WXYZ)), np.array(FRANKA_BASE_M)
        )
        target = base.inverse().apply(np.array(self._plant.data.body(f"target_{FRANKA}").xpos))
        tool.set_target(mink.SE3.from_rotation_and_translation(here.rotation(), target))
        limits = [mink.ConfigurationLimit(self._model)]
        for _ in range(IK_STEPS):
            velocity = mink.solve_ik(configuration, [tool, posture], TICK_S, "daqp", limits=limits)
            configuration.integrate_inplace(velocity, TICK_S)
        return np.array(configuration.q[:7])
