"""Messages between processes: ZeroMQ PUB/SUB, one TCP endpoint per topic.

A topic's endpoint is bound by its only publisher, so a second commander of one arm fails
when it binds. A transmitted frame is ``topic NUL wire-bytes``. Subscribers count sequence
gaps and malformed frames; both are logged once per change and never raise.

Sockets stay on the loopback interface unless the rig has ``network.security``; then every
socket uses CURVE, subscribers are admitted by an allow-list, and a subscriber insists on the
key of the peer that owns the endpoint.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from teleop import wire
from teleop.addresses import address_of
from teleop.clock import Clock
from teleop.errors import BusError, WireError
from teleop.messages import Message
from teleop.node import Inputs, Received
from teleop.rig import Rig
from teleop.rig_checks import is_loopback
from teleop.topics import Queue, row_of

log = logging.getLogger(__name__)

STATE_HWM = 2000
"""Messages a slow subscriber may be behind on one topic: 20 s of a 100 Hz arm."""
CAMERA_HWM = 120
"""Frames a slow subscriber may be behind: 4 s at 30 fps, about 12 MB."""
RECONNECT_MS = 20


class Bus:
    """This process's end of the bus: a ZeroMQ context, and keys when the rig has them.

    Raises:
        BusError: the security folder lacks a key that is needed.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._context = zmq.Context()
        self._keys = _Keys(rig, self._context) if rig.network.security is not None else None

    def publisher(self, topics: Iterable[str]) -> Publisher:
        """Bind the endpoints of these topics."""
        return Publisher(self._context, self._rig, topics, self._keys)

    def subscriber(self, topics: Mapping[str, Queue]) -> Subscriber:
        """Connect to the endpoints of these topics."""
        return Subscriber(self._context, self._rig, topics, self._keys)

    def close(self) -> None:
        """Release the context; sockets must be closed before."""
        if self._keys is not None:
            self._keys.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Publisher:
    """Binds one endpoint per topic and sends.

    Raises:
        BusError: an endpoint is taken, or is not loopback and no keys are set up.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        rig: Rig,
        topics: Iterable[str],
        keys: _Keys | None = None,
    ) -> None:
        self._sockets: dict[str, tuple[zmq.Socket[bytes], bytes]] = {}
        try:
            for topic in topics:
                self._sockets[topic] = (_bound(context, rig, topic, keys), topic.encode() + b"\0")
        except BusError:
            self.close()
            raise

    def send(self, topic: str, message: Message) -> None:
        """Send to whoever listens; a listener that is too far behind loses the message."""
        socket, prefix = self._sockets[topic]
        socket.send(prefix + wire.encode(message), copy=False)

    def close(self) -> None:
        """Unbind. Messages still queued get a short time to leave."""
        for socket, _ in self._sockets.values():
            socket.close(linger=200)
        self._sockets.clear()


@dataclass(slots=True)
class TopicCount:
    """What came in on one topic."""

    received: int = 0
    lost: int = 0
    """Messages missing by their sequence numbers."""
    malformed: int = 0
    next_seq: int | None = None


class Subscriber:
    """Receives any number of topics."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        rig: Rig,
        topics: Mapping[str, Queue],
        keys: _Keys | None = None,
    ) -> None:
        self._queue = dict(topics)
        self.counts: dict[str, TopicCount] = {topic: TopicCount() for topic in topics}
        self._secured: dict[str | None, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()
        for topic in topics:
            socket = self._socket_for(context, rig, topic, keys)
            row = row_of(topic)
            socket.setsockopt(zmq.RCVHWM, CAMERA_HWM if row.rate == "camera" else STATE_HWM)
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode() + b"\0")
            socket.connect(address_of(rig, topic))

    def _socket_for(
        self, context: zmq.Context[zmq.Socket[bytes]], rig: Rig, topic: str, keys: _Keys | None
    ) -> zmq.Socket[bytes]:
        # CURVE pins one server key per socket, so there is one socket per peer.
        endpoint = rig.network.endpoints.get(topic)
        peer = endpoint.peer if endpoint is not None else None
        if peer not in self._secured:
            socket = context.socket(zmq.SUB)
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES + 1024)
            if keys is not None:
                keys.as_client(socket, peer)
            self._secured[peer] = socket
            self._poller.register(socket, zmq.POLLIN)
        return self._secured[peer]

    def wait(self, timeout_s: float) -> bool:
        """Wait for a message; returns whether there is one."""
        return bool(self._poller.poll(max(0, math.ceil(timeout_s * 1000))))

    def drain(self, clock: Clock) -> Inputs:
        """Everything that has come, each message stamped as it is taken; never waits."""
        raw: dict[str, list[tuple[memoryview, int]]] = defaultdict(list)
        for socket in self._secured.values():
            while True:
                try:
                    frame = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                end = frame.find(b"\0")
                topic = frame[:end].decode("utf-8", "replace")
                raw[topic].append((memoryview(frame)[end + 1 :], clock.now_ns()))
        return Inputs({topic: self._decoded(topic, frames) for topic, frames in raw.items()})

    def _decoded(self, topic: str, frames: list[tuple[memoryview, int]]) -> list[Received]:
        queue = self._queue.get(topic)
        if queue is None:
            return []
        count = self.counts[topic]
        count.received += len(frames)
        if queue is Queue.LATEST:
            frames = frames[-1:]
        received = []
        for data, arrival_ns in frames:
            message = self._decode_one(topic, data, count)
            if message is None:
                continue
            if queue is Queue.ALL and count.next_seq is not None and message.seq > count.next_seq:
                count.lost += message.seq - count.next_seq
            count.next_seq = message.seq + 1
            received.append(Received(message, arrival_ns))
        return received

    @staticmethod
    def _decode_one(topic: str, data: memoryview, count: TopicCount) -> Message | None:
        try:
            message = wire.decode(data)
            wanted = row_of(topic).message
            if not isinstance(message, wanted):
                raise WireError(f"{type(message).__name__} instead of {wanted.__name__}")
        except WireError as error:
            if count.malformed == 0:
                log.warning("topic %s: message dropped: %s", topic, error)
            count.malformed += 1
            return None
        return message

    def close(self) -> None:
        """Disconnect."""
        for socket in self._secured.values():
            socket.close(linger=0)
        self._secured.clear()


def _bound(
    context: zmq.Context[zmq.Socket[bytes]], rig: Rig, topic: str, keys: _Keys | None
) -> zmq.Socket[bytes]:
    address = address_of(rig, topic)
    host = address.removeprefix("tcp://").rsplit(":", 1)[0]
    if keys is None and not is_loopback(host):
        raise BusError(
            f"topic {topic}: {address} leaves this machine, so network.security "
            "(key_dir, identity, peers) must be set in the rig file"
        )
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, CAMERA_HWM if row_of(topic).rate == "camera" else STATE_HWM)
    if keys is not None:
        keys.as_server(socket)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        reason = (
            "it is in use: another Tandem program publishes this topic (or another program "
            "has the port; change network.base_port)"
            if error.errno == zmq.EADDRINUSE
            else str(error)
        )
        raise BusError(f"topic {topic}: cannot bind {address}: {reason}") from None
    return socket


class _Keys:
    """CURVE keys of this machine and an authenticator with the rig's allow-list."""

    def __init__(self, rig: Rig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        security = rig.network.security
        assert security is not None
        self._dir = security.key_dir.expanduser()
        self._public, self._secret = _load_pair(self._dir / f"{security.identity}.key_secret")
        self._peer_keys = {peer: _load_public(self._dir, peer) for peer in security.peers}
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        allowed = {*self._peer_keys.values(), self._public}
        self._authenticator.configure_curve_callback("*", _AllowList(allowed))

    def as_server(self, socket: zmq.Socket[bytes]) -> None:
        socket.curve_secretkey = self._secret
        socket.curve_publickey = self._public
        socket.curve_server = True

    def as_client(self, socket: zmq.Socket[bytes], peer: str | None) -> None:
        socket.curve_secretkey = self._secret
        socket.curve_publickey = self._public
        socket.curve_serverkey = self._public if peer is None else self._peer_keys[peer]

    def close(self) -> None:
        self._authenticator.stop()


class _AllowList:
    """Admits the listed public keys (interface of pyzmq's authenticator)."""

    def __init__(self, public_keys: set[bytes]) -> None:
        self._keys = public_keys

    def callback(self, domain: str, key: bytes) -> bool:
        admitted = key in self._keys
        if not admitted:
            log.warning("bus: refused a connection with an unknown key %s", key.decode())
        return admitted


def _load_pair(path: Path) -> tuple[bytes, bytes]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise BusError(f"key {path}: {error}; make one with zmq.auth.create_certificates") from None
    if secret is None:
        raise BusError(f"key {path}: holds no secret key")
    return public, secret


def _load_public(folder: Path, peer: str) -> bytes:
    path = folder / f"{peer}.key"
    try:
        return zmq.auth.load_certificate(path)[0]
    except (OSError, ValueError) as error:
        raise BusError(f"public key of peer {peer!r}, {path}: {error}") from None
