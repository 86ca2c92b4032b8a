"""Operators at emulated input devices, who guide the arm of a ``Chain``."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from drivers.emulated.spacemouse import hid_mouse
from drivers.emulated.stand_in import HandPose, PuckPush
from drivers.emulated.vr import runtime as vr_runtime
from drivers.emulated.webxr import headset
from teleop.clock import NS_PER_S, ns_from_s
from teleop.messages import FloatArray, PoseInput, TwistInput
from tests.system.input_chain import Chain
from tests.system.servo_arm import CLOCK, chain_rig

PUCK, HAND = "mouse", "left_hand"
MOVING_M_S = 0.15
"""The tool is on its way."""
SWING_M, SWING_HZ = 0.2, 0.8
"""Of the hand: up to 1 m/s, twice the cap of 0.5 m/s."""
PRESS_NS, RELEASE_NS = ns_from_s(1.0), ns_from_s(0.2)
"""How long a press that moves nothing lasts, and how long it is let go before the next."""


Operate = Callable[[int], None]


class Operator(abc.ABC):
    """Who guides, and the chain from the device to the arm.

    Args:
        chain: Makes it from what is to be called every few milliseconds.
    """

    def __init__(self, chain: Callable[[Operate], Chain]) -> None:
        self.chain = chain(self.act)

    @abc.abstractmethod
    def act(self, now_ns: int) -> None:
        """What the operator does now."""

    @abc.abstractmethod
    def let_go(self) -> None:
        """The operator lets go of the puck or the grip."""

    @abc.abstractmethod
    def press(self) -> None:
        """The operator pushes the puck, or grips and moves on."""

    @abc.abstractmethod
    def live(self, sample: PoseInput | TwistInput) -> bool:
        """Whether a sample asks for motion."""

    def guide(self) -> None:
        """Guide the arm until it moves; anew when a busy machine has made the rig doubt."""
        self.let_go()
        self.chain.until(self.told(1, live=False), "the rig has seen it let go")
        begun_ns = CLOCK.now_ns()

        def moving() -> bool:
            since_ns = (CLOCK.now_ns() - begun_ns) % (PRESS_NS + RELEASE_NS)
            (self.press if since_ns < PRESS_NS else self.let_go)()
            return self.chain.speed_m_s() > MOVING_M_S and self.live(self.chain.samples[-1])

        self.chain.until(moving, "the arm moves")

    def told(self, count: int, live: bool = True) -> Callable[[], bool]:
        """Whether so many samples more have come that do, or do not, ask for motion."""
        begun = len(self.chain.samples)
        return lambda: sum(self.live(s) is live for s in self.chain.samples[begun:]) >= count

    def newest_ns(self) -> int:
        """Stamp of the newest sample that asks for motion."""
        return max(s.stamp_ns for s in self.chain.samples if self.live(s))


class Pusher(Operator):
    """An operator who pushes a puck."""

    def __init__(self, folder: Path) -> None:
        self.puck = hid_mouse.HidMouse(PUCK, folder)
        self.puck.start()
        self.push = 0.0
        self.way = 1.0
        self._pushed: float | None = None
        fields = hid_mouse.emulated_fields(PUCK, folder)
        rig = chain_rig("viperx_spacemouse", {PUCK: fields})
        super().__init__(lambda act: Chain(rig, PUCK, PUCK, act))
        self.chain.run()
        self.chain.until(self.told(30, live=False), "the puck has settled")

    def act(self, now_ns: int) -> None:
        if self.push != self._pushed:
            self._pushed = self.push
            self.puck.move(PUCK, PuckPush(np.array([0.0, self.push, 0.0]), np.zeros(3)))

    def push_again(self) -> None:
        """A puck that comes back has forgotten that it is pushed; the hand has not let go."""
        self._pushed = None

    def let_go(self) -> None:
        self.push = 0.0

    def press(self) -> None:
        if self.push == 0.0:
            self.push, self.way = self.way, -self.way

    def live(self, sample: PoseInput | TwistInput) -> bool:
        return isinstance(sample, TwistInput) and bool(sample.linear.any())

    def close(self) -> None:
        self.chain.close()
        self.puck.close()


class Hand(Operator):
    """An operator who swings a controller, without a pause.

    Args:
        stand_in: Of the device.
        chain: Makes the chain.
    """

    def __init__(
        self,
        stand_in: vr_runtime.VrRuntime | headset.WebXrHeadset,
        chain: Callable[[Callable[[int], None]], Chain],
    ) -> None:
        self._stand_in = stand_in
        self.grip = 0.0
        self.tracked = True
        self.swings = True
        self.at_m: FloatArray = np.array([-0.2, 1.1, -0.4])
        super().__init__(chain)

    def act(self, now_ns: int) -> None:
        turn = 2 * math.pi * SWING_HZ * now_ns / NS_PER_S
        swing_m = SWING_M * math.sin(turn) * self.swings
        here_m = self.at_m + np.array([0.8, 0.6, 0.0]) * swing_m
        hand = HandPose(here_m, squeeze=self.grip, tracked=self.tracked)
        self._stand_in.move(HAND, hand)

    def let_go(self) -> None:
        self.grip = 0.0

    def press(self) -> None:
        self.grip = 1.0

    def live(self, sample: PoseInput | TwistInput) -> bool:
        return isinstance(sample, PoseInput) and sample.tracked and sample.squeeze > 0.5
