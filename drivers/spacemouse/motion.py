"""From what a puck reports to what it means: its zero, a deadzone, and when to stop believing it.

A puck that is pushed reports it again and again; one that was let go reports zeros and falls
silent. So a deflection that is not repeated is no deflection: the puck, or its radio, has failed.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from drivers.base import PuckReading
from teleop.clock import ns_from_s
from teleop.messages import FloatArray

SETTLE_NS = ns_from_s(0.3)
"""After opening, nothing moves and the puck's zero is looked for."""
SETTLE_SKIP_NS = ns_from_s(0.1)
"""At first the two reports of split models have not both come."""
STEADY = 0.01
"""Noise of a puck that lies there: 3 steps of 350. No hand is as still."""
MAX_OFFSET = 0.15
"""More than this at rest is no zero to be taken off; the puck zeroes itself when plugged in."""
MIN_REST = 0.05
"""Below this a puck is at rest, whatever the deadzone."""
RELEASE_NS = ns_from_s(0.25)
"""A puck that was silent for longer while pushed does not go on where it was: it must be let go
first, as a hand that was lost for as long must grip anew (``cartesian.open_s``)."""
IDLE_NS = ns_from_s(0.02)
"""A puck at rest is silent; zeros are told this often in its place, so that it is seen alive."""


class PuckMotion:
    """One puck's readings; called by one thread.

    Args:
        deadzone: Deflection that counts as none, of full scale; what is beyond is stretched to
            reach from 0 to 1 again.
        silence_s: Silence after which a deflection no longer counts.
    """

    def __init__(self, deadzone: float, silence_s: float) -> None:
        self.fault = ""
        """What keeps its deflection from counting, in words; empty when it counts."""
        self.silences = 0
        """How often it fell silent while deflected."""
        self._deadzone = deadzone
        self._silence_ns = ns_from_s(silence_s)
        self._pending: list[PuckReading] = []
        self._told_ns = 0
        self.restart(0)

    def restart(self, now_ns: int) -> None:
        """The device was opened: look for its zero."""
        self._opened_ns = self._axes_ns = now_ns
        self._settling: deque[tuple[int, FloatArray]] | None = deque(maxlen=256)
        self._live = False
        self._raw = np.zeros(6)
        self._offset = np.zeros(6)
        self._value = np.zeros(6)
        self._buttons: frozenset[str] = frozenset()
        self._moved = False
        self._fell_silent = False
        self.fault = ""

    def axes(self, raw: FloatArray, now_ns: int) -> None:
        """The puck reported its deflection, shape (6,), full scale 1."""
        if self._fell_silent and now_ns - self._axes_ns > RELEASE_NS:
            self._live = False
        self._fell_silent = False
        self._raw, self._axes_ns = raw, now_ns
        if self._settling is not None:
            self._settling.append((now_ns, raw))
        elif not self._live and np.abs(raw).max() <= max(MIN_REST, self._deadzone):
            self._live = True
        if self._live:
            self.fault = ""
            if not raw.any():  # It has its own zero after all.
                self._offset = np.zeros(6)
            self._value = self._shaped(raw - self._offset)
        self._moved = True

    def buttons(self, pressed: frozenset[str], now_ns: int) -> None:
        """The puck reported its buttons; each change is told, however short."""
        if pressed != self._buttons:
            self._buttons = pressed
            self._tell(now_ns)

    def forget_buttons(self, now_ns: int) -> None:
        """Reports were lost, perhaps that of a release."""
        self.buttons(frozenset(), now_ns)

    def tick(self, now_ns: int) -> list[PuckReading]:
        """Whatever there is to tell, oldest first; to be called at least every 20 ms."""
        if self._settling is not None and now_ns - self._opened_ns >= SETTLE_NS:
            self._settle()
        if self._value.any() and now_ns - self._axes_ns > self._silence_ns:
            self._value = np.zeros(6)
            self.silences += 1
            self._fell_silent = True
            self.fault = (
                f"fell silent while deflected, taken as let go after {self._silence_ns / 1e6:.0f} "
                "ms; let go of it, and check its battery, radio and cable"
            )
            self._tell(now_ns)
        elif self._moved:
            self._tell(self._axes_ns)
        elif not self._value.any() and now_ns - self._told_ns >= IDLE_NS:
            self._tell(now_ns)
        pending, self._pending = self._pending, []
        return pending

    def lost(self, now_ns: int) -> list[PuckReading]:
        """The last there is to tell of a device that is gone: that all was let go."""
        pending = self._pending
        self._pending = []
        return [*pending, PuckReading(now_ns, np.zeros(3), np.zeros(3), frozenset())]

    def _settle(self) -> None:
        assert self._settling is not None
        since_ns = self._opened_ns + SETTLE_SKIP_NS
        seen = np.array([raw for stamp_ns, raw in self._settling if stamp_ns >= since_ns])
        self._settling = None
        if not len(seen):
            self._live = True
            return
        level = float(np.abs(seen).max())
        steady = float(np.ptp(seen, axis=0).max()) <= STEADY
        self._live = level <= MAX_OFFSET if steady else level <= max(MIN_REST, self._deadzone)
        if self._live:
            self._offset = seen.mean(axis=0)
        else:
            self.fault = (
                "was deflected when it was opened and does not move anything until it is let go; "
                "if nobody touches it, plug it in again"
            )

    def _shaped(self, raw: FloatArray) -> FloatArray:
        size = np.abs(np.clip(raw, -1, 1))
        beyond = np.maximum(size - self._deadzone, 0) / (1 - self._deadzone)
        return np.asarray(np.sign(raw) * beyond)

    def _tell(self, stamp_ns: int) -> None:
        self._moved = False
        self._told_ns = stamp_ns
        linear, angular = self._value[:3].copy(), self._value[3:].copy()
        self._pending.append(PuckReading(stamp_ns, linear, angular, self._buttons))
