"""The node of an input device: tells its motion, and its buttons by their meaning."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from drivers.base import ButtonReading, HandReading, InputDevice, InputReading
from drivers.registry import open_input
from teleop import topics
from teleop.addresses import input_topics
from teleop.clock import ns_from_s
from teleop.errors import DeviceError
from teleop.messages import Frame, InputCue, OperatorAction, PoseInput, TwistInput
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs, Sequencer
from teleop.rig import Rig
from teleop.rig_inputs import mask_of, nodes_of
from teleop.topics import Queue

log = logging.getLogger(__name__)

PERIOD_S = 0.004
"""Twice as often as the fastest of these devices speaks (a SpaceMouse, every 8 ms)."""


class InputNode:
    """One device, which serves one or several inputs of the rig.

    Args:
        name: The node's name.
        rig: The rig description.
        inputs: The inputs that the device serves.
        device: The device, connected.
    """

    def __init__(self, name: str, rig: Rig, inputs: Sequence[str], device: InputDevice) -> None:
        self.name = name
        self._rig = rig
        self._inputs = tuple(inputs)
        self._device = device
        self._seq = Sequencer()
        self._pressed: dict[str, frozenset[str] | None] = dict.fromkeys(inputs)
        """Buttons held; None when that is not known, at the start and after a loss."""
        self._lost = ""
        self._view = rig.webxr.view if rig.inputs[inputs[0]].driver == "webxr" else None
        subscriptions = {topics.input_cue(i): Queue.LATEST for i in inputs}
        if self._view is not None and self._view in rig.cameras:
            subscriptions[topics.camera_frame(self._view)] = Queue.LATEST
        told = [t for i in inputs for t in input_topics(rig, i) if t not in subscriptions]
        self.plan = NodePlan(
            period_ns=ns_from_s(PERIOD_S), subscriptions=subscriptions, publications=tuple(told)
        )

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Pass on what the device felt, and to it what the operator should feel."""
        self._tell_device(inputs)
        try:
            readings = self._device.take(now_ns)
        except DeviceError as error:
            if str(error) != self._lost:
                log.warning("%s: %s", self.name, error)
            self._lost = str(error)
            self._pressed = dict.fromkeys(self._inputs)
            return []
        self._lost = ""
        return [
            output
            for name in self._inputs
            for reading in readings.get(name, ())
            for output in self._told(name, reading)
        ]

    def health(self, now_ns: int) -> NodeHealth:
        """``lost`` with the device's own words while it is gone."""
        if self._lost:
            return NodeHealth(ok=False, state="lost", detail=self._lost)
        health = self._device.health()
        return NodeHealth(health.ok, "ok" if health.ok else "fault", health.detail, health.values)

    def close(self) -> None:
        """Release the device."""
        self._device.close()

    def _tell_device(self, inputs: Inputs) -> None:
        for name in self._inputs:
            cue = inputs.latest(topics.input_cue(name), InputCue)
            if cue is not None:
                self._device.cue(name, cue.state, cue.pulse)
        if self._view is not None:
            frame = inputs.latest(topics.camera_frame(self._view), Frame)
            if frame is not None:
                self._device.show(self._view, frame)

    def _told(self, name: str, reading: InputReading) -> Outputs:
        outputs: Outputs = []
        config = self._rig.inputs[name]
        mask = mask_of(config.driver, reading.buttons)
        if isinstance(reading, HandReading):
            topic = topics.input_pose(name)
            pose = PoseInput(
                reading.stamp_ns,
                self._seq.next(topic),
                reading.position_m,
                reading.quaternion_wxyz,
                reading.tracked,
                reading.trigger,
                reading.squeeze,
                reading.stick,
                mask,
            )
            outputs.append((topic, pose))
        elif not isinstance(reading, ButtonReading):
            topic = topics.input_twist(name)
            seq = self._seq.next(topic)
            twist = TwistInput(reading.stamp_ns, seq, reading.linear, reading.angular, mask)
            outputs.append((topic, twist))
        return outputs + self._actions(name, reading)

    def _actions(self, name: str, reading: InputReading) -> Outputs:
        """Buttons pressed since the last reading, by their meaning.

        A button that is found pressed after a loss was perhaps never let go: it does nothing but
        stop. Buttons alone are told when they change, so their first reading counts.
        """
        topic, buttons = topics.input_action(name), self._rig.inputs[name].buttons
        held = self._pressed[name]
        found = held is None and not isinstance(reading, ButtonReading)
        gone = isinstance(reading, HandReading) and not reading.tracked
        self._pressed[name] = None if gone else reading.buttons
        meanings = [
            buttons[button]
            for button in sorted(reading.buttons - (held or frozenset()))
            if button in buttons
        ]
        return [
            (topic, OperatorAction(reading.stamp_ns, self._seq.next(topic), meaning))
            for meaning in meanings
            if not found or meaning == "emergency_stop"
        ]


def build(name: str, context: NodeContext) -> InputNode:
    """Make the node with its device connected."""
    inputs = nodes_of(context.rig.inputs)[name]
    device = open_input(name, context.rig, context.clock)
    device.connect()
    return InputNode(name, context.rig, inputs, device)
