"""Who may command an arm now, and which of its commands is in force.

One lease at a time: the first valid command takes it, another's are refused until the holder
has been silent for as long as a command lives. A lease can be ended for good (emergency stop,
fault); its commander must take a new one, so that nothing moves again by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from teleop.clock import ns_from_s
from teleop.commander import ENGAGE_REFUSED
from teleop.errors import SafetyError
from teleop.limits import check_command
from teleop.messages import GUIDE, LIMP, LIMP_GRIPPER, POSITION, ArmCommand, FloatArray

REST_TOLERANCE_RAD = 0.15
"""How far from its sleep pose a follower's joint may be when its torque goes. These arms have no
brakes: anywhere else the arm falls. A joint that holds by a proportional gain is a few hundredths
off under gravity; from 0.15 rad (9 degrees) the arm settles onto its stand by a few centimetres.
"""

REFUSAL_SHOWN_S = 2.0
"""How long a refusal is told, so that a slow reader of heartbeats sees it."""

REMEMBERED_LEASES = 64
"""Ended leases that are kept in mind; a commander uses one per episode."""


@dataclass(slots=True)
class GateCounts:
    """What was turned away since the start."""

    stale: int = 0
    leases: int = 0
    """Commands of another lease than the holder's, or of one that was ended."""
    invalid: int = 0
    """NaN, wrong shape, unknown mode, a mode that this arm may not take, or not here."""
    engagements: int = 0
    blocked: int = 0
    """Commands while the arm takes none: stopped, fault, session silent."""


class CommandGate:
    """Lets commands of one arm in or refuses them, with a reason in words.

    Args:
        joint_names: The arm's joints.
        rest_rad: The only pose in which the arm may let go, shape (J,): a follower's sleep
            pose. None for an arm that a person holds: it may go limp anywhere.
        stale_ns: How long a command lives after it arrived.
        engage_max_rad: How far a first command may be from the measured pose.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        rest_rad: FloatArray | None,
        stale_ns: int,
        engage_max_rad: float,
    ) -> None:
        self.command: ArmCommand | None = None
        """The command in force."""
        self.holder = ""
        """Lease of the commander obeyed now; empty when there is none."""
        self.engaged = False
        """Whether the holder's pose has been compared with the arm's and accepted."""
        self.counts = GateCounts()
        self._joint_names = tuple(joint_names)
        self._modes = (POSITION, LIMP, *((LIMP_GRIPPER, GUIDE) if rest_rad is None else ()))
        self._rest_rad = rest_rad
        self._let_go = False  # Limp by the holder's command; it may sag then and stay so.
        self._stale_ns = stale_ns
        self._engage_max_rad = engage_max_rad
        self._arrival_ns = 0
        self._refusal, self._refused_ns = "", 0
        self._blocked = ""
        self._final = False
        self._ended: deque[str] = deque(maxlen=REMEMBERED_LEASES)

    def block(self, reason: str, final: bool) -> None:
        """Refuse all commands for now.

        Args:
            reason: In words.
            final: End the lease, and any other that asks meanwhile, for good.
        """
        self._blocked, self._final = reason, final
        if final and self.holder:
            self._end(self.holder)
        self.release()

    def unblock(self) -> None:
        """Take commands again."""
        self._blocked = ""

    def release(self) -> None:
        """Take the lease from its holder, who may ask again."""
        self.command, self.holder, self.engaged, self._let_go = None, "", False, False

    def refusal(self, now_ns: int) -> str:
        """Why a command was refused, or is missed, for a while after that; else empty."""
        shown = now_ns - self._refused_ns <= ns_from_s(REFUSAL_SHOWN_S)
        return self._refusal if shown else ""

    def expire(self, now_ns: int) -> None:
        """Drop a command that has become stale, and its lease."""
        if self.command is None or self._alive(self.command, self._arrival_ns, now_ns):
            return
        self.counts.stale += 1
        self._refusal, self._refused_ns = "commander went silent", now_ns
        self.release()

    def offer(
        self, command: ArmCommand, arrival_ns: int, now_ns: int, measured_rad: FloatArray | None
    ) -> None:
        """Take a command or refuse it.

        Args:
            command: What somebody asks.
            arrival_ns: When it came.
            now_ns: The present time.
            measured_rad: Where the arm is, shape (J,); None when this tick's reading failed,
                so that nobody can engage, nor make a follower limp.
        """
        try:
            self._admit(command, arrival_ns, now_ns, measured_rad)
        except SafetyError as refusal:
            self._refusal, self._refused_ns = str(refusal), now_ns
            return
        self.holder, self.command, self._arrival_ns = command.lease, command, arrival_ns

    def _admit(
        self, command: ArmCommand, arrival_ns: int, now_ns: int, measured_rad: FloatArray | None
    ) -> None:
        if self._blocked:
            self.counts.blocked += 1
            if self._final:
                self._end(command.lease)
            raise SafetyError(f"command of {command.source} refused: {self._blocked}")
        if command.lease in self._ended:
            self.counts.leases += 1
            raise SafetyError(
                f"lease {command.lease!r} of {command.source} was ended by a stop or fault; "
                "begin again with a new one"
            )
        if self.holder and command.lease != self.holder:
            self.counts.leases += 1
            raise SafetyError(
                f"lease {command.lease!r} of {command.source} refused: {self.holder!r} commands "
                "this arm; stop that commander first"
            )
        if not self._alive(command, arrival_ns, now_ns):
            self.counts.stale += 1
            raise SafetyError(f"command of {command.source} was stale when it came")
        self._check(command)
        if command.mode == POSITION and not self.engaged:
            self._check_near(command, measured_rad)
        if command.mode == LIMP and not self._let_go:
            self._check_at_rest(measured_rad)
        self.engaged, self._let_go = command.mode == POSITION, command.mode == LIMP

    def _check(self, command: ArmCommand) -> None:
        try:
            if command.mode not in self._modes:
                raise SafetyError(
                    f"mode {command.mode!r} refused; this arm takes {', '.join(self._modes)}"
                )
            check_command(self._joint_names, command.position_rad, command.gripper)
        except SafetyError:
            self.counts.invalid += 1
            raise

    def _check_near(self, command: ArmCommand, measured_rad: FloatArray | None) -> None:
        if measured_rad is None:
            raise SafetyError(f"{ENGAGE_REFUSED}: the arm cannot be read at this moment")
        off = np.abs(command.position_rad - measured_rad)
        # Not >, so that a joint that was not measured (NaN) does not pass.
        far = np.flatnonzero(~(off <= self._engage_max_rad))
        if far.size:
            self.counts.engagements += 1
            joints = "; ".join(
                f"{self._joint_names[i]} is commanded to {command.position_rad[i]:.3f} rad "
                f"and measured at {measured_rad[i]:.3f} rad"
                for i in far
            )
            raise SafetyError(
                f"{ENGAGE_REFUSED}: {joints}; safety.engage_max_rad is {self._engage_max_rad:g}; "
                "bring the arms closer together"
            )

    def _check_at_rest(self, measured_rad: FloatArray | None) -> None:
        if self._rest_rad is None:
            return
        if measured_rad is None:
            raise SafetyError("limp refused: the arm cannot be read at this moment")
        off = np.abs(measured_rad - self._rest_rad)
        # Not >, so that a joint that was not measured (NaN) does not pass.
        far = np.flatnonzero(~(off <= REST_TOLERANCE_RAD))
        if far.size:
            self.counts.invalid += 1
            joints = "; ".join(
                f"{self._joint_names[i]} is measured at {measured_rad[i]:.3f} rad "
                f"and rests at {self._rest_rad[i]:.3f} rad"
                for i in far
            )
            raise SafetyError(
                f"limp refused: {joints}; a follower lets go only within {REST_TOLERANCE_RAD:g} "
                "rad of its sleep pose, since it would fall; run: tandem rest"
            )

    def _alive(self, command: ArmCommand, arrival_ns: int, now_ns: int) -> bool:
        return now_ns <= command.valid_until_ns and now_ns - arrival_ns <= self._stale_ns

    def _end(self, lease: str) -> None:
        if lease not in self._ended:
            self._ended.append(lease)
