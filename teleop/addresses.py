"""Which topics a rig has, how fast they run, and where each is bound."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from teleop import topics
from teleop.errors import BusError, UnknownNameError
from teleop.rig_inputs import nodes_of

if TYPE_CHECKING:
    from teleop.rig import Arm, Rig

TRACE_HZ = 1000.0
"""Control rate of a Franka, fixed by its maker."""
FIXED_NODES = ("commander", "policy", "recorder", "emulator", "session")
"""Nodes that are not devices: who moves the arms, who plans for them, who writes, the emulated
rig, the operator."""


def topics_of(rig: Rig) -> tuple[str, ...]:
    """All topics of the rig in the order of their ports. Adding a device moves later ports."""
    fixed = (
        topics.SESSION_EVENT,
        topics.SESSION_PHASE,
        topics.SESSION_STOP,
        topics.RECORDER_EVENT,
        topics.TASK_STATE,
        topics.POLICY_CHUNK,
        *(topics.node_health(node) for node in FIXED_NODES),
    )
    arms = (
        topic(arm)
        for arm in sorted(rig.arms)
        for topic in (topics.arm_state, topics.arm_command, topics.arm_applied, topics.node_health)
    )
    traces = (topics.arm_trace(arm) for arm, config in sorted(rig.arms.items()) if traced(config))
    inputs = (topic for name in sorted(rig.inputs) for topic in input_topics(rig, name))
    input_nodes = (topics.node_health(node) for node in nodes_of(rig.inputs))
    cameras = (
        topic(camera)
        for camera in sorted(rig.cameras)
        for topic in (topics.camera_frame, topics.node_health)
    )
    return (*fixed, *arms, *cameras, *traces, *inputs, *input_nodes)


def traced(arm: Arm) -> bool:
    """Whether an arm tells every sample of its own control loop."""
    return arm.driver == "franka"


def input_topics(rig: Rig, name: str) -> tuple[str, ...]:
    """What is said by and to an input device."""
    motion = {"spacemouse": (topics.input_twist,), "franka_desk": ()}
    kinds = motion.get(rig.inputs[name].driver, (topics.input_pose,))
    return tuple(topic(name) for topic in (*kinds, topics.input_action, topics.input_cue))


def nominal_rate_hz(rig: Rig, topic: str) -> float | None:
    """How often the topic should speak; None for events and for devices that speak when moved."""
    match topics.row_of(topic).rate:
        case "arm":
            return rig.rates.arm_hz
        case "camera":
            return rig.cameras[topic.split("/")[1]].fps
        case "trace":
            return TRACE_HZ
        case "input" | "event":
            return None
        case "health":
            return rig.rates.health_hz
        case "phase":
            return rig.rates.phase_hz
        case "task":
            return rig.rates.task_hz


def address_of(rig: Rig, topic: str) -> str:
    """The TCP endpoint of a topic.

    Raises:
        UnknownNameError: the rig has no such topic.
    """
    if (override := rig.network.endpoints.get(topic)) is not None:
        return override.address
    names = topics_of(rig)
    if topic not in names:
        raise UnknownNameError("topic", topic, names)
    return f"tcp://{rig.network.host}:{rig.network.base_port + names.index(topic)}"


def free_base_port(count: int, host: str = "127.0.0.1") -> int:
    """The first of ``count`` consecutive TCP ports that are free now, between 10000 and 32000.

    Above, Linux gives ports to outgoing connections, ours among them, at any time. The search
    begins at a place of this process's own: two that start together should not find the same
    block free.

    Raises:
        BusError: there is no such block.
    """
    blocks = (32_000 - 10_000) // count
    for i in range(blocks):
        base = 10_000 + (os.getpid() * 7 + i) % blocks * count
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind((host, port))
            except OSError:
                continue
            return base
    raise BusError(f"no {count} consecutive free TCP ports on {host}")


def own_address(host: str, port: int) -> str:
    """The IPv4 address of this machine from which it reaches another, by the routing table.

    Raises:
        OSError: the host is unknown, or there is no way to it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # a datagram socket sends nothing by this
        return str(probe.getsockname()[0])
