"""The recorder node, stepped in virtual time with made-up messages."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recorder import builder, recorder_node
from recorder.episode import Episode, find_episodes
from recorder.recover import finish_left_overs, recover
from recorder.schema import columns_of, stream_of
from recorder.validate import validate
from teleop import topics
from teleop.clock import NS_PER_S, VirtualClock
from teleop.errors import UnknownNameError
from teleop.messages import EpisodeEvent, Frame
from teleop.node import Inputs, NodeContext, Received
from tests.episode_feed import START_NS, Feed, recorder_for, small_rig

ROOT = Path(__file__).parents[2]


def ready_feed(out: Path, backend: str = "lockstep") -> Feed:
    """A recorder that hears every stream."""
    rig = small_rig(backend)
    feed = Feed(rig, recorder_for(rig, out))
    feed.run(0.6)
    return feed


def wait_for(feed: Feed, kind: str) -> EpisodeEvent:
    """Step until the recorder says this; saving runs on a thread of real time."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        feed.step()
        if found := [event for event in feed.said if event.kind == kind]:
            return found[-1]
        time.sleep(0.005)
    raise AssertionError(f"no {kind!r} among {feed.kinds()}")


def recorded(feed: Feed, topic: str, start_ns: int, stop_ns: int) -> list[Received]:
    """What the episode must hold of a topic: the newest before the start, and all until stop."""
    before = [r for r in feed.sent[topic] if r.arrival_ns <= start_ns]
    during = [r for r in feed.sent[topic] if start_ns < r.arrival_ns <= stop_ns]
    return [*before[-1:], *during]


def test_every_message_reads_back_equal_and_in_order(tmp_path: Path) -> None:
    """All fields of all recorded topics, between the newest at the start and the stop."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"))
    start_ns = feed.now_ns
    feed.run(0.7)
    feed.step(feed.event("stop", outcome="success"))
    assert feed.kinds() == ["started", "stopped", "saved"]
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        for topic in set(feed.sent) - {topics.SESSION_EVENT}:
            wanted = recorded(feed, topic, start_ns, feed.now_ns)
            view = episode.stream(stream_of(topic))
            assert list(view.seq) == [r.message.seq for r in wanted], topic
            assert list(view.stamp_ns) == [r.message.stamp_ns for r in wanted]
            assert list(view.arrival_ns) == [r.arrival_ns for r in wanted]
            _assert_equal_fields(episode, topic, wanted)
    assert validate(path, all_frames=True) == []


def _assert_equal_fields(episode: Episode, topic: str, wanted: list[Received]) -> None:
    view = episode.stream(stream_of(topic))
    first = wanted[0].message
    if isinstance(first, Frame):
        images = view.dataset("image")
        for i, received in enumerate(wanted):
            assert isinstance(received.message, Frame)
            assert images.id.read_direct_chunk((i, 0, 0, 0))[1] == received.message.data
        return
    for field, kind in columns_of(type(first)):
        values = [getattr(r.message, field) for r in wanted]
        if kind == "dict[str, float]":
            assert [json.loads(text) for text in view[field]] == values
        elif values[0] is None:
            assert field not in view.fields
        else:
            assert np.array_equal(view[field], np.array(values)), (topic, field)


def test_a_saved_event_tells_path_and_verdict(tmp_path: Path) -> None:
    """What the operator is shown."""
    feed = ready_feed(tmp_path)
    feed.episode(1.0, outcome="failure")
    detail = json.loads(feed.said[-1].detail)
    assert detail["path"] == str(tmp_path / "episode_000000.hdf5")
    assert (detail["verdict"], detail["reasons"]) == ("pass", [])
    assert detail["rows"] == 51
    with Episode(detail["path"]) as episode:
        assert episode.outcome == "failure"
    assert [p.name for p in tmp_path.iterdir()] == ["episode_000000.hdf5"]


def test_the_same_messages_make_the_same_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, so that a seed decides everything in lockstep."""
    monkeypatch.setattr(shutil, "rmtree", lambda path: None)
    contents = []
    for name in ("a", "b"):
        feed = ready_feed(tmp_path / name)
        feed.episode(0.4)
        (folder,) = (tmp_path / name).glob("*.partial")
        contents.append({p.name: p.read_bytes() for p in folder.glob("*.journal")})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 10


def test_gaps_are_counted_into_the_episode_and_its_verdict(tmp_path: Path) -> None:
    """Ten states are lost on the way."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"))
    feed.run(2.0)
    feed.muted = {"arm/follow/state"}
    feed.run(0.1)
    assert feed.node.health(feed.now_ns).values["drops"] == 0
    feed.muted = set()
    feed.run(2.0)
    health = feed.node.health(feed.now_ns)
    assert health.state == "recording"
    assert health.values["drops.arm/follow/state"] == 10
    assert "10 lost" in health.detail
    feed.step(feed.event("stop"))
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        assert episode.gaps["arm/follow/state"] == 10
        assert episode.verdict.level == "fail"
        assert any("lost 10 of" in reason for reason in episode.verdict.reasons)


def test_a_frozen_camera_is_in_the_verdict(tmp_path: Path) -> None:
    """The stream lives, its image does not."""
    feed = ready_feed(tmp_path)
    feed.frozen = {"camera/wrist/frame"}
    feed.episode(1.0)
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        flags = episode.flags("camera/wrist")
    assert ((flags & 16) != 0).mean() > 0.9


def test_a_silent_stream_refuses_the_start_and_is_named(tmp_path: Path) -> None:
    """Which one, and since when; nothing is left in the folder."""
    feed = ready_feed(tmp_path)
    feed.muted = {"camera/high/frame"}
    feed.run(1.0)
    feed.step(feed.event("start"))
    assert feed.kinds() == ["refused"]
    assert "camera/high/frame has been silent for 1.0 s" in feed.said[0].detail
    assert list(tmp_path.iterdir()) == []
    feed.muted = set()
    feed.run(0.1)
    feed.step(feed.event("start"))
    assert feed.kinds() == ["refused", "started"]
    feed.node.close()


def test_a_stream_that_never_spoke_refuses_the_start(tmp_path: Path) -> None:
    """The arm node was never started."""
    rig = small_rig()
    feed = Feed(rig, recorder_for(rig, tmp_path))
    feed.muted = {"arm/lead/state"}
    feed.run(0.6)
    feed.step(feed.event("start"))
    assert "arm/lead/state has not been heard in 0.6 s" in feed.said[0].detail


def test_a_disk_that_cannot_hold_the_episode_refuses_the_start(tmp_path: Path) -> None:
    """With the numbers."""
    rig = small_rig(recording={"min_free_bytes": 1 << 60})
    feed = Feed(rig, recorder_for(rig, tmp_path))
    feed.run(0.6)
    feed.step(feed.event("start"))
    assert feed.kinds() == ["refused"]
    assert "GB free and an episode of 10 s needs" in feed.said[0].detail


def test_a_folder_that_cannot_be_written_refuses_the_start(tmp_path: Path) -> None:
    """Here because a file is in the way."""
    (tmp_path / "file").touch()
    rig = small_rig()
    feed = Feed(rig, recorder_for(rig, tmp_path / "file" / "episodes"))
    feed.run(0.6)
    feed.step(feed.event("start"))
    assert feed.kinds() == ["refused"]
    assert "cannot be written to: Not a directory" in feed.said[0].detail


def test_a_read_only_disk_refuses_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are the operating system's."""
    feed = ready_feed(tmp_path)

    def read_only(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    feed.step(feed.event("start"))
    assert feed.kinds() == ["refused"]
    assert "Read-only file system" in feed.said[0].detail


def test_a_repeated_event_is_answered_again_and_changes_nothing(tmp_path: Path) -> None:
    """The session says its events again until it hears the answer."""
    feed = ready_feed(tmp_path)
    start = feed.event("start")
    feed.step(start)
    feed.run(0.3)
    feed.step(start)
    feed.run(0.3)
    stop = feed.event("stop", outcome="success")
    feed.step(stop)
    feed.step(stop)
    assert feed.kinds() == ["started", "started", "stopped", "saved", "stopped"]
    (path,) = find_episodes(tmp_path)
    assert validate(path) == []
    with Episode(path) as episode:
        assert list(episode.stream("session/event")["kind"]) == ["start", "stop"]
        assert episode.seconds > 0.6


def test_start_and_stop_may_come_in_one_step(tmp_path: Path) -> None:
    """A busy machine hands several events over at once."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"), feed.event("stop", outcome="success"))
    assert feed.kinds() == ["started", "stopped", "saved"]
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        assert episode.outcome == "success"


def test_the_next_episode_starts_while_saving_runs_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start is answered before the first episode is saved."""
    import threading

    go_on = threading.Event()
    real_build = builder.build

    def slow_build(*args: object, **kwargs: object) -> object:
        assert go_on.wait(30)
        return real_build(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("recorder.saver.build", slow_build)
    feed = ready_feed(tmp_path, "emulated")
    feed.episode(0.4, episode=0)
    assert feed.node.health(feed.now_ns).state == "saving"
    feed.step(feed.event("start", 1))
    assert feed.kinds() == ["started", "stopped", "started"]
    assert feed.node.health(feed.now_ns).state == "recording"
    go_on.set()
    assert wait_for(feed, "saved").episode == 0
    feed.node.close()
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "episode_000000.hdf5",
        "episode_000001.hdf5",
    ]


def test_discard_deletes_what_is_being_recorded(tmp_path: Path) -> None:
    """And the next episode counts on."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start", 0))
    feed.run(0.2)
    feed.step(feed.event("discard", 0))
    assert list(tmp_path.iterdir()) == []
    assert feed.kinds() == ["started", "note"]
    feed.episode(0.3, episode=1)
    assert [p.name for p in tmp_path.iterdir()] == ["episode_000000.hdf5"]


def test_discard_deletes_a_saved_episode_and_no_other(tmp_path: Path) -> None:
    """Only the one named."""
    feed = ready_feed(tmp_path)
    feed.episode(0.3, episode=0)
    feed.episode(0.3, episode=1)
    feed.step(feed.event("discard", 1))
    assert [p.name for p in tmp_path.iterdir()] == ["episode_000000.hdf5"]


def test_discard_of_an_episode_that_is_being_saved_deletes_it_then(tmp_path: Path) -> None:
    """It is never announced as saved."""
    feed = ready_feed(tmp_path, "emulated")
    feed.step(feed.event("start"))
    feed.run(0.3)
    feed.step(feed.event("stop"), feed.event("discard"))
    note = wait_for(feed, "note")
    assert "discarded" in note.detail
    assert "saved" not in feed.kinds()
    feed.node.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_while_recording_keeps_the_episode(tmp_path: Path) -> None:
    """Its outcome is unknown, and it says so."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"))
    feed.run(1.0)
    feed.node.close()
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        assert episode.outcome == "unknown"
        assert episode.length in (50, 51)
        assert "the end and the outcome are unknown" in episode.verdict.reasons[0]


def test_a_full_disk_stops_the_episode_and_keeps_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`failed` says why; with room again the episode is finished."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"))
    feed.run(0.8)
    real_writev = os.writev

    def full(fd: int, parts: list[bytes]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    monkeypatch.setattr(builder, "free_bytes", lambda folder: 1000)
    feed.step()
    feed.run(0.1)
    monkeypatch.setattr(os, "writev", real_writev)
    monkeypatch.undo()
    assert feed.kinds() == ["started", "failed", "failed"]
    assert "No space left on device" in feed.said[1].detail
    assert "run `tandem recover`" in feed.said[2].detail
    (line,) = recover(tmp_path)
    assert "recovered 0.8 s" in line
    (path,) = find_episodes(tmp_path)
    assert validate(path) == []
    feed.episode(0.4, episode=1)
    assert feed.kinds()[3:] == ["started", "stopped", "saved"]


def test_recording_stops_while_there_is_room_to_finish_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up for another reason; the episode so far becomes a file."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"))
    feed.run(0.5)
    monkeypatch.setattr(recorder_node, "free_bytes", lambda folder: 1000)
    feed.run(1.1)
    assert feed.kinds() == ["started", "failed", "note"]
    assert "MB left, which finishing the episode needs" in feed.said[1].detail
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        assert episode.verdict.level == "fail"
        assert episode.verdict.reasons[0].startswith("cut short: the disk has")


_LIMITED = """
import resource, sys
from pathlib import Path
from tests.episode_feed import Feed, recorder_for, small_rig
rig = small_rig()
feed = Feed(rig, recorder_for(rig, Path(sys.argv[1])))
feed.run(0.6)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
feed.episode(3.0)
print(*feed.kinds())
print(*(e.detail for e in feed.said if e.kind == "failed"), sep="\\n")
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs file size limits")
def test_a_real_write_error_of_the_kernel_is_told_and_the_episode_kept(tmp_path: Path) -> None:
    """A limit on file size, in a process of its own; afterwards nothing is lost."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kinds = done.stdout.splitlines()[0].split()
    assert kinds[:2] == ["started", "failed"]
    assert "File too large" in done.stdout
    (found,) = finish_left_overs(tmp_path)
    assert found.ok, found.words
    (path,) = find_episodes(tmp_path)
    assert validate(path) == []


def _mounted_tmpfs(where: Path) -> bool:
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(where)]
    return shutil.which("mount") is not None and (
        subprocess.run(command, capture_output=True).returncode == 0
    )


def test_a_disk_that_really_fills_up_keeps_the_episode_so_far(tmp_path: Path) -> None:
    """A file system of three megabytes (needs the right to mount one)."""
    disk = tmp_path / "disk"
    if not _mounted_tmpfs(disk):
        pytest.skip("may not mount a tmpfs here")
    try:
        rig = small_rig(tasks={"move": {"instruction": "move", "max_seconds": 0.01}})
        feed = Feed(rig, recorder_for(rig, disk))
        feed.run(0.6)
        feed.step(feed.event("start"))
        # another program takes what is left, but for a few pages
        free = shutil.disk_usage(disk).free
        (disk / "other").write_bytes(bytes(free - 8192))
        feed.run(0.3)
        assert feed.kinds()[:2] == ["started", "failed"]
        assert "No space left" in feed.said[1].detail
        (disk / "other").unlink()
        (line,) = recover_elsewhere(disk, tmp_path)
        assert "recovered" in line
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def recover_elsewhere(disk: Path, tmp_path: Path) -> list[str]:
    """Three megabytes are below what finishing asks for, so the folder is moved first."""
    (folder,) = disk.glob("*.partial")
    shutil.copytree(folder, tmp_path / "moved" / folder.name)
    return recover(tmp_path / "moved")


def test_ten_seconds_of_three_cameras_are_saved_within_a_second(tmp_path: Path) -> None:
    """From stop to a durable file. The bound is generous: test machines are shared."""
    cameras = {
        name: {"source": i, "width": 640, "height": 480, "fps": 30}
        for i, name in enumerate(("high", "left", "right"))
    }
    rig = small_rig("emulated", cameras=cameras)
    feed = Feed(rig, recorder_for(rig, tmp_path))
    feed.run(0.6)
    feed.step(feed.event("start"))
    feed.run(10.0)
    before_s = time.monotonic()
    feed.step(feed.event("stop", outcome="success"))
    saved = wait_for(feed, "saved")
    assert time.monotonic() - before_s < 5.0
    assert json.loads(saved.detail)["verdict"] == "pass"
    feed.node.close()


@pytest.mark.parametrize("backend", ["lockstep", "emulated", "hardware"])
def test_the_node_is_built_from_its_options(tmp_path: Path, backend: str) -> None:
    """As a runner does it; only an emulated rig has a scene."""
    options = {"out": str(tmp_path), "task": "move", "job": "record", "seed": 3, "tags": ["a"]}
    context = NodeContext(small_rig(backend), VirtualClock(START_NS), None, options)
    node = recorder_node.build("recorder", context)
    assert node.plan.publications == (topics.RECORDER_EVENT,)
    assert "camera/high/frame" in node.plan.subscriptions
    assert "node/recorder/health" not in node.plan.subscriptions
    assert (node._origin.scene_of(2) == (3, 2)) is (backend != "hardware")
    assert node._origin.tags == ("a",)


def test_an_unknown_task_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """Before anything is recorded."""
    options = {"out": str(tmp_path), "task": "mvoe"}
    with pytest.raises(UnknownNameError, match="did you mean move"):
        recorder_node.build("recorder", NodeContext(small_rig(), VirtualClock(), None, options))


def test_an_idle_step_with_nothing_to_do_says_nothing(tmp_path: Path) -> None:
    """No input, no output, no file."""
    node = recorder_for(small_rig(), tmp_path / "none")
    assert node.step(Inputs(), START_NS + NS_PER_S) == []
    health = node.health(START_NS + NS_PER_S)
    assert (health.ok, health.state) == (False, "idle")
    assert not (tmp_path / "none").exists()
