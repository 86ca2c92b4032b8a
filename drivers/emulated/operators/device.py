"""The person at an emulated rig whose hands are on input devices: brings every tool to its target.

It knows nothing else: in a task without targets it brings the tools to some place in reach. The
operator sees where the tools are (``Plant``) and moves the hand that guides each of them as
somebody would who wants the tool over there: towards the target, slower near it, correcting by
eye. What the devices make of it goes the way of all input: through the vendor's package, the
input's node and the mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from drivers.emulated.operators.aim import aim_m
from drivers.emulated.plant import Plant
from drivers.emulated.stand_in import HandPose, PuckPush, StandIn
from teleop.messages import FloatArray
from teleop.rig import Rig

TICK_S = 0.02
GRIP_S = 0.4
"""The hand grips, or a puck is left alone, for this long before it moves: a push that was there
before the episode does not count."""
REACH_GAIN_1_S = 2.0
"""Of the hand's speed over the distance still to go; an unhurried reach."""
HAND_M_S = 0.2
"""Fastest motion of the hand."""
NEAR_M = 0.006
"""Closer than this the hand keeps still."""
PATIENCE_S = 0.7
"""A tool that has not come nearer for this long is not following: the hand lets go, a controller
returns to where it hangs, and takes hold again."""
NEARER_M = 0.004
CLOSE_M = 0.015
"""A tool this close counts as brought there; what is left is within a puck's deadzone."""
STAY_S = 1.0
"""How long the tool is kept at its target before the work counts as done."""
PUCK_M_S = 0.25
"""Speed of the tool at full deflection of a puck (``CartesianSettings``)."""
NEUTRAL_M = np.array([0.0, 1.0, -0.3])
"""Where a hand with a controller hangs in the room, x right, y up, z backwards."""


@dataclass(slots=True)
class _Hand:
    """One hand, and the arm it guides."""

    name: str
    """Of the input."""
    arm: str
    kind: str
    """``pose`` or ``twist``."""
    position_m: FloatArray
    near_s: float = 0.0
    grips_at_s: float = 0.0
    """Since the episode began; the hand moves ``GRIP_S`` later."""
    nearest_m: float = np.inf
    nearest_at_s: float = 0.0


class DeviceOperator:
    """Moves the hands on all input devices of the rig.

    Args:
        plant: Where tools and targets are.
        rig: Which input guides which arm.
        devices: The stand-ins, by input.
    """

    def __init__(self, plant: Plant, rig: Rig, devices: Mapping[str, StandIn]) -> None:
        self._plant = plant
        self._devices = devices
        self._rig = rig
        self.begin(0)

    def begin(self, episode: int) -> None:
        """Forget the last episode: hands hang in their neutral place, grips open."""
        self.finished = False
        self._episode = episode
        self._began_s: float | None = None
        self._next_s = 0.0
        self._hands = [
            _Hand(arm.input, name, _kind(self._rig.inputs[arm.input].driver), NEUTRAL_M.copy())
            for name, arm in sorted(self._rig.followers.items())
            if arm.input is not None
        ]

    def act(self, phase: str, now_s: float) -> None:
        """Let the hands do what they would do now; call often, from any clock that runs on."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + TICK_S
        if phase != "running":
            for hand in self._hands:
                self._rest(hand)
            return
        if self._began_s is None:
            self._began_s = now_s
        for hand in self._hands:
            self._work(hand, now_s - self._began_s)
        self.finished = bool(self._hands) and all(h.near_s > STAY_S for h in self._hands)

    def _rest(self, hand: _Hand) -> None:
        idle = PuckPush(np.zeros(3), np.zeros(3))
        still = HandPose(hand.position_m) if hand.kind == "pose" else idle
        self._devices[hand.name].move(hand.name, still)

    def _work(self, hand: _Hand, since_s: float) -> None:
        to_go = self._to_go_m(hand.arm)
        distance = float(np.linalg.norm(to_go))
        hand.near_s = hand.near_s + TICK_S if distance < CLOSE_M else 0.0
        speed = min(REACH_GAIN_1_S * distance, HAND_M_S)
        velocity = to_go * (speed / distance if distance > NEAR_M else 0.0)
        device = self._devices[hand.name]
        self._mind(hand, distance, since_s)
        if since_s <= hand.grips_at_s + GRIP_S:
            velocity = np.zeros(3)
        if hand.kind == "twist":
            # x away from the operator, y to the left: as the puck lies on the table.
            push = np.array([velocity[1], -velocity[0], velocity[2]]) / PUCK_M_S
            device.move(hand.name, PuckPush(np.clip(push, -1.0, 1.0), np.zeros(3)))
            return
        hand.position_m = hand.position_m + TICK_S * _in_room(velocity)
        grips = since_s >= hand.grips_at_s
        device.move(hand.name, HandPose(hand.position_m, squeeze=float(grips)))

    def _mind(self, hand: _Hand, distance_m: float, since_s: float) -> None:
        """Take hold anew when the tool does not follow: a clutch opens when tracking was lost."""
        if distance_m < hand.nearest_m - NEARER_M or distance_m < CLOSE_M:
            hand.nearest_m, hand.nearest_at_s = distance_m, since_s
        elif since_s > max(hand.nearest_at_s, hand.grips_at_s + GRIP_S) + PATIENCE_S:
            hand.position_m = NEUTRAL_M.copy()
            hand.grips_at_s = since_s + GRIP_S
            hand.nearest_m, hand.nearest_at_s = distance_m, since_s

    def _to_go_m(self, arm: str) -> FloatArray:
        tool_m = self._plant.data.site(f"{arm}/tcp").xpos
        return np.asarray(aim_m(self._plant, arm, self._episode) - tool_m)


def _kind(driver: str) -> str:
    return "twist" if driver == "spacemouse" else "pose"


def _in_room(world: FloatArray) -> FloatArray:
    """World (x right, y away, z up) to the room frame of a headset (x right, y up, z back)."""
    return np.array([world[0], world[2], -world[1]])
