"""Which topics a rig has, how fast they run, and where each is bound."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from teleop import topics
from teleop.errors import BusError, UnknownNameError

if TYPE_CHECKING:
    from teleop.rig import Rig

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
    cameras = (
        topic(camera)
        for camera in sorted(rig.cameras)
        for topic in (topics.camera_frame, topics.node_health)
    )
    return (*fixed, *arms, *cameras)


def nominal_rate_hz(rig: Rig, topic: str) -> float | None:
    """How often the topic should speak; None for events."""
    match topics.row_of(topic).rate:
        case "arm":
            return rig.rates.arm_hz
        case "camera":
            return rig.cameras[topic.split("/")[1]].fps
        case "health":
            return rig.rates.health_hz
        case "phase":
            return rig.rates.phase_hz
        case "task":
            return rig.rates.task_hz
        case "event":
            return None


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
