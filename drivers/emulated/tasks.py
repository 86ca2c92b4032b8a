"""The tasks of the emulated rig: their objects, where these lie, and how far the work has come.

A stage is read from contacts alone, as a referee beside the table would. Stages and ranges
follow ACT's simulated tasks (Zhao et al. 2023, ``sim_env.py``), except that a transfer is only
complete once the giving gripper has let go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from teleop.errors import UnknownNameError
from teleop.messages import FloatArray

HOLD_S = 0.4
"""How long the last stage must be held to count as success (ACT ends on its last frame; a
fling that touches for one frame is none)."""

REACHED_M = 0.02
"""A tool this close to its target has reached it: about the target's own radius."""

LABELS: Mapping[str, str] = {
    "table": "table",
    "left_follower/left_finger": "left_pad_1",
    "left_follower/right_finger": "left_pad_2",
    "right_follower/left_finger": "right_pad_1",
    "right_follower/right_finger": "right_pad_2",
    "cube": "cube",
    "peg": "peg",
    "socket_bottom": "socket",
    "socket_top": "socket",
    "socket_front": "socket",
    "socket_back": "socket",
    "socket_pin": "pin",
}
"""What the referee calls each geom of the scene that can touch."""


class Contacts:
    """Which labelled things touch each other now, and which tools have reached their targets."""

    def __init__(self, model: mujoco.MjModel) -> None:
        names = sorted(set(LABELS.values()))
        self._index = {name: i for i, name in enumerate(names)}
        self._label_of_geom = np.full(model.ngeom, len(names))
        for geom, label in LABELS.items():
            geom_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, geom)
            if geom_id >= 0:
                self._label_of_geom[geom_id] = self._index[label]
        self._touching = np.zeros((len(names) + 1, len(names) + 1), dtype=bool)

    def update(self, data: mujoco.MjData) -> None:
        """Take the contacts of the last physics step."""
        self._data = data
        pairs = self._label_of_geom[data.contact.geom]  # (ncon, 2)
        self._touching[:] = False
        self._touching[pairs[:, 0], pairs[:, 1]] = True
        self._touching[pairs[:, 1], pairs[:, 0]] = True

    def touch(self, one: str, other: str) -> bool:
        """Whether two labels touch."""
        return bool(self._touching[self._index[one], self._index[other]])

    def reached(self, arm: str) -> bool:
        """Whether an arm's tool is at the target set for it."""
        tool, target = self._data.site(f"{arm}/tcp").xpos, self._data.body(f"target_{arm}").xpos
        return bool(np.linalg.norm(tool - target) < REACHED_M)

    def gripper_touches(self, side: str, thing: str) -> bool:
        """Whether any finger pad of the ``left`` or ``right`` follower touches a thing."""
        return self.touch(f"{side}_pad_1", thing) or self.touch(f"{side}_pad_2", thing)

    def gripper_holds(self, side: str, thing: str) -> bool:
        """Whether both finger pads of a follower touch a thing."""
        return self.touch(f"{side}_pad_1", thing) and self.touch(f"{side}_pad_2", thing)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task of the emulated rig."""

    name: str
    objects: tuple[str, ...]
    """Bodies of the scene, each with a free joint of the same name."""
    low_m: FloatArray
    """Shape (N, 3): lowest x y z of each object's centre, world frame."""
    high_m: FloatArray
    """Shape (N, 3): highest."""
    max_stage: int
    """0 when the task has no notion of success."""
    stage: Callable[[Contacts], int]
    two_handed: bool = False
    """Whether it takes both arms, in whatever rig."""

    def place(self, seed: int, episode: int) -> FloatArray:
        """Poses of the objects at the start of an episode, the same for the same numbers.

        Returns:
            Shape (N, 7): x y z (m) and quaternion w x y z.
        """
        rng = np.random.default_rng([seed, episode])
        pose = np.zeros((len(self.objects), 7))
        pose[:, :3] = rng.uniform(self.low_m, self.high_m)
        pose[:, 3] = 1.0
        return pose


def _transfer_stage(c: Contacts) -> int:
    """1 right touches, 2 right has lifted, 3 left touches too, 4 left alone has it in the air."""
    right = c.gripper_touches("right", "cube")
    left = c.gripper_touches("left", "cube")
    in_air = not c.touch("cube", "table")
    if left:
        return 4 if in_air and not right else 3
    if right:
        return 2 if in_air else 1
    return 0


def _insertion_stage(c: Contacts) -> int:
    """1 both touch, 2 both hold and have lifted, 3 peg touches socket, 4 peg touches the pin."""
    if not (c.gripper_touches("left", "socket") and c.gripper_touches("right", "peg")):
        return 0
    if c.touch("socket", "table") or c.touch("peg", "table"):
        return 1
    if c.touch("peg", "pin"):
        return 4
    if c.touch("peg", "socket"):
        return 3
    holds = c.gripper_holds("left", "socket") and c.gripper_holds("right", "peg")
    return 2 if holds else 1


def _free_stage(_: Contacts) -> int:
    return 0


def reach_stage(arms: Sequence[str]) -> Callable[[Contacts], int]:
    """1 when the tools of all these arms are at their targets at the same time."""
    return lambda c: int(all(c.reached(arm) for arm in arms))


def _points(*rows: Sequence[float]) -> FloatArray:
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


TRANSFER_CUBE = TaskSpec(
    name="transfer_cube",
    objects=("cube",),
    low_m=_points((0.0, 0.4, 0.02)),
    high_m=_points((0.2, 0.6, 0.02)),
    max_stage=4,
    stage=_transfer_stage,
    two_handed=True,
)
INSERTION = TaskSpec(
    name="insertion",
    objects=("peg", "socket"),
    low_m=_points((0.1, 0.4, 0.01), (-0.2, 0.4, 0.022)),
    high_m=_points((0.2, 0.6, 0.01), (-0.1, 0.6, 0.022)),
    max_stage=4,
    stage=_insertion_stage,
    two_handed=True,
)
FREE = TaskSpec(
    name="free",
    objects=(),
    low_m=_points(),
    high_m=_points(),
    max_stage=0,
    stage=_free_stage,
)
TARGETS: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "left_follower": ((-0.26, 0.4, 0.14), (-0.12, 0.6, 0.3)),
    "right_follower": ((0.12, 0.4, 0.14), (0.26, 0.6, 0.3)),
    "franka": ((-0.2, 0.5, 0.2), (0.2, 0.7, 0.45)),
}
"""Lowest and highest x y z of what an arm is to reach, m, world frame."""
REACH = "reach"
TASKS: Mapping[str, TaskSpec] = {t.name: t for t in (TRANSFER_CUBE, INSERTION, FREE)}
OBJECTS: tuple[str, ...] = ("cube", "peg", "socket", *(f"target_{arm}" for arm in TARGETS))
"""All objects of the scene file."""


def task_named(name: str, arms: Sequence[str]) -> TaskSpec:
    """The task of a name, as a rig with these arms does it.

    Raises:
        UnknownNameError: the emulated rig has no such task.
    """
    if name == REACH:
        return _reach([arm for arm in TARGETS if arm in arms])
    if name not in TASKS:
        raise UnknownNameError("emulated task", name, (*TASKS, REACH))
    return TASKS[name]


def _reach(arms: Sequence[str]) -> TaskSpec:
    return TaskSpec(
        name=REACH,
        objects=tuple(f"target_{arm}" for arm in arms),
        low_m=_points(*(TARGETS[arm][0] for arm in arms)),
        high_m=_points(*(TARGETS[arm][1] for arm in arms)),
        max_stage=1,
        stage=reach_stage(arms),
    )


class Referee:
    """Follows the stage of a task through an episode."""

    def __init__(self, task: TaskSpec, model: mujoco.MjModel) -> None:
        self._task = task
        self._contacts = Contacts(model)
        self.reset()

    def reset(self) -> None:
        """A new episode begins."""
        self.stage = 0
        self.success = False
        self._last_stage_since_s: float | None = None

    def judge(self, data: mujoco.MjData) -> None:
        """Look at the table now; call at least every few hundredths of a second."""
        self._contacts.update(data)
        self.stage = self._task.stage(self._contacts)
        if self.stage < self._task.max_stage or self._task.max_stage == 0:
            self._last_stage_since_s = None
            self.success = False
            return
        if self._last_stage_since_s is None:
            self._last_stage_since_s = data.time
        self.success = data.time - self._last_stage_since_s >= HOLD_S
