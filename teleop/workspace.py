"""Where and how fast a tool may be taken by hand: the box, and the caps on speed."""

from __future__ import annotations

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


class Curb(IntFlag):
    """What kept a tool from where its operator wanted it."""

    NONE = 0
    WORKSPACE = 1
    """Wanted outside the box."""
    SPEED = 2
    """Wanted further away than one tick may take it."""
    TURN = 4
    """Wanted turned by more than one tick may."""
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


class ToolLimiter:
    """Moves a tool's target towards where it is wanted, within the box and the caps."""

    def __init__(
        self, workspace: Workspace | None, speed_m_s: float, rotation_rad_s: float
    ) -> None:
        self._box = Box(workspace, INSET_M)
        self._speed_m_s = speed_m_s
        self._rotation_rad_s = rotation_rad_s

    def step(self, target: ToolPose, wanted: ToolPose, dt_s: float) -> tuple[ToolPose, Curb]:
        """The target of the next tick, ``dt_s`` later, and what kept it from what is wanted."""
        low, high = self._box.bounds_from(target.position_m)
        inside = np.minimum(np.maximum(wanted.position_m, low), high)
        moved, curb = approached(
            target,
            ToolPose(inside, wanted.quaternion_wxyz),
            self._speed_m_s * dt_s,
            self._rotation_rad_s * dt_s,
        )
        if length(inside - wanted.position_m) > SAME:
            curb |= Curb.WORKSPACE
        return moved, curb
