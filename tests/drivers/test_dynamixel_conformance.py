"""ROBOTIS's unmodified ``dynamixel_sdk`` drives the emulated servos through a pseudo-terminal.

Nothing of our driver takes part: the SDK's own port, packet and group handlers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dynamixel_sdk as sdk
import numpy as np
import pytest
from servo_line import (
    ARM,
    CURRENT,
    DONE,
    GAIN,
    GOAL,
    IDS,
    LED,
    MOVING,
    POINTERS,
    POSITION,
    TICK_RAD,
    TORQUE,
    Line,
    served_line,
)

from drivers.dynamixel import table as dt


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """Nine servos and the stock port to them."""
    with served_line(tmp_path) as served:
        yield served


def test_every_servo_is_found_one_by_one_and_by_broadcast(line: Line) -> None:
    """Model numbers agree, an id that nobody bears is silent."""
    found, result = line.sdk.broadcastPing(line.port)
    assert result == sdk.COMM_SUCCESS
    assert list(found) == list(IDS)
    for servo_id in IDS:
        assert line.sdk.ping(line.port, servo_id) == (found[servo_id][0], 0, 0)
    assert line.sdk.ping(line.port, 42)[1] == sdk.COMM_RX_TIMEOUT


def test_protocol_1_is_not_understood(line: Line) -> None:
    """The older protocol's packets are no packets to these servos, and do not disturb them."""
    assert sdk.PacketHandler(1.0).ping(line.port, 1)[1] == sdk.COMM_RX_TIMEOUT
    assert line.sdk.ping(line.port, 1) == (1120, 0, 0)


@pytest.mark.parametrize(
    ("size", "address", "value"), [(1, LED, 1), (2, GAIN, 1234), (4, GOAL, 3000)]
)
def test_each_width_goes_and_comes_back_by_every_call(
    line: Line, size: int, address: int, value: int
) -> None:
    """Answered and unanswered writes; reads in one call and in two."""
    write: Callable[..., Any] = getattr(line.sdk, f"write{size}ByteTxRx")
    tell: Callable[..., Any] = getattr(line.sdk, f"write{size}ByteTxOnly")
    read: Callable[..., Any] = getattr(line.sdk, f"read{size}ByteTxRx")
    assert write(line.port, 1, address, value) == DONE
    assert read(line.port, 1, address) == (value, *DONE)
    tell(line.port, 1, address, 0)
    assert line.unasked(11)[7:9] == b"\x55\x00"
    assert getattr(line.sdk, f"read{size}ByteTx")(line.port, 1, address) == sdk.COMM_SUCCESS
    line.port.setPacketTimeout(size)
    assert getattr(line.sdk, f"read{size}ByteRx")(line.port, 1) == (0, *DONE)
    assert line.sdk.readTxRx(line.port, 1, address, size) == ([0] * size, *DONE)


@pytest.mark.parametrize(
    ("address", "size", "value", "words"),
    [
        (POSITION, 4, 0, "not available"),
        (0, 2, 1, "not available"),
        (GOAL, 4, 4096, "limit"),
        (100, 2, 886, "range"),
        (168, 2, 63, "range"),  # an indirect address in the EEPROM
        (661, 2, 0, "range"),  # half beyond the table
        (GOAL, 1, 1, "length"),
    ],
)
def test_refusals_have_the_sdks_words(
    line: Line, address: int, size: int, value: int, words: str
) -> None:
    """Each error byte is one that the SDK explains, without the alert bit."""
    data = list(value.to_bytes(size, "little"))
    result, error = line.sdk.writeTxRx(line.port, 9, address, size, data)
    assert result == sdk.COMM_SUCCESS
    assert words in line.sdk.getRxPacketError(error)


def test_alert_bit_comes_with_every_answer_until_the_reboot(line: Line) -> None:
    """An overloaded servo says so beside the data; others do not; torque is refused."""
    line.chain.faults.overload(4)
    line.await_ping(4)
    assert line.sdk.read1ByteTxRx(line.port, 4, 70) == (0x20, 0, 128)
    assert line.sdk.write1ByteTxRx(line.port, 4, TORQUE, 1) == (0, 128 | 1)
    assert line.sdk.read1ByteTxRx(line.port, 5, 70) == (0, 0, 0)
    assert line.sdk.reboot(line.port, 4)[0] == sdk.COMM_SUCCESS
    line.await_ping(4)
    assert line.sdk.write1ByteTxRx(line.port, 4, TORQUE, 1) == DONE


def test_torque_locks_the_eeprom_and_indirect_addresses(line: Line) -> None:
    """Both are free again without torque."""
    for torque, error in ((1, 7), (0, 0)):
        line.sdk.write1ByteTxRx(line.port, 1, TORQUE, torque)
        assert line.sdk.write1ByteTxRx(line.port, 1, 9, 10) == (0, error)
        assert line.sdk.write2ByteTxRx(line.port, 1, 168, LED) == (0, error)


def test_registered_writes_of_two_servos_begin_together(line: Line) -> None:
    """Answered or not, they wait for one broadcast; a second action has nothing to do."""
    goal = list(struct.pack("<i", 1500))
    assert line.sdk.regWriteTxRx(line.port, 1, GOAL, 4, goal) == DONE
    assert line.sdk.regWriteTxOnly(line.port, 4, GOAL, 4, goal) == sdk.COMM_SUCCESS
    line.unasked(11)
    assert [line.sdk.read4ByteTxRx(line.port, i, GOAL)[0] for i in (1, 4)] == [2048] * 2
    assert line.sdk.action(line.port, sdk.BROADCAST_ID) == sdk.COMM_SUCCESS
    assert [line.sdk.read4ByteTxRx(line.port, i, GOAL)[0] for i in (1, 4)] == [1500] * 2
    assert [line.sdk.read1ByteTxRx(line.port, i, 69)[0] for i in (1, 4)] == [0] * 2


def test_broadcast_write_reaches_all_and_nobody_answers(line: Line) -> None:
    """The SDK waits for nothing, and nothing is left on the line."""
    assert line.sdk.write1ByteTxRx(line.port, sdk.BROADCAST_ID, LED, 1) == DONE
    assert [line.sdk.read1ByteTxRx(line.port, i, LED)[0] for i in IDS] == [1] * 9
    assert line.port.getBytesAvailable() == 0


def test_groups_can_be_changed_between_two_packets(line: Line) -> None:
    """Parameters of sync and bulk writes changed and removed, seen by sync and bulk reads."""
    write = sdk.GroupSyncWrite(line.port, line.sdk, GAIN, 2)
    for servo_id in (1, 8, 9):
        assert write.addParam(servo_id, [100, 0])
    assert not write.addParam(1, [1, 0])
    assert write.changeParam(8, [200, 0])
    write.removeParam(9)
    assert write.txPacket() == sdk.COMM_SUCCESS
    read = sdk.GroupSyncRead(line.port, line.sdk, 80, 6)
    for servo_id in (1, 8, 9):
        read.addParam(servo_id)
    assert read.txRxPacket() == sdk.COMM_SUCCESS
    assert [read.getData(i, GAIN, 2) for i in (1, 8, 9)] == [100, 200, 800]
    assert not read.isAvailable(1, 86, 2)
    bulk = sdk.GroupBulkWrite(line.port, line.sdk)
    bulk.addParam(9, LED, 1, [1])
    bulk.addParam(8, GOAL, 4, list(struct.pack("<i", 700)))
    bulk.changeParam(9, GAIN, 2, [44, 1])
    assert bulk.txPacket() == sdk.COMM_SUCCESS
    back = sdk.GroupBulkRead(line.port, line.sdk)
    back.addParam(9, LED, 21)
    back.addParam(8, GOAL, 4)
    assert back.txRxPacket() == sdk.COMM_SUCCESS
    assert (back.getData(9, LED, 1), back.getData(9, GAIN, 2)) == (0, 300)
    assert back.getData(8, GOAL, 4) == 700


def test_fast_reads_agree_with_plain_ones(line: Line) -> None:
    """One long answer of all servos against one from each.

    Ids of the bulk read stay below the lengths: this SDK takes one for the other otherwise.
    """
    line.turn_all(0.25)
    sync = sdk.GroupSyncRead(line.port, line.sdk, CURRENT, 10)
    for servo_id in IDS:
        sync.addParam(servo_id)
    bulk = sdk.GroupBulkRead(line.port, line.sdk)
    for servo_id, address, count in ((1, POSITION, 4), (2, MOVING, 14), (3, CURRENT, 10)):
        bulk.addParam(servo_id, address, count)
    assert sync.txRxPacket() == sdk.COMM_SUCCESS
    plain = [bytes(sync.data_dict[i]) for i in IDS]
    assert sync.fastSyncRead() == sdk.COMM_SUCCESS
    assert [bytes(sync.data_dict[i]) for i in IDS] == plain
    assert bulk.txRxPacket() == sdk.COMM_SUCCESS
    each = [bytes(row[0]) for row in bulk.data_dict.values()]
    assert bulk.fastBulkRead() == sdk.COMM_SUCCESS
    assert [bytes(row[0]) for row in bulk.data_dict.values()] == each
    assert sync.getData(1, POSITION, 4) == 2048 + round(0.25 / TICK_RAD)


@pytest.mark.parametrize("block", [0, 1])
def test_indirect_data_reads_scattered_registers_in_one_go(line: Line, block: int) -> None:
    """Present position, moving flag, LED and temperature side by side, by every read."""
    line.turn_all(-0.5)
    line.sdk.write1ByteTxRx(line.port, 1, LED, 1)
    line.point(block, [*range(POSITION, POSITION + 4), MOVING, LED, 146])
    wanted = [*struct.pack("<i", 2048 + round(-0.5 / TICK_RAD)), 0, 1, 30]
    data = POINTERS[block][1]
    assert line.sdk.readTxRx(line.port, 1, data, 7) == (wanted, *DONE)
    group = sdk.GroupSyncRead(line.port, line.sdk, data, 7)
    group.addParam(1)
    for read in (group.txRxPacket, group.fastSyncRead):
        assert read() == sdk.COMM_SUCCESS
        assert list(group.data_dict[1]) == wanted


def test_indirect_data_writes_what_it_stands_for(line: Line) -> None:
    """LED and goal in one packet: the goal counts, the joint is sent there."""
    line.point(0, [LED, *range(GOAL, GOAL + 4)])
    line.sdk.write1ByteTxRx(line.port, 1, TORQUE, 1)
    packet = [1, *struct.pack("<i", 2148)]
    assert line.sdk.writeTxRx(line.port, 1, 224, 5, packet) == DONE
    assert line.sdk.read1ByteTxRx(line.port, 1, LED) == (1, *DONE)
    assert line.sdk.read4ByteTxRx(line.port, 1, GOAL) == (2148, *DONE)
    bank = line.chain.bank
    assert bank.goal_rad[bank.index(ARM, "waist")] == pytest.approx(100 * TICK_RAD)


def test_indirect_data_inherits_the_rules_of_its_register(line: Line) -> None:
    """Range, read-only and half a register are refused, and then nothing at all is written."""
    line.point(0, [LED, 146, GOAL, GOAL + 1])
    for address, data, error in ((224, [2], 4), (225, [0], 7), (226, [0, 0], 5), (224, [1, 0], 7)):
        assert line.sdk.writeTxRx(line.port, 1, address, len(data), data) == (0, error)
    assert line.sdk.read1ByteTxRx(line.port, 1, LED) == (0, *DONE)


def test_indirect_data_left_alone_is_plain_memory_until_a_reboot(line: Line) -> None:
    """Each address stands for its own data at first and after a reboot."""
    for pointer, data in POINTERS:
        assert line.sdk.read2ByteTxRx(line.port, 1, pointer + 54) == (data + 27, *DONE)
        assert line.sdk.write4ByteTxRx(line.port, 1, data, 0x01020304) == DONE
        assert line.sdk.read4ByteTxRx(line.port, 1, data) == (0x01020304, *DONE)
    line.point(1, [LED])
    assert line.sdk.reboot(line.port, 1) == DONE
    line.await_ping(1)
    assert line.sdk.read2ByteTxRx(line.port, 1, 578) == (634, *DONE)
    assert line.sdk.read1ByteTxRx(line.port, 1, 634) == (0, *DONE)


def test_turns_are_cleared_at_rest_and_the_joint_stays(line: Line) -> None:
    """Two turns and a bit become the bit; the goal loses the same turns."""
    axis = line.chain.bank.index(ARM, "waist")
    line.sdk.write1ByteTxRx(line.port, 1, 11, 4)
    line.turn_all(4 * np.pi + 0.25)
    line.sdk.write1ByteTxRx(line.port, 1, TORQUE, 1)
    before = line.sdk.read4ByteTxRx(line.port, 1, POSITION)[0]
    line.sdk.write4ByteTxRx(line.port, 1, GOAL, before + 10)
    there_rad = line.chain.bank.goal_rad[axis]
    assert line.sdk.clearMultiTurn(line.port, 1) == DONE
    assert line.sdk.read4ByteTxRx(line.port, 1, POSITION)[0] == before - 2 * 4096
    assert line.sdk.read4ByteTxRx(line.port, 1, GOAL)[0] == before - 2 * 4096 + 10
    assert line.sdk.write4ByteTxRx(line.port, 1, GOAL, before - 2 * 4096 + 10) == DONE
    assert line.chain.bank.goal_rad[axis] == pytest.approx(there_rad)


def test_turning_servo_does_not_clear_its_turns(line: Line) -> None:
    """It answers that it could not."""
    bank = line.chain.bank
    for step in range(200):
        bank.torque_nm(0.002, np.full(len(bank), 7 + 0.004 * step), np.full(len(bank), 2.0))
    assert line.sdk.clearMultiTurn(line.port, 1) == (0, 1)
    assert line.sdk.read4ByteTxRx(line.port, 1, POSITION)[0] > 2048 + 4096


def test_id_and_baud_rate_change_over_the_line(line: Line) -> None:
    """The servo moves away at once, and is found where it went."""
    assert line.sdk.write1ByteTxRx(line.port, 9, 7, 77) == DONE
    assert line.sdk.ping(line.port, 77) == (1020, 0, 0)
    assert line.sdk.write1ByteTxRx(line.port, 77, 8, dt.BAUD_RATES[57_600]) == DONE
    assert line.sdk.ping(line.port, 77)[1] == sdk.COMM_RX_TIMEOUT
    assert line.port.setBaudRate(57_600)
    assert line.sdk.ping(line.port, 77) == (1020, 0, 0)


@pytest.mark.parametrize(("option", "servo_id", "baud"), [(0x01, 8, 57_600), (0xFF, 1, 57_600)])
def test_factory_reset_puts_the_servo_where_the_option_says(
    line: Line, option: int, servo_id: int, baud: int
) -> None:
    """All but the id, or all: 57,600 baud, and return delay of 500 us again."""
    assert line.sdk.factoryReset(line.port, 8, option) == DONE
    assert line.port.setBaudRate(baud)
    line.await_ping(servo_id)
    assert line.sdk.read1ByteTxRx(line.port, servo_id, 9) == (250, *DONE)
    assert line.sdk.ping(line.port, 2)[1] == sdk.COMM_RX_TIMEOUT  # the others kept theirs


def test_silenced_servo_still_obeys(line: Line) -> None:
    """Status return level 1: writes unanswered but done; level 0: only pings."""
    assert line.sdk.write1ByteTxRx(line.port, 1, 68, 1) == DONE
    assert line.sdk.write1ByteTxRx(line.port, 1, LED, 1)[0] == sdk.COMM_RX_TIMEOUT
    assert line.sdk.read1ByteTxRx(line.port, 1, LED) == (1, *DONE)
    line.sdk.write1ByteTxOnly(line.port, 1, 68, 0)
    group = sdk.GroupSyncRead(line.port, line.sdk, LED, 1)
    group.addParam(1)
    assert group.txRxPacket() == sdk.COMM_RX_TIMEOUT
    assert line.sdk.ping(line.port, 1) == (1120, 0, 0)
