"""A small ROS 1 node of our own: topics and services by TCPROS and XML-RPC.

Standard library only, so that a machine without ROS can talk to a robot that has it. A ROS
node consists of three parts: calls to the master (who offers what), an XML-RPC server on which
the master and subscribers call back, and TCP connections that carry messages and service calls
(wiki.ros.org/ROS/Master_API, Slave_API, TCPROS). Every wait has a limit.

ROS 1 knows no authentication: whoever reaches the master can move the robot.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import threading
import xmlrpc.client
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

from drivers.ros1.link import TIMEOUT_S, Link, PatientTransport
from drivers.ros1.messages import MessageType, ServiceType
from drivers.ros1.topics import Publication, SlaveApi, Subscription
from teleop.addresses import own_address
from teleop.errors import DeviceError, DeviceLostError, WireError

_counter = itertools.count(1)


class ServiceRefusedError(DeviceError):
    """The node that offers a service has refused a request."""


class Ros1Client:
    """One node.

    Args:
        master: The master's address, ``http://host:11311``.
        name: How the node shall be called; a number is added to keep it unique.
    """

    def __init__(self, master: str, name: str) -> None:
        self.master = master.rstrip("/")
        self.name = f"/{name}_{os.getpid()}_{next(_counter)}"
        self._slave: SlaveApi | None = None
        self._services: list[Service] = []

    def start(self) -> None:
        """See that the master is there, and listen for callbacks.

        Raises:
            DeviceError: the master does not answer, or no port can be had.
        """
        self.ask_master("getPid")
        self._slave = SlaveApi(self.name, self.master, own_host(self.master))

    def subscribe(
        self, topic: str, kind: MessageType, take: Callable[[dict[str, Any]], None]
    ) -> Subscription:
        """Have ``take`` called with every message, in a thread of the connection.

        Raises:
            DeviceError: the master does not answer.
        """
        subscription = Subscription(self.name, topic, kind, take)
        slave = self._running
        slave.subscriptions[topic] = subscription
        publishers = self.ask_master("registerSubscriber", topic, kind.name, slave.uri)
        subscription.follow([str(uri) for uri in publishers])
        return subscription

    def advertise(self, topic: str, kind: MessageType) -> Publication:
        """Offer a topic; nothing sent is kept for those who come later.

        Raises:
            DeviceError: the master does not answer.
        """
        publication = Publication(self.name, topic, kind)
        slave = self._running
        slave.publications[topic] = publication
        self.ask_master("registerPublisher", topic, kind.name, slave.uri)
        return publication

    def service(self, name: str, kind: ServiceType) -> Service:
        """A service as something to call; it is looked for at the first call."""
        service = Service(self, name, kind)
        self._services.append(service)
        return service

    def publishers(self) -> dict[str, list[str]]:
        """The names of the nodes that offer each topic.

        Raises:
            DeviceError: the master does not answer.
        """
        publishers = self.ask_master("getSystemState")[0]
        return {str(topic): [str(node) for node in nodes] for topic, nodes in publishers}

    def ask_master(self, method: str, *args: object) -> Any:
        """Call the master and return what it answers.

        Raises:
            DeviceError: it does not answer, or refuses.
        """
        with xmlrpc.client.ServerProxy(self.master, transport=PatientTransport()) as proxy:
            try:
                code, words, value = getattr(proxy, method)(self.name, *args)
            except (OSError, http.client.HTTPException, ExpatError) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise DeviceError(
                    f"no ROS master answers at {self.master}: {reason}; start roscore (or the "
                    "robot's launch file), or correct master in the rig description"
                ) from None
            except (xmlrpc.client.Error, TypeError, ValueError) as error:
                raise DeviceError(
                    f"{self.master} does not answer as a ROS master does: {error}; "
                    "correct master in the rig description"
                ) from None
        if code != 1:
            raise DeviceError(f"the ROS master at {self.master} refuses {method}: {words}")
        return value

    def close(self) -> None:
        """Sign off and hang up everywhere. Never raises."""
        for service in self._services:
            service.close()
        slave, self._slave = self._slave, None
        if slave is None:
            return
        with contextlib.suppress(DeviceError):
            for topic in slave.subscriptions:
                self.ask_master("unregisterSubscriber", topic, slave.uri)
            for topic in slave.publications:
                self.ask_master("unregisterPublisher", topic, slave.uri)
        slave.close()

    @property
    def shut_down(self) -> str:
        """Why the master asked this node to end; empty when it did not."""
        return self._running.shut_down

    @property
    def _running(self) -> SlaveApi:
        if self._slave is None:
            raise DeviceLostError(f"the ROS node {self.name} is not running")
        return self._slave


class Service:
    """One service of another node, on a connection that is kept between calls.

    Any thread may call; one at a time is served.
    """

    def __init__(self, client: Ros1Client, name: str, kind: ServiceType) -> None:
        self.name = name
        self._client = client
        self._kind = kind
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._closed = False

    def call(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises:
            ServiceRefusedError: the node refused the request.
            DeviceError: nobody offers the service, or no answer came in time.
            DeviceLostError: the node hung up.
        """
        body = self._kind.encode_request(request)
        with self._lock:
            if self._closed:
                raise DeviceLostError(f"service {self.name}: this node has signed off")
            link = self._connected()
            try:
                link.send(len(body).to_bytes(4, "little") + body, TIMEOUT_S)
                accepted = link.receive_byte(timeout_s)
                answer = link.receive(TIMEOUT_S)
                if accepted:
                    return self._kind.decode_response(answer)
            except (DeviceError, WireError) as error:
                self._drop()
                lost = DeviceLostError if isinstance(error, DeviceLostError) else DeviceError
                raise lost(f"service {self.name}: {error}") from None
        words = answer.decode(errors="replace") or "no reason given"
        raise ServiceRefusedError(f"service {self.name} refused the request: {words}")

    def close(self) -> None:
        """Hang up; a call under way in another thread fails at once."""
        self._closed = True
        if self._link is not None:
            self._link.close()

    def _connected(self) -> Link:
        if self._link is not None and not self._link.alive:
            self._drop()
        if self._link is None:
            self._link = self._open()
        return self._link

    def _open(self) -> Link:
        uri = urlsplit(str(self._client.ask_master("lookupService", self.name)))
        link = None
        try:
            link = Link.to(uri.hostname or "", uri.port or 0, TIMEOUT_S)
            header = {
                "callerid": self._client.name,
                "service": self.name,
                "md5sum": self._kind.md5,
                "type": self._kind.name,
                "persistent": "1",
            }
            link.greet(header, TIMEOUT_S)
        except (DeviceError, WireError) as error:
            if link is not None:
                link.close()
            raise DeviceError(f"service {self.name}: {error}") from None
        return link

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def own_host(master: str) -> str:
    """The address under which other nodes find this machine.

    ``ROS_IP`` or ``ROS_HOSTNAME``, as for every ROS node; else the one from which the master is
    reached.

    Raises:
        DeviceError: the master's host is unknown.
    """
    if told := os.environ.get("ROS_IP") or os.environ.get("ROS_HOSTNAME"):
        return told
    url = urlsplit(master)
    try:
        return own_address(url.hostname or "", url.port or 11311)
    except OSError as error:
        raise DeviceError(f"ROS master {master}: {error.strerror}; correct its host") from None
