"""The lockstep runner: order, wake-up, queues and determinism."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from teleop import messages as m
from teleop import topics, wire
from teleop.clock import VirtualClock, ns_from_s
from teleop.errors import BusError, NodeFailedError
from teleop.lockstep import Lockstep
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs, Sequencer
from teleop.topics import Queue

STATE = topics.arm_state("left_leader")


class Ticking:
    """Publishes its own time on a topic."""

    def __init__(self, name: str, topic: str, period_s: float) -> None:
        self.name = name
        self.plan = NodePlan(ns_from_s(period_s), publications=(topic,))
        self._topic = topic
        self._seq = Sequencer()

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        seq = self._seq.next(self._topic)
        return [(self._topic, m.ArmState(now_ns, seq, np.zeros(1), None, None, None, None, None))]

    def health(self, now_ns: int) -> NodeHealth:
        return NodeHealth(values={"seq": 1})

    def close(self) -> None: ...


class Listening:
    """Keeps what it got at each step."""

    def __init__(self, subscriptions: Mapping[str, Queue], period_s: float, wake: str) -> None:
        self.name = "listener"
        self.plan = NodePlan(ns_from_s(period_s), subscriptions, wake=wake)  # type: ignore[arg-type]
        self.steps: list[tuple[int, Sequence[int]]] = []
        self.heard: list[bytes] = []

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        self.steps.append((now_ns, [s.stamp_ns for s in inputs.all(STATE, m.ArmState)]))
        self.heard += [
            wire.encode(r.message) for topic in inputs.topics() for r in inputs.received(topic)
        ]
        return []

    def health(self, now_ns: int) -> NodeHealth:
        return NodeHealth()

    def close(self) -> None: ...


def test_an_input_driven_node_answers_at_the_same_instant() -> None:
    """No virtual time passes between a message and the step it causes."""
    listener = Listening({STATE: Queue.ALL}, 1.0, "input")
    run = Lockstep([Ticking("a", STATE, 0.01), listener], VirtualClock())
    for _ in range(5):
        run.step()
    assert [now for now, stamps in listener.steps if stamps == [now]] == [
        ns_from_s(0.01 * k) for k in range(5)
    ]


@pytest.mark.parametrize(("queue", "count"), [(Queue.ALL, 10), (Queue.LATEST, 1)])
def test_a_slow_node_gets_all_or_the_newest_as_it_asked(queue: Queue, count: int) -> None:
    """Ten messages per step: all in order, or only the last."""
    listener = Listening({STATE: queue}, 0.1, "tick")
    run = Lockstep([Ticking("a", STATE, 0.01), listener], VirtualClock())
    run.run(lambda: len(listener.steps) == 3, limit_s=1)
    stamps = listener.steps[-1][1]
    assert len(stamps) == count
    assert stamps[-1] == listener.steps[-1][0]


def test_two_publishers_of_one_topic_are_refused() -> None:
    """The same rule as on the real bus."""
    with pytest.raises(BusError, match=r"published by a and b"):
        Lockstep([Ticking("a", STATE, 1), Ticking("b", STATE, 1)], VirtualClock())


def test_a_run_that_does_not_end_is_a_failure() -> None:
    """The limit is in virtual time."""
    run = Lockstep([Ticking("a", STATE, 0.01)], VirtualClock())
    with pytest.raises(NodeFailedError, match="2 virtual seconds"):
        run.run(lambda: False, limit_s=2)


def test_the_same_nodes_say_the_same_bytes() -> None:
    """Two runs are equal to the byte, heartbeats included."""

    def record() -> list[bytes]:
        wanted = {STATE: Queue.ALL, topics.node_health("a"): Queue.ALL}
        listener = Listening(wanted, 0.03, "input")
        run = Lockstep([Ticking("a", STATE, 0.007), listener], VirtualClock())
        run.run(lambda: len(listener.steps) >= 100, limit_s=10)
        return listener.heard

    first = record()
    assert first == record()
    assert any(isinstance(wire.decode(data), m.Health) for data in first)
