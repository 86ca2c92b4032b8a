"""Process replay: recorded inputs into a node, outputs compared with a stored reference.

A recording is a gzip of one msgpack map: the rig as JSON, the node's inputs step by step, and
the outputs that were right when they were stored. Messages are in our own wire format. Set
``TANDEM_UPDATE_REFS=1`` to store the present outputs as the new reference, then look at the
difference before you commit it.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from teleop import wire
from teleop.messages import Message
from teleop.node import Inputs, Node, NodeHealth, Outputs, Received
from teleop.rig import Rig

UPDATE_REFS = os.environ.get("TANDEM_UPDATE_REFS") == "1"
TOLERANCE = 1e-9
"""Largest difference of floats: another numpy may round differently, nothing else may."""


@dataclass
class Step:
    """One step of a node."""

    now_ns: int
    inputs: list[tuple[str, Received]]
    outputs: Outputs = field(default_factory=list)


@dataclass
class Recording:
    """All steps of a node and the rig that it ran on."""

    rig: Rig
    steps: list[Step]

    def save(self, path: Path) -> None:
        """Write to a file; the same recording gives the same bytes."""
        steps = [
            {
                "now_ns": step.now_ns,
                "inputs": [(t, r.arrival_ns, wire.encode(r.message)) for t, r in step.inputs],
                "outputs": [(topic, wire.encode(message)) for topic, message in step.outputs],
            }
            for step in self.steps
        ]
        content = msgpack.packb({"rig": self.rig.model_dump_json(), "steps": steps})
        path.write_bytes(gzip.compress(content, mtime=0))

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what ``save`` wrote."""
        content = msgpack.unpackb(gzip.decompress(path.read_bytes()))
        steps = [
            Step(
                step["now_ns"],
                [(t, Received(wire.decode(data), at)) for t, at, data in step["inputs"]],
                [(topic, wire.decode(data)) for topic, data in step["outputs"]],
            )
            for step in content["steps"]
        ]
        return cls(Rig.model_validate_json(content["rig"]), steps)


class Tap:
    """Stands in a node's place and keeps what goes in and comes out."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name, self.plan = node.name, node.plan
        self.steps: list[Step] = []

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        outputs = self.node.step(inputs, now_ns)
        kept = [(topic, r) for topic in inputs.topics() for r in inputs.received(topic)]
        self.steps.append(Step(now_ns, kept, outputs))
        return outputs

    def health(self, now_ns: int) -> NodeHealth:
        return self.node.health(now_ns)

    def close(self) -> None:
        self.node.close()


def replay(node: Node, steps: list[Step]) -> list[Step]:
    """The same inputs into a node; the steps as it takes them now."""
    replayed = []
    for step in steps:
        by_topic: dict[str, list[Received]] = {}
        for topic, received in step.inputs:
            by_topic.setdefault(topic, []).append(received)
        outputs = node.step(Inputs(by_topic), step.now_ns)
        replayed.append(Step(step.now_ns, step.inputs, outputs))
    return replayed


def differences(wanted: list[Step], got: list[Step]) -> list[str]:
    """Every output that is not as it was, in words; empty when all are."""
    found = []
    for i, (was, now) in enumerate(zip(wanted, got, strict=True)):
        topics_were, topics_are = [t for t, _ in was.outputs], [t for t, _ in now.outputs]
        if topics_were != topics_are:
            found.append(f"step {i}: published {topics_are}, it was {topics_were}")
            continue
        for (topic, before), (_, after) in zip(was.outputs, now.outputs, strict=True):
            found += [f"step {i}: {topic}: {text}" for text in _field_differences(before, after)]
    return found


def _field_differences(before: Message, after: Message) -> list[str]:
    if type(before) is not type(after):
        return [f"a {type(after).__name__}, it was a {type(before).__name__}"]
    return [
        f"{f.name} is {now}, it was {was}"
        for f in fields(before)
        if not _same(was := getattr(before, f.name), now := getattr(after, f.name))
    ]


def _same(was: Any, now: Any) -> bool:
    if isinstance(was, float | np.ndarray) and isinstance(now, float | np.ndarray):
        return np.shape(was) == np.shape(now) and np.allclose(
            was, now, rtol=0, atol=TOLERANCE, equal_nan=True
        )
    return bool(was == now)
