"""From an operator's tracked hand to where a tool is wanted.

While the clutch is held, the tool repeats the hand's motion since the press, from the pose that
the tool was last commanded to: ``p = e0 + s A (h - h0)`` and ``R = exp(s A log(H H0^-1)) E0``,
with ``e``, ``E`` the tool's and ``h``, ``H`` the hand's position and rotation, the scale ``s`` and
the alignment ``A`` of the room's axes with the arm's base. Nothing is compounded, so a hand that
comes back brings the tool back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from teleop.clock import ns_from_s
from teleop.clutch import Clutch
from teleop.messages import FloatArray, PoseInput
from teleop.one_euro import PositionFilter, RotationFilter
from teleop.rig_cartesian import CartesianSettings, hand_button
from teleop.rotations import (
    ToolPose,
    length,
    quaternion_inverse,
    quaternion_of,
    quaternion_product,
    rotated,
    rotation_vector,
    turn_between,
    unit_quaternion,
)

BASE_FROM_ROOM = np.array([0.5, 0.5, -0.5, -0.5])
"""OpenXR's axes (x right, y up, z backwards) in those of a base that the operator looks along
(x forward, y left, z up): (x, y, z) becomes (-z, -x, y). A quaternion w x y z."""


def base_from_room(operator_yaw_rad: float) -> FloatArray:
    """The same for an operator who looks along this heading of the base, shape (4,)."""
    yaw = quaternion_of(np.array([0.0, 0.0, operator_yaw_rad]))
    return quaternion_product(yaw, BASE_FROM_ROOM)


@dataclass(slots=True, eq=False)
class _Latch:
    """Hand and tool as they were when the clutch was latched."""

    hand: ToolPose
    tool: ToolPose
    fine: bool
    position: PositionFilter
    rotation: RotationFilter
    turn: FloatArray
    """The hand's turn since then, rad, counted on beyond half a turn; shape (3,)."""


class PoseMapper:
    """The clutch, the filter and the frames of one hand.

    Args:
        settings: Scales, limits, ages.
        operator_yaw_rad: Heading of the operator's view in the frame of the arm's base.
    """

    def __init__(self, settings: CartesianSettings, operator_yaw_rad: float) -> None:
        self._settings = settings.hand
        self._hold_ns = ns_from_s(settings.hold_s)
        self._open_ns = ns_from_s(settings.open_s)
        self._base_from_room = base_from_room(operator_yaw_rad)
        self.begin(0)

    def begin(self, now_ns: int) -> None:
        """Forget everything; a clutch that is held must be pressed anew."""
        self._clutch = Clutch()
        self._latch: _Latch | None = None
        self._hand: ToolPose | None = None
        self._heard_ns = now_ns
        self._lost = False
        self.latches = 0
        """How often the hand was latched: presses, changes of scale, jumps."""
        self.trigger = 0.0
        """The newest reading while the clutch is closed, 0 released ... 1 pulled."""

    @property
    def engaged(self) -> bool:
        """Whether the clutch is closed."""
        return self._clutch.closed

    @property
    def lost(self) -> bool:
        """Whether the hand is not tracked or not heard, or was so and the clutch is still held."""
        return self._lost

    @property
    def origin_ns(self) -> int:
        """Stamp of the newest sample."""
        return self._heard_ns

    def follow(
        self, samples: Iterable[PoseInput], now_ns: int, command: ToolPose
    ) -> ToolPose | None:
        """Where the tool is wanted; None to leave it where it is.

        Args:
            samples: What came since the last call, oldest first.
            now_ns: The rig's clock.
            command: The pose that the tool was last commanded to.
        """
        for sample in samples:
            if sample.stamp_ns > self._heard_ns:
                self._feel(sample, command)
        age_ns = now_ns - self._heard_ns
        if age_ns > self._open_ns:
            self._lose()
        if not self._clutch.closed or age_ns > self._hold_ns or self._latch is None:
            return None
        return self._wanted(self._latch)

    def _feel(self, sample: PoseInput, command: ToolPose) -> None:
        gap_ns = sample.stamp_ns - self._heard_ns
        self._heard_ns = sample.stamp_ns
        hand = _hand_of(sample)
        if hand is None or gap_ns > self._open_ns:
            self._lose()
        if hand is None:
            return
        settings = self._settings
        pressed = self._clutch.feel(_pressure(sample, settings.clutch))
        self._lost = self._lost and self._clutch.needs_release
        last, self._hand = self._hand, hand
        if not self._clutch.closed:
            return
        fine = hand_button(sample.buttons, settings.fine)
        latch = self._latch
        if (
            pressed
            or last is None
            or latch is None
            or latch.fine != fine
            or self._jumped(last, hand)
        ):
            self._latch = self._latched(hand, command, fine)
        else:
            self._move(latch, hand, gap_ns / 1e9)
        if math.isfinite(sample.trigger):
            self.trigger = min(max(sample.trigger, 0.0), 1.0)

    def _lose(self) -> None:
        self._clutch.trip()
        self._lost = True
        self._hand = None

    def _jumped(self, last: ToolPose, hand: ToolPose) -> bool:
        far = length(hand.position_m - last.position_m) > self._settings.jump_m
        turn = length(turn_between(last.quaternion_wxyz, hand.quaternion_wxyz))
        return far or turn > self._settings.jump_rad

    def _latched(self, hand: ToolPose, command: ToolPose, fine: bool) -> _Latch:
        self.latches += 1
        smooth = self._settings.filter
        return _Latch(
            hand=hand,
            tool=command,
            fine=fine,
            position=PositionFilter(hand.position_m, smooth.min_cutoff_hz, smooth.beta_1_m),
            rotation=RotationFilter(hand.quaternion_wxyz, smooth.min_cutoff_hz, smooth.beta_1_rad),
            turn=np.zeros(3),
        )

    def _move(self, latch: _Latch, hand: ToolPose, dt_s: float) -> None:
        latch.position.take(hand.position_m, dt_s)
        turned = latch.rotation.take(hand.quaternion_wxyz, dt_s)
        turn = rotation_vector(
            quaternion_product(turned, quaternion_inverse(latch.hand.quaternion_wxyz))
        )
        latch.turn = _nearest_turn(turn, latch.turn)

    def _wanted(self, latch: _Latch) -> ToolPose:
        scale = self._settings.fine_scale if latch.fine else self._settings.scale
        moved = rotated(self._base_from_room, latch.position.value - latch.hand.position_m)
        turned = quaternion_of(scale * rotated(self._base_from_room, latch.turn))
        quaternion = quaternion_product(turned, latch.tool.quaternion_wxyz)
        return ToolPose(latch.tool.position_m + scale * moved, quaternion / length(quaternion))


def _hand_of(sample: PoseInput) -> ToolPose | None:
    """The sample's pose, or None when it is not to be followed."""
    quaternion = unit_quaternion(sample.quaternion_wxyz)
    if not sample.tracked or quaternion is None or not np.isfinite(sample.position_m).all():
        return None
    return ToolPose(sample.position_m, quaternion)


def _pressure(sample: PoseInput, button: str) -> float:
    """How far a button is pressed, 0 ... 1."""
    if button == "squeeze":
        return sample.squeeze
    if button == "trigger":
        return sample.trigger
    return float(hand_button(sample.buttons, button))


def _nearest_turn(turn: FloatArray, last: FloatArray) -> FloatArray:
    """The same rotation, counted the way round that is nearer to the last one.

    A rotation vector jumps by a whole turn where the hand passes half a turn; scaled, that would
    be a jump of the tool.
    """
    angle = length(turn)
    if angle < 1e-6:
        return turn
    axis = turn / angle
    turns = round((float(axis @ last) - angle) / (2.0 * math.pi))
    return turn + axis * (2.0 * math.pi * turns)
