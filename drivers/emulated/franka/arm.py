"""The emulated Franka arm itself: seven joints, and the hand that pushes them.

The joints do not feel each other and gravity is taken as compensated, so that a client's
controller meets inertia, friction, delay and limits, but not this arm's real dynamics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drivers.emulated.franka.profile import JOINTS, Profile
from teleop.messages import FloatArray

TICK_S = 0.001
"""The control interface runs at 1 kHz."""
HOME_RAD = (0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398)
"""The pose in which the manufacturer's examples start."""
INERTIA_KG_M2 = np.array([1.2, 1.2, 1.0, 0.9, 0.35, 0.3, 0.2])
"""Of the size that identified models of the arm give for a stretched joint, rotor included."""
FRICTION_NM_S = np.array([1.0, 1.0, 0.8, 0.8, 0.3, 0.3, 0.2])
"""Viscous, after the robot's own friction compensation; chosen so that the arm coasts briefly."""
FOLLOW_HZ, FOLLOW_DAMPING_HZ = 60.0, 200.0
"""How stiffly the robot's own position controller follows its goal."""
BRAKE_PER_TICK = 0.85
"""Speed that is left each millisecond when a motion ends: at rest within some 30 ms."""
AT_REST_RAD_S = 1e-5


class Hand:
    """What acts on the arm from outside: a push, and a spring towards a pose."""

    def __init__(self) -> None:
        self._push_nm = np.zeros(JOINTS)
        self._target_rad: FloatArray | None = None
        self._stiffness = self._damping = self._cap_nm = np.zeros(JOINTS)

    def push(self, torque_nm: Sequence[float]) -> None:
        """Press on the joints with these torques until told otherwise."""
        self._push_nm = np.array(torque_nm, dtype=float).reshape(JOINTS)

    def pull_to(self, target_rad: Sequence[float], stiffness_nm_rad: float, cap_nm: float) -> None:
        """Draw the joints towards a pose, critically damped, with at most ``cap_nm`` each."""
        self._target_rad = np.array(target_rad, dtype=float).reshape(JOINTS)
        self._stiffness = np.full(JOINTS, stiffness_nm_rad)
        self._damping = 2 * np.sqrt(stiffness_nm_rad * INERTIA_KG_M2)
        self._cap_nm = np.full(JOINTS, cap_nm)

    def let_go(self) -> None:
        """Stop pulling towards a pose; a push stays."""
        self._target_rad = None

    def torque_nm(self, q_rad: FloatArray, dq_rad_s: FloatArray) -> FloatArray:
        """Torque on the joints, shape (7,)."""
        if self._target_rad is None:
            return self._push_nm
        pull = self._stiffness * (self._target_rad - q_rad) - self._damping * dq_rad_s
        torque: FloatArray = self._push_nm + np.clip(pull, -self._cap_nm, self._cap_nm)
        return torque


class EmulatedArm:
    """Joint positions and speeds under torques, goals and the hand; one step is a millisecond.

    Args:
        profile: whose joint limits it has.
        start_rad: where it stands, shape (7,).
    """

    def __init__(self, profile: Profile, start_rad: Sequence[float]) -> None:
        self.hand = Hand()
        self.q = np.array(start_rad, dtype=float).reshape(JOINTS)
        self.dq = np.zeros(JOINTS)
        self.goal = self.q.copy()
        """Desired position, shape (7,)."""
        self.goal_speed = np.zeros(JOINTS)
        self.goal_acceleration = np.zeros(JOINTS)
        self.commanded_nm = np.zeros(JOINTS)
        """Torque that a motion asks for beyond gravity, shape (7,)."""
        self.outside_nm = np.zeros(JOINTS)
        """What the hand did in the last step."""
        self.sensed_nm = np.zeros(JOINTS)
        """Torque sensors of the joints, gravity taken out."""
        self.at_stop = False
        """Whether a joint ran into the end of its range in the last step."""
        self._lower = np.array(profile.lower_rad)
        self._upper = np.array(profile.upper_rad)

    def step_free(self, torque_nm: FloatArray) -> None:
        """Move under a commanded torque, shape (7,), and the hand."""
        self.outside_nm = self.hand.torque_nm(self.q, self.dq)
        self.commanded_nm = torque_nm
        self.sensed_nm = torque_nm - FRICTION_NM_S * self.dq
        self.dq += (self.sensed_nm + self.outside_nm) * (TICK_S / INERTIA_KG_M2)
        self._move()
        self.goal[:] = self.q
        self.goal_speed[:] = self.dq
        self.goal_acceleration[:] = 0.0

    def step_towards(self, speed_rad_s: FloatArray, goal_rad: FloatArray) -> None:
        """Follow a moving goal by the robot's own controller, which the hand cannot bend."""
        self.outside_nm = self.hand.torque_nm(self.q, self.dq)
        self.goal_acceleration = (speed_rad_s - self.goal_speed) / TICK_S
        self.goal_speed = speed_rad_s
        self.goal = goal_rad
        wanted = speed_rad_s + (goal_rad - self.q) * FOLLOW_HZ
        change = (wanted - self.dq) * (FOLLOW_DAMPING_HZ * TICK_S)
        self.dq += change
        self.commanded_nm = self.sensed_nm = change * (INERTIA_KG_M2 / TICK_S) - self.outside_nm
        self._move()

    def step_held(self) -> None:
        """Brake to a stop and stay, whatever the hand does."""
        self.outside_nm = self.hand.torque_nm(self.q, self.dq)
        self.commanded_nm = np.zeros(JOINTS)
        self.sensed_nm = -self.outside_nm
        if not self.dq.any():
            return
        self.dq *= BRAKE_PER_TICK
        self.dq[np.abs(self.dq) < AT_REST_RAD_S] = 0.0
        self._move()
        self.rest_goal()

    def rest_goal(self) -> None:
        """Let the arm's goal be where it is."""
        self.goal = self.q.copy()
        self.goal_speed = np.zeros(JOINTS)
        self.goal_acceleration = np.zeros(JOINTS)

    def _move(self) -> None:
        self.q += self.dq * TICK_S
        beyond = (self.q > self._upper) | (self.q < self._lower)
        self.at_stop = bool(beyond.any())
        if self.at_stop:
            np.clip(self.q, self._lower, self._upper, out=self.q)
            self.dq[beyond] = 0.0
