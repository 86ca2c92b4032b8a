"""Planned motions from pose to pose, as homing and replay need them."""

from __future__ import annotations

import numpy as np

from teleop.errors import SafetyError
from teleop.messages import FloatArray

PEAK_SPEED = 1.875
"""Peak of the minimum-jerk profile's speed over its mean speed: 15/8 at half time."""

PEAK_ACCELERATION = 10.0 / np.sqrt(3.0)
"""Peak of its acceleration, in units of distance over duration squared.

Both from the profile of Flash and Hogan (1985), s(x) = 10 x^3 - 15 x^4 + 6 x^5.
"""

SHORTEST_S = 0.3
"""No ramp is shorter, so that one over a hair's breadth is still a smooth motion."""


class Ramp:
    """A straight line in joint space, from rest to rest, with minimum jerk.

    All joints and the gripper start and arrive together; the slowest sets the duration.
    """

    def __init__(
        self,
        start_rad: FloatArray,
        goal_rad: FloatArray,
        max_velocity_rad_s: float,
        *,
        gripper: tuple[float, float] = (0.0, 0.0),
        max_gripper_velocity_1_s: float = 1.0,
        max_acceleration_rad_s2: float | None = None,
    ) -> None:
        """Plan the ramp.

        Args:
            start_rad: Joint angles at its start, shape (J,).
            goal_rad: Joint angles at its end, shape (J,).
            max_velocity_rad_s: Highest speed of any joint.
            gripper: Opening at the start and at the end.
            max_gripper_velocity_1_s: Highest rate of the opening, strokes per second.
            max_acceleration_rad_s2: Highest acceleration of any joint; None for no bound.

        Raises:
            SafetyError: the poses differ in shape or hold a value that is not finite.
        """
        start = np.asarray(start_rad, dtype=np.float64)
        goal = np.asarray(goal_rad, dtype=np.float64)
        if start.shape != goal.shape or start.ndim != 1:
            raise SafetyError(f"ramp from a pose of shape {start.shape} to one of {goal.shape}")
        if not np.isfinite(np.concatenate((start, goal, gripper))).all():
            raise SafetyError("ramp between poses that are not finite; read the arm again first")
        self._start, self._change = start, goal - start
        self._gripper_start, self._gripper_change = gripper[0], gripper[1] - gripper[0]
        distance = float(np.abs(self._change).max(initial=0.0))
        self.duration_s = max(
            SHORTEST_S,
            PEAK_SPEED * distance / max_velocity_rad_s,
            PEAK_SPEED * abs(self._gripper_change) / max_gripper_velocity_1_s,
        )
        if max_acceleration_rad_s2 is not None:
            by_acceleration = np.sqrt(PEAK_ACCELERATION * distance / max_acceleration_rad_s2)
            self.duration_s = max(self.duration_s, float(by_acceleration))

    def at(self, elapsed_s: float) -> tuple[FloatArray, float]:
        """Joint angles, shape (J,), and gripper opening; the ends hold outside the ramp."""
        x = min(max(elapsed_s / self.duration_s, 0.0), 1.0)
        done = x * x * x * (10.0 + x * (6.0 * x - 15.0))
        return self._start + done * self._change, self._gripper_start + done * self._gripper_change

    def finished(self, elapsed_s: float) -> bool:
        """Whether the end has been reached."""
        return elapsed_s >= self.duration_s
