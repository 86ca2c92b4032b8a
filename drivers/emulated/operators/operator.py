"""The person at the emulated rig: pulls the leader arms by hand, looks at the table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from drivers.emulated.operators.expert import TICK_S, ArmSolver, ToolPose, minimum_jerk
from drivers.emulated.operators.hand import Hand
from drivers.emulated.operators.plans import PLANNERS, SIDES, Eyes, Move, Plan
from drivers.emulated.plant import AXES_PER_ARM, GRIPPER_RAD, Plant
from teleop.messages import FloatArray

CLOSING_RAD_S = 2.0
"""How fast the handles are squeezed to start an episode."""
REST_RAD_S = 0.08
"""A follower whose axes are all slower than this has come to rest; tremor alone stays below."""
REST_TICKS = 5
"""Ticks after a move before rest is looked for, longer than the lag of the followers."""
TREMOR_RAD = 0.003
TREMOR_S = 0.5
"""Size and correlation time of the hand's wandering about its path. Three times this size costs
one insertion in three (20 of 30 succeeded; all 30 transfers did)."""
PACE = (0.95, 1.1)
"""Episodes differ in pace by factors of the planned durations between these."""


class Operator(Protocol):
    """Someone, or something, whose hands are on the leader arms."""

    finished: bool
    """The work of this episode is done; the hands keep still."""

    def begin(self, episode: int) -> None:
        """Get ready for an episode; its objects lie on the table."""

    def hand_torque_nm(self, phase: str, now_s: float) -> FloatArray:
        """Torque on all axes of the plant, shape (7 * arms,), zero on followers.

        To be called at every physics step; thinking happens every ``TICK_S`` inside.

        Args:
            phase: the session's phase. Hands act only in ``ready`` (they squeeze the leader
                grippers shut) and ``running`` (they do the work).
            now_s: any clock that runs with the plant.
        """


class HandOperator(ABC):
    """What all operators of the emulated rig have in common: when their hands act."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._hand = Hand(plant)
        self.begin(0)

    def begin(self, episode: int) -> None:
        """Forget the last episode."""
        self.finished = False
        self._squeeze_from: tuple[float, FloatArray] | None = None
        self._working = False

    def hand_torque_nm(self, phase: str, now_s: float) -> FloatArray:
        """See ``Operator``."""
        if phase == "ready":
            return self._squeeze_nm(now_s)
        if phase != "running":
            return self._hand.let_go
        if not self._working:
            self._working = True
            self._start(now_s)
        return self._work_nm(now_s)

    def _squeeze_nm(self, now_s: float) -> FloatArray:
        """Close the handles at a steady speed and keep them closed."""
        if self._squeeze_from is None:
            self._squeeze_from = (now_s, self._hand.angle_rad)
        began_s, angle_rad = self._squeeze_from
        wanted = np.maximum(GRIPPER_RAD["leader"][0], angle_rad - CLOSING_RAD_S * (now_s - began_s))
        return self._hand.pull(wanted, np.zeros_like(wanted), gripper_only=True)

    @abstractmethod
    def _start(self, now_s: float) -> None:
        """The episode runs from now."""

    @abstractmethod
    def _work_nm(self, now_s: float) -> FloatArray:
        """The hands' torques while the episode runs; sets ``finished``."""


class Path:
    """Carries out moves, one tick at a time, waiting for the arms where a move says so."""

    def __init__(self, plan: Plan, start: dict[str, ToolPose], pace: float) -> None:
        self._plan = plan
        self._pace = pace
        self.tool = dict(start)
        self.opening = dict.fromkeys(start, 0.0)
        self._next()

    def _next(self) -> None:
        self._from_tool = dict(self.tool)
        self._from_opening = dict(self.opening)
        self._elapsed_s = 0.0
        self._move: Move | None = next(self._plan, None)

    def tick(self, at_rest: bool) -> bool:
        """Go on by ``TICK_S``; returns False when all moves are done."""
        if self._move is None:
            return False
        self._elapsed_s += TICK_S
        duration_s = self._move.duration_s * self._pace
        part = minimum_jerk(self._elapsed_s / duration_s)
        for side, begin in self._from_tool.items():
            self.tool[side] = begin.towards(self._move.tool.get(side, begin), part)
        for side, opening in self._from_opening.items():
            change = self._move.opening.get(side, opening) - opening
            self.opening[side] = opening + part * change
        over_s = self._elapsed_s - duration_s
        if over_s >= self._move.wait_s or (at_rest and over_s > REST_TICKS * TICK_S):
            self._next()
        return True


class ScriptedOperator(HandOperator):
    """Does the plant's task with both hands.

    Args:
        plant: with the leader and the follower of each side that the task needs.
        seed: with the episode number decides pace, carelessness and tremor.

    Raises:
        UnknownNameError: the plant lacks an arm that the task needs.
    """

    def __init__(self, plant: Plant, seed: int) -> None:
        self._seed = seed
        self._planner = PLANNERS[plant.task.name]
        self._eyes = Eyes(plant)
        self._sides = tuple(_sides_of(plant))
        self._follower_axes = [plant.axes_of(f"{side}_follower") for side in self._sides]
        self._solvers = {side: ArmSolver(plant, side) for side in self._sides}
        super().__init__(plant)

    def begin(self, episode: int) -> None:
        """Forget the last episode, draw this one's pace and carelessness."""
        super().begin(episode)
        self._rng = np.random.default_rng([self._seed, episode, 1])

    def _start(self, now_s: float) -> None:
        self._next_tick_s = now_s
        self._wanted_rad = self._last_rad = self._hand.angle_rad
        self._tremor_rad = np.zeros_like(self._wanted_rad)
        start = {
            side: self._solvers[side].start(joints[:-1])
            for side, joints in zip(
                self._sides, self._wanted_rad.reshape(-1, AXES_PER_ARM), strict=True
            )
        }
        pace = float(self._rng.uniform(*PACE))
        self._path = Path(self._planner(self._eyes, self._rng), start, pace)

    def _work_nm(self, now_s: float) -> FloatArray:
        while now_s >= self._next_tick_s:
            self._next_tick_s += TICK_S
            self._think()
        rate = (self._wanted_rad - self._last_rad) / TICK_S
        return self._hand.pull(self._wanted_rad - rate * (self._next_tick_s - now_s), rate)

    def _think(self) -> None:
        """Decide where the leaders should be one tick from now."""
        self._last_rad = self._wanted_rad
        if self.finished:
            return
        self.finished = not self._path.tick(self._followers_rest())
        self._wanted_rad = np.concatenate([self._leader_rad(s) for s in self._sides])
        keep = TICK_S / TREMOR_S
        noise = self._rng.normal(0.0, TREMOR_RAD * np.sqrt(2 * keep), self._tremor_rad.shape)
        self._tremor_rad = (1 - keep) * self._tremor_rad + noise
        self._wanted_rad += self._tremor_rad

    def _leader_rad(self, side: str) -> FloatArray:
        """All axes of a leader for the path's present tool pose, shape (7,)."""
        closed, opened = GRIPPER_RAD["leader"]
        gripper = closed + (opened - closed) * self._path.opening[side]
        return np.append(self._solvers[side].solve(self._path.tool[side]), gripper)

    def _followers_rest(self) -> bool:
        rate = np.abs(self._plant.axis_rate_rad_s)
        return all(rate[axes].max() < REST_RAD_S for axes in self._follower_axes)


def _sides_of(plant: Plant) -> Iterable[str]:
    """Sides with hands on them, in the order of the plant's leaders."""
    needed = SIDES if plant.task.two_handed else ()
    for side in needed:
        plant.axes_of(f"{side}_leader")
        plant.axes_of(f"{side}_follower")
    for arm in plant.arms:
        side, role = arm.rsplit("_", 1)
        if role == "leader":
            plant.axes_of(f"{side}_follower")
            yield side
