"""The shape of a node, and what a runner hands to it and takes from it.

A node is a pure ``step(inputs, now_ns) -> outputs``: it opens no socket, reads no clock and
never sleeps. Devices (a servo bus, a camera, an open file) are handed to its constructor.
The same node runs in its own process on the rig and in virtual time in a test.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, cast

from teleop.clock import Clock
from teleop.messages import Message
from teleop.rig import Rig
from teleop.topics import Queue

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Received:
    """A message and when it arrived here (ns, this machine's clock)."""

    message: Message
    arrival_ns: int


class Inputs:
    """All that arrived since the node's last step, by topic, oldest first."""

    def __init__(self, by_topic: Mapping[str, Sequence[Received]] | None = None) -> None:
        self._by_topic = dict(by_topic or {})

    def received(self, topic: str) -> Sequence[Received]:
        """Messages with their arrival times; empty when nothing came."""
        return self._by_topic.get(topic, ())

    def all(self, topic: str, kind: type[M]) -> list[M]:
        """Messages of a topic; ``kind`` states the topic's message type for the type checker."""
        return [cast(M, r.message) for r in self.received(topic)]

    def latest(self, topic: str, kind: type[M]) -> M | None:
        """The newest message of a topic that came since the last step, if any."""
        got = self.received(topic)
        return cast(M, got[-1].message) if got else None

    def topics(self) -> Iterator[str]:
        return iter(self._by_topic)


Outputs = list[tuple[str, Message]]


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """What a node reports of itself; the runner stamps and publishes it."""

    ok: bool = True
    state: str = "ok"
    detail: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """When a node is stepped and what it is connected to."""

    period_ns: int
    """Time between steps; with ``wake="input"`` the longest time between steps."""
    subscriptions: Mapping[str, Queue] = field(default_factory=dict)
    publications: Sequence[str] = ()
    wake: Literal["tick", "input"] = "tick"
    """``tick``: at fixed deadlines. ``input``: as soon as any message arrives."""


class Node(Protocol):
    """One box of the rig."""

    name: str
    plan: NodePlan

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Take what arrived, act, and return what to publish."""

    def health(self, now_ns: int) -> NodeHealth:
        """The node's own view of how it is doing."""

    def close(self) -> None:
        """Release devices. Arms hold; open episodes are kept. Called exactly once."""


class World(Protocol):
    """The emulated rig as the lockstep runner sees it (None when there is none)."""

    def advance_to(self, now_ns: int) -> None:
        """Move physics and emulated devices forward to this instant."""

    def close(self) -> None:
        """Release the physics and renderers."""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What a node's ``build`` function is given."""

    rig: Rig
    clock: Clock
    world: World | None = None
    """Set in lockstep emulation: devices with ``virtual:`` addresses live in it."""
    options: Mapping[str, object] = field(default_factory=dict)
    """The node's own options of this run (JSON-like values)."""


class Sequencer:
    """Hands out ``seq`` numbers per topic, from 0."""

    def __init__(self) -> None:
        self._counters: dict[str, itertools.count[int]] = defaultdict(itertools.count)

    def next(self, topic: str) -> int:
        return next(self._counters[topic])
