"""The control table of one emulated servo: what it holds, refuses and forgets.

Source of addresses, ranges and factory values: ROBOTIS e-manual, control tables of
XM430, XM540, XL430-W250 and XC430 servos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from drivers.dynamixel import table as dt
from teleop.errors import UnknownNameError

TABLE_SIZE = 662
"""Up to the last indirect data; backup flags and external ports are not emulated."""
INDIRECT_COUNT = 28
"""Bytes of indirect data in each of the two blocks."""
INDIRECT: Final = ((168, 224), (578, 634))
"""Of each block: the first indirect address (2 bytes each), the first indirect data (1 byte)."""

RESULT_FAIL = 1
INSTRUCTION_ERROR = 2
RANGE_ERROR = 4
LENGTH_ERROR = 5
LIMIT_ERROR = 6
ACCESS_ERROR = 7

OVERLOAD = 0x20
FIRMWARE = 46
"""Of all emulated servos: has the bus watchdog (38) and fast sync read (45)."""

MODE_CURRENT, MODE_VELOCITY, MODE_EXTENDED_POSITION, MODE_PWM = 0, 1, 4, 16
POSITION_MODES: Final = (dt.MODE_POSITION, MODE_EXTENDED_POSITION, dt.MODE_CURRENT_BASED_POSITION)
TIME_PROFILE = 0x04
"""Drive mode bit 2: registers 108 and 112 are times in milliseconds."""

REGISTERED = 69
GOAL_PWM = 100
GOAL_VELOCITY = 104
GOAL_POSITION = 116
MOVING = 122
PRESENT = 122
"""From here on the table shows measurements, made when they are read."""
_WIDE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Field:
    """One register with the values it takes."""

    address: int
    size: int
    low: int
    high: int
    read_only: bool = False


def _pointers() -> Iterator[int]:
    for first, _ in INDIRECT:
        yield from range(first, first + 2 * INDIRECT_COUNT, 2)


def _fields() -> dict[int, Field]:
    rows = [
        Field(0, 2, 0, 65535, read_only=True),
        Field(2, 4, 0, 0, read_only=True),
        Field(6, 1, 0, 255, read_only=True),
        Field(7, 1, 0, 252),
        Field(8, 1, 0, 7),
        Field(9, 1, 0, 254),
        Field(10, 1, 0, 13),
        Field(11, 1, 0, 16),
        Field(12, 1, 0, 255),
        Field(13, 1, 1, 22),
        Field(20, 4, -1044479, 1044479),
        Field(24, 4, 0, 1023),
        Field(31, 1, 0, 100),
        Field(32, 2, 60, 160),
        Field(34, 2, 60, 160),
        Field(36, 2, 0, 885),
        Field(38, 2, 0, 2047),
        Field(44, 4, 0, 2047),
        Field(48, 4, 0, 4095),
        Field(52, 4, 0, 4095),
        Field(60, 1, 0, 3),
        Field(63, 1, 0, 255),
        Field(64, 1, 0, 1),
        Field(65, 1, 0, 1),
        Field(68, 1, 0, 2),
        Field(69, 1, 0, 1, read_only=True),
        Field(70, 1, 0, 255, read_only=True),
        *(Field(address, 2, 0, 16383) for address in (76, 78, 80, 82, 84, 88, 90)),
        Field(98, 1, 0, 127),
        Field(100, 2, -885, 885),
        Field(102, 2, -2047, 2047),
        Field(104, 4, -2047, 2047),
        Field(108, 4, 0, 32767),
        Field(112, 4, 0, 32767),
        Field(116, 4, -_WIDE - 1, _WIDE),
        Field(120, 2, 0, 32767, read_only=True),
        Field(122, 1, 0, 1, read_only=True),
        Field(123, 1, 0, 255, read_only=True),
        *(Field(a, 2, -32768, 32767, read_only=True) for a in (124, 126)),
        *(Field(a, 4, -_WIDE - 1, _WIDE, read_only=True) for a in (128, 132, 136, 140)),
        Field(144, 2, 0, 255, read_only=True),
        Field(146, 1, 0, 255, read_only=True),
        *(Field(pointer, 2, 64, TABLE_SIZE - 1) for pointer in _pointers()),
        *(Field(a + i, 1, 0, 255) for _, a in INDIRECT for i in range(INDIRECT_COUNT)),
    ]
    return {row.address: row for row in rows}


FIELDS: Final = _fields()
_POINTERS: Final = frozenset(_pointers())


@dataclass(frozen=True, slots=True)
class Factory:
    """What differs between servo models when they leave the factory."""

    velocity_limit: int
    current_limit: int
    """Zero: the servo has no current sensor, and no modes 0 and 5."""
    position_p: int = 800
    position_d: int = 0
    velocity_i: int = 1920
    temperature_limit_c: int = 80
    voltage_limits: tuple[int, int] = (95, 160)
    """Units of 0.1 V."""


FACTORY: Final = {
    "XM540-W270": Factory(velocity_limit=128, current_limit=2047),
    "XM540-W150": Factory(velocity_limit=230, current_limit=2047),
    "XM430-W350": Factory(velocity_limit=200, current_limit=1193),
    "XM430-W210": Factory(velocity_limit=330, current_limit=1193),
    "XL430-W250": Factory(265, 0, 640, 4000, 1000, 72, voltage_limits=(60, 140)),
    "XC430-W150": Factory(460, 0, position_p=460, voltage_limits=(60, 160)),
    "XC430-W240": Factory(306, 0, position_p=700, voltage_limits=(60, 160)),
}


class ServoRegisters:
    """The memory of one servo and the rules of writing to it.

    Args:
        model: name of the servo model.
        servo_id: its bus id.
        baud: rate its serial line is set to.

    Raises:
        UnknownNameError: no such servo model.
    """

    def __init__(self, model: str, servo_id: int, baud: int = 1_000_000) -> None:
        if model not in FACTORY:
            raise UnknownNameError("servo model", model, FACTORY)
        self.model = model
        self.factory = FACTORY[model]
        self.number = dt.SERVO_MODELS[model].number
        self.table = bytearray(TABLE_SIZE)
        self.pending: tuple[int, bytes] | None = None
        """A registered write that waits for the action instruction."""
        self._set_eeprom(servo_id, dt.BAUD_RATES[baud])
        self.reset_ram()

    def _set_eeprom(self, servo_id: int, baud_code: int) -> None:
        factory = self.factory
        values = {0: self.number, 6: FIRMWARE, 7: servo_id, 8: baud_code, 9: 250}
        values |= {11: dt.MODE_POSITION, 12: dt.NO_SECONDARY_ID, 13: 2, 20: 0, 24: 10, 10: 0}
        values |= {31: factory.temperature_limit_c, 36: 885}
        values |= {34: factory.voltage_limits[0], 32: factory.voltage_limits[1]}
        values |= {38: factory.current_limit, 44: factory.velocity_limit, 48: 4095, 52: 0, 63: 52}
        for address, value in values.items():
            self.set(address, value)

    def reset_ram(self) -> None:
        """What a power-up or a reboot does to the volatile half."""
        self.table[64:] = bytes(TABLE_SIZE - 64)
        factory = self.factory
        gains = {76: factory.velocity_i, 78: 100, 80: factory.position_d, 84: factory.position_p}
        goals = {68: dt.REPLY_TO_ALL, 100: self.get(36), 102: self.get(38), 104: self.get(44)}
        for address, value in {**gains, **goals, 144: 120, 146: 30}.items():
            self.set(address, value)
        for pointer, data in INDIRECT:  # each stands for itself
            for i in range(INDIRECT_COUNT):
                self.set(pointer + 2 * i, data + i)
        self.pending = None

    def reset_factory(self, option: int) -> None:
        """Instruction 0x06: 0xFF all, 0x01 all but the id, 0x02 all but the id and baud rate."""
        servo_id = 1 if option == 0xFF else self.get(7)
        baud = self.get(8) if option == 0x02 else 1
        self.table[:64] = bytes(64)
        self._set_eeprom(servo_id, baud)
        self.reset_ram()

    def get(self, address: int) -> int:
        """The value of the register that begins here."""
        field = FIELDS[address]
        raw = self.table[address : address + field.size]
        return int.from_bytes(raw, "little", signed=field.low < 0)

    def set(self, address: int, value: int) -> None:
        """Put a value, past all rules: the servo's own doing, not the host's."""
        field = FIELDS[address]
        held = min(max(value, field.low), field.high) if field.low < 0 else value
        self.table[address : address + field.size] = held.to_bytes(
            field.size, "little", signed=field.low < 0
        )

    @property
    def identity(self) -> bytes:
        """Model number and firmware version, the answer to a ping."""
        return bytes((self.table[0], self.table[1], self.table[6]))

    @property
    def torque_on(self) -> bool:
        return self.table[64] == 1

    @property
    def shut_down(self) -> bool:
        """A hardware error that only a reboot ends."""
        return bool(self.table[70] & self.table[63])

    @property
    def alert(self) -> int:
        """The alert bit of every reply's error byte."""
        return dt.ALERT if self.table[70] else 0

    @property
    def watchdog_tripped(self) -> bool:
        return self.table[98] == dt.WATCHDOG_TRIPPED

    def raise_error(self, bits: int) -> None:
        """A hardware error: sets register 70, and drops the torque where 63 says so."""
        self.table[70] |= bits
        if self.shut_down:
            self.table[64] = 0

    def spans(self, address: int, count: int) -> list[tuple[int, int]]:
        """Registers behind ``count`` bytes: (address, bytes) in order, neighbours joined.

        Indirect data stands for the byte that its indirect address names, all else for itself.
        That a byte of indirect data named by another one is not followed is an assumption.
        """
        if address + count <= INDIRECT[0][1]:
            return [(address, count)]
        found: list[tuple[int, int]] = []
        for at in range(address, address + count):
            behind = self._behind(at)
            if found and sum(found[-1]) == behind:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((behind, 1))
        return found

    def _behind(self, address: int) -> int:
        for first, data in INDIRECT:
            if data <= address < data + INDIRECT_COUNT:
                return self.get(first + 2 * (address - data))
        return address

    def read(self, address: int, count: int) -> tuple[int, bytes]:
        """Error code and bytes; beyond the table is a range error."""
        if address + count > TABLE_SIZE:
            return RANGE_ERROR, b""
        return 0, b"".join(self.table[at : at + n] for at, n in self.spans(address, count))

    def write(self, address: int, data: bytes) -> int:
        """Carry a host's write out, all of it or nothing; returns the error code, 0 if done."""
        if address + len(data) > TABLE_SIZE:
            return RANGE_ERROR
        parts, begun = [], 0
        for at, count in self.spans(address, len(data)):
            parts.append((at, data[begun : begun + count]))
            begun += count
        for at, part in parts:
            if error := self._objection(at, part):
                return error
        mode = self.table[11]
        for at, part in parts:
            self.table[at : at + len(part)] = part
        if self.table[11] != mode:
            self._fit_mode()
        return 0

    def _objection(self, address: int, data: bytes) -> int:
        """Error code of a write to neighbouring registers, 0 if it is allowed."""
        if address == GOAL_POSITION and len(data) == 4:  # the control loop's only write
            return self._goal_refusal(address, int.from_bytes(data, "little", signed=True))
        at, end = address, address + len(data)
        while at < end:
            field = FIELDS.get(at)
            if field is None:  # unused byte between registers, or inside one
                if any(f.address < at < f.address + f.size for f in FIELDS.values()):
                    return LENGTH_ERROR
                at += 1
                continue
            raw = data[at - address : at - address + field.size]
            if len(raw) < field.size:
                return LENGTH_ERROR
            if error := self._refusal(field, int.from_bytes(raw, "little", signed=field.low < 0)):
                return error
            at += field.size
        return 0

    def _fit_mode(self) -> None:
        """What a new operating mode does to the settings of the old one.

        E-manual, note on register 11: gains fit the mode, profiles become 0, and goal PWM and goal
        current go to their limits. That goal velocity does so too is an assumption.
        """
        factory = self.factory
        gains = {76: factory.velocity_i, 78: 100, 80: factory.position_d, 84: factory.position_p}
        goals = {100: self.get(36), 102: self.get(38), 104: self.get(44), 108: 0, 112: 0}
        for address, value in {**gains, **goals}.items():
            self.set(address, value)

    def _refusal(self, field: Field, value: int) -> int:
        """Error code of a write to one register.

        That indirect addresses are locked with the EEPROM is from the SDK's sample for them.
        """
        address = field.address
        locked = self.torque_on and (address < 64 or address in _POINTERS)
        if field.read_only or locked:
            return ACCESS_ERROR
        if not field.low <= value <= field.high:
            return RANGE_ERROR
        if address == 11 and not self._has_mode(value):
            return RANGE_ERROR
        if address == 64 and value and self.shut_down:
            return RESULT_FAIL
        if 100 <= address <= 116:
            return self._goal_refusal(address, value)
        return 0

    def _has_mode(self, mode: int) -> bool:
        if mode in (MODE_CURRENT, dt.MODE_CURRENT_BASED_POSITION):
            return self.factory.current_limit > 0
        return mode in (MODE_VELOCITY, dt.MODE_POSITION, MODE_EXTENDED_POSITION, MODE_PWM)

    def _goal_refusal(self, address: int, value: int) -> int:
        if self.watchdog_tripped:
            return RANGE_ERROR
        if address == GOAL_POSITION:
            if self.table[11] != dt.MODE_POSITION or self.get(52) <= value <= self.get(48):
                return 0
            return LIMIT_ERROR
        limit_of = {GOAL_PWM: 36, 102: 38, GOAL_VELOCITY: 44}
        if address in limit_of and abs(value) > self.get(limit_of[address]):
            return LIMIT_ERROR
        return 0
