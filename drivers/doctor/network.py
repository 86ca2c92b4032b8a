"""The doctor's looks at the network of Tandem's programs: topic ports, keys, other machines."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from drivers.doctor.checks import Check, failed
from teleop.addresses import topics_of
from teleop.bus import Bus
from teleop.errors import BusError
from teleop.rig import Rig, Security

REACH_S = 1.5
"""A machine in the same network answers within milliseconds."""


def topic_checks(rig: Rig) -> Check:
    """Whether all topics that this machine publishes can be bound now."""
    thing = "topic ports"
    endpoints = rig.network.endpoints
    ours = [t for t in topics_of(rig) if t not in endpoints or endpoints[t].peer is None]
    faults = []
    try:
        with Bus(rig) as bus:
            for topic in ours:
                try:
                    bus.publisher([topic]).close()
                except BusError as error:
                    faults.append(str(error))
    except BusError as error:  # its keys are not in order
        return failed(thing, error)
    if faults:
        seen = f"{len(faults)} of {len(ours)} cannot be bound, the first: {faults[0]}"
        return Check("fail", thing, seen, "stop the other session")
    first, host = rig.network.base_port, rig.network.host
    return Check("ok", thing, f"{len(ours)} are free on {host} from {first} on")


def key_checks(rig: Rig) -> Iterator[Check]:
    """Whether the keys of the rig file are all there, and the secret one secret."""
    security = rig.network.security
    if security is None:
        return
    thing, folder = "keys", security.key_dir.expanduser()
    secret = folder / f"{security.identity}.key_secret"
    absent = [path for path in (secret, *_public_files(security, folder)) if not path.is_file()]
    if absent:
        remedy = (
            "make pairs by zmq.auth.create_certificates, and copy each machine's .key (never its "
            ".key_secret) to the others"
        )
        names = ", ".join(path.name for path in absent)
        yield Check("fail", thing, f"{folder} lacks {names}", remedy)
        return
    if secret.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Check("fail", thing, f"others may read {secret}", f"run: chmod 600 {secret}")
        return
    yield Check("ok", thing, f"own pair {security.identity}, {len(security.peers)} peers")


def _public_files(security: Security, folder: Path) -> list[Path]:
    return [folder / f"{peer}.key" for peer in security.peers]


def peer_checks(rig: Rig) -> Iterator[Check]:
    """Whether the other machines of the rig can be reached; their programs may not run yet."""
    by_peer: dict[str, tuple[str, int]] = {}
    for endpoint in rig.network.endpoints.values():
        if endpoint.peer is not None:
            host, _, number = endpoint.address.removeprefix("tcp://").rpartition(":")
            by_peer.setdefault(endpoint.peer, (host, int(number)))
    for peer, (host, port) in sorted(by_peer.items()):
        fault = why_unreachable(host, port)
        thing, where = f"machine {peer}", f"{host}:{port}"
        if not fault:
            yield Check("ok", thing, f"{where} answers")
        elif fault == "refused":
            yield Check("ok", thing, f"{host} answers, nobody publishes on port {port} yet")
        else:
            remedy = "check its address in network.endpoints, the cable, and its firewall"
            yield Check("fail", thing, f"{where} cannot be reached ({fault})", remedy)


def why_unreachable(host: str, port: int, patience_s: float = REACH_S) -> str:
    """Why no TCP connection can be made: ``refused``, or in words; empty when it can."""
    try:
        with contextlib.closing(socket.create_connection((host, port), patience_s)):
            return ""
    except OSError as error:
        return reason_of(error)


def reason_of(error: OSError) -> str:
    """Why a connection failed, in words; ``refused`` where the host is there and nobody listens."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return "its name is not known here"
    reasons = {errno.EHOSTUNREACH: "no such host in the network", errno.ENETUNREACH: "no route"}
    return reasons.get(error.errno or 0, error.strerror or str(error))
