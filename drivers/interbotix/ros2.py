"""Reaching an ``interbotix_xs_sdk`` node of ROS 2 by ``rclpy``, where that can be imported.

``rclpy`` and ``interbotix_xs_msgs`` come with a sourced ROS 2 workspace, from no package index,
so this module has never run: it is written from the documented interface of rclpy (humble).
``ros: rosbridge`` reaches ROS 2 as well, and its client has been tested.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from drivers.interbotix.interface import (
    GROUP_COMMAND,
    SINGLE_COMMAND,
    STATES,
    JointStates,
    RefusedError,
)
from drivers.ros1.messages import ROBOT_INFO, SERVICES
from teleop.clock import Clock
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig_interbotix import InterbotixArm

DISCOVERY_S = 5.0
"""Longest wait for the node's topics and services to be discovered."""
GRAPH_S = 0.2
"""How often it is asked whether the node is still there."""
WAIT_S = 0.02


class Ros2Transport:
    """One node, by DDS; see ``XsTransport``.

    Args:
        name: The arm's name in the rig.
        arm: Its description.
        clock: Stamps what arrives.

    Raises:
        DeviceError: no ROS 2 workspace with the Interbotix messages is sourced.
    """

    def __init__(self, name: str, arm: InterbotixArm, clock: Clock) -> None:
        try:
            self._rclpy = importlib.import_module("rclpy")
            self._executors = importlib.import_module("rclpy.executors")
            self._messages = importlib.import_module("interbotix_xs_msgs.msg")
            self._requests = importlib.import_module("interbotix_xs_msgs.srv")
            self._sensor = importlib.import_module("sensor_msgs.msg")
        except ImportError as error:
            raise DeviceError(
                f"arm {name} has ros: 2, but {error.name} cannot be imported; source the ROS 2 "
                "workspace of the robot (its Python must be this one), or use ros: rosbridge"
            ) from None
        self._name, self._arm, self._clock = name, arm, clock
        self._context: Any = None
        self._node: Any = None
        self._spinner: threading.Thread | None = None
        self._executor: Any = None
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self._newest: JointStates | None = None
        self._gone = "not connected"
        self._looked_s = 0.0

    def open(self) -> None:
        """See ``XsTransport``; refuses a robot that nobody, or more than one, speaks for."""
        try:
            self._join()
        except BaseException:
            self.close()
            raise
        self._gone = ""

    def _join(self) -> None:
        """Become a node, and wait until the robot's is seen."""
        context = self._rclpy.Context()
        self._rclpy.init(context=context)
        self._context = context
        node = self._node = self._rclpy.create_node(f"tandem_{self._name}", context=context)
        self._executor = self._executors.SingleThreadedExecutor(context=context)
        self._executor.add_node(node)
        kinds = {
            GROUP_COMMAND: self._messages.JointGroupCommand,
            SINGLE_COMMAND: self._messages.JointSingleCommand,
        }
        for topic, kind in kinds.items():
            self._publishers[topic] = node.create_publisher(kind, self._full(topic), 1)
        for service, described in SERVICES.items():
            request = getattr(self._requests, described.name.split("/")[1])
            self._clients[service] = node.create_client(request, self._full(service))
        node.create_subscription(self._sensor.JointState, self._full(STATES), self._take, 1)
        self._spinner = threading.Thread(target=self._executor.spin, daemon=True)
        self._spinner.start()
        deadline_s = time.monotonic() + DISCOVERY_S
        while missing := self._missing():
            if time.monotonic() > deadline_s:
                raise DeviceError(
                    f"{missing}; start the robot's launch file (xs_sdk), see whether "
                    "ROS_DOMAIN_ID is the same there, or correct robot in the rig description"
                )
            time.sleep(WAIT_S)

    def newest(self) -> JointStates | None:
        """See ``XsTransport``."""
        return self._newest

    def lost(self) -> str:
        """See ``XsTransport``; once gone it stays gone."""
        now_s = time.monotonic()
        if not self._gone and now_s - self._looked_s > GRAPH_S:
            self._looked_s = now_s
            self._gone = self._missing()
        return self._gone

    def send(self, topic: str, values: Mapping[str, Any]) -> None:
        """See ``XsTransport``."""
        if words := self.lost():
            raise DeviceLostError(words)
        publisher = self._publishers[topic]
        publisher.publish(publisher.msg_type(**values))

    def call(self, service: str, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """See ``XsTransport``. A service of ROS 2 cannot refuse: an empty answer is one."""
        if words := self.lost():
            raise DeviceLostError(words)
        client = self._clients[service]
        asked = client.srv_type.Request()
        for field, value in request.items():
            setattr(asked, field, value)
        answered = threading.Event()
        future = client.call_async(asked)
        future.add_done_callback(lambda _future: answered.set())
        if not answered.wait(timeout_s):
            client.remove_pending_request(future)
            raise DeviceError(
                f"service {self._full(service)} gave no answer within {timeout_s:g} s"
            )
        answer = {field: getattr(future.result(), field) for field, _ in SERVICES[service].response}
        if SERVICES[service] is ROBOT_INFO and not answer["joint_names"]:
            raise RefusedError(f"{self._full(service)}: it knows no {request['name']}")
        return answer

    def close(self) -> None:
        """See ``XsTransport``."""
        if self._executor is not None:
            self._executor.shutdown(timeout_sec=1.0)
        if self._node is not None:
            self._node.destroy_node()
        if self._context is not None:
            self._rclpy.shutdown(context=self._context)
        self._executor = self._node = self._context = None

    def _full(self, name: str) -> str:
        return f"/{self._arm.robot}/{name}"

    def _take(self, message: Any) -> None:
        """Runs in the executor's thread."""
        self._newest = JointStates(
            stamp_ns=self._clock.now_ns(),
            names=tuple(message.name),
            position=np.array(message.position),
            velocity=np.array(message.velocity),
            effort=np.array(message.effort),
        )

    def _missing(self) -> str:
        """What of the node is not there, in words."""
        states = self._full(STATES)
        count = self._node.count_publishers(states)
        if count != 1:
            who = f"{count} nodes publish" if count else "nobody publishes"
            return f"{who} {states}, which one node must"
        deaf = [p.topic_name for p in self._publishers.values() if not p.get_subscription_count()]
        if deaf:
            return f"nobody listens to {' and '.join(deaf)}"
        absent = [c.srv_name for c in self._clients.values() if not c.service_is_ready()]
        return f"service {absent[0]} is not offered" if absent else ""
