"""Control table of the Dynamixel X series (Protocol 2.0): addresses, units, models.

Source of all numbers: ROBOTIS e-manual, pages of XM430-W350, XM540-W270, XL430-W250 and
XC430-W150. The addresses used here are common to all of them; what a model lacks is said
in ``ServoModel``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TICKS_PER_TURN = 4096
TICK_ZERO = 2048
"""Present position at the middle of the turn, taken as 0 rad (as Interbotix does)."""
RAD_PER_TICK = 2 * math.pi / TICKS_PER_TURN
RAD_S_PER_UNIT = 0.229 * 2 * math.pi / 60
"""Velocity unit of 0.229 rpm."""
RAD_S2_PER_UNIT = 214.577 * 2 * math.pi / 3600
"""Acceleration unit of 214.577 rev/min^2."""
VOLT_PER_UNIT = 0.1
WATCHDOG_UNIT_S = 0.02
RETURN_DELAY_UNIT_US = 2


@dataclass(frozen=True, slots=True)
class Register:
    """One entry of the control table."""

    name: str
    address: int
    size: int
    """Bytes."""
    signed: bool = False


MODEL_NUMBER = Register("model number", 0, 2)
FIRMWARE = Register("firmware version", 6, 1)
SERVO_ID = Register("id", 7, 1)
BAUD_RATE = Register("baud rate", 8, 1)
RETURN_DELAY = Register("return delay time", 9, 1)
DRIVE_MODE = Register("drive mode", 10, 1)
OPERATING_MODE = Register("operating mode", 11, 1)
SECONDARY_ID = Register("secondary id", 12, 1)
HOMING_OFFSET = Register("homing offset", 20, 4, signed=True)
CURRENT_LIMIT = Register("current limit", 38, 2)
MAX_POSITION = Register("max position limit", 48, 4)
MIN_POSITION = Register("min position limit", 52, 4)
TORQUE_ENABLE = Register("torque enable", 64, 1)
STATUS_RETURN_LEVEL = Register("status return level", 68, 1)
HARDWARE_ERROR = Register("hardware error status", 70, 1)
POSITION_D = Register("position D gain", 80, 2)
POSITION_P = Register("position P gain", 84, 2)
BUS_WATCHDOG = Register("bus watchdog", 98, 1)
GOAL_CURRENT = Register("goal current", 102, 2, signed=True)
PROFILE_ACCELERATION = Register("profile acceleration", 108, 4)
PROFILE_VELOCITY = Register("profile velocity", 112, 4)
GOAL_POSITION = Register("goal position", 116, 4, signed=True)
PRESENT_CURRENT = Register("present current", 126, 2, signed=True)
PRESENT_VELOCITY = Register("present velocity", 128, 4, signed=True)
PRESENT_POSITION = Register("present position", 132, 4, signed=True)
PRESENT_VOLTAGE = Register("present input voltage", 144, 2)
PRESENT_TEMPERATURE = Register("present temperature", 146, 1)

BAUD_RATES = {
    9_600: 0,
    57_600: 1,
    115_200: 2,
    1_000_000: 3,
    2_000_000: 4,
    3_000_000: 5,
    4_000_000: 6,
}
"""Values of register 8, by bit rate."""

DRIVE_REVERSE = 0x01
"""Drive mode bit 0; the other bits (time-based profile, torque on by goal) stay 0."""
MODE_POSITION = 3
MODE_CURRENT_BASED_POSITION = 5
NO_SECONDARY_ID = 255
HOMING_OFFSET_MAX = 1024
"""Largest offset that position mode honours, a quarter turn."""
REPLY_TO_ALL = 2
"""Status return level at which writes are answered too."""
WATCHDOG_OFF = 0
WATCHDOG_TRIPPED = 255
"""Register 98 reads -1 after it has tripped; writing 0 clears it."""
FIRMWARE_WATCHDOG = 38
FIRMWARE_FAST_READ = 45

ALERT = 0x80
"""Bit of a status packet's error byte: register 70 is not zero."""

RESULTS = {
    1: "could not carry the instruction out",
    2: "does not know the instruction",
    3: "saw a damaged packet (CRC)",
    4: "refused the value as out of range",
    5: "refused the data length",
    6: "refused the value as beyond its limit",
    7: "refused access (read-only, or EEPROM while torque is on)",
}
"""Low 7 bits of a status packet's error byte."""

HARDWARE_ERRORS = {
    0x01: "input voltage",
    0x04: "overheating",
    0x08: "motor encoder",
    0x10: "electrical shock",
    0x20: "overload",
}
"""Bits of register 70."""


def hardware_error_words(bits: int) -> str:
    """What register 70 says, in words."""
    words = [word for bit, word in HARDWARE_ERRORS.items() if bits & bit]
    return " and ".join(words) or f"unknown error bits {bits:#04x}"


@dataclass(frozen=True, slots=True)
class ServoModel:
    """What the driver needs to know of a servo model."""

    name: str
    number: int
    current_unit_a: float | None
    """Ampere per unit of register 126; None where that register holds load, not current,
    and operating modes 0 and 5 do not exist."""


SERVO_MODELS = {
    model.name: model
    for model in (
        ServoModel("XM430-W350", 1020, 2.69e-3),
        ServoModel("XM430-W210", 1030, 2.69e-3),
        ServoModel("XL430-W250", 1060, None),
        ServoModel("XC430-W150", 1070, None),
        ServoModel("XC430-W240", 1080, None),
        ServoModel("XM540-W270", 1120, 2.69e-3),
        ServoModel("XM540-W150", 1130, 2.69e-3),
    )
}
MODEL_BY_NUMBER = {model.number: model for model in SERVO_MODELS.values()}
ANY_MODEL = "any"
"""Model name in a rig description that accepts whatever supported servo answers."""


def tick_from_rad(angle_rad: float) -> int:
    """Nearest position tick."""
    return round(angle_rad / RAD_PER_TICK) + TICK_ZERO
