"""Where and how fast a tool may be taken by hand: the box, and the caps on speed."""

from __future__ import annotations

import math
from enum import IntFlag

import numpy as np

from teleop.messages import FloatArray
from teleop.rig_parts import Workspace
from teleop.rotations import (
    ToolPose,
    length,
    quaternion_of,
    quaternion_product,
    turn_between,
)

INSET_M = 0.001
"""Targets stay this far inside the box: the curve of one tick's joint motion bulges by less
(0.5 (3.14 rad/s x 8 ms)**2 x 0.9 m = 0.3 mm), so the tool itself stays inside."""
SAME = 1e-9
"""Differences below this (m, rad) do not count as limited."""


GOAL_LAG_S = 0.03
"""Time constant of the goal's velocity: an input slower than the arms' ticks moves its goal in
steps, and only their mean is its velocity."""
AT_CAP = 0.99
"""Share of a cap from which a motion counts as limited by it."""


class Curb(IntFlag):
    """What kept a tool from where its operator wanted it."""

    NONE = 0
    WORKSPACE = 1
    """Wanted outside the box."""
    SPEED = 2
    """Wanted further away than the cap on speed lets it go in a tick."""
    TURN = 4
    """Wanted turned by more than the cap on turning lets it in a tick."""
    REACH = 8
    """The arm does not get there: a joint at its end or its speed, or a singularity."""


def approached(
    start: ToolPose, goal: ToolPose, max_m: float, max_rad: float
) -> tuple[ToolPose, Curb]:
    """A pose towards a goal, at most so far from the start; what kept it from the goal."""
    curb = Curb.NONE
    step = goal.position_m - start.position_m
    distance = length(step)
    position, quaternion = goal.position_m, goal.quaternion_wxyz
    if distance > max_m + SAME:
        curb |= Curb.SPEED
        position = start.position_m + step * (max_m / distance)
    turn = turn_between(start.quaternion_wxyz, quaternion)
    angle = length(turn)
    if angle > max_rad + SAME:
        curb |= Curb.TURN
        step_turned = quaternion_of(turn * (max_rad / angle))
        quaternion = quaternion_product(step_turned, start.quaternion_wxyz)
        quaternion = quaternion / length(quaternion)
    return ToolPose(position, quaternion), curb


class Box:
    """A workspace as arrays; without one, all of space.

    Args:
        workspace: The box in the frame of the arm's base.
        inset_m: How far inside of it the bounds are drawn.
    """

    def __init__(self, workspace: Workspace | None, inset_m: float = 0.0) -> None:
        everywhere = np.full(3, np.inf)
        self.low = -everywhere if workspace is None else np.array(workspace.min_m) + inset_m
        self.high = everywhere if workspace is None else np.array(workspace.max_m) - inset_m

    def bounds_from(self, position_m: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Bounds of a motion that begins here; whoever is outside may stay, or come inward."""
        return np.minimum(self.low, position_m), np.maximum(self.high, position_m)


class _Glide:
    """A point that goes to a moving goal within a speed and an acceleration.

    A goal that moves steadily within the limits is followed without lag. Braking is planned for a
    goal that brakes as hard as the point can, so that catching up does not end in overshooting.
    """

    def __init__(self, speed: float, acceleration: float) -> None:
        self._speed = speed
        self._acceleration = acceleration
        self.stop()

    def stop(self) -> None:
        """Be at rest."""
        self._velocity: FloatArray = np.zeros(3)
        self._goal_velocity: FloatArray = np.zeros(3)

    def step(self, error: FloatArray, goal_step: FloatArray, dt_s: float) -> FloatArray:
        """The motion of one tick, shape (3,).

        Args:
            error: From the point to its goal, shape (3,).
            goal_step: How far the goal went since the last tick, shape (3,).
            dt_s: The tick.
        """
        gain = self._acceleration * dt_s
        part = dt_s / (dt_s + GOAL_LAG_S)
        self._goal_velocity = self._goal_velocity + part * (goal_step / dt_s - self._goal_velocity)
        velocity = _at_most(self._goal_velocity, self._speed)
        ahead = error - velocity * dt_s
        distance = length(ahead)
        if distance > 0.0:
            along = max(float(velocity @ ahead) / distance, 0.0) + gain
            closing = math.sqrt(along * along + 2.0 * self._acceleration * distance) - along
            velocity = velocity + ahead * (min(closing, distance / dt_s) / distance)
        velocity = self._velocity + _at_most(velocity - self._velocity, gain)
        self._velocity = _at_most(velocity, self._speed)
        return self._velocity * dt_s


class ToolLimiter:
    """Moves a tool's target towards where it is wanted, within the box and the caps.

    Args:
        workspace: The box in the frame of the arm's base.
        speed_m_s: Cap on the tool's speed.
        rotation_rad_s: Cap on its turning.
        acceleration_m_s2: Cap on the change of its speed.
        rotation_rad_s2: Cap on the change of its turning.
    """

    def __init__(
        self,
        workspace: Workspace | None,
        speed_m_s: float,
        rotation_rad_s: float,
        acceleration_m_s2: float,
        rotation_rad_s2: float,
    ) -> None:
        self._box = Box(workspace, INSET_M)
        self._speed_m_s = speed_m_s
        self._rotation_rad_s = rotation_rad_s
        self._place = _Glide(speed_m_s, acceleration_m_s2)
        self._facing = _Glide(rotation_rad_s, rotation_rad_s2)
        self._goal: ToolPose | None = None

    def stop(self) -> None:
        """Be at rest; the next step is the first of a motion."""
        self._goal = None
        self._place.stop()
        self._facing.stop()

    def step(self, target: ToolPose, wanted: ToolPose, dt_s: float) -> tuple[ToolPose, Curb]:
        """The target of the next tick, ``dt_s`` later, and what kept it from what is wanted."""
        if dt_s <= 0.0:
            return target, Curb.NONE
        low, high = self._box.bounds_from(target.position_m)
        goal = ToolPose(
            np.minimum(np.maximum(wanted.position_m, low), high), wanted.quaternion_wxyz
        )
        curb = Curb.NONE
        if length(goal.position_m - wanted.position_m) > SAME:
            curb |= Curb.WORKSPACE
        last = self._goal or goal
        self._goal = goal
        error = goal.position_m - target.position_m
        step = self._place.step(error, goal.position_m - last.position_m, dt_s)
        if (
            length(error) > self._speed_m_s * dt_s
            and length(step) > AT_CAP * self._speed_m_s * dt_s
        ):
            curb |= Curb.SPEED
        off = turn_between(target.quaternion_wxyz, goal.quaternion_wxyz)
        turned = turn_between(last.quaternion_wxyz, goal.quaternion_wxyz)
        turn = self._facing.step(off, turned, dt_s)
        if (
            length(off) > self._rotation_rad_s * dt_s
            and length(turn) > AT_CAP * self._rotation_rad_s * dt_s
        ):
            curb |= Curb.TURN
        quaternion = quaternion_product(quaternion_of(turn), target.quaternion_wxyz)
        position = np.minimum(np.maximum(target.position_m + step, low), high)
        return ToolPose(position, quaternion / length(quaternion)), curb


def _at_most(vector: FloatArray, size: float) -> FloatArray:
    """A vector, shortened to a size if it is longer."""
    long = length(vector)
    return vector * (size / long) if long > size else vector
