"""One node as one process: the loop, and the entry point of the child.

The supervisor starts ``python -m teleop.processes NAME`` with the node's description on standard
input and reads one line of JSON from its standard output: ``{"ready": true}`` or
``{"error": "..."}``; an unexpected error leaves its traceback in the log instead. The child
ignores Ctrl-C (the supervisor decides the order in which nodes stop), ends on SIGTERM, and ends
by itself when the supervisor has gone.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from teleop import topics
from teleop.bus import Bus
from teleop.clock import MonotonicClock, Ticker, ns_from_s
from teleop.errors import TandemError
from teleop.lockstep import health_message
from teleop.node import Node, NodeContext, Sequencer
from teleop.rig import Rig

log = logging.getLogger(__name__)

StopGroup = Literal["input", "recorder", "arm", "world"]

PARENT_CHECK_S = 0.2
NICE: Mapping[StopGroup, int] = {"arm": -15, "world": -15, "input": -12, "recorder": -10}
"""Scheduling priority of the nodes, where the system lets us: what else runs on the machine
(a trainer, a browser) must not make an arm late."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """How to make one node."""

    name: str
    factory: str
    """``module:function``, called as ``function(name, context)``."""
    group: StopGroup
    """Inputs stop first, then the recorder, then the arms, the emulated world last."""
    options: dict[str, Any] = field(default_factory=dict)
    """JSON values, handed to the node as ``context.options``."""
    start_s: float = 30.0
    """Longest time until it is ready. A cold import of OpenCV and h5py on a slow disk takes
    seconds, a servo check under one."""


def build_node(spec: NodeSpec, context: NodeContext) -> Node:
    """Import the node's module and make the node."""
    module, _, function = spec.factory.partition(":")
    factory = cast(
        Callable[[str, NodeContext], Node], getattr(importlib.import_module(module), function)
    )
    return factory(spec.name, context)


class NodeLoop:
    """Steps a node on the real clock with the real bus, until told to stop."""

    def __init__(self, node: Node, rig: Rig, bus: Bus) -> None:
        self._node = node
        self._clock = MonotonicClock()
        self._health_topic = topics.node_health(node.name)
        self._publisher = bus.publisher([*node.plan.publications, self._health_topic])
        self._subscriber = bus.subscriber(node.plan.subscriptions)
        self._seq = Sequencer()
        now_ns = self._clock.now_ns()
        self._ticker = Ticker(node.plan.period_ns, now_ns)
        self._health_ticker = Ticker(ns_from_s(1 / rig.rates.health_hz), now_ns)
        self._by_input = node.plan.wake == "input"
        self._worst_step_ns = 0

    def run(self, stop: Callable[[], bool]) -> None:
        """Step until ``stop()``, which is asked at least every period."""
        while not stop():
            self.turn()

    def now_ns(self) -> int:
        """The loop's clock."""
        return self._clock.now_ns()

    def turn(self) -> None:
        """Wait for the next tick or input, and step once."""
        now_ns = self._clock.now_ns()
        deadline_ns = self._ticker.deadline_ns
        if self._by_input:
            if now_ns < deadline_ns:
                self._subscriber.wait((deadline_ns - now_ns) / 1e9)
        else:
            self._clock.sleep_until_ns(deadline_ns)
        inputs = self._subscriber.drain(self._clock)
        now_ns = self._clock.now_ns()
        if self._ticker.due(now_ns):
            self._ticker.advance(now_ns)
        for topic, message in self._node.step(inputs, now_ns):
            self._publisher.send(topic, message)
        self._worst_step_ns = max(self._worst_step_ns, self._clock.now_ns() - now_ns)
        if self._health_ticker.due(now_ns):
            self._health_ticker.advance(now_ns)
            self._publish_health(now_ns)

    def _publish_health(self, now_ns: int) -> None:
        extra = {
            "loop_ticks": float(self._ticker.ticks),
            "loop_missed_ticks": float(self._ticker.missed),
            "loop_worst_late_ms": self._ticker.worst_late_ns / 1e6,
            "loop_worst_step_ms": self._worst_step_ns / 1e6,
            "bus_lost": float(sum(c.lost for c in self._subscriber.counts.values())),
            "bus_malformed": float(sum(c.malformed for c in self._subscriber.counts.values())),
        }
        self._ticker.worst_late_ns = self._worst_step_ns = 0
        message = health_message(self._node, self._seq.next(self._health_topic), now_ns, extra)
        self._publisher.send(self._health_topic, message)

    def close(self) -> None:
        """Disconnect; the node itself is closed by its owner."""
        self._publisher.close()
        self._subscriber.close()


class StopRequest:
    """Set by SIGTERM, or when the supervisor has gone.

    Args:
        supervisor: Its process id. It is told rather than asked of the system, because it may
            have died while this process was importing.
    """

    def __init__(self, supervisor: int) -> None:
        self._asked = False
        self._supervisor = supervisor
        self._clock = MonotonicClock()
        self._parent_ticker = Ticker(ns_from_s(PARENT_CHECK_S), self._clock.now_ns())
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _ask(self, signum: int, frame: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        now_ns = self._clock.now_ns()
        if self._parent_ticker.due(now_ns):
            self._parent_ticker.advance(now_ns)
            if os.getppid() != self._supervisor:
                log.error("the supervisor has gone; stopping")
                self._asked = True
        return self._asked


SWITCH_INTERVAL_S = 0.0005
"""How long a thread of a node may keep the interpreter from another. Python's own 5 ms would
let an episode being saved hold up the one being recorded, and the physics the servo buses."""


def take_priority(group: StopGroup) -> None:
    """Run before ordinary programs; without the right to (``ulimit -e``), as one of them."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE[group])
    except PermissionError:
        log.info("no right to raise the priority to nice %d; see ulimit -e", NICE[group])


def run_child(spec: NodeSpec, rig: Rig, supervisor: int, ready: Callable[[], None]) -> None:
    """Build the node, run it until told to stop, close it whatever happens."""
    stop = StopRequest(supervisor)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if spec.group == "world":
        take_priority(spec.group)  # at once: what it starts inherits it
    with Bus(rig) as bus:
        node = build_node(spec, NodeContext(rig, MonotonicClock(), None, spec.options))
        try:
            with closing(NodeLoop(node, rig, bus)) as loop:
                # Not before: imports and set-up of one node must not hold up another's loop.
                take_priority(spec.group)
                ready()
                loop.run(stop)
        finally:
            node.close()


def spec_as_json(spec: NodeSpec, rig: Rig) -> str:
    """What the supervisor, which is the caller, writes to the child's standard input."""
    return json.dumps(
        {"spec": asdict(spec), "rig": rig.model_dump(mode="json"), "parent": os.getpid()}
    )


def main() -> int:
    """Entry point of a node's process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    description = json.load(sys.stdin)
    spec = NodeSpec(**description["spec"])
    rig = Rig.model_validate(description["rig"])
    # Standard output belongs to the supervisor from here on; a stray print must not reach it.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(what: dict[str, object]) -> None:
        answer.write(json.dumps(what) + "\n")
        answer.flush()

    try:
        run_child(spec, rig, description["parent"], lambda: say({"ready": True}))
    except TandemError as error:
        say({"error": str(error)})
        log.error("%s: %s", spec.name, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
