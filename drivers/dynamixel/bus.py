"""One bus of Dynamixel servos: set-up through ``dynamixel_sdk``, and start-up checks in words.

Everything that is not in the control loop goes through here: ping, single registers, EEPROM,
reboot. The port is shared with the lean codec, which carries the control loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dynamixel_sdk import COMM_RX_CORRUPT, COMM_SUCCESS, PacketHandler

from drivers.dynamixel import table
from drivers.dynamixel.codec import broadcast_write
from drivers.dynamixel.port import ServoPort
from drivers.dynamixel.table import Register, ServoModel
from teleop.clock import ns_from_s
from teleop.errors import DeviceError

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 5
"""Times that one register is asked for before it counts as failed."""

REBOOT_S = 3.0
"""Longest time a servo may take to answer again after a reboot (about 0.3 s is usual)."""
REBOOT_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Servo:
    """One servo as the rig description has it."""

    id: int
    joint: str
    """Joint name, with ``(shadow)`` behind it for the second servo of a joint."""
    model: str
    """Model name, or ``any``."""

    def __str__(self) -> str:
        return f"{self.joint} (id {self.id})"


class DynamixelBus:
    """The servos of one arm.

    Args:
        arm: Name of the arm, for messages.
        servos: All servos of the bus, shadows too.
        port: An open or closed port; ``open`` opens it.
    """

    def __init__(self, arm: str, servos: Iterable[Servo], port: ServoPort) -> None:
        self.arm = arm
        self.servos: Mapping[int, Servo] = {servo.id: servo for servo in servos}
        self.port = port
        self.retries = 0
        """Requests that had to be sent again, since the bus was opened."""
        self._sdk = PacketHandler(2.0)

    def open(self) -> None:
        """Open the port.

        Raises:
            DeviceError: naming the arm and the reason.
        """
        try:
            self.port.openPort()
        except DeviceError as error:
            raise type(error)(f"{self.arm}: {error}") from error

    def ping(self, servo_id: int) -> int | None:
        """The model number of a servo, or None when it does not answer."""
        for _ in range(ATTEMPTS):
            number, result, _error = self._sdk.ping(self.port, servo_id)
            if result == COMM_SUCCESS:
                return int(number)
            self.port.suspect = True
        return None

    def read(self, servo_id: int, register: Register) -> int:
        """The value of one register.

        Raises:
            DeviceError: no valid answer in ``ATTEMPTS`` attempts.
            DeviceLostError: the port has gone.
        """

        def attempt() -> tuple[bytes, int, int]:
            data, result, error = self._sdk.readTxRx(
                self.port, servo_id, register.address, register.size
            )
            if result == COMM_SUCCESS and not error and len(data) != register.size:
                # The late answer to an earlier question: this one failed.
                return b"", COMM_RX_CORRUPT, error
            return bytes(data), result, error

        data = self._attempts(servo_id, f"reading its {register.name}", attempt)
        return int.from_bytes(data, "little", signed=register.signed)

    def write(self, servo_id: int, register: Register, value: int) -> None:
        """Set one register.

        Raises:
            DeviceError: the servo refuses the value, or does not answer.
            DeviceLostError: the port has gone.
        """
        data = list(value.to_bytes(register.size, "little", signed=value < 0))

        def attempt() -> tuple[None, int, int]:
            result, error = self._sdk.writeTxRx(
                self.port, servo_id, register.address, register.size, data
            )
            return None, result, error

        self._attempts(servo_id, f"writing {value} to its {register.name}", attempt)

    def write_all(self, register: Register, value: int) -> None:
        """Set one register of every servo at once; nobody answers, so nothing is checked."""
        self.port.write_all(broadcast_write(register, value))

    def configure(self, servo_id: int, register: Register, value: int) -> bool:
        """Make sure that an EEPROM register holds a value; writes only when it differs.

        Returns:
            Whether it had to be written.

        Raises:
            DeviceError: it differs and torque is on, or it does not hold the value.
        """
        found = self.read(servo_id, register)
        if found == value:
            return False
        if self.read(servo_id, table.TORQUE_ENABLE):
            raise DeviceError(
                f"{self.arm}: {self._name(servo_id)} has {register.name} {found} and needs "
                f"{value}, which cannot be changed while its torque is on; support the arm, "
                "switch its power off and on, and start again"
            )
        self.write(servo_id, register, value)
        kept = self.read(servo_id, register)
        if kept != value:
            raise DeviceError(
                f"{self.arm}: {self._name(servo_id)} keeps {register.name} {kept} though "
                f"{value} was written; replace or reset the servo"
            )
        routine = register is table.OPERATING_MODE  # other programs set their own each time
        log.log(
            logging.INFO if routine else logging.WARNING,
            "%s: %s: %s changed from %d to %d",
            *(self.arm, self._name(servo_id), register.name, found, value),
        )
        return True

    def reboot(self, servo_ids: Iterable[int]) -> None:
        """Restart servos together and wait until all answer: torque off, RAM at defaults.

        Raises:
            DeviceError: naming those that do not come back.
            DeviceLostError: the port has gone.
        """
        silent = list(servo_ids)
        for servo_id in silent:
            self._sdk.reboot(self.port, servo_id)
        clock = self.port.clock
        deadline_ns = clock.now_ns() + ns_from_s(REBOOT_S)
        while silent and clock.now_ns() < deadline_ns:
            clock.sleep_until_ns(clock.now_ns() + ns_from_s(REBOOT_POLL_S))
            silent = [i for i in silent if not self.answers_once(i)]
        if silent:
            names = ", ".join(self._name(i) for i in silent)
            raise DeviceError(
                f"{self.arm}: no answer from {names} {REBOOT_S:g} s after a reboot; "
                "check the cables and the arm's power"
            )

    def answers_once(self, servo_id: int) -> bool:
        """Whether a servo answers one ping."""
        _, result, _error = self._sdk.ping(self.port, servo_id)
        return bool(result == COMM_SUCCESS)

    def _attempts(self, servo_id: int, doing: str, attempt: Callable[[], tuple[T, int, int]]) -> T:
        for number in range(1, ATTEMPTS + 1):
            value, result, error = attempt()
            if result == COMM_SUCCESS:
                self._raise_refusal(servo_id, doing, error)
                if number > 1:
                    name = self._name(servo_id)
                    log.warning("%s: %s: %s took %d attempts", self.arm, name, doing, number)
                return value
            self.port.suspect = True
            self.retries += 1
        seen = str(self._sdk.getTxRxResult(result)).removeprefix("[TxRxResult] ").rstrip("!")
        raise DeviceError(
            f"{self.arm}: {self._name(servo_id)} failed {ATTEMPTS} times at {doing}: {seen}; "
            "check its cable and the arm's power"
        )

    def _raise_refusal(self, servo_id: int, doing: str, error: int) -> None:
        code = error & ~table.ALERT
        if not code:
            return
        words = table.RESULTS.get(code, f"answered error {code}")
        if error & table.ALERT:
            bits = self.read(servo_id, table.HARDWARE_ERROR)
            words += (
                f"; it has shut down for {table.hardware_error_words(bits)}: remove the cause, "
                "then reboot it or switch the arm's power off and on"
            )
        raise DeviceError(f"{self.arm}: {self._name(servo_id)}, {doing}: the servo {words}")

    def _name(self, servo_id: int) -> str:
        servo = self.servos.get(servo_id)
        return str(servo) if servo is not None else f"servo id {servo_id}"


def check_latency_timer(arm: str, port: str, limit_ms: int, sysfs: Path) -> None:
    """Refuse a USB adapter that holds received bytes back for long.

    The FTDI default of 16 ms limits a 1 Mbps bus to 53 cycles a second. Adapters without
    the setting, and pseudo-terminals, have no such file and pass.

    Raises:
        DeviceError: with the command that sets it.
    """
    file = sysfs / "bus/usb-serial/devices" / Path(port).resolve().name / "latency_timer"
    try:
        found_ms = int(file.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise DeviceError(f"{arm}: cannot read {file}: {error}") from error
    if found_ms > limit_ms:
        raise DeviceError(
            f"{arm}: the USB adapter at {port} waits {found_ms} ms before it hands bytes over, at "
            f"most {limit_ms} ms is allowed; run: echo {limit_ms} | sudo tee {file}"
        )


def identify(bus: DynamixelBus) -> dict[int, ServoModel]:
    """Find out that every servo of the arm is there and is the model it should be.

    Raises:
        DeviceError: naming every absent or wrong servo by joint and id, or the baud rate
            at which the bus answers instead.
    """
    numbers = {servo_id: bus.ping(servo_id) for servo_id in bus.servos}
    absent = [str(bus.servos[i]) for i, number in numbers.items() if number is None]
    if len(absent) == len(bus.servos):
        raise DeviceError(_why_silent(bus))
    if absent:
        raise DeviceError(
            f"{bus.arm}: no answer from {', '.join(absent)}, though the other servos answer; "
            "check the cables at these joints and that their ids are set"
        )
    faults, models = [], {}
    for servo in bus.servos.values():
        number = numbers[servo.id]
        model = table.MODEL_BY_NUMBER.get(number or 0)
        if model is None:
            faults.append(f"{servo} has model number {number}, which this driver does not know")
        elif servo.model not in (model.name, table.ANY_MODEL):
            faults.append(f"{servo} is a {model.name}, not a {servo.model}")
        else:
            models[servo.id] = model
    if faults:
        raise DeviceError(
            f"{bus.arm}: {'; '.join(faults)}: correct servo in the rig description, "
            "or check that the port is the right arm's"
        )
    return models


def _why_silent(bus: DynamixelBus) -> str:
    """No servo answers: the rate may be another one, else there is no power or no cable."""
    wanted = bus.port.baudrate
    try:
        for baud in table.BAUD_RATES:
            if baud != wanted:
                bus.port.setBaudRate(baud)
                if any(bus.answers_once(servo_id) for servo_id in bus.servos):
                    return (
                        f"{bus.arm}: no servo answers at {wanted} baud, but they do at {baud}; "
                        f"set baud: {baud} for this arm, or change register 8 of its servos"
                    )
    finally:
        bus.port.setBaudRate(wanted)
    return (
        f"{bus.arm}: no servo answers on {bus.port.port_name} at any baud rate; check that the "
        "arm has power and that its bus cable is in"
    )


def check_firmware(bus: DynamixelBus, servo_ids: Iterable[int], needed: int, why: str) -> None:
    """Refuse servos whose firmware lacks a function.

    Raises:
        DeviceError: naming every such servo.
    """
    versions = {i: bus.read(i, table.FIRMWARE) for i in servo_ids}
    old = [f"{bus.servos[i]} has {v}" for i, v in versions.items() if v < needed]
    if old:
        raise DeviceError(
            f"{bus.arm}: {why} needs servo firmware {needed} or newer, but {', '.join(old)}; "
            "update with Dynamixel Wizard"
        )
