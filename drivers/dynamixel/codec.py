"""Dynamixel Protocol 2.0 for the control loop: one group read and one group write per cycle.

Packets are prebuilt; a whole reply is checked and taken apart by a few numpy operations
(the CRC is linear, so it is the exclusive-or of one table entry per byte). A reply that is
split, stuffed, damaged or incomplete goes the slow way, packet by packet.

The protocol has no sequence numbers, so a late reply looks like the next cycle's. After
every failure the reader therefore asks for a slightly longer block; replies to the older
question then have another length and are dropped.

Protocol: ROBOTIS e-manual, "DYNAMIXEL Protocol 2.0".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drivers.dynamixel.port import ServoPort
from drivers.dynamixel.table import ALERT, Register
from teleop.clock import ns_from_s

HEADER = b"\xff\xff\xfd\x00"
STUFFED = b"\xff\xff\xfd"
BROADCAST = 0xFE
WRITE = 0x03
STATUS = 0x55
SYNC_READ = 0x82
SYNC_WRITE = 0x83
FAST_SYNC_READ = 0x8A

CALM_READS = 64
"""Good reads after which no reply to an older question can still be on its way."""

RecordArray = NDArray[np.void]
IntArray = NDArray[np.int32]


def _crc_table() -> tuple[int, ...]:
    """CRC-16 with polynomial 0x8005, not reflected, one entry per byte."""
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return tuple(table)


_CRC = _crc_table()


def crc16(data: bytes) -> int:
    """CRC of a packet without its last two bytes."""
    crc = 0
    for byte in data:
        crc = ((crc & 0xFF) << 8) ^ _CRC[(crc >> 8) ^ byte]
    return crc


def crc_by_position(count: int) -> NDArray[np.uint16]:
    """Shape (count, 256): what each byte value at each position adds to a message's CRC."""
    table = np.array(_CRC, np.uint16)
    by_position = np.empty((count, 256), np.uint16)
    current = table
    for position in range(count - 1, -1, -1):
        by_position[position] = current
        current = (current << 8) ^ table[current >> 8]
    return by_position


def packet(servo_id: int, instruction: int, parameters: bytes = b"") -> bytes:
    """An instruction packet, stuffed and with its CRC."""
    body = (bytes((instruction,)) + parameters).replace(STUFFED, STUFFED + b"\xfd")
    head = HEADER + struct.pack("<BH", servo_id, len(body) + 2) + body
    return head + struct.pack("<H", crc16(head))


class GroupReply(NamedTuple):
    """What came back from a group read."""

    records: RecordArray
    """Shape (K,), one per servo in the order asked, with a field per register name and
    ``error`` (the status error byte); all zero for servos in ``missing``."""
    missing: tuple[int, ...]
    """Ids that gave no valid answer in time."""


def alerts_in(records: RecordArray, ids: Sequence[int]) -> list[int]:
    """Ids of the servos that report a hardware error."""
    return [ids[int(i)] for i in np.flatnonzero(records["error"] & ALERT)]


class Question:
    """One prebuilt group read: its request, and how to take its reply apart.

    Args:
        ids: Servos in the order of the records.
        registers: Neighbours in the control table, in address order.
        spare: Bytes to read before the first register, only to make the length differ.
        fast: Ask by fast sync read, which all servos answer in one packet.
    """

    def __init__(
        self, ids: Sequence[int], registers: Sequence[Register], spare: int = 0, fast: bool = False
    ) -> None:
        first = registers[0].address - spare
        self.size = registers[-1].address + registers[-1].size - first
        self.ids = tuple(ids)
        self.fast = fast
        parameters = struct.pack("<HH", first, self.size) + bytes(ids)
        self.request = packet(BROADCAST, FAST_SYNC_READ if fast else SYNC_READ, parameters)
        self._start = 2 if fast else 9  # of the data in one servo's part
        self.part_length = self._start + self.size + 2
        self.lead_length = 8 if fast else 0
        self.reply_length = self.lead_length + self.part_length * len(ids)
        self._part = self._part_type(registers, first)
        self._tables()

    def _part_type(self, registers: Sequence[Register], first: int) -> np.dtype[np.void]:
        kinds = {
            (1, False): "u1",
            (2, False): "<u2",
            (2, True): "<i2",
            (4, True): "<i4",
            (4, False): "<u4",
        }
        fields: dict[str, tuple[str, int]] = {
            "head": ("u1", 1) if self.fast else ("<u8", 0),
            "error": ("u1", 0) if self.fast else ("u1", 8),
        }
        for register in registers:
            kind = kinds[register.size, register.signed]
            fields[register.name] = (kind, self._start + register.address - first)
        spec: Any = {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": self.part_length,
        }
        part: np.dtype[np.void] = np.dtype(spec)
        return part

    def _tables(self) -> None:
        """What every byte must add up to: the CRC bytes are folded in, so a good sum is 0."""
        if self.fast:
            span = self.reply_length
            self._lead = HEADER + struct.pack("<BHB", BROADCAST, span - 7, STATUS)
            self._heads = np.array(self.ids, np.uint8)
            self._shape: tuple[int, ...] = (1, span)
        else:
            span = self.part_length
            heads = [HEADER + struct.pack("<BHB", i, self.size + 4, STATUS) for i in self.ids]
            self._lead = b""
            self._heads = np.frombuffer(b"".join(heads), "<u8")
            self._shape = (len(self.ids), span)
        byte = np.arange(256, dtype=np.uint16)
        self._sums = np.vstack([crc_by_position(span - 2), byte, byte << 8])
        self._positions = np.arange(span)

    def whole(self, reply: bytes) -> RecordArray | None:
        """The records of a complete, undamaged, unstuffed reply; None for any other.

        One sum covers a fast reply: the last servo's CRC is over all bytes before it.
        """
        records = np.frombuffer(reply, self._part, offset=self.lead_length)
        if (records["head"] != self._heads).any() or reply[: self.lead_length] != self._lead:
            return None
        matrix = np.frombuffer(reply, np.uint8).reshape(self._shape)
        sums = np.bitwise_xor.reduce(self._sums[self._positions, matrix], axis=1)
        return None if sums.any() else records

    def scan(self, reply: bytes) -> tuple[dict[int, bytes], int]:
        """Take what is valid out of a reply of any kind.

        Returns:
            For each servo that answered, error byte and data; and how many bytes at the end
            may be the beginning of another answer.
        """
        return self._scan_fast(reply) if self.fast else self._scan_parts(reply)

    def records_from(self, found: dict[int, bytes]) -> RecordArray:
        """Records in the usual form, zero where nothing was found."""
        blank = bytes(1 + self.size)
        parts = []
        for servo_id in self.ids:
            error, data = found.get(servo_id, blank)[:1], found.get(servo_id, blank)[1:]
            lead = error + bytes((servo_id,)) if self.fast else bytes(8) + error
            parts.append(lead + data + bytes(2))
        return np.frombuffer(b"".join(parts), self._part)

    def _scan_parts(self, reply: bytes) -> tuple[dict[int, bytes], int]:
        found: dict[int, bytes] = {}
        longest = self.size + 4 + (self.size + 1) // 3  # one stuffing byte per three
        at = reply.find(HEADER)
        while at >= 0:
            if len(reply) - at < 8:
                return found, len(reply) - at
            servo_id, length, kind = struct.unpack_from("<BHB", reply, at + 4)
            if kind == STATUS and servo_id in self.ids and self.size + 4 <= length <= longest:
                end = at + 7 + length
                if end > len(reply):
                    return found, len(reply) - at
                if crc16(reply[at : end - 2]) == int.from_bytes(reply[end - 2 : end], "little"):
                    body = reply[at + 8 : end - 2].replace(STUFFED + b"\xfd", STUFFED)
                    if len(body) == self.size + 1:
                        found[servo_id] = body
                    at = reply.find(HEADER, end)
                    continue
            at = reply.find(HEADER, at + len(HEADER))
        return found, 0

    def _scan_fast(self, reply: bytes) -> tuple[dict[int, bytes], int]:
        found: dict[int, bytes] = {}
        start = reply.find(self._lead)
        if start < 0:
            return found, 0
        at = start + self.lead_length
        for servo_id in self.ids:
            end = at + self.part_length
            crc = int.from_bytes(reply[end - 2 : end], "little")
            if (
                end > len(reply)
                or reply[at + 1] != servo_id
                or crc16(reply[start : end - 2]) != crc
            ):
                break
            found[servo_id] = reply[at : at + 1] + reply[at + 2 : end - 2]
            at = end
        return found, len(reply) - at


class GroupReader:
    """Asks the same question of a group of servos, cycle after cycle.

    Args:
        spares: Spare bytes of the question in use, one entry per generation; after a
            failure the next one is taken.
    """

    def __init__(
        self,
        port: ServoPort,
        ids: Sequence[int],
        registers: Sequence[Register],
        timeout_s: float,
        spares: Sequence[int] = (0,),
        fast: bool = False,
    ) -> None:
        self.ids = tuple(ids)
        self.slow_replies = 0
        self._port = port
        self._timeout_ns = ns_from_s(timeout_s)
        self._questions = [Question(ids, registers, spare, fast) for spare in spares]
        self._generation = 0
        self._calm = 0

    def read(self) -> GroupReply:
        """Ask once.

        Raises:
            DeviceLostError: the port has gone.
        """
        port = self._port
        question = self._questions[self._generation]
        port.discard_input()
        port.write_all(question.request)
        wire_ns = port.wire_ns(len(question.request) + question.reply_length)
        deadline_ns = port.clock.now_ns() + wire_ns + self._timeout_ns
        reply = port.read_exactly(question.reply_length, deadline_ns)
        if len(reply) == question.reply_length:
            records = question.whole(reply)
            if records is not None:
                if self._generation:
                    self._calm_down()
                return GroupReply(records, ())
        return self._read_on(question, reply, deadline_ns)

    def _read_on(self, question: Question, reply: bytes, deadline_ns: int) -> GroupReply:
        """The slow way: go on until every servo is heard, the last has spoken, or it is late."""
        self.slow_replies += 1
        while True:
            found, rest = question.scan(reply)
            if len(found) == len(self.ids) or self.ids[-1] in found:
                break
            wanted = (len(self.ids) - len(found)) * question.part_length - rest
            more = self._port.read_exactly(max(1, wanted), deadline_ns)
            if not more:
                break
            reply += more
        missing = tuple(i for i in self.ids if i not in found)
        if missing:
            self._port.suspect = True
            self._generation = (self._generation + 1) % len(self._questions)
            self._calm = 0
        return GroupReply(question.records_from(found), missing)

    def _calm_down(self) -> None:
        self._calm += 1
        if self._calm >= CALM_READS:
            self._generation = 0


class GroupWrite:
    """Packs one value for each servo of a group into a sync write.

    Args:
        ids: Servos in the order of the values.
        register: What is written.
    """

    def __init__(self, ids: Sequence[int], register: Register) -> None:
        kind = {1: "u1", 2: "<i2", 4: "<i4"}[register.size]
        entry = np.dtype([("id", "u1"), ("value", kind)])
        self._parameters = struct.pack("<HH", register.address, register.size)
        body = self._parameters + bytes(entry.itemsize * len(ids))
        self._packet = np.frombuffer(bytearray(packet(BROADCAST, SYNC_WRITE, body)), np.uint8)
        entries = self._packet[12:-2].view(entry)
        entries["id"] = ids
        self._values = entries["value"]
        count = len(self._packet) - 2
        self._checked = self._packet[:count]
        self._crc_bytes = self._packet[count:].view("<u2")
        self._sums = crc_by_position(count)
        self._positions = np.arange(count)

    def pack(self, values: IntArray | Sequence[int]) -> bytes:
        """The packet that writes these register values; no servo answers it."""
        self._values[:] = values
        self._crc_bytes[0] = np.bitwise_xor.reduce(self._sums[self._positions, self._checked])
        data = self._packet.tobytes()
        if STUFFED in data[8:-2]:
            return packet(BROADCAST, SYNC_WRITE, data[8:-2])
        return data


def broadcast_write(register: Register, value: int) -> bytes:
    """The packet that writes one register of every servo on the bus; no servo answers it."""
    data = value.to_bytes(register.size, "little")
    return packet(BROADCAST, WRITE, struct.pack("<H", register.address) + data)
