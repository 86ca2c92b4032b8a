"""A rosbridge with one robot behind it: its JSON over a WebSocket, for one client at a time.

Speaks the part of the protocol that ``roslibpy`` uses (rosbridge_suite, ROSBRIDGE_PROTOCOL.md):
advertise, publish, subscribe, call_service. Behind it is the same node core as under rospy. It
runs in the reactor that ``roslibpy`` has started, or starts it.
"""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor, task, threads

from drivers.dynamixel.port import QuietPort
from drivers.emulated.interbotix.ros_master import mode_config, motor_config
from drivers.emulated.interbotix.xs_sdk import RefusedRequest, XsSdkCore
from teleop.clock import MonotonicClock
from teleop.rig_dynamixel import DynamixelArmModel

STATES_S = 0.02
"""Fifty states a second: JSON in the client's own process is slow."""


class FakeRosbridge:
    """Serves one arm.

    Args:
        robot: The namespace.
        model: The arm's kind.
        port: Its emulated bus.
    """

    def __init__(self, robot: str, model: DynamixelArmModel, port: Path) -> None:
        self.robot = robot
        self.silent = False
        """Publish no states, as when the node has ended and the bridge has not."""
        bus = QuietPort(str(port), MonotonicClock())
        self.core = XsSdkCore(bus, motor_config(model), mode_config(model, limp=False))
        self.clients: set[WebSocketServerProtocol] = set()
        self._turn = threading.Lock()
        self._factory = WebSocketServerFactory()
        self._factory.protocol = _Protocol
        self._factory.bridge = self
        if not reactor.running:
            threading.Thread(target=reactor.run, args=(False,), daemon=True).start()
        self._listening = threads.blockingCallFromThread(
            reactor, reactor.listenTCP, 0, self._factory, 5, "127.0.0.1"
        )
        self.uri = f"ws://127.0.0.1:{self._listening.getHost().port}"

    def close(self) -> None:
        """Hang up and listen no more."""

        def end() -> Any:
            for client in list(self.clients):
                client.transport.abortConnection()
            return self._listening.stopListening()

        threads.blockingCallFromThread(reactor, end)

    def states(self) -> dict[str, Any]:
        """One message; what is not a number becomes null, as in the original."""
        with self._turn:
            names, *values = self.core.states()
        clean = [[None if math.isnan(v) else v for v in column] for column in values]
        return dict(zip(("name", "position", "velocity", "effort"), (names, *clean), strict=True))

    def publish(self, topic: str, message: dict[str, Any]) -> None:
        """A command."""
        with self._turn:
            if topic == f"/{self.robot}/commands/joint_group":
                self.core.command_group(message["name"], message["cmd"])
            elif topic == f"/{self.robot}/commands/joint_single":
                self.core.command_single(message["name"], message["cmd"])

    def serve(self, service: str, request: dict[str, Any]) -> tuple[bool, Any]:
        """A service call: whether it succeeded, and its answer or the reason."""
        with self._turn:
            try:
                return True, self.core.serve(service.removeprefix(f"/{self.robot}/"), request)
            except RefusedRequest as error:
                return False, str(error)


class _Protocol(WebSocketServerProtocol):
    def onOpen(self) -> None:  # noqa: N802
        self.factory.bridge.clients.add(self)
        self._states: task.LoopingCall | None = None

    def onClose(self, *_: object) -> None:  # noqa: N802
        self.factory.bridge.clients.discard(self)
        if getattr(self, "_states", None) is not None:
            self._states.stop()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803
        bridge: FakeRosbridge = self.factory.bridge
        message = json.loads(payload)
        if message["op"] == "subscribe" and message["topic"] == f"/{bridge.robot}/joint_states":
            self._states = task.LoopingCall(self._publish_states, message["topic"])
            self._states.start(STATES_S)
        elif message["op"] == "publish":
            threads.deferToThread(bridge.publish, message["topic"], message["msg"])
        elif message["op"] == "call_service":
            answer = threads.deferToThread(bridge.serve, message["service"], message["args"])
            answer.addCallback(self._respond, message)

    def _respond(self, answer: tuple[bool, Any], message: dict[str, Any]) -> None:
        result, values = answer
        self._send(
            {
                "op": "service_response",
                "id": message["id"],
                "service": message["service"],
                "values": values,
                "result": result,
            }
        )

    def _publish_states(self, topic: str) -> Any:
        bridge: FakeRosbridge = self.factory.bridge
        if bridge.silent:
            return None
        states = threads.deferToThread(bridge.states)
        return states.addCallback(
            lambda message: self._send({"op": "publish", "topic": topic, "msg": message})
        )

    def _send(self, message: dict[str, Any]) -> None:
        self.sendMessage(json.dumps(message).encode())
