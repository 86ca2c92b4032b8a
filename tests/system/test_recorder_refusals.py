"""What the recorder does not do, and what it says of it: refusals, half-done work, verdicts."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recorder import builder, recorder_node
from recorder.episode import Episode, find_episodes
from recorder.recover import finish_left_overs
from recorder.validate import validate
from teleop import topics
from teleop.clock import NS_PER_S, VirtualClock
from teleop.errors import RecordingError
from teleop.messages import Health, Message, StopState
from teleop.node import Inputs, NodeContext, Received
from tests.episode_feed import START_NS, Feed, recorded_episode, recorder_for, small_rig


def ready_feed(out: Path) -> Feed:
    """A recorder that hears every stream."""
    rig = small_rig()
    feed = Feed(rig, recorder_for(rig, out))
    feed.run(0.6)
    return feed


def test_an_event_that_is_not_obeyed_is_refused_with_the_reason(tmp_path: Path) -> None:
    """A start of an ended episode, also during the next one; a stop of one never heard of."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("stop", 3))
    assert feed.kinds() == ["refused"]
    assert feed.said[0].detail == "no such episode is being recorded"
    feed.episode(0.2, episode=0)
    feed.step(feed.event("start", 1))
    feed.step(feed.event("start", 0))
    assert feed.kinds()[1:] == ["started", "stopped", "saved", "started", "refused"]
    assert (feed.said[-1].episode, feed.said[-1].detail) == (0, "episode 0 has ended already")
    feed.step(feed.event("stop", 2))
    assert feed.said[-1].kind == "refused"
    assert feed.node.health(feed.now_ns).state == "recording"
    feed.node.close()


def test_the_disk_must_hold_the_longest_episode_of_the_job(tmp_path: Path) -> None:
    """A job's own length replaces the task's."""
    rig = small_rig(recording={"min_free_bytes": 1 << 60})
    options = {"out": str(tmp_path), "task": "move", "max_seconds": 600.0}
    context = NodeContext(rig, VirtualClock(START_NS), None, options)
    feed = Feed(rig, recorder_node.build("recorder", context))
    feed.run(0.6)
    feed.step(feed.event("start"))
    assert "an episode of 600 s needs" in feed.said[0].detail


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RecordingError("no")])
def test_a_start_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Neither a folder nor its lock."""
    feed = ready_feed(tmp_path)

    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr("recorder.recording.FolderLock", fail)
    feed.step(feed.event("start"))
    assert feed.kinds() == ["refused"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_bears_the_name_already_is_never_written_over(tmp_path: Path) -> None:
    """Neither at once nor by recovery, which then keeps the recording until it is moved."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"))
    feed.run(0.3)
    stranger = tmp_path / "episode_000000.hdf5"
    other = recorded_episode(tmp_path / "other", 0.2)
    shutil.copy(other, stranger)
    feed.step(feed.event("stop", outcome="success"))
    assert feed.kinds() == ["started", "stopped", "failed"]
    assert "exists already" in feed.said[-1].detail
    (left,) = finish_left_overs(tmp_path)
    assert not left.ok
    assert stranger.read_bytes() == other.read_bytes()
    stranger.unlink()
    (done,) = finish_left_overs(tmp_path)
    assert done.ok
    assert validate(stranger) == []


def test_a_fault_of_any_kind_leaves_no_unfinished_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journals stay, what was half written goes."""
    feed = ready_feed(tmp_path)

    def broken(*args: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(builder.rows, "write_rows", broken)
    feed.episode(0.2)
    assert feed.kinds()[-1] == "failed"
    assert [p.name for p in tmp_path.iterdir()] == ["episode_000000.partial"]


@pytest.mark.parametrize("later_ns", [0, 1000])
def test_an_episode_that_an_emergency_stop_ended_says_so(tmp_path: Path, later_ns: int) -> None:
    """Both are said at one instant, and the stop may be read after the event."""
    feed = ready_feed(tmp_path)
    feed.step(feed.event("start"))
    feed.run(0.6)
    event, now_ns = feed.event("stop"), feed.now_ns + feed.node.plan.period_ns
    stop = StopState(event.stamp_ns, 10_000, True, "operator")
    feed.muted = {topics.SESSION_STOP}
    inputs = {
        topics.SESSION_EVENT: [Received(event, now_ns)],
        topics.SESSION_STOP: [Received(stop, now_ns + later_ns)],
    }
    feed.node.step(Inputs(inputs), now_ns + later_ns)
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        assert "ended by emergency stop" in episode.verdict.reasons
        assert episode.stream("session/stop").seq[-1] == 10_000


@pytest.mark.parametrize(("per_s", "found"), [(0.0, False), (0.5, True)])
def test_an_emulation_that_loses_time_is_in_the_verdict(
    tmp_path: Path, per_s: float, found: bool
) -> None:
    """What it lost before the episode does not count."""

    class SlippingFeed(Feed):
        def message(self, topic: str, stamp_ns: int) -> Message:
            message = super().message(topic, stamp_ns)
            if isinstance(message, Health) and message.node == "emulator":
                slipped_s = 3.0 + per_s * (stamp_ns - START_NS) / NS_PER_S
                return replace(message, values={"slipped_s": slipped_s})
            return message

    rig = small_rig()
    feed = SlippingFeed(rig, recorder_for(rig, tmp_path))
    feed.run(1.5)
    feed.episode(3.0)
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        slips = [r for r in episode.verdict.reasons if "behind real time" in r]
    assert bool(slips) is found
    if found:
        assert slips[0].startswith("the emulation slipped 1.")
        assert slips[0].endswith("this machine is too slow for it")
