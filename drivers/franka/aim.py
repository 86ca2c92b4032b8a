"""The pose that the impedance controller of a Franka pulls towards.

Commands come at tens of hertz, by our clock; the controller runs at 1 kHz by the robot's. The
aim moves in the robot's time, so that a robot that is behind is never sent a jump: from one
command to the next in as long as the last one took to come, and always within the limits.
When no command comes it slows down and stays. It never leads the arm by more than a leash, in
position and in speed, so that spring and damper do not ask for more than a joint may give.
"""

from __future__ import annotations

import threading

import numpy as np

from teleop.clock import ns_from_s
from teleop.limits import SAME_RAD, ArmLimits, JointLimiter
from teleop.messages import FloatArray

SHORTEST_S = 0.005
LONGEST_S = 0.05
"""Bounds of the time in which a command is approached: 200 to 20 commands a second."""
LONGEST_STEP_S = 0.01
"""Our thread may be late; what the robot did meanwhile is then not made up for in one step."""


class Aim:
    """Set by the node's thread, stepped by the session's.

    Args:
        limits: Of the joints alone.
        hold_s: Silence after which the aim slows down and stays.
        leash: How far it may lead the arm, or stay behind: rad and rad/s, each of shape (7,).
    """

    def __init__(
        self, limits: ArmLimits, hold_s: float, leash: tuple[FloatArray, FloatArray]
    ) -> None:
        self._limiter = JointLimiter(limits)
        self._hold_ns = ns_from_s(hold_s)
        self._leash_rad, self._leash_rad_s = leash
        self._lock = threading.Lock()
        self._goal: FloatArray | None = None
        self._from = self._limiter.position_rad
        self._written_ns: int | None = None
        self._interval_s = LONGEST_S
        self._elapsed_s = 0.0
        self._ms = 0

    def reset(self, position_rad: FloatArray, robot_ms: int) -> None:
        """Stay here, at rest, until a command comes."""
        with self._lock:
            self._limiter.reset(position_rad, None)
            self._goal, self._written_ns, self._ms = None, None, robot_ms

    def set(self, position_rad: FloatArray, now_ns: int) -> None:
        """Go there."""
        with self._lock:
            since_ns = None if self._written_ns is None else now_ns - self._written_ns
            since_s = LONGEST_S if since_ns is None else since_ns / 1e9
            self._interval_s = min(max(since_s, SHORTEST_S), LONGEST_S)
            self._from, self._goal = self._limiter.position_rad, position_rad
            self._written_ns, self._elapsed_s = now_ns, 0.0

    def silence_ns(self, now_ns: int) -> int:
        """Time since the last command; 0 before the first."""
        written_ns = self._written_ns
        return 0 if written_ns is None else now_ns - written_ns

    def step(
        self,
        robot_ms: int,
        now_ns: int,
        measured_rad: FloatArray,
        measured_rad_s: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """The aim now, rad and rad/s.

        Args:
            robot_ms: The robot's clock.
            now_ns: Ours.
            measured_rad: Where the arm is, shape (7,).
            measured_rad_s: How fast it moves, shape (7,).
        """
        with self._lock:
            before = self._limiter.position_rad
            dt_s = min((robot_ms - self._ms) / 1e3, LONGEST_STEP_S)
            if dt_s > 0.0 and self._goal is not None:
                self._move(self._goal, dt_s, self.silence_ns(now_ns) > self._hold_ns)
            self._ms = robot_ms
            after = self._limiter.position_rad
            velocity = (after - before) / max(dt_s, 1e-3)
        lead = np.minimum(np.maximum(after - measured_rad, -self._leash_rad), self._leash_rad)
        faster = velocity - measured_rad_s
        faster = np.minimum(np.maximum(faster, -self._leash_rad_s), self._leash_rad_s)
        return measured_rad + lead, measured_rad_s + faster

    def _move(self, goal: FloatArray, dt_s: float, silent: bool) -> None:
        if not silent:
            self._elapsed_s += dt_s
            share = min(1.0, self._elapsed_s / self._interval_s)
            self._limiter.limit(self._from + share * (goal - self._from), 0.0, dt_s)
            return
        before = self._limiter.position_rad
        if np.abs(self._limiter.hold(dt_s).position_rad - before).max() < SAME_RAD:
            self._goal = None
