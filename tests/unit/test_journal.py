"""Journals: whatever was written whole is read back, and nothing else."""

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.journal import JournalReader, JournalWriter, SyncTimer, journal_name
from teleop.errors import EpisodeError

TOPIC = "arm/left/state"
Content = list[tuple[int, int, int, bytes]]
RECORDS: Content = [(i, 10 * i, 10 * i + 3, bytes([i]) * (5 * i)) for i in range(1, 20)]


def write(path: Path, records: Content) -> None:
    """A closed journal with these records."""
    writer = JournalWriter(path, TOPIC)
    for record in records:
        writer.append(*record)
    writer.close()


def read(path: Path) -> tuple[Content, int]:
    """All whole records, and the bytes of a torn tail."""
    with JournalReader(path) as reader:
        found = [(r.seq, r.stamp_ns, r.arrival_ns, bytes(r.payload)) for r in reader]
        return found, reader.lost_bytes


def test_records_read_back_as_they_were_written(tmp_path: Path) -> None:
    """Order, stamps and payloads are kept, and the topic is in the file."""
    path = tmp_path / journal_name(TOPIC)
    write(path, RECORDS)
    assert read(path) == (RECORDS, 0)
    with JournalReader(path) as reader:
        assert reader.topic == TOPIC


def test_the_same_messages_make_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of the machine or the clock gets into a journal."""
    write(tmp_path / "a", RECORDS)
    write(tmp_path / "b", RECORDS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@settings(max_examples=40, deadline=None)
@given(cut=st.floats(0, 1))
def test_a_file_cut_anywhere_gives_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    """A torn last record is left out, and its bytes are counted as lost."""
    path = tmp_path_factory.mktemp("cut") / "a"
    write(path, RECORDS)
    data = path.read_bytes()
    head = 6 + len(TOPIC)
    kept = head + int(cut * (len(data) - head))
    path.write_bytes(data[:kept])
    found, lost = read(path)
    assert found == RECORDS[: len(found)]
    sizes = [36 + len(r[3]) for r in found]
    assert head + sum(sizes) + lost == kept
    assert len(found) == len(RECORDS) or lost < 36 + len(RECORDS[len(found)][3])


@settings(max_examples=40, deadline=None)
@given(position=st.floats(0, 0.999), flip=st.integers(1, 255))
def test_reading_stops_at_a_damaged_record(
    tmp_path_factory: pytest.TempPathFactory, position: float, flip: int
) -> None:
    """One wrong byte, in a head or a payload, is found; what lies before it is read."""
    path = tmp_path_factory.mktemp("flip") / "a"
    write(path, RECORDS)
    data = bytearray(path.read_bytes())
    head = 6 + len(TOPIC)
    data[head + int(position * (len(data) - head))] ^= flip
    path.write_bytes(data)
    found, lost = read(path)
    assert found == RECORDS[: len(found)]
    assert len(found) < len(RECORDS)
    assert lost > 0


def test_an_empty_or_foreign_file_is_named(tmp_path: Path) -> None:
    """The reader says which file is not a journal."""
    for content in (b"", b"TdJ1", b"something else entirely"):
        path = tmp_path / "odd.journal"
        path.write_bytes(content)
        with pytest.raises(EpisodeError, match=r"odd\.journal"):
            JournalReader(path)


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    """Opening an existing one is an error."""
    write(tmp_path / "a", RECORDS)
    with pytest.raises(FileExistsError):
        JournalWriter(tmp_path / "a", TOPIC)


def test_a_full_disk_leaves_no_torn_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the disk takes half of is taken back, and the error is the disk's."""
    writer = JournalWriter(tmp_path / "a", TOPIC)
    writer.append(*RECORDS[0])
    real_writev = os.writev

    def half(fd: int, parts: list[bytes]) -> int:
        return real_writev(fd, [b"".join(parts)[:20]])

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", half)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        writer.append(*RECORDS[5])
    monkeypatch.undo()
    writer.append(*RECORDS[1])
    writer.close()
    assert read(tmp_path / "a") == (RECORDS[:2], 0)


def test_the_timer_syncs_at_once_and_again_and_keeps_its_error() -> None:
    """It runs on its own thread, and the first failure is there for the recorder to see."""
    called = threading.Semaphore(0)
    failing = threading.Event()

    def sync() -> None:
        called.release()
        if failing.is_set():
            raise OSError(errno.EIO, "Input/output error")

    timer = SyncTimer(sync, period_s=0.001)
    for _ in range(3):
        assert called.acquire(timeout=20)
    failing.set()
    timer._thread.join(timeout=20)
    assert timer.error is not None
    timer.stop()
