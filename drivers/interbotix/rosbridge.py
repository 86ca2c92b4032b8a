"""Reaching an ``interbotix_xs_sdk`` node of ROS 1 or 2 through a rosbridge, by ``roslibpy``.

The bridge is a program beside the node (``rosbridge_server``) that speaks JSON over a
WebSocket. It tells nothing of who publishes what, so that a wrong robot name shows as silence.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from drivers.interbotix.interface import (
    FIRST_STATE_S,
    GROUP_COMMAND,
    SINGLE_COMMAND,
    STATES,
    JointStates,
    RefusedError,
)
from drivers.ros1.messages import (
    JOINT_GROUP_COMMAND,
    JOINT_SINGLE_COMMAND,
    JOINT_STATE,
    SERVICES,
)
from teleop.clock import Clock
from teleop.errors import DeviceError, DeviceLostError, MissingExtraError
from teleop.rig_interbotix import InterbotixArm

CONNECT_S = 3.0
WAIT_S = 0.01


class RosbridgeTransport:
    """One node, behind a bridge; see ``XsTransport``.

    ``roslibpy`` keeps what cannot be sent and sends it when it has connected again. Commands
    must not come late, so it is not allowed to connect again.

    Args:
        name: The arm's name in the rig.
        arm: Its description.
        clock: Stamps what arrives.

    Raises:
        MissingExtraError: ``roslibpy`` is not installed.
    """

    def __init__(self, name: str, arm: InterbotixArm, clock: Clock) -> None:
        try:
            import roslibpy
        except ImportError:
            raise MissingExtraError(
                "roslibpy", "rosbridge", f"arm {name} (ros: rosbridge)"
            ) from None
        self._lib = roslibpy
        self._arm = arm
        self._clock = clock
        self._ros: Any = None
        self._topics: dict[str, Any] = {}
        self._services: dict[str, Any] = {}
        self._newest: JointStates | None = None
        self._gone = "not connected"

    def open(self) -> None:
        """See ``XsTransport``; waits for the first joint states, as nothing else tells."""
        url = urlsplit(self._arm.master)
        ros = self._ros = self._lib.Ros(
            url.hostname, url.port, is_secure=url.scheme == "wss", transport="twisted"
        )
        try:
            ros.run(timeout=CONNECT_S)
        except self._lib.core.RosTimeoutError:
            raise DeviceError(
                f"no rosbridge answers at {self._arm.master} within {CONNECT_S:g} s; start "
                "rosbridge_websocket on the robot's machine, or correct master in the rig "
                "description"
            ) from None
        self._gone = ""
        ros.on("close", self._closed)
        commands = ((GROUP_COMMAND, JOINT_GROUP_COMMAND), (SINGLE_COMMAND, JOINT_SINGLE_COMMAND))
        for topic, kind in commands:
            self._topics[topic] = self._topic(topic, kind.name)
            self._topics[topic].advertise()
        for service, service_kind in SERVICES.items():
            self._services[service] = self._lib.Service(ros, self._full(service), service_kind.name)
        self._topics[STATES] = self._topic(STATES, JOINT_STATE.name)
        self._topics[STATES].subscribe(self._take)
        self._wait_for_states()

    def newest(self) -> JointStates | None:
        """See ``XsTransport``."""
        return self._newest

    def lost(self) -> str:
        """See ``XsTransport``; a node that ends behind the bridge shows as silence only."""
        return self._gone

    def send(self, topic: str, values: Mapping[str, Any]) -> None:
        """See ``XsTransport``."""
        self._check()
        self._topics[topic].publish(self._lib.Message(dict(values)))

    def call(self, service: str, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """See ``XsTransport``."""
        self._check()
        asked = self._lib.ServiceRequest(dict(request))
        try:
            answer = self._services[service].call(asked, timeout=timeout_s)
        except self._lib.core.RosTimeoutError:
            self._check()
            raise DeviceError(
                f"service {self._full(service)} gave no answer within {timeout_s:g} s"
            ) from None
        except self._lib.core.ServiceException as error:
            raise RefusedError(f"service {self._full(service)}: {error}") from None
        return dict(answer)

    def close(self) -> None:
        """See ``XsTransport``."""
        if self._ros is None:
            return
        self._gone = self._gone or "closed"
        self._ros.call_later(0, self._ros.factory.stopTrying)
        if self._ros.is_connected:
            self._ros.factory.on_ready(lambda protocol: protocol.send_close())
        self._ros = None

    def _topic(self, name: str, kind: str) -> Any:
        return self._lib.Topic(
            self._ros,
            self._full(name),
            kind,
            queue_size=1,
            queue_length=1,
            reconnect_on_close=False,
        )

    def _full(self, name: str) -> str:
        return f"/{self._arm.robot}/{name}"

    def _check(self) -> None:
        if self._gone:
            raise DeviceLostError(self._gone)

    def _closed(self, _protocol: object) -> None:
        """Runs in the library's thread."""
        self._gone = self._gone or f"the rosbridge at {self._arm.master} hung up"
        if self._ros is not None:
            self._ros.factory.stopTrying()

    def _take(self, message: Mapping[str, Any]) -> None:
        """Runs in the library's thread; the bridge writes NaN as null."""
        self._newest = JointStates(
            stamp_ns=self._clock.now_ns(),
            names=tuple(message["name"]),
            position=np.array(message["position"], float),
            velocity=np.array(message["velocity"], float),
            effort=np.array(message["effort"], float),
        )

    def _wait_for_states(self) -> None:
        deadline_s = time.monotonic() + FIRST_STATE_S
        while self._newest is None:
            self._check()
            if time.monotonic() > deadline_s:
                raise DeviceError(
                    f"the rosbridge at {self._arm.master} answers, but nothing came on "
                    f"{self._full(STATES)} in {FIRST_STATE_S:g} s; start the robot's launch file "
                    "(xs_sdk), or correct robot in the rig description"
                )
            time.sleep(WAIT_S)
