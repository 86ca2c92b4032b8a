"""The slow look at each motor through the node's service, one register at a time.

Asked in a thread of its own: the node carries out one request after the other, and a motor that
is rebooting or silent keeps it busy for longer than an arm's control period.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from drivers.base import DeviceHealth
from drivers.dynamixel import table
from drivers.interbotix.interface import XsSdk

STATE_REGISTERS = ("Hardware_Error_Status", "Torque_Enable")
TEMPERATURE = "Present_Temperature"
VOLTAGE = "Present_Input_Voltage"

SILENT_ROUNDS = 3
"""Unanswered questions in a row after which a motor counts as silent."""


class MotorPoll:
    """Goes round the motors and remembers what they said.

    Args:
        sdk: The node.
        motors: All motors it knows of, shadows too.
    """

    def __init__(self, sdk: XsSdk, motors: Iterable[str]) -> None:
        self._sdk = sdk
        self._motors = list(motors)
        # Errors and torque of every motor in each half round, temperature or voltage in turn.
        self._order = [
            (motor, register)
            for supply in (TEMPERATURE, VOLTAGE)
            for motor in self._motors
            for register in (*STATE_REGISTERS, supply)
        ]
        self._next = 0
        self._silent = dict.fromkeys(self._motors, 0)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="motor-poll")
        self._asked: Future[list[int]] | None = None
        self._subject = ("", "")
        self._stale = False
        self.values: dict[str, float] = {}
        self.errors: dict[str, int] = {}
        """Hardware error register of the motors in which it is not zero."""
        self.torqued: dict[str, bool] = {}
        """Whether torque is on, as last read."""

    def step(self) -> None:
        """Take the answer that has come, if one has, and ask the next question. Never waits.

        Raises:
            DeviceError: the node gave no answer.
            DeviceLostError: it has gone.
        """
        if self._asked is not None:
            if not self._asked.done():
                return
            asked, self._asked = self._asked, None
            answer = asked.result()
            if not self._stale:
                self._take(*self._subject, answer)
        self._stale = False
        motor, register = self._subject = self._order[self._next]
        self._next = (self._next + 1) % len(self._order)
        self._asked = self._worker.submit(self._sdk.registers, ("single", motor), register)

    def forget_torque(self) -> None:
        """Torque has been switched: what was read, or is being read, does not count."""
        self.torqued.clear()
        self._stale = True

    def health(self, expected: Mapping[str, bool]) -> DeviceHealth:
        """The whole picture; ``expected`` says which motors should have torque."""
        limp = [m for m, on in self.torqued.items() if not on and expected.get(m, False)]
        faults = [
            f"{motor} {'lost torque:' if motor in limp else 'reports'} "
            f"{table.hardware_error_words(bits)}"
            for motor, bits in self.errors.items()
        ]
        if unexplained := [motor for motor in limp if motor not in self.errors]:
            faults.append(
                f"{', '.join(unexplained)} lost torque: power dipped, the ROS node was restarted, "
                "or another program switched it off"
            )
        lasting = bool(faults)
        faults += [
            f"{motor} does not answer"
            for motor, count in self._silent.items()
            if count >= SILENT_ROUNDS
        ]
        return DeviceHealth(not faults, "; ".join(faults), dict(self.values), lasting)

    def close(self) -> None:
        """Ask no more. Never raises, never waits."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _take(self, motor: str, register: str, answer: list[int]) -> None:
        if not answer:  # the node's way of saying that the motor is silent
            self._silent[motor] += 1
            return
        self._silent[motor] = 0
        value = answer[0]
        if register == TEMPERATURE:
            self.values[f"{motor}_temperature_c"] = float(value)
        elif register == VOLTAGE:
            self.values[f"{motor}_voltage_v"] = value * table.VOLT_PER_UNIT
        elif register == "Torque_Enable":
            self.torqued[motor] = bool(value)
        elif value:
            self.errors[motor] = value
        else:
            self.errors.pop(motor, None)
