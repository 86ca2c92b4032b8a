"""The slow look at each servo, one packet per call: temperature, voltage, errors, torque.

The status packets of the control loop carry an alert bit, so that the error register of a
servo in trouble is read at once; shadows never answer in the control loop and are found
by going round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drivers.base import DeviceHealth
from drivers.dynamixel import table
from drivers.dynamixel.bus import Servo
from drivers.dynamixel.codec import GroupReader, RecordArray
from drivers.dynamixel.port import ServoPort

STATE_REGISTERS = (table.TORQUE_ENABLE, table.HARDWARE_ERROR, table.BUS_WATCHDOG)
SUPPLY_REGISTERS = (table.PRESENT_VOLTAGE, table.PRESENT_TEMPERATURE)

SILENT_ROUNDS = 3
"""Unanswered questions in a row after which a servo counts as silent."""


class HealthPoll:
    """Goes round the servos and remembers what they said.

    Args:
        servos: All servos of the arm, shadows too.
        port: The port shared with the control loop.
        timeout_s: Time beyond the wire time that an answer may take.
    """

    def __init__(self, servos: Iterable[Servo], port: ServoPort, timeout_s: float) -> None:
        self._servos: Mapping[int, Servo] = {servo.id: servo for servo in servos}
        self._state = {i: GroupReader(port, [i], STATE_REGISTERS, timeout_s) for i in self._servos}
        self._supply = {
            i: GroupReader(port, [i], SUPPLY_REGISTERS, timeout_s) for i in self._servos
        }
        self._order = [(kind, i) for kind in (self._state, self._supply) for i in self._servos]
        self._next = 0
        self._silent = dict.fromkeys(self._servos, 0)
        self.values: dict[str, float] = {}
        self.errors: dict[int, int] = {}
        """Register 70 of the servos in which it is not zero."""
        self.torqued: dict[int, bool] = {}
        """Whether torque is on, as last read."""
        self.tripped: set[int] = set()
        """Servos stopped by their bus watchdog."""

    def step(self, alerts: Iterable[int]) -> None:
        """Ask one servo one question; one with an alert not yet explained comes first.

        Raises:
            DeviceLostError: the port has gone.
        """
        unexplained = [i for i in alerts if i not in self.errors]
        if unexplained:
            kind, servo_id = self._state, unexplained[0]
        else:
            kind, servo_id = self._order[self._next]
            self._next = (self._next + 1) % len(self._order)
        reply = kind[servo_id].read()
        if reply.missing:
            self._silent[servo_id] += 1
            return
        self._silent[servo_id] = 0
        if kind is self._state:
            self._take_state(servo_id, reply.records)
        else:
            self._take_supply(servo_id, reply.records)

    def health(self, expected: Mapping[int, bool]) -> DeviceHealth:
        """The whole picture; ``expected`` says which servos should have torque."""
        limp = [i for i, on in self.torqued.items() if not on and expected.get(i, False)]
        faults = [
            f"{self._servos[i]} {'lost torque:' if i in limp else 'reports'} "
            f"{table.hardware_error_words(bits)}"
            for i, bits in self.errors.items()
        ]
        if unexplained := [str(self._servos[i]) for i in limp if i not in self.errors]:
            faults.append(f"{', '.join(unexplained)} lost torque: power dipped?")
        lasting = bool(faults)
        faults += [
            f"{self._servos[i]} was stopped by its bus watchdog" for i in sorted(self.tripped)
        ]
        faults += [
            f"{self._servos[i]} does not answer"
            for i, count in self._silent.items()
            if count >= SILENT_ROUNDS
        ]
        return DeviceHealth(not faults, "; ".join(faults), dict(self.values), lasting)

    def forget_torque(self) -> None:
        """Torque has been switched or watchdogs cleared: what was read before does not count."""
        self.torqued.clear()
        self.tripped.clear()

    def _take_state(self, servo_id: int, records: RecordArray) -> None:
        self.torqued[servo_id] = bool(records[table.TORQUE_ENABLE.name][0])
        if bits := int(records[table.HARDWARE_ERROR.name][0]):
            self.errors[servo_id] = bits
        else:
            self.errors.pop(servo_id, None)
        if records[table.BUS_WATCHDOG.name][0] == table.WATCHDOG_TRIPPED:
            self.tripped.add(servo_id)
        else:
            self.tripped.discard(servo_id)

    def _take_supply(self, servo_id: int, records: RecordArray) -> None:
        name = self._servos[servo_id].joint.replace(" (shadow)", "_shadow")
        voltage_v = float(records[table.PRESENT_VOLTAGE.name][0]) * table.VOLT_PER_UNIT
        temperature_c = float(records[table.PRESENT_TEMPERATURE.name][0])
        self.values[f"{name}_voltage_v"] = voltage_v
        self.values[f"{name}_temperature_c"] = temperature_c
