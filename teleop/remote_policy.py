"""A policy's node alone, on another machine than the arms.

It is the node that ``tandem deploy`` would start, reached over the bus. Both machines read a
description of the same rig and are given the same job, so both come to the same topics in the
same order, and with them to the same ports: those follow from ``network.base_port`` and from
the devices that the job uses. What differs is in ``network``: see ``docs/deployment.md``.

The rig must be started with the job's option ``remote_policy``, which leaves the node out
there. Its silence then ends nothing: the commander holds and says so until plans come again.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from teleop import topics
from teleop.addresses import address_of, topics_of
from teleop.assembly import Job, policy_spec, rig_for
from teleop.bus import Bus
from teleop.clock import MonotonicClock
from teleop.errors import RigError
from teleop.node import NodeContext, NodeHealth
from teleop.processes import NodeLoop, build_node, take_priority
from teleop.rig import Rig
from teleop.runs import emulated_processes, run_folder

OWN_TOPICS = (topics.POLICY_CHUNK, topics.node_health("policy"))
"""What this machine says; all else the rig says."""


def run_policy(
    rig: Rig,
    job: Job,
    emulate: bool,
    say: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> NodeHealth:
    """Run the policy of a deployment for a rig on another machine, until Ctrl-C or SIGTERM.

    Args:
        rig: As read from this machine's file.
        job: The same ``deploy`` job as on the rig; options are this machine's own.
        emulate: The rig is emulated.
        say: Told what the policy's node is doing, whenever that changes.
        stop: Asked at least every period of the policy.

    Returns:
        What the node said last; its values hold the latencies.

    Raises:
        PolicyError: the policy cannot be loaded, or does not fit the rig.
        RigError: ``network`` does not tell where the rig is.
        BusError: an endpoint is taken, or a key is missing.
    """
    job = replace(job, options={**job.options, "remote_policy": True})
    rig = rig_for(rig, job)
    with run_folder() as run_dir, _signals() as stopped:
        if emulate:
            rig = emulated_processes(rig, job, run_dir)
        rig = seen_from_policy(rig)
        spec = policy_spec(job)
        with Bus(rig) as bus:
            node = build_node(spec, NodeContext(rig, MonotonicClock(), None, spec.options))
            with closing(node), closing(NodeLoop(node, rig, bus)) as loop:
                take_priority(spec.group)
                told = ""
                while not (stopped() or stop()):
                    loop.turn()
                    health = node.health(loop.now_ns())
                    about = re.sub(r"[\d.-]+", "", f"{health.state} {health.detail}")  # ages grow
                    if about != told:
                        told = about
                        say(f"policy: {health.state} {health.detail}".rstrip())
                return node.health(loop.now_ns())


def seen_from_policy(rig: Rig) -> Rig:
    """The rig with an endpoint for every topic that comes from the rig's machine.

    An endpoint that the file gives stays. The others are at ``network.host``, and with keys
    their publisher is the one peer that ``security.peers`` lists as ``admin``.

    Raises:
        RigError: there are keys, and no such peer or several, or no addresses of our own.
    """
    network = rig.network
    peer = None
    if network.security is not None:
        peers = network.security.peers
        admins = [name for name, role in peers.items() if role == "admin"]
        faults = [
            f"network.endpoints.{topic}: give the address of this machine, which says it"
            for topic in OWN_TOPICS
            if topic not in network.endpoints
        ]
        if len(admins) != 1:
            found = ", ".join(admins) or "none"
            faults.append(
                "network.security.peers: on the policy's machine exactly one peer must be "
                f"admin, the rig's; found: {found}"
            )
        if faults:
            raise RigError(rig.name, faults)
        peer = admins[0]
    endpoints: dict[str, Any] = {
        topic: {"address": address_of(rig, topic), "peer": peer}
        for topic in topics_of(rig)
        if topic not in OWN_TOPICS
    }
    given = network.model_dump()["endpoints"]
    return rig.replaced(network=network.model_dump() | {"endpoints": endpoints | given})


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether one of the three polite signals has come."""
    asked: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {s: signal.signal(s, lambda signum, frame: asked.append(signum)) for s in signals}
    try:
        yield lambda: bool(asked)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
