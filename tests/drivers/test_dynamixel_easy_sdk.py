"""ROBOTIS's unmodified ``dynamixel_easy_sdk`` drives the emulated servos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dynamixel_easy_sdk as easy
import pytest
from dynamixel_easy_sdk.control_table import ControlTable
from dynamixel_easy_sdk.data_types import Direction, OperatingMode, ProfileConfiguration
from dynamixel_easy_sdk.dynamixel_error import DxlError, DxlRuntimeError
from servo_line import GAIN, GOAL, IDS, TICK_RAD, Line, served_line

from drivers.dynamixel import table as dt
from drivers.emulated.dynamixel.registers import FACTORY, FIELDS


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """Nine servos and the stock port to them."""
    with served_line(tmp_path) as served:
        yield served


@pytest.fixture
def motors(line: Line) -> Iterator[dict[int, Any]]:
    """Its motors by id, on a port of its own."""
    line.port.closePort()
    connector = easy.Connector(line.path, 1_000_000)
    yield {motor.id: motor for motor in connector.createAllMotors()}
    connector.closePort()
    line.port.openPort()


def test_easy_sdk_finds_the_arm_and_its_models(motors: dict[int, Any]) -> None:
    """Nine motors with the control tables of their models, no torque, position mode."""
    assert {i: m.model_name for i, m in motors.items()} == {
        i: "xm430_w350.model" if i > 7 else "xm540_w270.model" for i in IDS
    }
    assert {m.isTorqueOn() for m in motors.values()} == {0}
    assert {m.getOperatingMode() for m in motors.values()} == {OperatingMode.POSITION}


def test_easy_sdk_configures_and_commands_one_motor(line: Line, motors: dict[int, Any]) -> None:
    """Gains, limits, modes and goals arrive; what the servo refuses is raised in words."""
    motor, registers = motors[9], line.chain.servo(9).registers
    motor.setOperatingMode(OperatingMode.CURRENT_BASED_POSITION)
    motor.setDirection(Direction.REVERSE)
    motor.setProfileConfiguration(ProfileConfiguration.TIME_BASED)
    motor.setPositionPGain(640)
    motor.setCurrentLimit(600)
    motor.setMaxPositionLimit(3000)
    motor.enableTorque()
    motor.setGoalCurrent(500)
    motor.setGoalPosition(2100)
    motor.LEDOn()
    held = {a: registers.get(a) for a in (10, 11, 38, 48, 64, 65, GAIN, 102, GOAL)}
    assert held == {10: 5, 11: 5, 38: 600, 48: 3000, 64: 1, 65: 1, GAIN: 640, 102: 500, GOAL: 2100}
    with pytest.raises(DxlRuntimeError, match="exceeds the limit") as refusal:
        motor.setGoalCurrent(601)
    assert refusal.value.dxl_error == DxlError.SDK_ERRNUM_DATA_LIMIT
    motor.reboot()


def test_easy_sdk_reads_measurements(line: Line, motors: dict[int, Any]) -> None:
    """Position of every motor, signed values, and limits of the factory."""
    line.turn_all(-0.75)
    assert {m.getPresentPosition() for m in motors.values()} == {2048 - round(0.75 / TICK_RAD)}
    assert {m.getPresentCurrent() for m in motors.values()} == {0}
    assert {m.getPresentVelocity() for m in motors.values()} == {0}
    assert (motors[9].getCurrentLimit(), motors[9].getVelocityLimit()) == (1193, 200)


def test_easy_sdk_groups_are_sync_or_bulk_as_needed(motors: dict[int, Any]) -> None:
    """Equal commands go as one sync packet, different ones as bulk; reads likewise."""
    group = motors[1].connector.createGroupExecutor()
    for servo_id in (1, 4, 9):
        group.addCmd(motors[servo_id].stageEnableTorque())
    group.executeWrite()
    group.clearStagedWriteCommands()
    group.addCmd(motors[1].stageSetGoalPosition(1900))
    group.addCmd(motors[4].stageLEDOn())
    group.executeWrite()
    group.addCmd(motors[1].stageIsTorqueOn())
    group.addCmd(motors[4].stageIsTorqueOn())
    assert group.executeRead() == [1, 1]
    group.clearStagedReadCommands()
    group.addCmd(motors[4].stageIsLEDOn())
    group.addCmd(motors[9].stageGetPresentPosition())
    assert group.executeRead() == [1, 2048]


@pytest.mark.parametrize("model", FACTORY)
def test_control_table_is_the_one_that_the_easy_sdk_ships(model: str) -> None:
    """Address and size of every register of the model, but for ports and backup."""
    table = ControlTable.getControlTable(dt.SERVO_MODELS[model].number)
    known = {
        (i.address, i.size) for n, i in table.items() if not n.startswith(("External", "Back"))
    }
    assert known <= {(field.address, field.size) for field in FIELDS.values()}
