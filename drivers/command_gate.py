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

from teleop.commander import ENGAGE_REFUSED
from teleop.errors import SafetyError
from teleop.limits import check_command
from teleop.messages import LIMP, LIMP_GRIPPER, POSITION, ArmCommand, FloatArray

REMEMBERED_LEASES = 64
"""Ended leases that are kept in mind; a commander uses one per episode."""


@dataclass(slots=True)
class GateCounts:
    """What was turned away since the start."""

    stale: int = 0
    leases: int = 0
    """Commands of another lease than the holder's, or of one that was ended."""
    invalid: int = 0
    """NaN, wrong shape, unknown mode, a mode that this arm may not take."""
    engagements: int = 0
    blocked: int = 0
    """Commands while the arm takes none: stopped, fault, session silent."""


class CommandGate:
    """Lets commands of one arm in or refuses them, with a reason in words.

    Args:
        joint_names: The arm's joints.
        may_go_limp: Leaders only.
        stale_ns: How long a command lives after it arrived.
        engage_max_rad: How far a first command may be from the measured pose.
    """

    def __init__(
        self, joint_names: Sequence[str], may_go_limp: bool, stale_ns: int, engage_max_rad: float
    ) -> None:
        self.command: ArmCommand | None = None
        """The command in force."""
        self.holder = ""
        """Lease of the commander obeyed now; empty when there is none."""
        self.engaged = False
        """Whether the holder's pose has been compared with the arm's and accepted."""
        self.refusal = ""
        """Why the last command was refused; empty when it was taken."""
        self.counts = GateCounts()
        self._joint_names = tuple(joint_names)
        self._modes = (POSITION, LIMP, LIMP_GRIPPER) if may_go_limp else (POSITION,)
        self._stale_ns = stale_ns
        self._engage_max_rad = engage_max_rad
        self._arrival_ns = 0
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
        self.command, self.holder, self.engaged = None, "", False

    def expire(self, now_ns: int) -> bool:
        """Drop a command that has become stale, and its lease; tells whether it did."""
        if self.command is None or self._alive(self.command, self._arrival_ns, now_ns):
            return False
        self.counts.stale += 1
        self.release()
        return True

    def offer(
        self, command: ArmCommand, arrival_ns: int, now_ns: int, measured_rad: FloatArray | None
    ) -> None:
        """Take a command or refuse it.

        Args:
            command: What somebody asks.
            arrival_ns: When it came.
            now_ns: The present time.
            measured_rad: Where the arm is, shape (J,); None when this tick's reading failed,
                so that nobody can engage.
        """
        try:
            self._admit(command, arrival_ns, now_ns, measured_rad)
        except SafetyError as refusal:
            self.refusal = str(refusal)
            return
        self.refusal = ""
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
        if command.mode != POSITION:
            self.engaged = False
        elif not self.engaged:
            self._engage(command, measured_rad)

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

    def _engage(self, command: ArmCommand, measured_rad: FloatArray | None) -> None:
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
        self.engaged = True

    def _alive(self, command: ArmCommand, arrival_ns: int, now_ns: int) -> bool:
        return now_ns <= command.valid_until_ns and now_ns - arrival_ns <= self._stale_ns

    def _end(self, lease: str) -> None:
        if lease not in self._ended:
            self._ended.append(lease)
