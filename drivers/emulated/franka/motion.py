"""What the emulated Franka does with commands: modes, motions, reflexes.

Follows the client side of the vendor's library and its documentation: one command per
millisecond while a motion runs, lost ones bridged and after twenty fatal, torques and goals
checked, collisions by the thresholds that the client set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from drivers.emulated.franka.arm import TICK_S, EmulatedArm
from drivers.emulated.franka.model import IDENTITY, Transform, jacobian, pose_at
from drivers.emulated.franka.profile import (
    COLLISION_BEHAVIOR,
    ERRORS,
    JOINTS,
    TORQUE_COLLISION,
    TORQUE_CONTACT,
    TORQUE_LIMIT_NM,
    Controller,
    Generator,
    Profile,
    RobotMode,
)
from teleop.messages import FloatArray

MAX_LOST = 20
"""Commands in a row that may be lost before the robot stops."""
SUCCESS_WINDOW = 100
"""Commands over which the success rate is taken."""
TORQUE_STEP_NM = 1.0 + 1e-3
"""Largest change of a torque per millisecond: 1000 N m/s, and what a float32 may add."""
START_ERROR_RAD = 0.05
"""How far from the arm a joint position motion may begin."""
SPEED_MARGIN = 1.05
COLLISION_NM = 20.0
"""Collision threshold until the client sets one."""
IK_DAMPING = 1e-4
POSE_GAIN = 0.5
"""Share of a commanded pose's distance that is covered per millisecond."""

Command = Any
"""A record of the profile's ``command_type``."""


class MotionControl:
    """The robot's modes and its motion; ``step`` is one millisecond.

    Args:
        profile: the interface's version.
        arm: what moves.
        tool: end effector in the flange frame.
    """

    def __init__(self, profile: Profile, arm: EmulatedArm, tool: Transform = IDENTITY) -> None:
        self.mode = RobotMode.IDLE
        self.generator = Generator.IDLE
        self.controller = Controller.OTHER
        self.errors: frozenset[str] = frozenset()
        self.last_motion_errors: frozenset[str] = frozenset()
        self.outcome: str | None = None
        """How a motion ended, for whoever has to tell the client; a ``move_status``."""
        self.contact_nm = np.full(JOINTS, COLLISION_NM)
        self.collision_nm = np.full(JOINTS, COLLISION_NM)
        self.collided = np.zeros(JOINTS)
        """1 for the joints that raised the last collision, shape (7,)."""
        self.tool = tool
        self.commanded_pose: Transform = IDENTITY
        """The last Cartesian goal; of use while the generator is Cartesian."""
        self.commanded_twist = self.commanded_acceleration = np.zeros(6)
        self.lost_total = 0
        self._profile = profile
        self._arm = arm
        self._command: Command = None
        self._is_first = True
        self._lost = 0
        self._received: deque[int] = deque(maxlen=SUCCESS_WINDOW)
        self._speed_limit = np.array(profile.velocity_limit_rad_s) * SPEED_MARGIN

    @property
    def is_commanded(self) -> bool:
        """Whether a motion runs and the client has begun to send commands."""
        return self.mode is RobotMode.MOVE and self._command is not None

    @property
    def yields_to_hand(self) -> bool:
        """Whether pushing the arm moves it."""
        return self.mode is RobotMode.GUIDING or (
            self.mode is RobotMode.MOVE and self.controller is Controller.EXTERNAL
        )

    @property
    def success_rate(self) -> float:
        """Share of the last commands that arrived; 0 while no motion runs."""
        if self.mode is not RobotMode.MOVE or not self._received:
            return 0.0
        return sum(self._received) / len(self._received)

    def begin(self, controller: int, generator: int) -> str:
        """Start a motion; the ``move_status`` to answer at once."""
        if self.mode is RobotMode.USER_STOPPED:
            return "user_stop"
        if self.mode is not RobotMode.IDLE:
            return "not_possible"
        try:
            self.controller = Controller(controller)
            self.generator = self._profile.generator_of(generator)
        except ValueError:
            self._rest()
            return "invalid"
        self.mode = RobotMode.MOVE
        self.last_motion_errors = frozenset()
        self._command, self._is_first, self._lost = None, True, 0
        self._received.clear()
        self._arm.rest_goal()
        self.commanded_pose = pose_at(self._arm.goal.tolist(), self.tool).end_effector
        return "started"

    def end(self, outcome: str, mode: RobotMode = RobotMode.IDLE) -> None:
        """End the motion if one runs, and go to ``mode``."""
        if self.mode is RobotMode.MOVE:
            self.outcome = outcome
        self.mode = mode
        self._rest()

    def reflex(self, error: str) -> None:
        """Stop at once for an error, one of ``ERRORS``, as the robot does by itself."""
        if error not in ERRORS:
            raise ValueError(f"no such error flag: {error!r}; known: {', '.join(ERRORS)}")
        self.errors = self.last_motion_errors = frozenset({error})
        self.end("reflex", RobotMode.REFLEX)

    def user_stop(self, pressed: bool) -> None:
        """The user stop is pressed or released."""
        if pressed:
            self.end("user_stop", RobotMode.USER_STOPPED)
        elif self.mode is RobotMode.USER_STOPPED:
            self.mode = RobotMode.REFLEX if self.errors else RobotMode.IDLE

    def recover(self) -> str:
        """Clear a reflex; a ``recovery_status``."""
        if self.mode not in (RobotMode.REFLEX, RobotMode.IDLE):
            return "not_possible"
        self.mode = RobotMode.IDLE
        self.errors = frozenset()
        self.collided = np.zeros(JOINTS)
        return "success"

    def set_collision_behavior(self, payload: bytes) -> None:
        """Take thresholds as they come over the wire."""
        thresholds = COLLISION_BEHAVIOR.unpack(payload)
        self.contact_nm = np.array(thresholds[TORQUE_CONTACT])
        self.collision_nm = np.array(thresholds[TORQUE_COLLISION])

    def step(self, command: Command) -> None:
        """One millisecond.

        Args:
            command: what came from the client, None if nothing did.
        """
        if self.mode is RobotMode.MOVE:
            self._step_motion(command)
        elif self.mode is RobotMode.GUIDING:
            self._arm.step_free(np.zeros(JOINTS))
        else:
            self._arm.step_held()

    def _step_motion(self, command: Command) -> None:
        missed = self._lost
        if command is not None:
            self._command, self._lost = command, 0
            self._received.append(1)
        elif self._command is not None:
            self._lost += 1
            self.lost_total += 1
            self._received.append(0)
        if self._command is None:
            self._arm.step_held()
        elif self._lost >= MAX_LOST:
            self.reflex("communication_constraints_violation")
        elif self._is_finished():
            self.end("success")
        else:
            error = self._obey(command, missed) or self._overload()
            self._is_first = False
            if error:
                self.reflex(error)

    def _is_finished(self) -> bool:
        return bool(
            self._command["motion_finished"]
            or (self._profile.torque_finished and self._command["torque_finished"])
        )

    def _obey(self, command: Command, missed: int) -> str | None:
        """Move the arm by the command in force; an error flag if it is not acceptable."""
        if self.controller is Controller.EXTERNAL:
            return self._obey_torque(command, missed)
        if command is None:
            # As the robot does: a lost goal is continued at the last speed.
            speed = self._arm.goal_speed
            self._arm.step_towards(speed, self._arm.goal + speed * TICK_S)
            return None
        if self.generator is Generator.JOINT_POSITION:
            goal = np.array(command["q"])
            speed = (goal - self._arm.goal) / (TICK_S * (1 + missed))
            if self._is_first and np.abs(goal - self._arm.goal).max() > START_ERROR_RAD:
                return "joint_position_motion_generator_start_pose_invalid"
        else:
            if self.generator is Generator.JOINT_VELOCITY:
                speed = np.array(command["dq"])
            else:
                speed = self._joint_speed_of(command)
            goal = self._arm.goal + speed * TICK_S
        if (np.abs(speed) > self._speed_limit).any():
            return "joint_motion_generator_velocity_limits_violation"
        self._arm.step_towards(speed, goal)
        return None

    def _obey_torque(self, command: Command, missed: int) -> str | None:
        if command is None:
            self._arm.step_free(self._arm.commanded_nm)
            return None
        torque = np.array(command["torque"])
        step = np.abs(torque - self._arm.commanded_nm).max()
        if not self._is_first and step > TORQUE_STEP_NM * (1 + missed):
            return "controller_torque_discontinuity"
        if (np.abs(torque) > TORQUE_LIMIT_NM).any():
            return "tau_j_range_violation"
        self._arm.step_free(torque)
        if (np.abs(self._arm.dq) > self._speed_limit).any():
            return "joint_velocity_violation"
        return None

    def _joint_speed_of(self, command: Command) -> FloatArray:
        """Joint speeds for a Cartesian command, by damped least squares."""
        pose = pose_at(self._arm.goal.tolist(), self.tool)
        if self.generator is Generator.CARTESIAN_VELOCITY:
            twist = commanded_twist = np.array(command["twist"])
        else:
            twist = shift_between(pose.end_effector, command["pose"]) * (POSE_GAIN / TICK_S)
            commanded_twist = shift_between(self.commanded_pose, command["pose"]) / TICK_S
            self.commanded_pose = tuple(command["pose"])
        self.commanded_acceleration = (commanded_twist - self.commanded_twist) / TICK_S
        self.commanded_twist = commanded_twist
        j = jacobian(pose)
        speed: FloatArray = j.T @ np.linalg.solve(j @ j.T + IK_DAMPING * np.eye(6), twist)
        return speed

    def _overload(self) -> str | None:
        """What the hand and the joint ends make of it."""
        if self._arm.at_stop:
            return "joint_position_limits_violation"
        collision = np.abs(self._arm.outside_nm) > self.collision_nm
        if collision.any():
            self.collided = collision.astype(float)
            return "joint_reflex"
        return None

    def _rest(self) -> None:
        self.generator, self.controller = Generator.IDLE, Controller.OTHER
        self._command = None
        self.commanded_twist = self.commanded_acceleration = np.zeros(6)


def shift_between(start: Sequence[float], end: Sequence[float]) -> FloatArray:
    """Small displacement (linear, then angular) from one transform to another, shape (6,)."""
    now, wanted = np.reshape(start, (4, 4)).T, np.reshape(end, (4, 4)).T
    turn = wanted[:3, :3] @ now[:3, :3].T
    angle = (turn - turn.T)[[2, 0, 1], [1, 2, 0]] / 2
    return np.concatenate([wanted[:3, 3] - now[:3, 3], angle])
