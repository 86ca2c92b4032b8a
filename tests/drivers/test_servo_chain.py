"""The emulated servo bus as the real, unmodified ``dynamixel_sdk`` sees it."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dynamixel_sdk as sdk
import numpy as np
import pytest

from drivers.dynamixel.port import QuietPort, ServoPort
from drivers.emulated.dynamixel.bank import ServoBank, axes_of
from drivers.emulated.dynamixel.chain import ServoChain
from drivers.emulated.dynamixel.packets import InstructionReader, crc16, packet
from drivers.emulated.dynamixel.pty_bus import PtyBus
from drivers.emulated.dynamixel.virtual_port import VirtualPort
from teleop.clock import VirtualClock
from teleop.rig_files import DEFAULT_RIG, load_rig

RIG = load_rig(DEFAULT_RIG)
ARM = "left_follower"
IDS = range(1, 10)
TORQUE, GOAL, CURRENT, POSITION = 64, 116, 126, 132
REPLY_ALERT = 128


def chain_of(arm: str = ARM) -> ServoChain:
    """A chain of its own bank, joints standing at zero."""
    bank = ServoBank(axes_of(RIG))
    bank.torque_nm(0.002, np.zeros(len(bank)), np.zeros(len(bank)))
    return ServoChain(arm, RIG.arm_model(arm), bank)


@pytest.fixture
def bus() -> SimpleNamespace:
    """SDK, port and chain in virtual time."""
    clock = VirtualClock(1_000_000)
    chain = chain_of()
    port = VirtualPort(chain, clock)
    port.openPort()
    return SimpleNamespace(
        clock=clock, chain=chain, port=port, bank=chain.bank, sdk=sdk.PacketHandler(2.0)
    )


def signed(value: int, size: int) -> int:
    return value - (1 << 8 * size) if value >> (8 * size - 1) else value


# Over a real pseudo-terminal.


@pytest.fixture
def line(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A served pseudo-terminal and its chain."""
    chain = chain_of()
    with PtyBus(chain, tmp_path / "ttyDXL", threading.Lock()) as served:
        yield SimpleNamespace(bus=served, chain=chain, path=str(tmp_path / "ttyDXL"))


@pytest.mark.parametrize("kind", [sdk.PortHandler, QuietPort])
def test_stock_port_and_ours_ping_read_and_write_over_a_pty(
    line: SimpleNamespace, kind: type[sdk.PortHandler]
) -> None:
    """The essentials of the protocol pass through the kernel's tty with either port."""
    port, handler = kind(line.path), sdk.PacketHandler(2.0)
    assert port.openPort()
    assert handler.ping(port, 1) == (1120, 0, 0)
    assert handler.write1ByteTxRx(port, 1, TORQUE, 1) == (0, 0)
    read = sdk.GroupSyncRead(port, handler, CURRENT, 10)
    for servo_id in IDS:
        read.addParam(servo_id)
    assert read.txRxPacket() == sdk.COMM_SUCCESS
    assert [read.getData(i, POSITION, 4) for i in IDS] == [2048] * 9
    write = sdk.GroupSyncWrite(port, handler, GOAL, 4)
    write.addParam(1, list(struct.pack("<i", 2100)))
    assert write.txPacket() == sdk.COMM_SUCCESS
    assert handler.read4ByteTxRx(port, 1, GOAL) == (2100, 0, 0)
    port.closePort()


def test_client_at_another_baud_rate_is_not_heard(line: SimpleNamespace) -> None:
    """The terminal's own settings decide, and going back makes the servo answer again."""
    port, handler = QuietPort(line.path), sdk.PacketHandler(2.0)
    port.openPort()
    port.setBaudRate(57_600)
    assert handler.ping(port, 1)[1] == sdk.COMM_RX_TIMEOUT
    port.setBaudRate(1_000_000)
    assert handler.ping(port, 1)[1] == sdk.COMM_SUCCESS
    port.closePort()


def test_paced_bus_takes_the_time_of_the_wire(tmp_path: Path) -> None:
    """At 57,600 baud the 24 bytes of a ping and its answer need 4.2 ms."""
    chain = chain_of()
    for servo in chain.servos:
        servo.registers.set(8, 1)
    with PtyBus(chain, tmp_path / "tty", paced=True):
        port = QuietPort(str(tmp_path / "tty"), baud=57_600)
        port.openPort()
        begun_ns = port.clock.now_ns()
        assert sdk.PacketHandler(2.0).ping(port, 1)[1] == sdk.COMM_SUCCESS
        assert port.clock.now_ns() - begun_ns >= 24 * 10 / 57_600 * 1e9
        port.closePort()


# In virtual time.


def test_only_one_driver_may_hold_the_virtual_port(bus: SimpleNamespace) -> None:
    """As the lock on a real tty: the second is refused in words, a close frees it."""
    second = VirtualPort(bus.chain, bus.clock)
    with pytest.raises(OSError, match="in use"):
        second.openPort()
    bus.port.closePort()
    assert second.openPort()


def test_broadcast_ping_finds_models_of_all_servos(bus: SimpleNamespace) -> None:
    """Nine answers, each with its model number and firmware."""
    found, result = bus.sdk.broadcastPing(bus.port)
    assert result == sdk.COMM_SUCCESS
    assert found == {i: [1020 if i > 7 else 1120, 46] for i in IDS}


def test_absent_id_times_out_in_virtual_time(bus: SimpleNamespace) -> None:
    """The wait costs no real time and leaves the clock at the deadline."""
    assert bus.sdk.ping(bus.port, 77)[1] == sdk.COMM_RX_TIMEOUT
    assert 0.03 < bus.clock.now_ns() / 1e9 < 0.05


@pytest.mark.parametrize(
    ("address", "size", "value", "error"),
    [
        (POSITION, 4, 5, 7),  # read-only
        (GOAL, 4, 4096, 6),  # beyond the position limit
        (11, 1, 2, 4),  # no such operating mode
        (102, 2, 1500, 6),  # beyond the current limit of an XM430
        (GOAL, 2, 5, 5),  # half a register
        (662, 1, 0, 4),  # beyond the table
    ],
)
def test_bad_writes_are_refused_with_the_servo_s_own_codes(
    bus: SimpleNamespace, address: int, size: int, value: int, error: int
) -> None:
    """Access, limit, range and length errors, and nothing is changed."""
    before = bytes(bus.chain.servo(9).registers.table[:122])
    data = list(value.to_bytes(size, "little"))
    assert bus.sdk.writeTxRx(bus.port, 9, address, size, data) == (0, error)
    assert bytes(bus.chain.servo(9).registers.table[:122]) == before


def test_eeprom_is_locked_while_torque_is_on(bus: SimpleNamespace) -> None:
    """The operating mode can be changed before torque, not after."""
    assert bus.sdk.write1ByteTxRx(bus.port, 9, 11, 5) == (0, 0)
    bus.sdk.write1ByteTxRx(bus.port, 9, TORQUE, 1)
    assert bus.sdk.write1ByteTxRx(bus.port, 9, 11, 3) == (0, 7)


def test_servo_without_current_sensor_has_no_current_modes() -> None:
    """An XL430 refuses modes 0 and 5."""
    chain, clock = chain_of("left_leader"), VirtualClock()
    port, handler = VirtualPort(chain, clock), sdk.PacketHandler(2.0)
    port.openPort()
    assert handler.write1ByteTxRx(port, 8, 11, 5) == (0, 4)
    assert handler.write1ByteTxRx(port, 1, 11, 5) == (0, 0)


def test_status_return_level_silences_writes_then_reads(bus: SimpleNamespace) -> None:
    """Level 1 answers reads only, level 0 pings only."""
    bus.sdk.write1ByteTxRx(bus.port, 1, 68, 1)
    assert bus.sdk.write1ByteTxRx(bus.port, 1, 65, 1)[0] == sdk.COMM_RX_TIMEOUT
    assert bus.sdk.read1ByteTxRx(bus.port, 1, 65) == (1, 0, 0)
    bus.sdk.write1ByteTxOnly(bus.port, 1, 68, 0)
    assert bus.sdk.read1ByteTxRx(bus.port, 1, 65)[1] == sdk.COMM_RX_TIMEOUT
    assert bus.sdk.ping(bus.port, 1)[1] == sdk.COMM_SUCCESS


def test_registered_write_waits_for_the_action(bus: SimpleNamespace) -> None:
    """Nothing changes until the broadcast action, then it does."""
    goal = list(struct.pack("<i", 1024))
    assert bus.sdk.regWriteTxRx(bus.port, 1, GOAL, 4, goal) == (0, 0)
    assert bus.sdk.read1ByteTxRx(bus.port, 1, 69)[0] == 1
    assert bus.sdk.read4ByteTxRx(bus.port, 1, GOAL)[0] == 2048
    bus.sdk.action(bus.port, sdk.BROADCAST_ID)
    assert bus.sdk.read4ByteTxRx(bus.port, 1, GOAL)[0] == 1024


def test_reboot_forgets_ram_and_makes_the_servo_deaf_for_a_while(bus: SimpleNamespace) -> None:
    """Torque is off afterwards, EEPROM is kept, and an early ping gets no answer."""
    bus.sdk.write1ByteTxRx(bus.port, 9, 11, 5)
    bus.sdk.write1ByteTxRx(bus.port, 9, TORQUE, 1)
    assert bus.sdk.reboot(bus.port, 9) == (0, 0)
    assert bus.sdk.ping(bus.port, 9)[1] == sdk.COMM_RX_TIMEOUT
    bus.clock.sleep_until_ns(bus.clock.now_ns() + 300_000_000)
    assert bus.sdk.read1ByteTxRx(bus.port, 9, TORQUE) == (0, 0, 0)
    assert bus.sdk.read1ByteTxRx(bus.port, 9, 11) == (5, 0, 0)


def test_factory_reset_option_keeps_id_and_baud(bus: SimpleNamespace) -> None:
    """With 0x02 the servo stays reachable and its settings are the factory's again."""
    assert bus.sdk.factoryReset(bus.port, 1, 0x02) == (0, 0)
    bus.clock.sleep_until_ns(bus.clock.now_ns() + 300_000_000)
    assert bus.sdk.read1ByteTxRx(bus.port, 1, 9) == (250, 0, 0)
    assert bus.sdk.clearMultiTurn(bus.port, 1) == (0, 0)


def test_unknown_instruction_gets_an_error(bus: SimpleNamespace) -> None:
    """Result 2 with the asked servo's id."""
    bus.port.write_all(packet(1, b"\x77"))
    answer = bus.port.read_exactly(11, bus.clock.now_ns())
    assert answer[:9] == b"\xff\xff\xfd\x00\x01\x04\x00\x55\x02"


@pytest.mark.parametrize("fast", [False, True])
def test_group_reads_return_every_servo(bus: SimpleNamespace, fast: bool) -> None:
    """Sync and bulk, plain and fast, give the same positions."""
    bus.bank.angle_rad[:] = 0.1
    sync = sdk.GroupSyncRead(bus.port, bus.sdk, CURRENT, 10)
    bulk = sdk.GroupBulkRead(bus.port, bus.sdk)
    for servo_id in IDS:
        sync.addParam(servo_id)
    some = (1, 2, 3)  # with id 4 the SDK's fast bulk read takes a data length for the id
    for servo_id in some:
        bulk.addParam(servo_id, POSITION, 4)
    assert (sync.fastSyncRead() if fast else sync.txRxPacket()) == sdk.COMM_SUCCESS
    assert (bulk.fastBulkRead() if fast else bulk.txRxPacket()) == sdk.COMM_SUCCESS
    tick = 2048 + round(0.1 / (2 * np.pi / 4096))
    assert [sync.getData(i, POSITION, 4) for i in IDS] == [tick] * 9
    assert [bulk.getData(i, POSITION, 4) for i in some] == [tick] * 3


def test_bulk_write_reaches_each_servo(bus: SimpleNamespace) -> None:
    """Different registers of different servos in one packet."""
    bulk = sdk.GroupBulkWrite(bus.port, bus.sdk)
    bulk.addParam(1, GOAL, 4, list(struct.pack("<i", 2000)))
    bulk.addParam(8, 84, 2, [44, 1])
    assert bulk.txPacket() == sdk.COMM_SUCCESS
    assert bus.chain.servo(1).registers.get(GOAL) == 2000
    assert bus.chain.servo(8).registers.get(84) == 300


def test_behind_an_absent_servo_a_sync_read_stays_silent(bus: SimpleNamespace) -> None:
    """Later servos wait for a predecessor that never speaks."""
    bus.chain.faults.servo_absent.add(5)
    read = sdk.GroupSyncRead(bus.port, bus.sdk, POSITION, 4)
    for servo_id in IDS:
        read.addParam(servo_id)
    assert read.txRxPacket() == sdk.COMM_RX_TIMEOUT
    assert [len(read.data_dict[i]) for i in IDS] == [4, 4, 4, 4, 0, 0, 0, 0, 0]


def test_replies_are_stuffed_and_the_sdk_reads_them_back(bus: SimpleNamespace) -> None:
    """Current -1 and velocity -3 put ``FF FF FD`` on the wire."""
    servo = bus.chain.servo(1)
    servo.measure = lambda bank, end: struct.pack_into(
        "<hii", servo.registers.table, 126, -1, -3, 2045
    )
    read = sdk.GroupSyncRead(bus.port, bus.sdk, CURRENT, 10)
    read.addParam(1)
    assert read.txRxPacket() == sdk.COMM_SUCCESS
    assert signed(read.getData(1, 126, 2), 2) == -1
    assert signed(read.getData(1, 128, 4), 4) == -3
    bus.port.write_all(packet(1, struct.pack("<BHH", 2, 126, 10)))
    assert b"\xff\xff\xfd\xfd" in bus.port.read_exactly(30, bus.clock.now_ns())


def test_raw_header_inside_a_body_is_rejected() -> None:
    """A packet whose sender forgot to stuff is dropped and counted; a stuffed one is read."""
    body = bytes((0x03,)) + struct.pack("<Hhi", CURRENT, -1, -3)
    good = packet(1, body)
    bare = good[:5] + struct.pack("<H", len(body) + 2) + body
    reader = InstructionReader()
    assert list(reader.feed(bare + struct.pack("<H", crc16(bare)))) == []
    assert reader.unstuffed == 1
    assert [i.params for i in reader.feed(good)] == [body[1:]]


def test_damaged_packet_and_noise_do_not_hide_the_next_one() -> None:
    """After a wrong CRC and garbage, byte by byte, the next good packet is found."""
    good = packet(3, b"\x01")
    reader = InstructionReader()
    stream = good[:-1] + b"\x00" + b"\xff\xff\xfd\x00\x01" + b"noise" + good
    found = [i for byte in stream for i in reader.feed(bytes((byte,)))]
    assert [(i.servo_id, i.code) for i in found] == [(3, 1)]
    assert reader.damaged >= 1


def test_shadow_mirrors_ram_but_not_eeprom(bus: SimpleNamespace) -> None:
    """Writes to the shoulder reach its second servo below address 64 only by its own id."""
    bus.sdk.write1ByteTxRx(bus.port, 2, 11, 4)
    bus.sdk.write1ByteTxRx(bus.port, 2, TORQUE, 1)
    bus.sdk.write4ByteTxRx(bus.port, 2, GOAL, 2500)
    shadow = bus.chain.servo(3).registers
    assert (shadow.get(11), shadow.get(TORQUE), shadow.get(GOAL)) == (3, 1, 2500)


def test_joint_with_one_of_two_servos_on_has_half_its_strength(bus: SimpleNamespace) -> None:
    """A shadow left without torque is felt."""
    angle = np.zeros(len(bus.bank))
    torque = {}
    for ids in ((2, 3), (2,)):
        for servo_id in ids:
            bus.sdk.write1ByteTxRx(bus.port, servo_id, TORQUE, 1)
        bus.sdk.write1ByteTxRx(bus.port, 3, TORQUE, int(3 in ids))
        bus.sdk.write4ByteTxRx(bus.port, 2, GOAL, 2068)
        axis = bus.bank.index(ARM, "shoulder")
        torque[len(ids)] = bus.bank.torque_nm(0.002, angle, angle)[axis]
    assert torque[1] == pytest.approx(torque[2] / 2)


def test_wrong_drive_mode_mirrors_position_and_motion(bus: SimpleNamespace) -> None:
    """A servo configured against its mounting reports and moves the other way."""
    axis = bus.bank.index(ARM, "shoulder")
    bus.bank.angle_rad[axis] = 0.5
    right = bus.sdk.read4ByteTxRx(bus.port, 2, POSITION)[0]
    bus.sdk.write1ByteTxRx(bus.port, 2, 10, 0)
    assert bus.sdk.read4ByteTxRx(bus.port, 2, POSITION)[0] - 2048 == -(right - 2048)
    bus.sdk.write1ByteTxRx(bus.port, 2, TORQUE, 1)
    bus.sdk.write4ByteTxRx(bus.port, 2, GOAL, 2148)
    assert bus.bank.goal_rad[axis] == pytest.approx(-100 * 2 * np.pi / 4096)


def test_homing_offset_shifts_reading_and_goal_alike(bus: SimpleNamespace) -> None:
    """Present position includes it, and a goal equal to it does not move the joint."""
    bus.sdk.write4ByteTxRx(bus.port, 1, 20, 100)
    assert bus.sdk.read4ByteTxRx(bus.port, 1, POSITION)[0] == 2148
    bus.sdk.write1ByteTxRx(bus.port, 1, TORQUE, 1)
    bus.sdk.write4ByteTxRx(bus.port, 1, GOAL, 2148)
    assert bus.bank.goal_rad[bus.bank.index(ARM, "waist")] == 0.0


def test_return_delay_is_waited_for_every_reply(bus: SimpleNamespace) -> None:
    """The factory's 250 (500 us) on one servo of a group of nine."""
    bus.chain.servo(4).registers.set(9, 250)
    read = sdk.GroupSyncRead(bus.port, bus.sdk, POSITION, 4)
    for servo_id in IDS:
        read.addParam(servo_id)
    begun_ns = bus.clock.now_ns()
    assert read.txRxPacket() == sdk.COMM_SUCCESS
    assert bus.clock.now_ns() - begun_ns == 9 * 500_000


def test_ports_share_one_interface() -> None:
    """Drivers need not know which of the two they hold."""
    assert issubclass(VirtualPort, ServoPort)
    assert issubclass(QuietPort, ServoPort)
