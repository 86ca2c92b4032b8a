"""Buttons of SteamVR's controllers, which it hides behind those of the first Vive wand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.emulated.vr.bindings import BINDINGS
from teleop.errors import DeviceError
from teleop.rig_inputs import VR_BUTTONS
from tests.drivers.vr_bench import TRACKER, Open, hand_at, sessions, skip_without_openvr

skip_without_openvr()


@pytest.fixture
def open_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Makes sessions and closes them after the test."""
    with sessions(tmp_path, monkeypatch) as make:
        yield make


@pytest.mark.parametrize(
    ("controller_type", "buttons"),
    [
        ("oculus_touch", ("trigger", "squeeze", "thumbstick", "a", "b")),
        ("vive_controller", ("trigger", "squeeze", "touchpad", "menu")),
        ("knuckles", ("trigger", "squeeze", "thumbstick", "b")),
    ],
)
def test_each_button_is_itself_and_no_other(
    open_session: Open, controller_type: str, buttons: tuple[str, ...]
) -> None:
    """Whatever bit SteamVR hides it behind on this controller."""
    session = open_session(controller_type)
    for button in buttons:
        session.runtime.move("hand", hand_at(0.0, buttons={button}))
        assert session.take()["hand"].buttons == {button}
        session.runtime.move("hand", hand_at(0.0))
        assert session.take()["hand"].buttons == frozenset()
    assert set(buttons) <= set(VR_BUTTONS)


def test_the_buttons_wired_to_a_tracker_are_told(open_session: Open) -> None:
    """Its trigger is a contact: pulled or not."""
    session = open_session(hand=TRACKER)
    session.runtime.move("hand", hand_at(0.0, buttons={"trigger", "squeeze", "menu"}))
    hand = session.take()["hand"]
    assert hand.buttons == {"trigger", "squeeze", "menu"}
    assert (hand.trigger, hand.squeeze) == (1.0, 1.0)


def test_trigger_squeeze_and_stick_are_told_by_degrees(open_session: Open) -> None:
    """As far as the controller measures them."""
    session = open_session()
    session.runtime.move("hand", hand_at(0.0, trigger=0.25, squeeze=0.375, stick=(-0.5, 0.75)))
    hand = session.take()["hand"]
    assert (hand.trigger, hand.squeeze) == (0.25, 0.375)
    assert hand.stick.tolist() == [-0.5, 0.75]
    assert hand.buttons == frozenset()


def test_a_wand_squeezes_all_or_nothing(open_session: Open) -> None:
    """Its grip is a button."""
    session = open_session("vive_controller")
    session.runtime.move("hand", hand_at(0.0, squeeze=1.0))
    assert session.take()["hand"].squeeze == 1.0
    session.runtime.move("hand", hand_at(0.0, squeeze=0.2))
    assert session.take()["hand"].squeeze == 0.0


def test_pushing_the_stick_of_an_index_is_no_click(open_session: Open) -> None:
    """SteamVR sets the click bit for any far deflection; a click is one near the centre."""
    session = open_session("knuckles")
    for stick in ((0.9, 0.0), (0.7, 0.7), (0.0, -1.0)):
        session.runtime.move("hand", hand_at(0.0, stick=stick))
        assert session.take()["hand"].buttons == frozenset()
    session.runtime.move("hand", hand_at(0.0, stick=(0.1, 0.0), buttons={"thumbstick"}))
    assert session.take()["hand"].buttons == {"thumbstick"}


def test_holding_an_index_loosely_does_not_squeeze_it(open_session: Open) -> None:
    """A closed hand is no act of will; a firm grip, or the A button on the same bit, is."""
    session = open_session("knuckles")
    session.runtime.move("hand", hand_at(0.0, squeeze=0.6))
    assert session.take()["hand"].squeeze == 0.0
    session.runtime.move("hand", hand_at(0.0, squeeze=0.9))
    assert session.take()["hand"].squeeze == 1.0
    session.runtime.move("hand", hand_at(0.0, buttons={"a"}))
    assert session.take()["hand"].buttons == {"squeeze"}


def test_the_stand_in_refuses_a_button_that_its_controller_has_not(open_session: Open) -> None:
    """So that a script for another controller is told, not ignored."""
    session = open_session("vive_controller")
    with pytest.raises(DeviceError, match="vive_controller has no button a; it has trigger"):
        session.runtime.move("hand", hand_at(0.0, buttons={"a"}))
    assert set(BINDINGS) >= {"oculus_touch", "vive_controller", "knuckles", "vive_tracker_handed"}


def test_a_meaning_for_a_button_that_is_not_there_is_pointed_out(
    open_session: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """The rig's buttons are those of another controller: nobody could start an episode."""
    open_session("vive_controller").take()
    assert "hand: a vive_controller has no button a, b, which the rig file gives" in caplog.text
    assert "it has trigger, squeeze, touchpad, menu" in caplog.text


def test_a_controller_with_all_buttons_is_not_mentioned(
    open_session: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is anything else at the start of a good day."""
    open_session().take()
    assert caplog.text == ""
