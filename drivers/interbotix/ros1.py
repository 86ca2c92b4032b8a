"""Reaching an ``interbotix_xs_sdk`` node of ROS 1, by our own client (``drivers.ros1.client``)."""

from __future__ import annotations

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
from drivers.ros1.client import Ros1Client, Service, ServiceRefusedError
from drivers.ros1.messages import (
    JOINT_GROUP_COMMAND,
    JOINT_SINGLE_COMMAND,
    JOINT_STATE,
    SERVICES,
)
from drivers.ros1.topics import Publication, Subscription
from teleop.clock import Clock
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig_interbotix import InterbotixArm

COMMANDS_S = 3.0
"""Longest wait for the node to connect to our commands, of which the master tells it."""
WAIT_S = 0.01


class Ros1Transport:
    """One node, by TCPROS; see ``XsTransport``.

    Args:
        name: The arm's name in the rig.
        arm: Its description.
        clock: Stamps what arrives.
    """

    def __init__(self, name: str, arm: InterbotixArm, clock: Clock) -> None:
        self._arm = arm
        self._clock = clock
        self._client = Ros1Client(arm.master, f"tandem_{name}")
        self._newest: JointStates | None = None
        self._states: Subscription | None = None
        self._commands: dict[str, Publication] = {}
        self._services: dict[str, Service] = {
            service: self._client.service(self._full(service), kind)
            for service, kind in SERVICES.items()
        }

    def open(self) -> None:
        """See ``XsTransport``; refuses a robot that nobody, or more than one, speaks for."""
        self._client.start()
        self._check_publishers()
        self._commands = {
            GROUP_COMMAND: self._client.advertise(self._full(GROUP_COMMAND), JOINT_GROUP_COMMAND),
            SINGLE_COMMAND: self._client.advertise(
                self._full(SINGLE_COMMAND), JOINT_SINGLE_COMMAND
            ),
        }
        self._states = self._client.subscribe(self._full(STATES), JOINT_STATE, self._take)
        deadline_s = time.monotonic() + COMMANDS_S
        while not (self._states.connected and self._heard):
            if time.monotonic() > deadline_s:
                raise DeviceError(self._why_not_connected())
            time.sleep(WAIT_S)

    def newest(self) -> JointStates | None:
        """See ``XsTransport``."""
        return self._newest

    def lost(self) -> str:
        """See ``XsTransport``."""
        if self._states is None:
            return "not connected"
        if self._client.shut_down:
            return f"the ROS master told us to end: {self._client.shut_down}"
        if self._states.losses or not self._states.connected:
            return self._states.trouble or f"it hung up on {STATES}"
        if not self._heard or any(p.losses for p in self._commands.values()):
            return "it takes no more commands"
        return ""

    def send(self, topic: str, values: Mapping[str, Any]) -> None:
        """See ``XsTransport``."""
        if not self._commands[topic].publish(values):
            raise DeviceLostError("it takes no more commands")

    def call(self, service: str, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """See ``XsTransport``."""
        try:
            return self._services[service].call(request, timeout_s)
        except ServiceRefusedError as error:
            raise RefusedError(str(error)) from error

    def close(self) -> None:
        """See ``XsTransport``."""
        self._client.close()

    @property
    def _heard(self) -> bool:
        return all(publication.connected for publication in self._commands.values())

    def _full(self, name: str) -> str:
        return f"/{self._arm.robot}/{name}"

    def _take(self, values: dict[str, Any]) -> None:
        self._newest = JointStates(
            stamp_ns=self._clock.now_ns(),
            names=tuple(values["name"]),
            position=np.array(values["position"]),
            velocity=np.array(values["velocity"]),
            effort=np.array(values["effort"]),
        )

    def _check_publishers(self) -> None:
        publishers, topic = self._client.publishers(), self._full(STATES)
        nodes = publishers.get(topic, [])
        if len(nodes) > 1:
            raise DeviceError(
                f"{' and '.join(nodes)} all publish {topic}, one only may; end the others"
            )
        if not nodes:
            robots = [t.removesuffix(f"/{STATES}")[1:] for t in publishers if t.endswith(STATES)]
            known = f"robots there are: {', '.join(sorted(filter(None, robots))) or 'none'}"
            raise DeviceError(
                f"nobody publishes {topic} at the ROS master {self._arm.master}; {known}; "
                "start the robot's launch file (xs_sdk), or correct robot in the rig description"
            )

    def _why_not_connected(self) -> str:
        assert self._states is not None
        if not self._states.connected:
            return (
                f"no connection to the publisher of {self._full(STATES)}: "
                f"{self._states.trouble or 'no answer'}; see whether the node runs and whether "
                "this machine can resolve its host name (ROS_HOSTNAME there)"
            )
        deaf = [p.topic for p in self._commands.values() if not p.connected]
        return (
            f"nobody listens to {' and '.join(deaf)}; see whether the xs_sdk node runs and can "
            "reach this machine (ROS_IP here)"
        )
