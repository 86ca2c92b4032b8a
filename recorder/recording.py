"""One episode while it is being recorded: its folder, its journals, its sync timer."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from recorder import schema
from recorder.journal import JournalWriter, SyncTimer, journal_name
from recorder.meta import Meta
from teleop import wire
from teleop.errors import RecordingError
from teleop.node import Received

_NUMBERED = re.compile(r"^episode_(\d+)\.")


def next_index(folder: Path) -> int:
    """One more than the highest episode number that any file or folder here bears."""
    numbers = [int(m[1]) for p in folder.iterdir() if (m := _NUMBERED.match(p.name))]
    return max(numbers, default=-1) + 1


def episode_path(folder: Path, index: int) -> Path:
    """Final name of an episode."""
    return folder / f"episode_{index:06d}{schema.EPISODE_SUFFIX}"


def partial_path(target: Path) -> Path:
    """The folder of journals that becomes ``target``."""
    return target.with_suffix(schema.PARTIAL_SUFFIX)


def discard(folder: Path) -> None:
    """Delete a folder of journals; cut off, it is not mistaken for an episode to recover."""
    doomed = folder.with_suffix(schema.DISCARDED_SUFFIX)
    folder.rename(doomed)
    shutil.rmtree(doomed)


class FolderLock:
    """Says that a ``.partial`` folder has a living owner; ends with its process.

    Raises:
        RecordingError: another program holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise RecordingError(
                f"{folder} is being written by another program; let it finish first"
            ) from error

    def release(self) -> None:
        """Let go; doing it again changes nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(slots=True)
class Counts:
    """What one stream delivered so far."""

    received: int = 0
    lost: int = 0
    last_seq: int | None = None

    def take(self, seq: int) -> None:
        """Count a message and the gap before it."""
        if self.last_seq is not None and seq > self.last_seq + 1:
            self.lost += seq - self.last_seq - 1
        self.last_seq = seq
        self.received += 1


class Recording:
    """An open ``.partial`` folder.

    Args:
        out: Folder of the episodes, created when missing.
        meta: Written first, so that the episode can be recovered from then on.
        sync_s: Period of the timer that forces journals to the disk.

    Raises:
        OSError: the folder cannot be written to.
        RecordingError: another program took the new folder.
    """

    def __init__(self, out: Path, meta: Meta, sync_s: float) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.meta = meta
        self.target, self.folder = _claim(out)
        self.counts = {plan.topic: Counts() for plan in meta.streams}
        self.cut_short = ""
        self._journals: dict[str, JournalWriter] = {}
        self._meta_synced = False
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.lock = FolderLock(self.folder)
            undo.callback(self.lock.release)
            undo.callback(self._close_journals)
            meta.write(self.folder)
            for plan in meta.streams:
                path = self.folder / journal_name(plan.topic)
                self._journals[plan.topic] = JournalWriter(path, plan.topic)
            self._timer = SyncTimer(self.sync, sync_s)
            undo.pop_all()  # nothing failed

    def append(self, topic: str, received: Received) -> None:
        """Write one message.

        Raises:
            OSError: the disk is full or failing, now or at the last timed sync.
        """
        if self._timer.error is not None:
            raise self._timer.error
        message = received.message
        self._journals[topic].append(
            message.seq, message.stamp_ns, received.arrival_ns, wire.encode(message)
        )
        self.counts[topic].take(message.seq)

    @property
    def bytes(self) -> int:
        """Written so far."""
        return sum(journal.bytes for journal in self._journals.values())

    def sync(self) -> None:
        """Force all that was written to the disk."""
        if not self._meta_synced:
            Meta.sync(self.folder)
            self._meta_synced = True
        for journal in self._journals.values():
            journal.sync()

    def stop(self) -> None:
        """Close the journals; what is in them is complete."""
        self._timer.stop()
        self._close_journals()

    def _close_journals(self) -> None:
        for journal in self._journals.values():
            journal.close()


def _claim(out: Path) -> tuple[Path, Path]:
    """Make the folder of the next free number; two recorders never get the same."""
    while True:
        target = episode_path(out, next_index(out))
        folder = partial_path(target)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return target, folder
