"""The arm node: reads one arm, obeys one commander within the limits, tells what it let through.

It is the last line before the servos. Whatever goes wrong, the arm slows down within its
acceleration limit and holds: these arms have no brakes, so limp is not safe. The exceptions are
a leader that a person is guiding and a follower at rest in its sleep pose; these stay limp when
their commander goes silent.

A follower's commands are written as soon as they come (``drivers.arm.pace``). Without commands
the node reads and writes at its own ticks.

Modes (``ArmApplied.mode`` and the health's state):

- ``limp``: torque off; a leader is guided by hand, a follower rests (``drivers.arm.torque``);
- ``guide``: an arm that does the task itself is guided by hand; its gripper is commanded;
- ``observe``: an arm that is only read;
- ``hold``: nobody commands, or only the gripper is let go;
- ``ramp``: a new commander's pose is approached at a capped speed;
- ``follow``: commands are followed within the limits;
- ``stopped``: emergency stop;
- ``fault``: see ``drivers.arm.faults``.
"""

from __future__ import annotations

import logging
from dataclasses import asdict

import numpy as np

from drivers.arm.command_gate import CommandGate
from drivers.arm.faults import ArmFaults
from drivers.arm.pace import Pace
from drivers.arm.torque import GRIPPER_FREE, HELD, JOINTS_FREE, OFF, ArmTorque
from drivers.arm.voice import ArmVoice
from drivers.base import Arm, ArmReading
from drivers.dynamixel.leader_feel import feel_of
from drivers.registry import open_arm
from teleop import topics
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.limits import JointLimiter, Limited, Setpoint, limits_of
from teleop.messages import (
    GUIDE,
    LIMP,
    POSITION,
    ArmCommand,
    StopState,
)
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs, Received
from teleop.rig import Rig
from teleop.topics import Queue

log = logging.getLogger(__name__)

ENGAGED_WITHIN_RAD = 0.02
"""A ramp ends when every joint is this close to its command."""

HEALTH_POLL_HZ = 20.0
"""Rate of the slow round-robin read; nine servos come by in about half a second."""

RETRY_S = 1.0
"""Pause between attempts to open a lost arm again."""

STOPPED = "emergency stop engaged"


class ArmNode:
    """One arm of the rig.

    Args:
        name: The arm's name in the rig.
        rig: The rig description.
        arm: A connected arm.
        clock: Stamps what was written; the device boundary is here.
    """

    def __init__(self, name: str, rig: Rig, arm: Arm, clock: Clock) -> None:
        self.name = name
        self._arm = arm
        self._safety = rig.safety
        self._leads = name in rig.limp_arms
        self._watches = rig.arms[name].role == "observer"
        model = rig.arm_model(name)
        limits = limits_of(model, rig.safety)
        self._limiter = JointLimiter(limits)
        self._gate = CommandGate(
            limits.joint_names,
            None if self._leads else np.array(model.sleep_rad),
            ns_from_s(rig.safety.stale_command_s),
            rig.safety.engage_max_rad,
        )
        self._faults = ArmFaults(rig.safety)
        self._voice = ArmVoice(name, arm, clock)
        self._period_ns = ns_from_s(1 / rig.rates.arm_hz)
        self._poll_every = max(1, round(rig.rates.arm_hz / HEALTH_POLL_HZ))
        self._command = topics.arm_command(name)
        self.plan = NodePlan(
            period_ns=self._period_ns,
            subscriptions={self._command: Queue.LATEST, topics.SESSION_STOP: Queue.LATEST},
            publications=self._voice.publications,
            wake="tick" if self._leads else "input",
        )
        self.mode = "hold"
        self._reason = ""
        self._torque = ArmTorque(arm, self._leads, feel_of(name, rig))
        self._restart = False
        self._in_final_fault = False
        self._ramping = False
        self._ticks = 0
        self._pace = Pace(self._period_ns, rides=not self._leads)
        self._moved_ns: int | None = None  # None: the setpoint has just been put in place
        self._waiting: list[Received] = []
        self._doubtful = False  # the arm was silent: look at its torque before going on
        self._mend = False
        self._stop = False
        self._stop_heard_ns: int | None = None
        self._retry_ns = 0
        self._limited_ticks = dict.fromkeys(Limited, 0)

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Write what the commander being followed asks; at a tick read, decide, write, tell."""
        # So long a pause may have tripped the servos' watchdog: they stopped on the way.
        pause_ns = self._pace.pause_ns(now_ns)
        self._restart |= pause_ns > ns_from_s(0.9 * self._safety.bus_watchdog_s)
        self._hear_stop(inputs)
        self._waiting += inputs.received(self._command)
        outputs = self._follow_at_once(now_ns)
        wrote = bool(outputs)
        if self._pace.tick(now_ns, self._follows, wrote):
            outputs += self._tick(now_ns, wrote)
        return outputs

    @property
    def _follows(self) -> bool:
        return self.mode in ("ramp", "follow") and not self._stop

    def _tick(self, now_ns: int, wrote: bool) -> Outputs:
        """Read, decide, and write unless that is done."""
        self._ticks += 1
        if self._faults.lost and not self._reconnected(now_ns):
            self._decide(now_ns, None)
            return []
        outputs: Outputs = []
        if self._ticks % self._poll_every == 0:
            self._poll()  # Before the reading, which would grow old meanwhile.
        if (reading := self._read()) is not None:
            outputs += self._voice.reading(reading)
            if self._doubtful:
                self._poll()
        if self._mend and reading is not None:
            reading = self._mended()
        self._decide(now_ns, reading)
        if not wrote:
            outputs += self._move(now_ns, reading)
        self._help_hand(reading)
        return outputs

    def health(self, now_ns: int) -> NodeHealth:
        """Mode, why it holds, what was refused, and the arm's temperatures and counters."""
        # Limp is told when the torque is off, not when that is asked for.
        still_held = self.mode == "limp" and not self._torque.is_set
        return NodeHealth(
            ok=self.mode != "fault",
            state="hold" if still_held else self.mode,
            detail="; ".join(filter(None, (self._reason, self._gate.refusal(now_ns)))),
            values={
                "failed_reads": float(self._faults.failures),
                **{f"refused_{why}": float(n) for why, n in asdict(self._gate.counts).items()},
                **{
                    f"limited_{str(flag.name).lower()}_ticks": float(ticks)
                    for flag, ticks in self._limited_ticks.items()
                },
                **self._faults.values,
            },
        )

    def close(self) -> None:
        """Leave the arm as it is: a held arm holds on, a guided one stays limp."""
        self._arm.close()

    # -- reading ----------------------------------------------------------------------

    def _hear_stop(self, inputs: Inputs) -> None:
        for received in inputs.received(topics.SESSION_STOP):
            if isinstance(received.message, StopState):
                if self._stop and not received.message.engaged:
                    self._mend = self._faults.lasting  # The operator has looked.
                self._stop = received.message.engaged
                if self._stop:
                    self._gate.block(STOPPED, final=True)
                self._stop_heard_ns = received.arrival_ns

    def _session_silent(self, now_ns: int) -> bool:
        heard_ns = self._stop_heard_ns
        return heard_ns is None or now_ns - heard_ns > ns_from_s(self._safety.stop_silence_s)

    def _read(self) -> ArmReading | None:
        try:
            reading = self._arm.read()
        except DeviceError as error:
            self._failed(error)
            return None
        self._faults.bus_answered()
        return reading

    def _poll(self) -> None:
        try:
            self._faults.take(self._arm.poll_health())
            self._doubtful = False
        except DeviceError as error:
            self._failed(error)

    def _mended(self) -> ArmReading | None:
        """The operator's act: restart failed motors; they are to hold where they are then."""
        self._mend = False
        try:
            restarted = self._arm.reboot_failed()
        except DeviceError as error:
            self._failed(error)
            self._faults.not_mended(error)
            return None
        log.warning("%s: cleared by the operator; restarted: %s", self.name, restarted or "none")
        self._faults.mended()
        self._torque.hold_anew()
        return self._read()

    def _failed(self, error: DeviceError) -> None:
        """Note a failed access of the bus; the same words once, not every tick."""
        self._doubtful = True
        if self._faults.bus_failed(error):
            log.warning("%s: %s", self.name, error)
        if isinstance(error, DeviceLostError):
            self._torque.forget()

    def _reconnected(self, now_ns: int) -> bool:
        """Try, at a bounded rate, to open a lost arm again; it comes back holding, or at rest."""
        if now_ns < self._retry_ns:
            return False
        self._retry_ns = now_ns + ns_from_s(RETRY_S)
        try:
            self._arm.connect()
        except DeviceError as error:
            self._faults.still_lost(error)
            return False
        log.warning("%s: connected again", self.name)
        self._faults.found_again()
        if not self._torque.rests:
            self._torque.wanted = HELD
        self._doubtful = True
        return True

    # -- deciding ---------------------------------------------------------------------

    def _decide(self, now_ns: int, reading: ArmReading | None) -> None:
        """Choose the mode: a block first, then the command in force."""
        was, self._reason = self.mode, ""
        fault = self._faults.present()
        if fault is not None:
            self.mode, self._reason = "fault", fault.reason
            self._gate.block(fault.reason, fault.final)
        elif self._stop:
            self.mode, self._reason = "stopped", STOPPED
            self._torque.wanted = HELD
            self._gate.block(STOPPED, final=True)
        elif self._session_silent(now_ns):
            self._reason = "session silent"
            self._gate.block("session silent", final=False)
        else:
            self._gate.unblock()
        self._take_commands(now_ns, reading)
        if fault is None and not self._stop:
            self._obey()
        if self._in_final_fault and fault is None:
            self._torque.forget()  # Servos that recovered are to hold where they are now.
        self._in_final_fault = fault is not None and fault.final
        if was != self.mode:
            log.info("%s: %s -> %s %s", self.name, was, self.mode, self._reason)

    def _take_commands(self, now_ns: int, reading: ArmReading | None) -> None:
        waiting, self._waiting = self._waiting, []
        for received in waiting:
            if not isinstance(received.message, ArmCommand):
                continue
            measured = None if reading is None else reading.position_rad
            was_engaged = self._gate.engaged
            self._gate.offer(received.message, received.arrival_ns, now_ns, measured)
            if self._gate.engaged and not was_engaged:
                self._ramping = True
        self._gate.expire(now_ns)

    def _obey(self) -> None:
        command = self._gate.command
        if command is None:
            free = {OFF: "limp", JOINTS_FREE: "guide"}
            self.mode = "observe" if self._watches else free.get(self._torque.wanted, "hold")
        elif command.mode == POSITION:
            self._torque.wanted = HELD
            self.mode = "ramp" if self._ramping else "follow"
        else:
            wanted = {LIMP: (OFF, "limp"), GUIDE: (JOINTS_FREE, "guide")}
            self._torque.wanted, self.mode = wanted.get(command.mode, (GRIPPER_FREE, "hold"))

    # -- writing ----------------------------------------------------------------------

    def _follow_at_once(self, now_ns: int) -> Outputs:
        """Write a new command of the commander already followed; all else waits for the tick."""
        engaged = self._follows and self._gate.engaged and self._torque.is_set
        if self._leads or not self._waiting or not engaged or self._restart:
            return []
        if any(isinstance(m := r.message, ArmCommand) and m.mode == LIMP for r in self._waiting):
            return []  # To let go takes a reading.
        before = self._gate.command
        self._take_commands(now_ns, None)
        self._obey()
        if self._gate.command is before:
            return []
        return self._move(now_ns, None)

    def _move(self, now_ns: int, reading: ArmReading | None) -> Outputs:
        """Write the next setpoint and tell it; nothing when the arm is limp or did not take it."""
        if self._watches or not self._torque_is_set(now_ns, reading) or self._torque.wanted == OFF:
            return []
        if self._torque.wanted == JOINTS_FREE:
            return self._move_gripper(reading)
        if self._restart and reading is not None:
            self._put_setpoint(reading)
            self._restart = False
        dt_ns = self._period_ns if self._moved_ns is None else now_ns - self._moved_ns
        self._moved_ns = now_ns
        command = self._gate.command if self.mode in ("ramp", "follow") else None
        setpoint = self._shaped(command, dt_ns / 1e9)
        free = self._torque.wanted == GRIPPER_FREE
        try:
            self._arm.write(setpoint.position_rad, None if free else setpoint.gripper)
        except DeviceError as error:
            self._failed(error)
            return []
        for flag in setpoint.limited:
            self._limited_ticks[flag] += 1
        gripper = reading.gripper if free and reading is not None else setpoint.gripper
        return self._voice.applied(
            setpoint.position_rad, gripper, command, self.mode, setpoint.limited
        )

    def _move_gripper(self, reading: ArmReading | None) -> Outputs:
        """Of an arm guided by hand the gripper alone is commanded."""
        command = self._gate.command
        if reading is None or command is None:
            return []
        self._put_setpoint(reading)  # Where it begins when it is to hold again.
        opening = min(max(command.gripper, 0.0), 1.0)
        try:
            self._arm.write(reading.position_rad, opening)
        except DeviceError as error:
            self._failed(error)
            return []
        return self._voice.applied(reading.position_rad, opening, command, self.mode, Limited.NONE)

    def _help_hand(self, reading: ArmReading | None) -> None:
        """Of a leader with a feel: push as that says, and with nothing in a fault."""
        try:
            self._torque.help_hand(None if self.mode == "fault" else reading)
        except DeviceError as error:
            self._failed(error)

    def _put_setpoint(self, reading: ArmReading) -> None:
        """Begin anew, at rest, where the arm was measured."""
        self._limiter.reset(reading.position_rad, reading.gripper)
        self._moved_ns = None

    def _shaped(self, command: ArmCommand | None, dt_s: float) -> Setpoint:
        if command is None:
            return self._limiter.hold(dt_s)
        cap = self._safety.engage_velocity_rad_s if self._ramping else np.inf
        setpoint = self._limiter.limit(command.position_rad, command.gripper, dt_s, cap)
        if self._ramping:
            # A command beyond the range counts as reached at the range's end.
            limits = self._limiter.limits
            reachable = np.clip(command.position_rad, limits.min_rad, limits.max_rad)
            off = np.abs(setpoint.position_rad - reachable).max()
            self._ramping = bool(off > ENGAGED_WITHIN_RAD)
        return setpoint

    def _torque_is_set(self, now_ns: int, reading: ArmReading | None) -> bool:
        """Switch torque where it is not as wanted; begins from where the arm is measured."""
        if self._torque.is_set:
            return True
        # Where an arm lets go the gate has seen it; what is left on then needs no new look.
        if (reading is None and not self._torque.rests) or self._faults.lasting:
            return False
        if not self._torque.due(now_ns):
            return False
        try:
            self._torque.switch(now_ns)
        except DeviceError as error:
            self._failed(error)
            self._faults.torque_refused(error)
            return False
        self._faults.torque_obeyed()
        if reading is not None:
            self._put_setpoint(reading)
        return True


def build(name: str, context: NodeContext) -> ArmNode:
    """Open the arm and make its node.

    Raises:
        DeviceError: the arm does not pass its start-up checks.
    """
    arm = open_arm(name, context.rig, context.clock, context.world)
    arm.connect()
    return ArmNode(name, context.rig, arm, context.clock)
