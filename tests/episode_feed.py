"""Feeds a recorder node with made-up messages in virtual time: a rig without a rig."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg

from recorder.meta import Origin
from recorder.recorder_node import RecorderNode, plan_streams
from teleop import topics
from teleop.addresses import nominal_rate_hz
from teleop.clock import NS_PER_S, ns_from_s
from teleop.messages import (
    ActionChunk,
    ArmApplied,
    ArmCommand,
    ArmState,
    EpisodeEvent,
    Frame,
    Health,
    Message,
    StopState,
    TaskState,
)
from teleop.node import Inputs, Received, Sequencer
from teleop.rig import Rig

START_NS = 5 * NS_PER_S
JOINTS = 2


def small_rig(backend: str = "lockstep", width: int = 64, height: int = 48, **parts: object) -> Rig:
    """One leader, one follower of two joints and a gripper, two cameras."""
    model = {
        "joints": [
            {"name": "waist", "id": 1, "servo": "any", "min_rad": -3, "max_rad": 3},
            {"name": "elbow", "id": 2, "servo": "any", "min_rad": -3, "max_rad": 3},
        ],
        "gripper": {"id": 3, "servo": "any", "closed_rad": 0, "open_rad": 1},
        "max_velocity_rad_s": 3,
        "max_acceleration_rad_s2": 20,
        "start_rad": [0, 0],
        "sleep_rad": [0, 0],
    }
    camera = {"width": width, "height": height, "fps": 30}
    content: dict[str, object] = {
        "name": "small",
        "arm_models": {"two": model},
        "arms": {
            "lead": {"role": "leader", "model": "two", "port": "a"},
            "follow": {"role": "follower", "model": "two", "port": "b", "leader": "lead"},
        },
        "cameras": {"high": {"source": 0, **camera}, "wrist": {"source": 1, **camera}},
        "tasks": {"move": {"instruction": "move", "max_seconds": 10}},
        "recording": {"min_free_bytes": 0},
        "backend": backend,
    }
    return Rig.model_validate({**content, **parts})


class Feed:
    """Makes every recorded message of a rig at its nominal rate, and steps a recorder.

    ``sent`` keeps what was handed over, by topic. Streams named in ``muted`` are silent;
    messages for which ``lose`` returns true are made but not handed over.
    """

    def __init__(self, rig: Rig, node: RecorderNode, seed: int = 0) -> None:
        self.rig = rig
        self.node = node
        self.now_ns = START_NS
        self.muted: set[str] = set()
        self.frozen: set[str] = set()
        self.sent: dict[str, list[Received]] = defaultdict(list)
        self.said: list[EpisodeEvent] = []
        self._rng = np.random.default_rng(seed)
        self._seq = Sequencer()
        self._due_ns = {
            plan.topic: START_NS + i * 100_000
            for i, plan in enumerate(plan_streams(rig, "move"))
            if plan.nominal_hz is not None
        }
        self._pictures = [self._picture(i, rig) for i in range(16)]

    def _picture(self, i: int, rig: Rig) -> bytes:
        camera = next(iter(rig.cameras.values()))
        small = self._rng.integers(0, 255, (6, 8, 3), np.uint8)
        tiles = np.kron(small, np.ones((camera.height // 6, camera.width // 8, 1), np.uint8))
        return simplejpeg.encode_jpeg(np.ascontiguousarray(tiles), quality=95)

    def run(self, seconds: float) -> None:
        """Step the recorder at its own period for so long."""
        end_ns = self.now_ns + ns_from_s(seconds)
        while self.now_ns < end_ns:
            self.step()

    def step(self, *events: EpisodeEvent) -> None:
        """One period: what is due, then the events, in one step of the node."""
        self.now_ns += self.node.plan.period_ns
        batch: dict[str, list[Received]] = defaultdict(list)
        for topic, message in self._due():
            if topic not in self.muted:
                batch[topic].append(Received(message, self.now_ns))
        for event in events:
            batch[topics.SESSION_EVENT].append(Received(event, self.now_ns))
        for topic, received in batch.items():
            self.sent[topic] += received
        outputs = self.node.step(Inputs(batch), self.now_ns)
        self.said += [m for _, m in outputs if isinstance(m, EpisodeEvent)]

    def event(self, kind: str, episode: int = 0, outcome: str = "unknown") -> EpisodeEvent:
        """An event of the session, now."""
        seq = self._seq.next(topics.SESSION_EVENT)
        stamp_ns = self.now_ns + self.node.plan.period_ns
        return EpisodeEvent(stamp_ns, seq, kind, episode, "move", outcome, "")

    def episode(self, seconds: float, episode: int = 0, outcome: str = "success") -> None:
        """A whole episode: start, run, stop."""
        self.step(self.event("start", episode))
        self.run(seconds)
        self.step(self.event("stop", episode, outcome))

    def kinds(self) -> list[str]:
        """What the recorder said so far, in order."""
        return [event.kind for event in self.said]

    def _due(self) -> Iterator[tuple[str, Message]]:
        for topic, due_ns in self._due_ns.items():
            rate_hz = nominal_rate_hz(self.rig, topic)
            assert rate_hz is not None
            while due_ns <= self.now_ns:
                yield topic, self.message(topic, due_ns)
                due_ns += round(NS_PER_S / rate_hz)
            self._due_ns[topic] = due_ns

    def message(self, topic: str, stamp_ns: int) -> Message:
        """A random message of a topic; arms wander slowly."""
        seq = self._seq.next(topic)
        phase = 0.5 * np.sin(stamp_ns / NS_PER_S)
        q = phase + self._rng.normal(0, 0.001, JOINTS)
        kind = topics.row_of(topic).message
        if kind is ArmState:
            return ArmState(stamp_ns, seq, q, q * 0.1, None, 0.5, None, 0.1)
        if kind is ArmCommand:
            return ArmCommand(stamp_ns, seq, q, 0.5, stamp_ns + 1, "teleop", "lease-1")
        if kind is ArmApplied:
            return ArmApplied(stamp_ns, seq, q, 0.5, seq, stamp_ns, "follow", 0)
        if kind is Frame:
            camera = self.rig.cameras[topic.split("/")[1]]
            data = self._pictures[0 if topic in self.frozen else seq % len(self._pictures)]
            return Frame(stamp_ns, seq, stamp_ns + 5, "jpeg", camera.width, camera.height, data)
        if kind is StopState:
            return StopState(stamp_ns, seq, False, "")
        if kind is TaskState:
            return TaskState(stamp_ns, seq, "move", 1, 4, False, self._rng.normal(size=(1, 7)))
        if kind is ActionChunk:
            rows = int(self._rng.integers(1, 6))
            actions = self._rng.normal(size=(rows, JOINTS + 1))
            return ActionChunk(stamp_ns, seq, stamp_ns, 20_000_000, actions, seq, seq, "policy")
        return Health(stamp_ns, seq, topic.split("/")[1], True, "ok", "", {"temperature_c": 31.5})


def recorder_for(rig: Rig, out: Path, now_ns: int = START_NS) -> RecorderNode:
    """A recorder node of that rig."""
    origin = Origin("record", 7, tags=("calm", "day"))
    return RecorderNode("recorder", rig, out, "move", "somebody", {"note": "none"}, origin, now_ns)


def recorded_episode(out: Path, seconds: float = 1.0, **changes: object) -> Path:
    """One finished episode in ``out``."""
    rig = small_rig(**changes)  # type: ignore[arg-type]
    feed = Feed(rig, recorder_for(rig, out))
    feed.run(1.0)
    feed.episode(seconds)
    feed.node.close()
    (path,) = out.glob("*.hdf5")
    return path
