"""One follower guided by one hand or one puck: from input messages to joint commands.

No sockets and no devices. Each tick of the arms the guide takes what its input has said, asks
the mapper where the tool is wanted, moves the tool's target there within the workspace and the
caps, and solves for the joints. What it commands goes through the same arm node and the same
limits as the command of a leader arm.

Nothing moves unless the clutch is closed (or the puck pushed) and the input is fresh; when that
ends, the joints brake as hard as their limits allow.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from teleop.commander import Pose
from teleop.errors import RigError
from teleop.messages import FloatArray, PoseInput, TwistInput
from teleop.pose_mapper import PoseMapper
from teleop.rig_cartesian import CartesianSettings
from teleop.rotations import ToolPose
from teleop.twist_mapper import TwistMapper
from teleop.workspace import Curb, ToolLimiter, approached

if TYPE_CHECKING:
    from teleop.kinematics import ArmKinematics
    from teleop.rig import ArmModel

Sample = TypeVar("Sample", PoseInput, TwistInput)

LATE_TICKS = 5
"""A pause of more ticks than this earns no further motion in the tick after it."""
SPEED_SHARE = 0.9
"""Of the joints' speed limits: what the arm's own limiter needs to catch up after it has smoothed
a sudden start."""
LEAD_M = 0.01
LEAD_RAD = 0.1
"""How far the tool's target may run ahead of where the joints have brought it: two ticks of the
caps. A target that waits for the arm does not make it rush when the way is free again."""
LIMITED_NS = 200_000_000
"""How long ``limited`` stays shown after the last limited tick, so that a cue does not flicker."""
AHEAD_NS = 50_000_000
"""A stamp may lie this far in the future: the error of a clock offset measured by ping."""
PENDING = 256
"""Messages kept between two ticks; over a second of the fastest device."""

CATCH = 0.1
"""A trigger this close to the gripper's opening, of its stroke, has caught it."""

PULSES = {"engaged": 0.3, "idle": 0.2, "limited": 0.6, "lost": 1.0}
"""Strength of the haptic pulse as a state begins."""


class CartesianGuide:
    """See the module.

    Args:
        follower: Name of the arm, for messages.
        rig_arm_model: The arm's model in the rig description.
        input_kind: ``pose`` for tracked hands, ``twist`` for rate devices.
        settings: How the input guides the tool.
        operator_yaw_rad: Where the operator looks, as a heading in the frame of the arm's base.
        period_s: The arms' tick.

    Raises:
        MissingExtraError: the packages for inverse kinematics are not installed.
        RigError: the arm's model names no kinematics.
        UnknownNameError: no such kinematic model, joint or tool.
    """

    def __init__(
        self,
        follower: str,
        rig_arm_model: ArmModel,
        input_kind: Literal["pose", "twist"],
        settings: CartesianSettings,
        operator_yaw_rad: float,
        period_s: float,
    ) -> None:
        self.follower = follower
        self._settings = settings
        self._longest_s = LATE_TICKS * period_s
        self._kinematics = _kinematics_of(follower, rig_arm_model, settings)
        # A puck at full deflection is at its cap, so that no lag is made up for beyond it.
        twist = input_kind == "twist"
        self._limiter = ToolLimiter(
            rig_arm_model.workspace,
            min(settings.speed_m_s, settings.puck.full_m_s if twist else math.inf),
            min(settings.rotation_rad_s, settings.puck.full_rad_s if twist else math.inf),
            settings.acceleration_m_s2,
            settings.rotation_rad_s2,
        )
        self._acceleration_rad_s2 = np.array(
            [
                joint.max_acceleration_rad_s2 or rig_arm_model.max_acceleration_rad_s2
                for joint in rig_arm_model.joints
            ]
        )
        self._hand = PoseMapper(settings, operator_yaw_rad) if input_kind == "pose" else None
        self._puck = TwistMapper(settings, operator_yaw_rad) if input_kind == "twist" else None
        self._trigger = input_kind == "pose" and settings.hand.gripper == "trigger"
        self._waiting: deque[PoseInput | TwistInput] = deque(maxlen=PENDING)
        joints = np.array(rig_arm_model.start_rad)
        self._last = Pose(joints, 0.0)
        self._target = self._goal = self._kinematics.forward(joints)
        self.begin(self._last, 0)

    @property
    def state(self) -> str:
        """``idle``, ``engaged``, ``limited`` or ``lost``, as ``InputCue`` has it."""
        return self._state

    @property
    def curb(self) -> Curb:
        """What limited the newest pose."""
        return self._curb

    @property
    def latches(self) -> int:
        """How often a hand was latched in this episode: presses, changes of scale, jumps."""
        return 0 if self._hand is None else self._hand.latches

    @property
    def target(self) -> ToolPose:
        """Where the tool was last asked to be, within all limits, in the base's frame."""
        return self._target

    def begin(self, pose: Pose, now_ns: int) -> None:
        """Start from the pose last commanded; a clutch that is held must be pressed anew."""
        if self._puck is not None:
            # A puck that is pushed now is not obeyed; one at rest is silent, so ask first.
            self._puck.follow(_of(TwistInput, self._fresh(now_ns)), now_ns, self._target, 0.0)
            self._puck.begin(now_ns)
        if self._hand is not None:
            self._hand.begin(now_ns)
        self._waiting.clear()
        self._last = pose
        self._velocity = np.zeros_like(pose.position_rad)
        self._limiter.stop()
        self._kinematics.prefer(pose.position_rad)
        self._target = self._goal = self._kinematics.forward(pose.position_rad)
        self._gripper_goal = pose.gripper
        self._pull: float | None = None
        self._caught = False
        self._tick_ns = now_ns
        self._limited_ns = now_ns - LIMITED_NS
        self._curb = Curb.NONE
        self._state = "idle"
        self._pulse = 0.0
        self.origin_ns = 0
        """Stamp of the input that the newest pose came from; 0 while none moves the arm."""

    def take(self, message: PoseInput | TwistInput) -> None:
        """Keep what the input said until the next tick."""
        self._waiting.append(message)

    def pose(self, now_ns: int) -> Pose:
        """The command of this tick; the same as before while nothing is to move."""
        dt_s = min(max((now_ns - self._tick_ns) / 1e9, 0.0), self._longest_s)
        self._tick_ns = now_ns
        wanted, engaged, lost, stamp_ns = self._asked(now_ns, dt_s)
        gripper = self._gripper(wanted is not None, dt_s)
        self._curb = Curb.NONE
        joints = self._last.position_rad
        if wanted is None:
            joints = self._braked(joints, dt_s)
            self._target = self._goal = self._kinematics.forward(joints)
            self._limiter.stop()
            self.origin_ns = 0
        else:
            joints = self._moved(wanted, joints, dt_s)
            self.origin_ns = stamp_ns
        if dt_s > 0.0:
            self._velocity = (joints - self._last.position_rad) / dt_s
        if self._curb:
            self._limited_ns = now_ns
        self._show(engaged, lost, now_ns)
        self._last = Pose(joints, gripper)
        return self._last

    def pulse(self) -> float:
        """The strongest haptic cue since this was last asked for, 0 (none) ... 1."""
        pulse, self._pulse = self._pulse, 0.0
        return pulse

    def toggle_gripper(self) -> None:
        """Open a gripper that is nearer to closed, close the other; not where a trigger does."""
        if not self._trigger:
            self._gripper_goal = 0.0 if self._gripper_goal > 0.5 else 1.0

    def _asked(self, now_ns: int, dt_s: float) -> tuple[ToolPose | None, bool, bool, int]:
        """Where the tool is wanted, whether engaged, whether lost, and the input's stamp."""
        samples = self._fresh(now_ns)
        if self._hand is not None:
            wanted = self._hand.follow(_of(PoseInput, samples), now_ns, self._target)
            return wanted, self._hand.engaged, self._hand.lost, self._hand.origin_ns
        assert self._puck is not None
        wanted = self._puck.follow(_of(TwistInput, samples), now_ns, self._goal, dt_s)
        return wanted, self._puck.engaged, self._puck.lost, self._puck.origin_ns

    def _fresh(self, now_ns: int) -> list[PoseInput | TwistInput]:
        """What came since the last tick and is not too old to act on, or from the future."""
        oldest = now_ns - round(self._settings.hold_s * 1e9)
        fresh = [m for m in self._waiting if oldest <= m.stamp_ns <= now_ns + AHEAD_NS]
        self._waiting.clear()
        return fresh

    def _braked(self, joints: FloatArray, dt_s: float) -> FloatArray:
        """The joints one tick later, as they come to rest.

        As quickly as the arm's own limits can follow: a command that stopped dead would be
        overshot, and the arm would then come back to it.
        """
        slowest_s = float(np.max(np.abs(self._velocity) / self._acceleration_rad_s2))
        if slowest_s <= dt_s:
            return joints
        step = self._velocity * (1.0 - dt_s / slowest_s) * dt_s
        return self._kinematics.kept(joints, joints + step)

    def _moved(self, wanted: ToolPose, joints: FloatArray, dt_s: float) -> FloatArray:
        """The joints after one tick towards where the tool is wanted."""
        if dt_s <= 0.0:
            return joints
        target, self._curb = self._limiter.step(self._target, wanted, dt_s)
        joints = self._kinematics.solve(target, joints, dt_s)
        reached = self._kinematics.forward(joints)
        self._target, behind = approached(reached, target, LEAD_M, LEAD_RAD)
        # A puck integrates onto this; kept near, so that it does not wind up.
        self._goal = approached(self._target, wanted, LEAD_M, LEAD_RAD)[0]
        if behind:
            self._curb |= Curb.REACH
        return joints

    def _gripper(self, moving: bool, dt_s: float) -> float:
        opening = self._last.gripper
        if self._trigger and self._hand is not None:
            return self._pulled(1.0 - self._hand.trigger, opening, moving)
        step = self._settings.gripper_rate_1_s * dt_s
        return opening + min(max(self._gripper_goal - opening, -step), step)

    def _pulled(self, wanted: float, opening: float, moving: bool) -> float:
        """What the trigger asks for, once it has passed where the gripper was left.

        Until then a closed gripper stays closed: a finger that relaxed while the clutch was open
        must not drop what is held.
        """
        before, self._pull = self._pull, wanted
        if not moving:
            self._caught = False
            return opening
        passed = before is not None and (before - opening) * (wanted - opening) <= 0.0
        self._caught |= passed or abs(wanted - opening) < CATCH
        return wanted if self._caught else opening

    def _show(self, engaged: bool, lost: bool, now_ns: int) -> None:
        state = "idle"
        if lost or (engaged and self.origin_ns == 0):
            state = "lost"
        elif engaged:
            state = "limited" if now_ns - self._limited_ns < LIMITED_NS else "engaged"
        released = (self._state, state) == ("limited", "engaged")
        if state != self._state and not released:
            self._pulse = max(self._pulse, PULSES[state])
        self._state = state


def _of(kind: type[Sample], messages: Iterable[PoseInput | TwistInput]) -> list[Sample]:
    """The messages of one kind."""
    return [message for message in messages if isinstance(message, kind)]


def _kinematics_of(follower: str, model: ArmModel, settings: CartesianSettings) -> ArmKinematics:
    """The kinematics that a rig description gives an arm of this model."""
    # Not at the top: rigs without Cartesian teleoperation do without these packages.
    from teleop.kinematics import ArmKinematics

    if model.kinematics is None:
        raise RigError(
            follower, ["the arm's model names no kinematics, so no input can guide its tool"]
        )
    return ArmKinematics.of(
        model,
        SPEED_SHARE,
        workspace=model.workspace,
        speed_m_s=settings.speed_m_s,
        rotation_rad_s=settings.rotation_rad_s,
    )
