"""Which of an arm's motors shall have torque, and the switching of it.

A follower that lets go *rests*: its torque goes by the driver's ``torque_off``, which no silent
motor stops half way. Everything else, a guided leader too, is ``set_torque``.
"""

from __future__ import annotations

from drivers.base import Arm, ArmReading, PushingArm
from drivers.dynamixel.leader_feel import Feel
from teleop.clock import ns_from_s
from teleop.errors import DeviceError

SWITCH_RETRY_S = 1.0
"""Pause between attempts to switch torque that would not."""

Switches = tuple[bool, bool]
"""Whether the joints have torque, and whether the gripper has."""

HELD: Switches = (True, True)
OFF: Switches = (False, False)
GRIPPER_FREE: Switches = (True, False)
JOINTS_FREE: Switches = (False, True)


class ArmTorque:
    """Torque of one arm: as wanted, and as switched.

    Args:
        arm: A connected arm.
        leads: Whether a person guides it; else letting go means to rest.
        feel: How its motors help that person, where they can.
    """

    def __init__(self, arm: Arm, leads: bool, feel: Feel | None = None) -> None:
        self.wanted = HELD
        self._arm = arm
        self._leads = leads
        self._feel = feel
        self._pusher = arm if feel is not None and isinstance(arm, PushingArm) else None
        self._switched: Switches | None = None  # None: not known
        self._retry_ns = 0

    @property
    def is_set(self) -> bool:
        """Whether torque is known to be as wanted."""
        return self._switched == self.wanted

    @property
    def rests(self) -> bool:
        """Whether this is a follower that shall have no torque; nothing but a command, an
        emergency stop or a new run gives it back."""
        return self.wanted == OFF and not self._leads

    def forget(self) -> None:
        """It is not known any more: switch anew."""
        self._switched = None

    def hold_anew(self) -> None:
        """All motors are to hold where they are then, and at once."""
        self.wanted, self._switched, self._retry_ns = HELD, None, 0

    def due(self, now_ns: int) -> bool:
        """Whether the next attempt may be made."""
        return now_ns >= self._retry_ns

    def switch(self, now_ns: int) -> None:
        """Make it as wanted.

        Raises:
            DeviceError: naming every motor that does not obey; the others have obeyed.
            DeviceLostError: the arm is gone.
        """
        self._retry_ns = now_ns + ns_from_s(SWITCH_RETRY_S)
        if not self.rests:
            self._arm.set_torque(*self.wanted)
            if self._pusher is not None:
                self._pusher.set_push(*(not held for held in self.wanted))
        elif failures := self._arm.torque_off():
            raise DeviceError(f"torque is not off everywhere: {'; '.join(failures)}")
        self._switched, self._retry_ns = self.wanted, 0

    def help_hand(self, reading: ArmReading | None) -> None:
        """Have the motors of what is let go push as the arm's feel says of a fresh reading.

        Without one, and while torque is not as wanted, they push with nothing: a current lasts
        until the next one.

        Raises:
            DeviceError: the motors had gone limp after a silence.
            DeviceLostError: the arm is gone.
        """
        if self._feel is None or self._pusher is None:
            return
        current = self._feel.nothing
        if reading is not None and self.is_set and self.wanted != HELD:
            current = self._feel.current_a(reading, self._pusher.torque_per_ampere)
        self._pusher.push(current)
