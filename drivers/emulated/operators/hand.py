"""A person's hands on the leader arms: springs that pull, never joints that are put somewhere."""

from __future__ import annotations

import numpy as np

from drivers.emulated.plant import AXES_PER_ARM, Plant, role_of
from teleop.messages import FloatArray

STIFFNESS_NM_RAD = np.array([60.0, 80.0, 80.0, 30.0, 30.0, 12.0, 4.0])
"""Spring per axis, waist to gripper: carries a limp leader along a person's recorded motion within
0.007 rad RMS per axis (at most 0.08 rad on a joint, at its fastest)."""
DAMPING_NMS_RAD = np.array([4.0, 5.0, 5.0, 1.2, 1.2, 0.5, 0.15])
CAP_NM = np.array([4.0, 8.0, 8.0, 4.0, 4.0, 1.4, 1.0])
"""A hand gives way: some 13 N sideways at a handle 0.3 m out. Below the stall torque of a WidowX's
servos (XM430 4.1 N m, two on shoulder and elbow, XL430 1.5), so that a leader that holds is
felt, not overpowered."""


class Hand:
    """Turns a wanted leader pose into torques on the plant's axes, zero on all other arms."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        arms = [arm for arm in plant.arms if role_of(arm) == "leader"]
        self.arms = tuple(arms)
        self._axes = np.concatenate(
            [np.arange(plant.axes_of(arm).start, plant.axes_of(arm).stop) for arm in arms]
            or [np.empty(0, dtype=np.intp)]
        ).astype(np.intp)
        self._stiffness = np.tile(STIFFNESS_NM_RAD, len(arms))
        self._damping = np.tile(DAMPING_NMS_RAD, len(arms))
        self._cap = np.tile(CAP_NM, len(arms))
        gripper = np.zeros(AXES_PER_ARM)
        gripper[-1] = 1.0
        self._gripper_only = np.tile(gripper, len(arms))
        self.let_go = np.zeros(len(plant.arms) * AXES_PER_ARM)

    @property
    def angle_rad(self) -> FloatArray:
        """Where the leaders are now: shape (7 * leaders,)."""
        return np.asarray(self._plant.axis_angle_rad[self._axes])

    def pull(
        self, wanted_rad: FloatArray, wanted_rad_s: FloatArray, *, gripper_only: bool = False
    ) -> FloatArray:
        """Torque that pulls the leaders towards a pose.

        Args:
            wanted_rad: shape (7 * leaders,), leaders in the plant's order.
            wanted_rad_s: same shape, how fast the wanted pose moves.
            gripper_only: only squeeze the handles; leave the joints to the servos.

        Returns:
            Shape (7 * arms of the plant,), N m.
        """
        plant = self._plant
        torque = self._stiffness * (wanted_rad - plant.axis_angle_rad[self._axes])
        torque += self._damping * (wanted_rad_s - plant.axis_rate_rad_s[self._axes])
        torque = np.clip(torque, -self._cap, self._cap)
        if gripper_only:
            torque *= self._gripper_only
        whole = np.zeros_like(self.let_go)
        whole[self._axes] = torque
        return whole
