"""kill -9 of a recorder at random instants: nothing that was written is lost."""

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from recorder.episode import Episode, find_episodes
from recorder.recording import FolderLock
from recorder.recover import finish_left_overs, recover
from recorder.validate import validate
from tests.episode_feed import Feed, recorder_for, small_rig

ROOT = Path(__file__).parents[2]
KILLS = 20
COUNTED = ("arm/follow/state", "camera/high/frame")

# One process imports everything once and forks a recorder per line it reads: a folder.
# It reports (BEGUN, pid, 0), (TAKEN, newest seq per counted topic) ..., (ENDED, 0, 0).
BEGUN, TAKEN, ENDED = range(3)
REPORT = struct.Struct("<3q")
SPAWNER = """
import os, struct, sys
from pathlib import Path
from tests.episode_feed import Feed, recorder_for, small_rig

def report(*values):
    os.write(1, struct.pack("<3q", *values))

def record(out):
    rig = small_rig("emulated")
    feed = Feed(rig, recorder_for(rig, Path(out)))
    feed.run(0.6)
    feed.step(feed.event("start"))
    report(0, os.getpid(), 0)
    while True:
        feed.step()
        report(1, *(feed.sent[topic][-1].message.seq for topic in sys.argv[1:]))

while line := sys.stdin.readline():
    if (pid := os.fork()) == 0:
        record(line.strip())
    os.waitpid(pid, 0)
    report(2, 0, 0)
"""


@pytest.fixture
def spawner() -> Iterator[subprocess.Popen[bytes]]:
    """The process that forks recorders."""
    command = [sys.executable, "-c", SPAWNER, *COUNTED]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def record_until_killed(
    spawner: subprocess.Popen[bytes], out: Path, steps: int, delay_s: float
) -> tuple[int, int]:
    """Feed a recorder in a process of its own, kill it, return what it had taken by then."""
    assert spawner.stdin is not None
    assert spawner.stdout is not None
    spawner.stdin.write(f"{out}\n".encode())
    spawner.stdin.flush()
    newest, taken, pid = (-1, -1), 0, 0
    while True:
        kind, a, b = REPORT.unpack(spawner.stdout.read(REPORT.size))
        if kind == ENDED:
            return newest
        if kind == BEGUN:
            pid = a
            continue
        newest, taken = (a, b), taken + 1
        if taken == steps:
            # a delay on top, so that the child's steps do not decide the instant
            threading.Timer(delay_s, os.kill, (pid, signal.SIGKILL)).start()


def test_killed_recorders_lose_nothing_that_they_had_acknowledged(
    tmp_path: Path, spawner: subprocess.Popen[bytes]
) -> None:
    """Twenty kills at random instants, twenty sound episodes."""
    rng = random.Random(5)
    for kill in range(KILLS):
        out = tmp_path / str(kill)
        newest = record_until_killed(spawner, out, rng.randint(1, 60), rng.random() * 0.02)
        (found,) = finish_left_overs(out)
        assert found.ok, found.words
        (path,) = find_episodes(out)
        assert validate(path) == []
        with Episode(path) as episode:
            for stream, seq in zip(("arm/follow/state", "camera/high"), newest, strict=True):
                assert episode.stream(stream).seq[-1] >= seq
            assert episode.outcome == "unknown"
            assert bool(episode.attributes["recovered"]) is True
        assert [p.name for p in out.iterdir()] == [path.name]


def cut_off_episode(out: Path) -> Path:
    """A folder of journals whose recorder is gone; returns it."""
    rig = small_rig()
    feed = Feed(rig, recorder_for(rig, out))
    feed.run(0.6)
    feed.step(feed.event("start"))
    feed.run(0.5)
    recording = feed.node._recording
    assert recording is not None
    recording.stop()
    recording.lock.release()
    return recording.folder


def test_recovering_again_changes_nothing(tmp_path: Path) -> None:
    """The second run finds nothing to do."""
    cut_off_episode(tmp_path)
    assert len(recover(tmp_path)) == 1
    (path,) = find_episodes(tmp_path)
    before = path.read_bytes()
    assert recover(tmp_path) == []
    assert path.read_bytes() == before


def test_a_torn_journal_is_recovered_up_to_the_tear_and_says_what_was_lost(
    tmp_path: Path,
) -> None:
    """A power cut may leave half a record."""
    folder = cut_off_episode(tmp_path)
    journal = folder / "arm.follow.state.journal"
    data = journal.read_bytes()
    journal.write_bytes(data[:-7])
    (line,) = recover(tmp_path)
    assert "torn message of arm/follow/state" in line
    (path,) = find_episodes(tmp_path)
    assert validate(path) == []


def test_a_crash_between_renaming_and_deleting_is_finished(tmp_path: Path) -> None:
    """The file is complete, so only the journals go."""
    folder = cut_off_episode(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    recover(tmp_path)
    copy.rename(folder)
    (folder / "arm.follow.state.journal").unlink()
    (line,) = recover(tmp_path)
    assert "was complete already" in line
    assert not folder.exists()


def test_a_recording_under_way_is_left_alone(tmp_path: Path) -> None:
    """Another program holds the folder."""
    folder = cut_off_episode(tmp_path)
    owner = FolderLock(folder)
    (found,) = finish_left_overs(tmp_path)
    assert not found.ok
    assert "being written by another program" in found.words
    owner.release()
    assert finish_left_overs(tmp_path)[0].ok


@pytest.mark.parametrize("content", ["", '{"meta_version": 99}', "{}"])
def test_a_folder_that_cannot_be_understood_is_kept_and_named(tmp_path: Path, content: str) -> None:
    """Nothing is deleted that may hold somebody's work."""
    folder = cut_off_episode(tmp_path)
    (folder / "meta.json").write_text(content)
    (found,) = finish_left_overs(tmp_path)
    assert not found.ok
    assert "meta.json" in found.words
    assert folder.exists()


def test_left_overs_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    """An empty folder, a half-deleted one, a stray unfinished file."""
    (tmp_path / "episode_000000.partial").mkdir()
    (tmp_path / "episode_000001.discarded").mkdir()
    (tmp_path / "episode_000002.hdf5.tmp").touch()
    found = {r.source.name: r for r in finish_left_overs(tmp_path)}
    assert "had not begun" in found["episode_000000.partial"].words
    assert "was discarded" in found["episode_000001.discarded"].words
    assert not found["episode_000002.hdf5.tmp"].ok
    assert [p.name for p in tmp_path.iterdir()] == ["episode_000002.hdf5.tmp"]
