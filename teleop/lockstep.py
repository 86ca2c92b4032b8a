"""All nodes in one process on a virtual clock: deterministic, and faster than real time.

At each instant the emulated world is moved forward, then the nodes that are due are stepped
in the order given (devices before those who use them), and what they publish is handed over
in memory at once. The same nodes and the same seed give the same messages, byte for byte.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from teleop import topics
from teleop.clock import Clock, Ticker, VirtualClock, ns_from_s
from teleop.errors import BusError, NodeFailedError
from teleop.messages import Health, Message
from teleop.node import Inputs, Node, Received, Sequencer, World
from teleop.topics import Queue


class _Seat:
    """One node with its clockwork and its mailbox."""

    def __init__(self, node: Node, clock: Clock, start_ns: int, health_period_ns: int) -> None:
        self.node = node
        self.clock = clock
        self.ticker = Ticker(node.plan.period_ns, start_ns)
        self.health_ticker = Ticker(health_period_ns, start_ns)
        self.mailbox: dict[str, list[Received]] = defaultdict(list)
        self.by_input = node.plan.wake == "input"

    def deliver(self, topic: str, message: Message, now_ns: int) -> None:
        if self.node.plan.subscriptions[topic] is Queue.LATEST:
            self.mailbox[topic].clear()
        self.mailbox[topic].append(Received(message, now_ns))

    def is_due(self, now_ns: int) -> bool:
        if self.clock.now_ns() > now_ns:  # still waiting for its device
            return False
        return self.ticker.due(now_ns) or (self.by_input and bool(self.mailbox))

    def next_ns(self) -> int:
        return max(self.ticker.deadline_ns, self.clock.now_ns())

    def take(self, now_ns: int) -> Inputs:
        if self.ticker.due(now_ns):
            self.ticker.advance(now_ns)
        inputs = Inputs(self.mailbox)
        self.mailbox = defaultdict(list)
        return inputs


class Lockstep:
    """Runs nodes on a virtual clock.

    Args:
        nodes: In the order of data flow: inputs, arms, commander, recorder.
        clock: The runner's clock.
        branches: The clocks that the nodes' drivers hold, by node name; a node without one
            never waits.
        world: The emulated rig, if there is one.
        health_hz: Rate of the nodes' health messages, of virtual time.

    Raises:
        BusError: two nodes publish the same topic.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        clock: VirtualClock,
        branches: Mapping[str, Clock] | None = None,
        world: World | None = None,
        health_hz: float = 5.0,
    ) -> None:
        start_ns = clock.now_ns()
        self._clock = clock
        self._world = world
        self._seq = Sequencer()
        health_ns = ns_from_s(1 / health_hz)
        clocks = branches or {}
        self._seats = [
            _Seat(node, clocks.get(node.name, clock), start_ns, health_ns) for node in nodes
        ]
        self._listeners: dict[str, list[_Seat]] = defaultdict(list)
        publishers: dict[str, str] = {}
        for seat in self._seats:
            for topic in seat.node.plan.subscriptions:
                self._listeners[topic].append(seat)
            for topic in seat.node.plan.publications:
                if topic in publishers:
                    raise BusError(
                        f"topic {topic} is published by {publishers[topic]} and {seat.node.name}"
                    )
                publishers[topic] = seat.node.name
        self._publishers = publishers
        self._on_the_way: list[tuple[int, int, str, Message]] = []
        """Heap of messages whose sender's own time is ahead: when, order, topic, message."""
        self._sent = itertools.count()

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Run until the condition holds, checked between instants.

        Raises:
            NodeFailedError: the limit, in virtual seconds, passed first.
        """
        limit_ns = self._clock.now_ns() + ns_from_s(limit_s)
        while not until():
            if self._clock.now_ns() >= limit_ns:
                raise NodeFailedError(
                    f"the lockstep run did not end within {limit_s:g} virtual seconds"
                )
            self.step()

    def step(self) -> None:
        """Move to the next instant at which a node is due and step all that are."""
        now_ns = min(seat.next_ns() for seat in self._seats)
        if self._on_the_way:
            now_ns = min(now_ns, self._on_the_way[0][0])
        self._clock.sleep_until_ns(now_ns)
        if self._world is not None:
            self._world.advance_to(now_ns)
        while self._on_the_way and self._on_the_way[0][0] <= now_ns:
            arrival_ns, _, topic, message = heapq.heappop(self._on_the_way)
            self._deliver(topic, message, arrival_ns)
        for seat in self._seats:
            if seat.health_ticker.due(now_ns):
                self._publish_health(seat, now_ns)
            if seat.is_due(now_ns):
                outputs = seat.node.step(seat.take(now_ns), now_ns)
                for topic, message in outputs:
                    self._publish(seat, topic, message, now_ns)

    def _publish(self, seat: _Seat, topic: str, message: Message, now_ns: int) -> None:
        if self._publishers.get(topic) != seat.node.name:
            raise BusError(f"node {seat.node.name} published {topic}, which is not in its plan")
        arrival_ns = seat.clock.now_ns()
        if arrival_ns > now_ns:
            entry = (arrival_ns, next(self._sent), topic, message)
            heapq.heappush(self._on_the_way, entry)
        else:
            self._deliver(topic, message, now_ns)

    def _deliver(self, topic: str, message: Message, arrival_ns: int) -> None:
        for listener in self._listeners[topic]:
            listener.deliver(topic, message, arrival_ns)

    def _publish_health(self, seat: _Seat, now_ns: int) -> None:
        seat.health_ticker.advance(now_ns)
        topic = topics.node_health(seat.node.name)
        self._deliver(topic, health_message(seat.node, self._seq.next(topic), now_ns), now_ns)


def health_message(
    node: Node, seq: int, now_ns: int, extra: dict[str, float] | None = None
) -> Health:
    """What a node says of itself, as a message; ``extra`` adds the runner's own numbers."""
    health = node.health(now_ns)
    values = {name: float(value) for name, value in health.values.items()}
    return Health(
        now_ns, seq, node.name, health.ok, health.state, health.detail, values | (extra or {})
    )
