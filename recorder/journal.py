"""One append-only file per stream, written while an episode is recorded.

A record is one ``writev``: what was written before the process was killed stays in the
kernel's cache and reaches the disk; a timer thread forces it there, so that a power cut costs
no more than the timer's period. A reader stops at the first record that is torn or damaged.

Layout, little endian::

    file    "TdJ1" | topic length u16 | topic (UTF-8) | records
    record  "TdR1" | payload length u32 | seq i64 | stamp_ns i64 | arrival_ns i64 | crc u32
            | payload

``crc`` is the CRC-32 of the record's head (before ``crc``) followed by the payload. The
payload is the message as it travels on the bus (``teleop.wire``). The bytes depend on the
messages and their arrival stamps alone.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from teleop.errors import EpisodeError

FILE_MAGIC = b"TdJ1"
RECORD_MAGIC = b"TdR1"
SUFFIX = ".journal"

_TOPIC_LENGTH = struct.Struct("<H")
_HEAD = struct.Struct("<4sIqqq")
_CRC = struct.Struct("<I")
_RECORD_HEAD = _HEAD.size + _CRC.size


def journal_name(topic: str) -> str:
    """File name of a topic's journal; topics hold no dots."""
    return topic.replace("/", ".") + SUFFIX


class JournalWriter:
    """Appends the records of one stream.

    Raises:
        OSError: the file exists already or cannot be created.
    """

    def __init__(self, path: Path, topic: str) -> None:
        self.path = path
        self.records = 0
        self._synced_bytes = 0
        name = topic.encode()
        head = FILE_MAGIC + _TOPIC_LENGTH.pack(len(name)) + name
        # O_APPEND: after a failed write is taken back, the next one must not leave a hole
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)
        try:
            self.bytes = self._write_whole([head], 0)
        except OSError:
            self.close()
            raise

    def append(self, seq: int, stamp_ns: int, arrival_ns: int, payload: bytes) -> None:
        """Write one record, whole or not at all.

        Raises:
            OSError: the disk is full or failing; what was written before stays readable.
        """
        head = _HEAD.pack(RECORD_MAGIC, len(payload), seq, stamp_ns, arrival_ns)
        crc = _CRC.pack(zlib.crc32(payload, zlib.crc32(head)))
        self.bytes += self._write_whole([head, crc, payload], self.bytes)
        self.records += 1

    def _write_whole(self, parts: list[bytes], offset: int) -> int:
        size = sum(map(len, parts))
        written = os.writev(self._fd, parts)
        if written == size:
            return size
        # short write: the disk has just filled up; the second attempt names the cause
        rest = memoryview(b"".join(parts))
        try:
            while written < size:
                written += os.write(self._fd, rest[written:])
        except OSError:
            os.ftruncate(self._fd, offset)
            raise
        return size

    def sync(self) -> None:
        """Force what was written to the disk (safe to call from another thread)."""
        if self._synced_bytes != (now := self.bytes):
            os.fdatasync(self._fd)
            self._synced_bytes = now

    def close(self) -> None:
        """Close the file; doing it again changes nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SyncTimer:
    """Calls ``sync`` now and every ``period_s`` on its own thread, off the recorder's step.

    The first error ends the thread and is kept in ``error`` for the recorder to see.
    """

    def __init__(self, sync: Callable[[], None], period_s: float) -> None:
        self.error: OSError | None = None
        self._sync = sync
        self._period_s = period_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._sync()
            except OSError as error:
                self.error = error
                return
            if self._stopped.wait(self._period_s):
                return

    def stop(self) -> None:
        """End the thread; returns when no sync is running any more."""
        self._stopped.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a journal."""

    seq: int
    stamp_ns: int
    arrival_ns: int
    payload: memoryview
    """Valid while the reader is open."""


class JournalReader:
    """Reads the records of one stream, in a memory map: nothing is held in memory.

    Raises:
        EpisodeError: the file's own head is missing or foreign.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost_bytes = 0
        """Bytes of a torn tail; known after a full pass."""
        with open(path, "rb") as file:
            self._size = os.fstat(file.fileno()).st_size
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else None
        self._view = memoryview(self._map) if self._map is not None else memoryview(b"")
        self.topic = self._read_head()

    def _read_head(self) -> str:
        fixed = len(FILE_MAGIC) + _TOPIC_LENGTH.size
        if len(self._view) >= fixed and self._view[: len(FILE_MAGIC)] == FILE_MAGIC:
            (length,) = _TOPIC_LENGTH.unpack_from(self._view, len(FILE_MAGIC))
            if len(self._view) >= fixed + length:
                self._start = fixed + length
                return bytes(self._view[fixed : self._start]).decode(errors="replace")
        self.close()
        raise EpisodeError(f"{self.path}: not a journal, or cut off within its first line")

    def __iter__(self) -> Iterator[Record]:
        view, offset, size = self._view, self._start, self._size
        while offset + _RECORD_HEAD <= size:
            magic, length, seq, stamp_ns, arrival_ns = _HEAD.unpack_from(view, offset)
            body = offset + _RECORD_HEAD
            if magic != RECORD_MAGIC or body + length > size:
                break
            payload = view[body : body + length]
            (crc,) = _CRC.unpack_from(view, offset + _HEAD.size)
            if crc != zlib.crc32(payload, zlib.crc32(view[offset : offset + _HEAD.size])):
                break
            offset = body + length
            yield Record(seq, stamp_ns, arrival_ns, payload)
        self.lost_bytes = size - offset

    def close(self) -> None:
        """Release the map. Payloads still held elsewhere keep it until they are gone."""
        self._view.release()
        self._map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
