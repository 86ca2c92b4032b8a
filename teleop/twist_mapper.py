"""From the push on a rate device to where a tool is wanted.

The push is a speed, integrated onto the tool's target. The deflection itself is the clutch: a
puck at rest is silent, one that is pushed repeats itself, so silence stops the tool at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from teleop.clock import ns_from_s
from teleop.messages import FloatArray, TwistInput
from teleop.rig_cartesian import CartesianSettings, puck_button
from teleop.rotations import ToolPose, length, quaternion_of, quaternion_product, rotated


class TwistMapper:
    """The rates and the frame of one puck.

    Args:
        settings: Full scales, buttons, ages.
        operator_yaw_rad: Heading of the operator's view in the frame of the arm's base.
    """

    def __init__(self, settings: CartesianSettings, operator_yaw_rad: float) -> None:
        self._settings = settings.puck
        self._hold_ns = ns_from_s(settings.hold_s)
        self._open_ns = ns_from_s(settings.open_s)
        self._base_from_puck = quaternion_of(np.array([0.0, 0.0, operator_yaw_rad]))
        self._pushed = False
        self.begin(0)

    def begin(self, now_ns: int) -> None:
        """Forget the motion; a puck that is pushed now must be let go first."""
        self._speed_m_s: FloatArray = np.zeros(3)
        self._rate_rad_s: FloatArray = np.zeros(3)
        self._heard_ns = now_ns
        self._needs_centre = self._pushed
        self._lost = False

    @property
    def engaged(self) -> bool:
        """Whether the puck is pushed and obeyed."""
        return bool(self._speed_m_s.any() or self._rate_rad_s.any())

    @property
    def lost(self) -> bool:
        """Whether the puck fell silent while pushed, and has not been let go since."""
        return self._lost

    @property
    def origin_ns(self) -> int:
        """Stamp of the newest sample."""
        return self._heard_ns

    def follow(
        self, samples: Iterable[TwistInput], now_ns: int, target: ToolPose, dt_s: float
    ) -> ToolPose | None:
        """Where the tool is wanted after ``dt_s``; None to leave it where it is.

        Args:
            samples: What came since the last call, oldest first.
            now_ns: The rig's clock.
            target: Where the tool was wanted last, within its limits.
            dt_s: Time to integrate over.
        """
        for sample in samples:
            if sample.stamp_ns > self._heard_ns:
                self._feel(sample)
        age_ns = now_ns - self._heard_ns
        if self.engaged and age_ns > self._open_ns:
            self._lose()
        if not self.engaged or age_ns > self._hold_ns:
            return None
        quaternion = quaternion_product(
            quaternion_of(self._rate_rad_s * dt_s), target.quaternion_wxyz
        )
        return ToolPose(target.position_m + self._speed_m_s * dt_s, quaternion / length(quaternion))

    def _feel(self, sample: TwistInput) -> None:
        gap_ns = sample.stamp_ns - self._heard_ns
        self._heard_ns = sample.stamp_ns
        if self.engaged and gap_ns > self._open_ns:
            self._lose()
        linear, angular = _clipped(sample.linear), _clipped(sample.angular)
        if linear is None or angular is None:
            self._lose()
            return
        self._pushed = bool(linear.any() or angular.any())
        if not self._pushed:
            self._needs_centre = self._lost = False
        settings = self._settings
        enabled = settings.enable is None or puck_button(sample.buttons, settings.enable)
        scale = settings.fine_scale if puck_button(sample.buttons, settings.fine) else 1.0
        if self._needs_centre or not enabled:
            scale = 0.0
        speed = scale * settings.full_m_s * (settings.axes != "rotate")
        rate = scale * settings.full_rad_s * (settings.axes != "translate")
        self._speed_m_s = rotated(self._base_from_puck, speed * linear)
        self._rate_rad_s = rotated(self._base_from_puck, rate * angular)

    def _lose(self) -> None:
        self._speed_m_s = np.zeros(3)
        self._rate_rad_s = np.zeros(3)
        self._needs_centre = self._lost = True


def _clipped(axes: FloatArray) -> FloatArray | None:
    """The push, no longer than 1, so that a corner is no faster than an axis; None if NaN."""
    size = length(axes)
    if not math.isfinite(size):
        return None
    return axes / size if size > 1.0 else axes
