"""The node of an input device: what it tells, and what a loss does to buttons."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from drivers.base import ButtonReading, DeviceHealth, HandReading, InputReading
from drivers.input_node import InputNode
from teleop import topics
from teleop.errors import DeviceLostError
from teleop.messages import Frame, InputCue, OperatorAction, PoseInput
from teleop.node import Inputs, Received
from teleop.rig import Rig

HAND, PILOT = "right_hand", "pilot"


class Device:
    """Gives out what a test puts into it."""

    def __init__(self) -> None:
        self.readings: dict[str, list[InputReading]] = {}
        self.lost = ""
        self.cues: list[tuple[str, str, float]] = []

    def connect(self) -> None: ...

    def take(self, now_ns: int) -> Mapping[str, Sequence[InputReading]]:
        if self.lost:
            raise DeviceLostError(self.lost)
        given, self.readings = self.readings, {}
        return given

    def cue(self, name: str, state: str, pulse: float) -> None:
        self.cues.append((name, state, pulse))

    def show(self, camera: str, frame: Frame) -> None: ...

    def health(self) -> DeviceHealth:
        return DeviceHealth()

    def close(self) -> None: ...


class Stage:
    """One node over that device."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.device, self.name = Device(), name
        self.node = InputNode(name, rig, [name], self.device)

    def actions(self, *readings: InputReading) -> list[str]:
        """Meanings told after these readings."""
        self.device.readings = {self.name: list(readings)}
        outputs = self.node.step(Inputs(), 0)
        return [m.action for _, m in outputs if isinstance(m, OperatorAction)]


@pytest.fixture
def rig(aloha: Rig) -> Rig:
    buttons = {"a": "start_stop", "b": "emergency_stop"}
    pilot = {"address": "x", "username": "me", "password_file": "y", "arm": "left_follower"}
    return aloha.replaced(
        inputs={
            HAND: {"driver": "openvr", "hand": "right", "buttons": buttons},
            PILOT: {"driver": "franka_desk", **pilot},
        }
    )


def hand(*buttons: str, tracked: bool = True) -> HandReading:
    at, turn, stick = np.zeros(3), np.array([1.0, 0, 0, 0]), np.zeros(2)
    return HandReading(7, at, turn, tracked, 0.25, 1.0, stick, frozenset(buttons))


def test_a_reading_becomes_a_pose_with_its_buttons_as_bits(rig: Rig) -> None:
    """Squeeze and trigger as they are; bits in the order of the driver's table."""
    stage = Stage(rig, HAND)
    stage.device.readings = {HAND: [hand("trigger", "a")]}
    [(topic, pose)] = stage.node.step(Inputs(), 0)
    assert topic == topics.input_pose(HAND)
    assert isinstance(pose, PoseInput)
    assert (pose.trigger, pose.squeeze, pose.buttons) == (0.25, 1.0, 0b10001)


def test_a_press_is_told_once_by_its_meaning(rig: Rig) -> None:
    """Holding it tells nothing more; the next press does."""
    stage = Stage(rig, HAND)
    assert stage.actions(hand()) == []
    assert stage.actions(hand("a"), hand("a")) == ["start_stop"]
    assert stage.actions(hand("a"), hand(), hand("a")) == ["start_stop"]


@pytest.mark.parametrize("untracked", [False, True])
def test_a_button_held_through_a_loss_does_not_act_again(rig: Rig, untracked: bool) -> None:
    """Whether the device was gone or its hand; the next press counts, and a stop always does."""
    stage = Stage(rig, HAND)
    stage.actions(hand(), hand("a"))
    if untracked:
        assert stage.actions(hand(tracked=False)) == []
    else:
        stage.device.lost = "gone"
        assert stage.node.step(Inputs(), 0) == []
        assert stage.node.health(0).detail == "gone"
        stage.device.lost = ""
    assert stage.actions(hand("a")) == []
    assert stage.actions(hand(), hand("a")) == ["start_stop"]
    assert stage.actions(hand(tracked=False), hand("b")) == ["emergency_stop"]


def test_buttons_alone_act_from_their_first_reading(rig: Rig) -> None:
    """Desk tells them when they change: the first that is heard is a press."""
    stage = Stage(rig, PILOT)
    assert stage.actions(ButtonReading(3, frozenset({"check"}))) == ["start_stop"]


def test_a_cue_reaches_the_device(rig: Rig) -> None:
    """State and pulse of the input it is for."""
    stage = Stage(rig, HAND)
    cue = InputCue(5, 0, "limited", 0.6)
    stage.node.step(Inputs({topics.input_cue(HAND): [Received(cue, 5)]}), 5)
    assert stage.device.cues == [(HAND, "limited", 0.6)]
