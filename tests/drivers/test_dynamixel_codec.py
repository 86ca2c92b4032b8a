"""The lean codec against hand-made bytes: what is accepted, and what is not."""

import struct
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.dynamixel import table
from drivers.dynamixel.codec import (
    BROADCAST,
    HEADER,
    SYNC_WRITE,
    GroupReader,
    GroupWrite,
    Question,
    alerts_in,
    broadcast_write,
    crc16,
    packet,
)
from drivers.dynamixel.port import ServoPort
from drivers.dynamixel.units import MOTION
from teleop.clock import VirtualClock

IDS = [1, 2, 4]
POSITION = table.PRESENT_POSITION.name
VELOCITY = table.PRESENT_VELOCITY.name
CURRENT = table.PRESENT_CURRENT.name
MILLISECOND = 1_000_000


def status(servo_id: int, data: bytes, error: int = 0) -> bytes:
    """A status packet, stuffed."""
    body = bytes((0x55, error)) + data
    body = body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
    head = HEADER + struct.pack("<BH", servo_id, len(body) + 2) + body
    return head + struct.pack("<H", crc16(head))


def motion(current: int, velocity: int, position: int) -> bytes:
    """Data of one servo's motion block."""
    return struct.pack("<hii", current, velocity, position)


def fast_status(parts: dict[int, bytes], errors: dict[int, int] | None = None) -> bytes:
    """The one packet that all servos of a fast sync read make together."""
    count = 1 + sum(len(data) + 4 for data in parts.values())
    whole = HEADER + struct.pack("<BHB", BROADCAST, count, 0x55)
    for servo_id, data in parts.items():
        whole += bytes(((errors or {}).get(servo_id, 0), servo_id)) + data
        whole += struct.pack("<H", crc16(whole))
    return whole


class ScriptedPort(ServoPort):
    """A line on which bytes arrive at given times after each request."""

    def __init__(self, *answers: list[tuple[int, bytes]]) -> None:
        super().__init__("scripted", VirtualClock())
        self.answers = deque(answers)
        self.coming: list[tuple[int, bytes]] = []
        self.requests: list[bytes] = []
        self.openPort()

    def _open(self, baud: int) -> None:
        pass

    def _close(self) -> None:
        pass

    def _set_baud(self, baud: int) -> None:
        pass

    def _send(self, data: bytes) -> None:
        self.requests.append(data)
        now = self.clock.now_ns()
        for delay_ms, reply in self.answers.popleft() if self.answers else []:
            self.coming.append((now + delay_ms * MILLISECOND, reply))
        self.coming.sort(key=lambda item: item[0])

    def _receive(self, deadline_ns: int) -> bytes:
        if not self.coming or self.coming[0][0] > deadline_ns:
            self.clock.sleep_until_ns(deadline_ns)
            return b""
        ready_ns, data = self.coming.pop(0)
        self.clock.sleep_until_ns(ready_ns)
        return data

    def _discard(self) -> None:
        now = self.clock.now_ns()
        self.coming = [item for item in self.coming if item[0] > now]


def reader_of(port: ScriptedPort, fast: bool = False) -> GroupReader:
    return GroupReader(port, IDS, MOTION, timeout_s=0.008, spares=(0, 2, 3, 4), fast=fast)


def whole_reply(position: int, spare: int = 0) -> bytes:
    data = bytes(spare) + motion(1, 2, position)
    return b"".join(status(i, data) for i in IDS)


def test_packets_match_the_vendors_examples() -> None:
    """Examples of the ROBOTIS e-manual, "DYNAMIXEL Protocol 2.0"."""
    ping = bytes.fromhex("FFFFFD00 01 0300 01 194E")
    read = bytes.fromhex("FFFFFD00 01 0700 02 84000400 1D15")
    write = bytes.fromhex("FFFFFD00 01 0900 03 7400 00020000 CA89")
    assert packet(1, 0x01) == ping
    assert packet(1, 0x02, struct.pack("<HH", 132, 4)) == read
    assert packet(1, 0x03, struct.pack("<HI", 116, 512)) == write


def test_a_whole_reply_is_taken_apart_in_servo_order() -> None:
    """Signed fields, one record per servo, none missing."""
    reply = b"".join(status(i, motion(-i, -2 * i, 2048 + i)) for i in IDS)
    answer = reader_of(ScriptedPort([(1, reply)])).read()
    assert answer.missing == ()
    assert answer.records[POSITION].tolist() == [2048 + i for i in IDS]
    assert answer.records[VELOCITY].tolist() == [-2 * i for i in IDS]
    assert answer.records[CURRENT].tolist() == [-i for i in IDS]


def test_the_alert_bit_names_the_servo() -> None:
    """An error byte of 0x80 in one status packet is surfaced, the data still used."""
    reply = b"".join(status(i, motion(0, 0, i), 0x80 if i == 2 else 0) for i in IDS)
    answer = reader_of(ScriptedPort([(1, reply)])).read()
    assert answer.missing == ()
    assert alerts_in(answer.records, IDS) == [2]


def test_a_stuffed_reply_is_unstuffed() -> None:
    """Current -1 and velocity -3 put FF FF FD on the wire, which is sent with an FD more."""
    reply = b"".join(status(i, motion(-1, -3, 2045)) for i in IDS)
    reader = reader_of(ScriptedPort([(1, reply)]))
    answer = reader.read()
    assert answer.missing == ()
    assert answer.records[VELOCITY].tolist() == [-3, -3, -3]
    assert reader.slow_replies == 1


@given(st.lists(st.sampled_from([0xFF, 0xFD, 0x00, 0x55]), min_size=30, max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_data_survives_stuffing(values: list[int]) -> None:
    """The bytes that make headers and stuffing, in any order."""
    data = bytes(values)
    blocks = {i: data[10 * k : 10 * k + 10] for k, i in enumerate(IDS)}
    reply = b"".join(status(i, block) for i, block in blocks.items())
    answer = reader_of(ScriptedPort([(1, reply)])).read()
    assert answer.missing == ()
    positions = [struct.unpack("<i", block[6:])[0] for block in blocks.values()]
    assert answer.records[POSITION].tolist() == positions


def test_a_reply_in_pieces_is_put_together() -> None:
    """A USB adapter may hand a packet over in two parts."""
    reply = whole_reply(7)
    answer = reader_of(ScriptedPort([(1, reply[:25]), (4, reply[25:])])).read()
    assert answer.records[POSITION].tolist() == [7, 7, 7]


@pytest.mark.parametrize("fast", [False, True])
def test_a_missing_servo_is_named_and_the_others_kept(fast: bool) -> None:
    """Silence of the last servo costs its own data only; nothing is read as 0 rad by mistake."""
    if fast:
        reply = fast_status(dict.fromkeys(IDS, motion(0, 0, 9)))[:-14]
    else:
        reply = b"".join(status(i, motion(0, 0, 9)) for i in IDS[:2])
    answer = reader_of(ScriptedPort([(1, reply)]), fast).read()
    assert answer.missing == (4,)
    assert answer.records[POSITION].tolist()[:2] == [9, 9]


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    """No damage passes: either the servo is missing, or its data is right."""
    reply = whole_reply(1234)
    for bit in range(8 * len(reply)):
        damaged = bytearray(reply)
        damaged[bit // 8] ^= 1 << bit % 8
        question = Question(IDS, MOTION)
        assert question.whole(bytes(damaged)) is None
        found, _ = question.scan(bytes(damaged))
        assert all(body[1:] == motion(1, 2, 1234) for body in found.values())
        assert len(found) == len(IDS) - 1


def test_noise_before_and_between_replies_is_skipped() -> None:
    """Bytes that are no packet do not hide those that are."""
    noise = b"\xff\xff\xfd\x00\x02\x0e\x00\x55\xff\xff"
    reply = noise + status(1, motion(0, 0, 5)) + noise
    reply += status(2, motion(0, 0, 5)) + status(4, motion(0, 0, 5))
    answer = reader_of(ScriptedPort([(1, reply)])).read()
    assert answer.missing == ()


@pytest.mark.parametrize("late_ms", [9, 12, 14, 16, 30])
def test_a_late_reply_is_never_taken_for_the_next_cycles(late_ms: int) -> None:
    """Position 1111 was asked for in the first cycle, and is stale in the second."""
    first = [(late_ms, whole_reply(1111))]
    second = [(3, whole_reply(2222, spare=2))]
    reader = reader_of(ScriptedPort(first, second))
    assert reader.read().missing == tuple(IDS)
    assert reader.read().records[POSITION].tolist() == [2222] * 3


def test_after_calm_the_short_question_is_asked_again() -> None:
    """The longer block of the time after a failure does not slow the bus for ever."""
    good = [[(1, whole_reply(5, spare=2))]] * 64
    port = ScriptedPort([], *good, [(1, whole_reply(6))])
    reader = reader_of(port)
    for _ in range(65):
        reader.read()
    assert reader.read().records[POSITION].tolist() == [6, 6, 6]
    assert port.requests[0] == port.requests[-1] != port.requests[1]


def test_a_silent_bus_costs_the_wire_time_and_the_timeout() -> None:
    """No answer at all: 8 ms beyond the time the bytes would have taken."""
    port = ScriptedPort([])
    reader_of(port).read()
    wire = port.wire_ns(len(port.requests[0]) + 3 * 21)
    assert port.clock.now_ns() == wire + 8 * MILLISECOND


def test_a_fast_reply_is_one_packet() -> None:
    """Same fields; the alert bit of each servo is kept."""
    reply = fast_status({i: motion(-1, -3, 100 * i) for i in IDS}, errors={4: 0x80})
    answer = reader_of(ScriptedPort([(1, reply)]), fast=True).read()
    assert answer.records[POSITION].tolist() == [100, 200, 400]
    assert answer.records[VELOCITY].tolist() == [-3, -3, -3]
    assert alerts_in(answer.records, IDS) == [4]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3))
@settings(max_examples=200, deadline=None)
def test_a_group_write_packs_any_goals(goals: list[int]) -> None:
    """The prebuilt packet equals one made from scratch, stuffed where it must be."""
    parameters = struct.pack("<HH", 116, 4)
    parameters += b"".join(struct.pack("<Bi", i, g) for i, g in zip(IDS, goals, strict=True))
    packer = GroupWrite(IDS, table.GOAL_POSITION)
    assert packer.pack(np.array(goals, np.int32)) == packet(BROADCAST, SYNC_WRITE, parameters)


def test_a_group_write_with_a_header_in_it_is_stuffed() -> None:
    """The stock SDK sends this one raw, and the servos then hear something else."""
    goal = int.from_bytes(b"\xff\xff\xfd\x00", "little", signed=True)
    assert b"\xff\xff\xfd\xfd" in GroupWrite(IDS, table.GOAL_POSITION).pack([goal] * 3)


def test_a_broadcast_write_is_addressed_to_all() -> None:
    """Torque off for everybody is one packet."""
    assert broadcast_write(table.TORQUE_ENABLE, 0) == packet(0xFE, 0x03, b"\x40\x00\x00")
