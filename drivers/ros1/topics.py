"""The sending and the receiving end of a ROS 1 topic, and the server that brings them together."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from socketserver import ThreadingMixIn
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from drivers.ros1.link import TIMEOUT_S, Link, PatientTransport, decode_header, encode_header
from drivers.ros1.messages import MessageType
from teleop.errors import DeviceError, WireError

log = logging.getLogger(__name__)

WATCH_S = 0.5
"""How often a silent connection looks whether it shall end."""
SHUTDOWN_S = 0.1
"""The same for the server of callbacks."""
RETRY_S = 0.5
"""Pause before a publisher that hung up, or could not be reached, is tried again."""


class Subscription:
    """Receives a topic from everybody who offers it, and comes back to those who hung up.

    Args:
        node: Our node's name.
        topic: The topic's full name.
        kind: What is expected on it.
        take: Called with every message, in the thread of its connection.
    """

    def __init__(
        self, node: str, topic: str, kind: MessageType, take: Callable[[dict[str, Any]], None]
    ) -> None:
        self.topic = topic
        self.losses = 0
        """Connections that ended since the beginning."""
        self.trouble = ""
        """Why the newest attempt failed or the newest connection ended."""
        self._node, self._kind, self._take = node, kind, take
        self._wanted: set[str] = set()
        self._heard: set[str] = set()
        """Those that have a thread; one that is soon wanted again keeps it."""
        self._links: dict[str, Link] = {}
        self._closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def connected(self) -> int:
        """Publishers that are being heard."""
        return len(self._links)

    def follow(self, publishers: Sequence[str]) -> None:
        """Hear these publishers, given by the addresses of their nodes, and no others."""
        with self._lock:
            self._wanted = set(publishers)
            new = self._wanted - self._heard
            self._heard |= new
        for uri in new:
            threading.Thread(target=self._hear, args=(uri,), daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        self._closing.set()
        for link in list(self._links.values()):
            link.close()

    def _goes_on(self, uri: str) -> bool:
        return uri in self._wanted and not self._closing.is_set()

    def _stops(self, uri: str) -> bool:
        """Whether the thread of a publisher ends now; the next time gets a new one."""
        with self._lock:
            if self._goes_on(uri):
                return False
            self._heard.discard(uri)
            return True

    def _hear(self, uri: str) -> None:
        while not self._stops(uri):
            try:
                link = self._connect(uri)
            except (DeviceError, WireError, OSError, xmlrpc.client.Error) as error:
                self.trouble = f"{uri} does not offer {self.topic}: {error}"
            else:
                self._links[uri] = link
                self._receive(uri, link)
                del self._links[uri]
                link.close()
                self.losses += 1
            self._closing.wait(RETRY_S)

    def _connect(self, uri: str) -> Link:
        with xmlrpc.client.ServerProxy(uri, transport=PatientTransport()) as node:
            answer: Any = node.requestTopic(self._node, self.topic, [["TCPROS"]])
        code, words, found = answer
        if code != 1:
            raise DeviceError(str(words))
        _, host, port = found
        link = Link.to(str(host), int(port), TIMEOUT_S)
        try:
            header = _greeting(self._node, self.topic, self._kind) | {"tcp_nodelay": "1"}
            link.greet(header, TIMEOUT_S)
        except (DeviceError, WireError):
            link.close()
            raise
        return link

    def _receive(self, uri: str, link: Link) -> None:
        try:
            while self._goes_on(uri):
                if link.has_input(WATCH_S):
                    self._take(self._kind.decode(link.receive(TIMEOUT_S)))
        except (DeviceError, WireError, ValueError) as error:  # ValueError: closed meanwhile
            if not self._closing.is_set():
                self.trouble = f"{self.topic} from {uri}: {error}"
                log.warning("%s", self.trouble)


class Publication:
    """Sends a topic to all who asked for it. Nothing is kept for those who come later."""

    def __init__(self, node: str, topic: str, kind: MessageType) -> None:
        self.topic = topic
        self.losses = 0
        """Receivers that hung up or took no more."""
        self._node, self._kind = node, kind
        self._links: list[Link] = []

    @property
    def connected(self) -> int:
        """Receivers that have not hung up."""
        for link in [link for link in self._links if not link.alive]:
            self._drop(link)
        return len(self._links)

    def publish(self, values: Mapping[str, Any]) -> int:
        """Send one message without waiting; returns how many were given it.

        A receiver that is so far behind that no more fits is hung up on: a queue of old commands
        is worse than none.
        """
        body = self._kind.encode(values)
        data = len(body).to_bytes(4, "little") + body
        for link in list(self._links):
            if not link.alive:
                self._drop(link)
                continue
            try:
                link.send(data, timeout_s=0.0)
            except DeviceError:
                self._drop(link)
        return len(self._links)

    def accept(self, link: Link, header: dict[str, str]) -> None:
        """A receiver has come; ``header`` is what it said."""
        wanted = header.get("md5sum", "*")
        if wanted not in ("*", self._kind.md5):
            raise DeviceError(f"{self.topic} is a {self._kind.name} with md5 {self._kind.md5}")
        answer = _greeting(self._node, self.topic, self._kind)
        link.send(encode_header(answer), TIMEOUT_S)
        self._links.append(link)

    def close(self) -> None:
        """Hang up."""
        for link in self._links:
            link.close()

    def _drop(self, link: Link) -> None:
        link.close()
        self._links.remove(link)
        self.losses += 1


class SlaveApi:
    """What the master and other nodes call on us, and where subscribers connect.

    Args:
        node: Our node's name.
        master: The master's address.
        host: Under which address others reach us, and the only one on which we listen.

    Raises:
        DeviceError: no port can be had at that address.
    """

    def __init__(self, node: str, master: str, host: str) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.publications: dict[str, Publication] = {}
        self.shut_down = ""
        self._node, self._master, self._host = node, master, host
        try:
            self._listener = socket.create_server((host, 0))
            self._server = _Server((host, 0), _Handler, logRequests=False)
        except OSError as error:
            raise DeviceError(
                f"cannot listen at {host} for ROS nodes: {error.strerror}; "
                "set ROS_IP to this machine's address towards the robot"
            ) from None
        self._server.register_instance(_Calls(self))
        self.uri = f"http://{host}:{self._server.server_address[1]}/"
        for work in (lambda: self._server.serve_forever(SHUTDOWN_S), self._welcome):
            threading.Thread(target=work, name=f"ros{node}", daemon=True).start()

    def request_topic(self, topic: str) -> list[Any]:
        """Where to connect for a topic of ours."""
        if topic not in self.publications:
            return [0, f"{self._node} does not offer {topic}", []]
        return [1, "ready", ["TCPROS", self._host, self._listener.getsockname()[1]]]

    def publisher_update(self, topic: str, publishers: Sequence[str]) -> list[Any]:
        """The publishers of a topic have changed."""
        if topic in self.subscriptions:
            self.subscriptions[topic].follow([str(uri) for uri in publishers])
        return [1, "", 0]

    def own(self, words: str) -> list[Any]:
        """The master wants this node to end: another took its name, or somebody killed it."""
        self.shut_down = words or "asked by the ROS master"
        return [1, "", 0]

    def close(self) -> None:
        """Stop answering and hang up. Never raises."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake its thread
        self._listener.close()
        for subscription in self.subscriptions.values():
            subscription.close()
        for publication in self.publications.values():
            publication.close()
        self._server.shutdown()
        self._server.server_close()

    def _welcome(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            link = Link(connected)
            try:
                header = decode_header(link.receive(TIMEOUT_S))
                publication = self.publications.get(header.get("topic", ""))
                if publication is None:
                    raise DeviceError(f"{self._node} does not offer {header.get('topic')}")
                publication.accept(link, header)
            except (DeviceError, WireError) as error:
                log.warning("%s: a subscriber was turned away: %s", self._node, error)
                link.close()


class _Calls:
    """The slave API by its own names."""

    def __init__(self, slave: SlaveApi) -> None:
        self._slave = slave

    def requestTopic(self, _caller: str, topic: str, _protocols: object) -> list[Any]:  # noqa: N802
        return self._slave.request_topic(topic)

    def publisherUpdate(self, _caller: str, topic: str, uris: Sequence[str]) -> list[Any]:  # noqa: N802
        return self._slave.publisher_update(topic, uris)

    def shutdown(self, _caller: str, words: str = "") -> list[Any]:
        return self._slave.own(words)

    def getPid(self, _caller: str) -> list[Any]:  # noqa: N802
        return [1, "", os.getpid()]


class _Handler(SimpleXMLRPCRequestHandler):
    timeout = TIMEOUT_S
    rpc_paths = ()


class _Server(ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True


def _greeting(node: str, topic: str, kind: MessageType) -> dict[str, str]:
    return {
        "callerid": node,
        "topic": topic,
        "type": kind.name,
        "md5sum": kind.md5,
        "message_definition": kind.definition,
        "latching": "0",
    }
