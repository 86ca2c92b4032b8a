"""Franka arms: guided by hand, commanded, or only watched.

Whether guided or holding, one impedance controller runs without a break, so that the robot's
1 kHz states come whole: holding is a spring at a pose, guiding the same without spring. When
our control ends the robot holds by its own, and when that ends too its brakes close: to stop is
safe, unlike with arms of servos. Nothing but ``reboot_failed``, which the operator asks for,
clears a reflex or lets the arm move again after a user stop.

Tested against protocol emulators only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from drivers.base import ArmReading, DeviceHealth, TraceSample
from drivers.franka.aim import Aim
from drivers.franka.gripper import FrankaHand
from drivers.franka.link import FrankaLink, Gains, JointRanges, Settings, free
from drivers.franka.session import FrankaSession
from drivers.franka.trace import TraceRing
from drivers.franka.words import Outcome, lost, motion_end, reflex, refusal, too_fast, user_stop
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.limits import ArmLimits, check_command
from teleop.messages import FloatArray
from teleop.rig_franka import FrankaArm, FrankaArmModel

log = logging.getLogger(__name__)

T = TypeVar("T")

JOINT_MARGIN_RAD = 0.1
"""Commands keep this far from the robot's own joint limits: at the limits it stops by reflex."""
TORQUE_LIMIT_NM = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
"""Of both robots (https://frankarobotics.github.io/docs/control_parameters.html)."""
SPRING_SHARE, DAMPER_SHARE = 0.5, 0.4
"""Of a joint's torque, what the spring and the damper may ask for: together less than all."""
LEAST_DAMPING = 1e-3
FIRST_STATE_S = 1.0
POLL_NS = 1_000_000
STATE_AGE_S = 0.25
"""Older states are no reading; a healthy robot sends one each millisecond."""
RECOVERY_S = 3.0
"""After a recovery the next states may still say reflex."""
LOW_SUCCESS_RATE = 0.95
"""Below this share of commands in time the robot is not far from stopping by itself."""
SETTLED_S = 1.0
"""The success rate counts the last 100 commands; before, control has just begun."""
REST, HOLD, GUIDE, LET_GO = "rest", "hold", "guide", "let_go"
"""Not controlled by us; at a spring; free; stopped since nobody commanded."""


class FrankaArmDriver:
    """One Franka; see ``drivers.base.Arm`` and ``TracingArm``.

    Effort is the measured joint torque, N m.

    Args:
        name: The arm's name in the rig.
        arm: Its description.
        model: The description of its kind.
        clock: Stamps the arrival of states and commands.
    """

    def __init__(self, name: str, arm: FrankaArm, model: FrankaArmModel, clock: Clock) -> None:
        self.name = name
        self.joint_names = tuple(joint.name for joint in model.joints)
        self.has_gripper = model.gripper is not None
        self._arm = arm
        self._model = model
        self._clock = clock
        self._guided = arm.role == "kinesthetic"
        self._watches = arm.role == "observer"
        self._held = Gains(
            np.array(arm.joint_stiffness_nm_rad), np.array(arm.joint_damping_nms_rad)
        )
        self._free = free(np.array(arm.guiding_damping_nms_rad))
        self._stop_ns = ns_from_s(arm.deadman_stop_s)
        self._ring = TraceRing()
        self._leash = (
            SPRING_SHARE * TORQUE_LIMIT_NM / self._held.stiffness_nm_rad,
            DAMPER_SHARE * TORQUE_LIMIT_NM / np.maximum(self._held.damping_nms_rad, LEAST_DAMPING),
        )
        self._aim = Aim(self._limits(None), arm.deadman_hold_s, self._leash)
        self._settings: Settings | None = None
        self._session: FrankaSession | None = None
        self._hand: FrankaHand | None = None
        self._drive = REST
        self._began_ns = 0
        self._trouble: Outcome | None = None
        self._mode = ""
        self._success_rate = 0.0
        self._deadman_stops = 0

    # Coming and going.

    def connect(self) -> None:
        """See ``drivers.base.Arm``. Takes at most a few seconds, whatever answers."""
        if self._session is None or not self._session.is_opening:
            self.close()
            self._ring.restart()
            self._drive, self._trouble = REST, None
            self._session = FrankaSession(self.name, self._arm.address, self._link(), self._look)
        try:
            self._session.open()
            self._session.ask(self._bring_up)
            if self._model.gripper is not None and not self._watches:
                self._hand = FrankaHand(
                    self.name, self._arm.address, self._model.gripper, self._link().open_hand
                )
                self._hand.open()
        except BaseException:
            if not self._session.is_opening:  # Else the next attempt waits on.
                self.close()
            raise

    def _link(self) -> FrankaLink:
        arguments = (self.name, self._arm.address, self._ring, self._clock)
        if self._model.robot == "panda":
            from drivers.franka.panda_link import PandaLink

            return PandaLink(*arguments)
        from drivers.franka.franky_link import FrankyLink

        return FrankyLink(*arguments)

    def _bring_up(self, link: FrankaLink) -> None:
        link.refresh()
        arm, ranges = self._arm, link.ranges()
        limits = self._limits(ranges)
        self._aim = Aim(limits, arm.deadman_hold_s, self._leash)
        self._settings = Settings(
            arm.collision_torque_nm if self._guided else arm.follower_collision_torque_nm,
            arm.collision_force_n if self._guided else arm.follower_collision_force_n,
            arm.load,
            arm.wall if self._guided else None,
            np.maximum([j.min_rad for j in self._model.joints], ranges.min_rad),
            np.minimum([j.max_rad for j in self._model.joints], ranges.max_rad),
        )
        self._look(link)

    def close(self) -> None:
        """See ``drivers.base.Arm``: our control ends gently, the robot holds by its own."""
        if self._hand is not None:
            self._hand.close()
            self._hand = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def _limits(self, ranges: JointRanges | None) -> ArmLimits:
        """Of commands: the model's, and the robot's own with a margin."""
        model, joints = self._model, self._model.joints
        low, high = np.array([j.min_rad for j in joints]), np.array([j.max_rad for j in joints])
        speed = np.array([j.max_velocity_rad_s or model.max_velocity_rad_s for j in joints])
        acceleration = np.array(
            [j.max_acceleration_rad_s2 or model.max_acceleration_rad_s2 for j in joints]
        )
        if ranges is not None:
            low = np.maximum(low, ranges.min_rad + JOINT_MARGIN_RAD)
            high = np.minimum(high, ranges.max_rad - JOINT_MARGIN_RAD)
            speed = np.minimum(speed, ranges.max_velocity_rad_s)
        return ArmLimits(self.joint_names, low, high, speed, acceleration, np.inf, None)

    # The control loop.

    def read(self) -> ArmReading:
        """See ``drivers.base.Arm``: the newest state, without waiting."""
        self._check()
        age_s = (self._clock.now_ns() - self._ring.newest_arrival_ns) / 1e9
        if age_s > STATE_AGE_S:
            raise DeviceError(f"{self.name}: no state for {age_s:.2f} s; check cable and load")
        newest = self._ring.newest()
        return ArmReading(
            newest.stamp_ns,
            newest.position_rad,
            newest.velocity_rad_s,
            newest.torque_nm,
            None if self._hand is None else self._hand.opening,
            None,
            None,
        )

    def trace(self) -> Sequence[TraceSample]:
        """See ``drivers.base.TracingArm``. Whole while our control runs; else as read."""
        return self._ring.take()

    def write(self, position_rad: FloatArray, gripper: float | None) -> None:
        """See ``drivers.base.Arm``. Goals beyond the limits go to the limit, at limited speed.

        Raises:
            SafetyError: a goal is not a finite number, or their count is wrong.
            DeviceError: the robot takes no commands; or nobody had commanded for so long that it
                was stopped, in which case it holds and may be commanded again.
            DeviceLostError: the connection is gone.
        """
        check_command(self.joint_names, position_rad, 0.0 if gripper is None else gripper)
        self._check()
        if self._watches:
            return
        if gripper is not None and self._hand is not None:
            self._hand.want(gripper)
        if self._drive == HOLD:
            self._aim.set(np.array(position_rad), self._clock.now_ns())
        elif self._drive == LET_GO:
            self._ask(lambda link: self._take(link, HOLD))
            raise DeviceError(
                f"{self.name}: nobody commanded for {self._arm.deadman_stop_s:g} s, so it was "
                "stopped; it holds where it is and may be commanded again"
            )
        elif self._drive == REST and self._trouble is not None:
            raise DeviceError(self._trouble.words)

    # Torque.

    def set_torque(self, joints: bool, gripper: bool) -> None:
        """See ``drivers.base.Arm``: hold here; or be guided, or for a follower stop.

        An observer does neither; the hand has no torque to switch.

        Raises:
            DeviceError: the robot takes no commands; the words say why.
            DeviceLostError: the connection is gone.
        """
        self._check()
        if self._watches:
            return
        if joints or self._guided:
            self._ask(lambda link: self._take(link, HOLD if joints else GUIDE))
        else:
            self._ask(self._rest)

    def torque_off(self) -> list[str]:
        """See ``drivers.base.Arm``: a Franka has brakes, so its motion is stopped."""
        try:
            self._ask(self._rest)
        except DeviceError as error:
            return [str(error)]
        return []

    def reboot_failed(self) -> list[str]:
        """See ``drivers.base.Arm``: recover from a reflex or a released user stop."""
        return self._ask(self._recover)

    def poll_health(self) -> DeviceHealth:
        """See ``drivers.base.Arm``. Reflexes and user stops last until ``reboot_failed``."""
        self._check()
        hand, trouble, mode = self._hand, self._trouble, self._mode
        values = {
            "control_command_success_rate": self._success_rate,
            "missing_states": float(self._ring.missing + self._ring.overrun),
            "deadman_stops": float(self._deadman_stops),
        }
        if hand is not None and hand.state is not None:
            values["gripper_temperature_c"] = hand.state.temperature_c
        if trouble is not None:
            return DeviceHealth(False, trouble.words, values, lasting=True)
        if self._watches:
            return DeviceHealth(True, f"mode {mode}", values)
        if mode not in ("idle", "move"):
            return DeviceHealth(False, refusal(self.name, mode, ()).words, values)
        if hand is not None and hand.trouble:
            return DeviceHealth(False, hand.trouble, values)
        return DeviceHealth(True, self._warning(), values)

    def _warning(self) -> str:
        since_ns = self._clock.now_ns() - self._began_ns
        settled = self._drive in (HOLD, GUIDE) and since_ns > ns_from_s(SETTLED_S)
        if settled and self._success_rate < LOW_SUCCESS_RATE:
            return (
                f"{self.name}: only {self._success_rate:.0%} of the commands reach the robot in "
                "time; it stops after 20 missed in a row"
            )
        return ""

    # On the session's thread.

    def _look(self, link: FrankaLink) -> None:
        """What is done all the time: aim, watch, and notice an end."""
        if self._ring.is_empty:
            return
        status = link.status()
        self._mode, self._success_rate = status.mode, status.success_rate
        if link.in_control:
            if self._drive == HOLD:
                self._steer(link)
            elif self._drive == GUIDE:
                self._watch_speed(link)
        elif self._drive in (HOLD, GUIDE):
            self._ended(link.end_of_control())
        elif self._trouble is None and not self._watches:
            if status.mode == "reflex":
                self._latch(reflex(self.name, status.flags))
            elif status.mode == "user_stopped":
                self._latch(user_stop(self.name))

    def _steer(self, link: FrankaLink) -> None:
        now_ns = self._clock.now_ns()
        if self._aim.silence_ns(now_ns) > self._stop_ns:
            log.warning("%s: nobody commands; stopping", self.name)
            self._deadman_stops += 1
            self._drive = LET_GO
            link.soft_stop()
            return
        newest = self._ring.newest()
        measured = newest.position_rad, newest.velocity_rad_s
        link.aim(*self._aim.step(newest.robot_ms, now_ns, *measured))

    def _watch_speed(self, link: FrankaLink) -> None:
        speeds = np.abs(self._ring.newest().velocity_rad_s)
        worst = int(speeds.argmax())
        cap = self._arm.guiding_max_velocity_rad_s
        if speeds[worst] > cap:
            self._latch(too_fast(self.name, self.joint_names[worst], float(speeds[worst]), cap))
            link.soft_stop()

    def _ended(self, text: str) -> None:
        outcome = motion_end(self.name, text)
        if outcome.is_loss:
            raise DeviceLostError(outcome.words)
        self._latch(outcome)

    def _latch(self, outcome: Outcome) -> None:
        log.warning("%s", outcome.words)
        self._drive, self._trouble = REST, outcome

    def _take(self, link: FrankaLink, drive: str) -> None:
        """Hold here, or be free; begins to control where we do not."""
        if self._trouble is not None:
            raise DeviceError(self._trouble.words)
        gains = self._held if drive == HOLD else self._free
        if link.in_control and self._drive in (HOLD, GUIDE):
            here = self._here()
            link.aim(here, np.zeros_like(here))
            link.set_gains(gains)
        else:
            link.soft_stop()
            link.refresh()
            status = link.status()
            if status.mode != "idle":
                raise DeviceError(refusal(self.name, status.mode, status.flags).words)
            if self._settings is not None:
                link.configure(self._settings)
            link.start(self._here(), gains)
            self._began_ns = self._clock.now_ns()
            self._await_control(link)
        self._drive = drive

    def _await_control(self, link: FrankaLink) -> None:
        """Until its first state is there; an end is noticed by the next look."""
        deadline_ns = self._began_ns + ns_from_s(FIRST_STATE_S)
        while not self._ring.in_control and link.in_control:
            if self._clock.now_ns() > deadline_ns:
                link.soft_stop()  # Else it might yet begin, with nobody watching.
                raise DeviceError(f"{self.name}: control does not begin; look at Desk")
            self._clock.sleep_until_ns(self._clock.now_ns() + POLL_NS)
            link.refresh()

    def _here(self) -> FloatArray:
        """The measured pose, where the aim begins anew."""
        here = np.array(self._ring.newest().position_rad)
        self._aim.reset(here, self._ring.newest_ms)
        return here

    def _rest(self, link: FrankaLink) -> None:
        self._drive = REST
        link.soft_stop()

    def _recover(self, link: FrankaLink) -> list[str]:
        cleared = [] if self._trouble is None else [f"{self.name} ({self._trouble.name})"]
        link.soft_stop()
        self._drive = REST  # Also where what follows fails.
        link.refresh()
        if link.status().mode == "user_stopped":
            raise DeviceError(user_stop(self.name).words)
        if link.status().mode == "reflex":
            link.recover()
        deadline_ns = self._clock.now_ns() + ns_from_s(RECOVERY_S)
        while (status := link.status()).mode != "idle":
            if self._clock.now_ns() > deadline_ns:
                raise DeviceError(refusal(self.name, status.mode, status.flags).words)
            link.refresh()
        self._drive, self._trouble, self._mode = REST, None, status.mode
        return cleared

    # Details.

    def _check(self) -> FrankaSession:
        if self._session is None or self._session.is_opening:
            raise DeviceLostError(lost(self.name, "not connected").words)
        self._session.check()
        return self._session

    def _ask(self, action: Callable[[FrankaLink], T]) -> T:
        return self._check().ask(action)
