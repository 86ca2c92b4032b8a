"""How a person does the tasks: a list of moves each, made while looking at the table.

A plan is a generator: it is asked for the next move when the last one is done, and may then look
at where things really are. Lengths in metres, world frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from drivers.emulated.operators.expert import ToolPose
from drivers.emulated.plant import Plant
from teleop.messages import FloatArray

SIDES = ("left", "right")
PINCH_HEIGHT_M = 0.032
"""Tool height to grasp from the table: pitched down 60 degrees, the finger tips then clear it by
5 mm."""
BEHIND_M = 0.03
"""Peg and socket are grasped behind their middles, so that the pads of the right hand stay out
of the socket's mouth when the peg reaches the pin."""
PEG_HALF_M = 0.06
SOCKET_HALF_M = 0.06
INSERTION_STEPS = ((-0.04, 0.5), (-0.015, 0.4), (0.03, 0.6), (SOCKET_HALF_M + 0.008, 0.6))
"""Depth (m) of the peg's end in the socket and seconds to get there; the last leans on the pin."""
HOVER_M = 0.10
CARELESS_M = 0.01
"""Standard deviation of where a hand goes above an object before it looks closely: a finger's
width. The correction that follows is what a policy learns to recover from."""
MEET_M = np.array([0.0, 0.5, 0.24])
"""Where the two grippers meet, midway between the bases."""


@dataclass(frozen=True, slots=True)
class Move:
    """Both hands go somewhere in the same time; a side not named stays."""

    duration_s: float
    tool: Mapping[str, ToolPose] = field(default_factory=dict)
    opening: Mapping[str, float] = field(default_factory=dict)
    """Gripper opening at the end, 0 closed ... 1 open, by side."""
    wait_s: float = 0.0
    """Wait this long at most for the followers to come to rest there."""


class Eyes:
    """What the operator sees: the task's objects and the followers' finger pads."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant

    def position_m(self, body: str) -> FloatArray:
        """Centre of an object, shape (3,)."""
        return np.array(self._plant.data.body(body).xpos)

    def has(self, side: str) -> bool:
        """Whether there is an arm to reach with on this side."""
        return f"{side}_follower" in self._plant.arms

    def tool_m(self, side: str) -> FloatArray:
        """Where a follower's pads are, shape (3,)."""
        return np.array(self._plant.data.site(f"{side}_follower/tcp").xpos)

    def pitch_rad(self, body: str) -> float:
        """How far an object's x axis points down."""
        return -float(np.arcsin(np.clip(self._plant.data.body(body).xmat[6], -1.0, 1.0)))


Plan = Iterator[Move]
Planner = Callable[[Eyes, np.random.Generator], Plan]


def _pose(position: FloatArray, pitch_deg: float, roll_deg: float = 0.0) -> ToolPose:
    return ToolPose(position, float(np.deg2rad(pitch_deg)), float(np.deg2rad(roll_deg)))


def _x(metres: float) -> FloatArray:
    return np.array([metres, 0.0, 0.0])


def _z(metres: float) -> FloatArray:
    return np.array([0.0, 0.0, metres])


def _pinch(thing: FloatArray) -> FloatArray:
    """Where the tool grasps a thing that lies on the table."""
    return np.array([thing[0], thing[1], PINCH_HEIGHT_M])


def transfer_cube(eyes: Eyes, rng: np.random.Generator) -> Plan:
    """Pick the cube with the right hand and give it to the left."""
    grasp = _pinch(eyes.position_m("cube"))
    careless = rng.normal(0.0, CARELESS_M, (2, 3))
    waiting = MEET_M + _x(-0.15)
    yield Move(
        1.1,
        {
            "right": _pose(grasp + _z(HOVER_M) + careless[0], 60),
            "left": _pose(waiting + careless[1], 0, 90),
        },
        {"left": 1.0, "right": 1.0},
    )
    yield Move(0.6, {"right": _pose(grasp, 60)}, wait_s=0.5)
    yield Move(0.4, opening={"right": 0.0}, wait_s=0.3)
    yield Move(0.35, {"right": _pose(grasp + _z(HOVER_M), 50)})
    yield Move(0.8, {"right": _pose(MEET_M, 10), "left": _pose(waiting, 0, 90)}, wait_s=0.5)
    # The left pads close above and below the cube, the right ones hold its sides.
    yield Move(0.8, {"left": _pose(eyes.position_m("cube") + _x(-0.012), 0, 90)}, wait_s=0.5)
    yield Move(0.4, opening={"left": 0.0}, wait_s=0.3)
    yield Move(0.3, opening={"right": 1.0}, wait_s=0.2)
    yield Move(
        0.6, {"right": _pose(MEET_M + _x(0.12), 10), "left": _pose(MEET_M + _x(-0.08), 0, 90)}
    )
    yield Move(0.5)


def insertion(eyes: Eyes, rng: np.random.Generator) -> Plan:
    """Pick the socket with the left hand and the peg with the right, and push them together."""
    grasp = {
        "left": _pinch(eyes.position_m("socket")) - _x(BEHIND_M),
        "right": _pinch(eyes.position_m("peg")) + _x(BEHIND_M),
    }
    careless = dict(zip(SIDES, rng.normal(0.0, CARELESS_M, (2, 3)), strict=True))
    above = {s: _pose(grasp[s] + _z(HOVER_M) + careless[s], 60) for s in SIDES}
    yield Move(1.2, above, {"left": 1.0, "right": 1.0})
    yield Move(0.6, {s: _pose(grasp[s], 60) for s in SIDES}, wait_s=0.5)
    yield Move(0.5, opening={"left": 0.0, "right": 0.0}, wait_s=0.3)
    yield Move(0.5, {s: _pose(grasp[s] + _z(HOVER_M), 60) for s in SIDES})
    meet = {"left": MEET_M - _x(0.09 + BEHIND_M), "right": MEET_M + _x(0.09 + BEHIND_M)}
    yield Move(1.2, {side: _pose(meet[side], 60) for side in SIDES}, wait_s=0.5)
    # From here on the socket is held still and the peg is steered by eye: where the tool has to
    # go follows from where the peg's end is seen to be.
    for depth_m, duration_s in INSERTION_STEPS:
        mouth = eyes.position_m("socket") + _x(SOCKET_HALF_M)
        end = eyes.position_m("peg") - _x(PEG_HALF_M)
        tool = eyes.tool_m("right") + mouth - _x(depth_m) - end
        yield Move(duration_s, {"right": _pose(tool, 60)}, wait_s=0.3)
    yield Move(0.6)


def free(eyes: Eyes, rng: np.random.Generator) -> Plan:
    """Reach about over the table with both hands, opening and closing them."""
    for _ in range(4):
        yield Move(
            1.2,
            {
                "left": _pose(rng.uniform([-0.25, 0.4, 0.15], [-0.10, 0.6, 0.35]), 20),
                "right": _pose(rng.uniform([0.10, 0.4, 0.15], [0.25, 0.6, 0.35]), 20),
            },
            dict(zip(SIDES, rng.uniform(0.2, 1.0, 2), strict=True)),
        )


def reach(eyes: Eyes, rng: np.random.Generator) -> Plan:
    """Bring every tool to its target and keep it there."""
    goals = {s: _pose(eyes.position_m(f"target_{s}_follower"), 20) for s in SIDES if eyes.has(s)}
    yield Move(1.5, goals, wait_s=0.5)
    for _ in range(3):  # By eye: what the arms hang below the goal is added to it.
        off = {s: eyes.position_m(f"target_{s}_follower") - eyes.tool_m(s) for s in goals}
        goals = {
            s: ToolPose(goal.position_m + off[s], goal.pitch_rad, goal.roll_rad)
            for s, goal in goals.items()
        }
        yield Move(0.4, goals, wait_s=0.4)
    yield Move(0.6)


PLANNERS: Mapping[str, Planner] = {
    "transfer_cube": transfer_cube,
    "insertion": insertion,
    "free": free,
    "reach": reach,
}
