"""Protocol 2.0 packets as a servo sees them: framing, byte stuffing and the CRC.

Written apart from the driver's codec on purpose: the two only meet on the wire, so that a
mistake in one shows. Source: ROBOTIS e-manual, "Protocol 2.0"; the CRC is CRC-16 with
polynomial 0x8005, initial value 0, not reflected, over everything before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

HEADER = b"\xff\xff\xfd\x00"
BROADCAST_ID = 0xFE
STATUS = 0x55
_PATTERN = b"\xff\xff\xfd"
_STUFFED = b"\xff\xff\xfd\xfd"
_HEAD = 7
"""Header, id and length: the bytes that ``length`` does not count."""
_LONGEST = 1024
"""A longer length field is taken for noise."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc16(data: bytes | bytearray, crc: int = 0) -> int:
    """The checksum of ``data``, going on from ``crc``."""
    table = _CRC_TABLE
    for byte in data:
        crc = ((crc & 0xFF) << 8) ^ table[(crc >> 8) ^ byte]
    return crc


def packet(servo_id: int, body: bytes) -> bytes:
    """A whole packet around ``body`` (instruction and parameters), stuffed and summed."""
    stuffed = body.replace(_PATTERN, _STUFFED)
    head = HEADER + bytes((servo_id,)) + (len(stuffed) + 2).to_bytes(2, "little") + stuffed
    return head + crc16(head).to_bytes(2, "little")


def status_packet(servo_id: int, error: int, params: bytes = b"") -> bytes:
    """A servo's reply."""
    return packet(servo_id, bytes((STATUS, error)) + params)


def fast_status_packet(parts: list[tuple[int, int, bytes]]) -> bytes:
    """The one packet that several servos compose in a fast group read.

    Each part (id, error, data) is followed by the CRC over all bytes so far. The length is
    sent before the data is known, so this packet is not stuffed.
    """
    length = 1 + sum(len(data) + 4 for _, _, data in parts)
    whole = bytearray(HEADER + bytes((BROADCAST_ID,)) + length.to_bytes(2, "little"))
    whole.append(STATUS)
    for servo_id, error, data in parts:
        whole += bytes((error, servo_id)) + data
        whole += crc16(whole).to_bytes(2, "little")
    return bytes(whole)


class Instruction(NamedTuple):
    """What the host asked for."""

    servo_id: int
    code: int
    params: bytes


class InstructionReader:
    """Finds instructions in the bytes of a line; damaged ones are counted and dropped."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.damaged = 0
        """Packets with a wrong CRC."""
        self.unstuffed = 0
        """Packets with a raw ``FF FF FD`` in their body: a servo takes it for a new header."""

    def feed(self, data: bytes) -> Iterator[Instruction]:
        """Every instruction that ``data`` completes."""
        buffer = self._buffer
        buffer += data
        while (whole := self._next(buffer)) is not None:
            if (instruction := self._decoded(whole)) is not None:
                yield instruction

    def clear(self) -> None:
        """Forget a packet that had begun."""
        self._buffer.clear()

    def _next(self, buffer: bytearray) -> bytes | None:
        while True:
            start = buffer.find(HEADER)
            if start < 0:
                del buffer[: max(0, len(buffer) - len(HEADER) + 1)]
                return None
            del buffer[:start]
            if len(buffer) < _HEAD:
                return None
            length = buffer[5] | buffer[6] << 8
            if not 3 <= length <= _LONGEST:
                del buffer[: len(HEADER)]
                continue
            if len(buffer) < _HEAD + length:
                return None
            whole = bytes(buffer[: _HEAD + length])
            if crc16(whole[:-2]) == int.from_bytes(whole[-2:], "little"):
                del buffer[: _HEAD + length]
                return whole
            self.damaged += 1
            del buffer[: len(HEADER)]

    def _decoded(self, whole: bytes) -> Instruction | None:
        body = whole[_HEAD:-2]
        if _PATTERN in body:
            if _PATTERN in body.replace(_STUFFED, b""):
                self.unstuffed += 1
                return None
            body = body.replace(_STUFFED, _PATTERN)
        if body[0] == STATUS:  # another servo's reply, echoed
            return None
        return Instruction(whole[4], body[0], body[1:])
