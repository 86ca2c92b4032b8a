"""The buttons on a Franka's wrist, through franky's Desk session and the emulated Desk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.base import ButtonReading
from drivers.emulated.franka.server import FrankaEmulator
from drivers.franka.pilot import FrankaPilot
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig_inputs import FrankaPilot as PilotInput
from tests.waiting import wait_until


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The emulated Desk's password, for our eyes only."""
    file = tmp_path / "desk_password"
    file.write_text("emulated\n")
    file.chmod(0o600)
    return file


@pytest.fixture(params=["fr3", "panda"])
def emulator(request: pytest.FixtureRequest) -> Iterator[FrankaEmulator]:
    """A Desk of the present interface, and one that has the older one only."""
    with FrankaEmulator(request.param) as robot:
        yield robot


def pilot(address: str, password_file: Path) -> FrankaPilot:
    """The input device."""
    config = PilotInput(
        address=address, username="operator", password_file=password_file, arm="franka"
    )
    return FrankaPilot("pilot", config, MonotonicClock())


def taken(device: FrankaPilot, count: int) -> list[ButtonReading]:
    """So many readings of the buttons."""
    readings: list[ButtonReading] = []

    def enough() -> bool:
        for reading in device.take(time.monotonic_ns())["pilot"]:
            assert isinstance(reading, ButtonReading)
            readings.append(reading)
        return len(readings) >= count

    wait_until(enough, f"{count} readings")
    return readings


def test_buttons_are_told_when_pressed_and_when_let_go(
    emulator: FrankaEmulator, password_file: Path
) -> None:
    """Each change is a reading, stamped when it came."""
    device = pilot(emulator.desk_address, password_file)
    device.connect()
    before_ns = time.monotonic_ns()
    emulator.press("check")
    emulator.press("circle")
    readings = taken(device, 4)
    told = [set(reading.buttons) for reading in readings]
    assert told == [{"check"}, set(), {"circle"}, set()]
    stamps_ns = [reading.stamp_ns for reading in readings]
    assert before_ns < stamps_ns[0] <= stamps_ns[-1] < time.monotonic_ns()
    assert device.health().ok
    device.close()


def test_a_lost_desk_is_told_and_looked_for_again(password_file: Path) -> None:
    """The device does not give up: when Desk is back, buttons come again."""
    with FrankaEmulator("fr3") as first:
        device = pilot(first.desk_address, password_file)
        device.connect()
        first.press("check")
        taken(device, 2)

    def is_lost() -> bool:
        try:
            device.take(time.monotonic_ns())
        except DeviceLostError as error:
            return "Desk" in str(error)
        return False

    wait_until(is_lost, "the loss is told")
    assert not device.health().ok
    device.close()


def test_a_wrong_password_is_told(password_file: Path) -> None:
    """At once, not as a loss."""
    password_file.write_text("guess")
    with FrankaEmulator("fr3") as robot:
        device = pilot(robot.desk_address, password_file)
        with pytest.raises(DeviceError, match="401; check username and password_file"):
            device.connect()
        device.close()


def test_no_desk_at_the_address_is_told(password_file: Path) -> None:
    """Connecting ends in words."""
    with FrankaEmulator("fr3", desk=False) as robot:
        device = pilot(f"{robot.host}:9", password_file)
        with pytest.raises(DeviceError, match="does not answer"):
            device.connect()
        device.close()


@pytest.mark.parametrize(
    ("mode", "text", "told"),
    [(0o644, "emulated", "chmod 600"), (0o600, " \n", "is empty"), (None, "", "cannot be read")],
)
def test_a_password_lies_in_a_file_that_nobody_else_may_read(
    mode: int | None, text: str, told: str, tmp_path: Path
) -> None:
    """Refused before anything is sent."""
    file = tmp_path / "desk_password"
    if mode is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(DeviceError, match=told):
        pilot("127.0.0.1:9", file).connect()
