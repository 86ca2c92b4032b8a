"""The very page that a headset loads, in a browser with an emulated headset below it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg

from drivers.base import HandReading
from drivers.emulated.stand_in import HandPose
from drivers.emulated.webxr import headset as headset_module
from drivers.emulated.webxr.headset import Kind, WebXrHeadset
from drivers.webxr.hub import WebXrHub
from teleop.addresses import free_base_port
from teleop.clock import NS_PER_S, MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import Frame
from teleop.rig_inputs import WebXrInput, WebXrServer
from tests.drivers.webxr_page_client import eventually

CLOCK = MonotonicClock()
INPUTS = {"left_hand": WebXrInput(hand="left"), "right_hand": WebXrInput(hand="right")}
SIZE = (320, 180)
"""Pixels; the processor draws them."""
MAX_AGE_S = 0.25
"""More than a real rig's: others use this machine's processors too."""
NEAR = np.array([0.2, 1.2, -0.4])


class Rig:
    """A hub, and a headset whose operator has entered."""

    def __init__(self, kind: Kind = "controllers") -> None:
        config = WebXrServer(port=free_base_port(1), max_age_s=MAX_AGE_S, view="cam_high")
        self.hub = WebXrHub(INPUTS, config, CLOCK)
        self.headset = WebXrHeadset(INPUTS, config, kind, size=SIZE)
        self.headset.start()  # before the page is served, as in an emulated rig
        self.hub.connect()
        self.headset.wait_until_entered()

    def move(self, name: str = "right_hand", **hand: Any) -> None:
        self.headset.move(name, HandPose(**{"position_m": NEAR, **hand}))

    def wait(self, wanted: Callable[[HandReading], bool], name: str = "right_hand") -> HandReading:
        """The first reading of a kind; losses on the way are passed over."""

        found: list[HandReading] = eventually(lambda: [r for r in self.readings(name) if wanted(r)])
        return found[0]

    def readings(self, name: str = "right_hand") -> list[HandReading]:
        """What has come; losses are passed over."""
        try:
            return list(self.hub.take(CLOCK.now_ns())[name])
        except DeviceLostError:
            return []

    def grip(self, trigger: float = 0.0) -> None:
        """Open, and grip when the rig has seen it open: the trigger tells the one from the other.

        Again when that took so long that the rig thought the hand lost, and wants it opened anew.
        """
        for _ in range(10):
            self.move(squeeze=0.0, trigger=1.0 - trigger)
            self.wait(lambda r: r.tracked and r.trigger == 1.0 - trigger)
            self.move(squeeze=1.0, trigger=trigger)
            self.wait(lambda r: r.tracked and r.trigger == trigger)
            if any(r.squeeze == 1.0 for r in self.some_readings()):
                return
        raise AssertionError("the rig never saw the grip closed")

    def some_readings(self) -> list[HandReading]:
        """The next ones."""
        seen: list[HandReading] = []
        eventually(lambda: seen.extend(self.readings()) or len(seen) > 20)
        return seen

    def page(self, script: str) -> Any:
        return self.headset.browser.evaluate(script)

    def close(self) -> None:
        self.headset.close()
        self.hub.close()


@pytest.fixture(scope="module", autouse=True)
def _own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Certificate and pairing code apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """The shared headset, both controllers seen and open."""
    for name in INPUTS:
        shared.move(name)
    shared.wait(lambda r: r.tracked and r.squeeze == 0.0)
    return shared


@pytest.fixture
def bare_hands() -> Iterator[Rig]:
    rig = Rig("bare hands")
    yield rig
    rig.close()


@pytest.fixture
def phone() -> Iterator[Rig]:
    rig = Rig("phone")
    yield rig
    rig.close()


# -- what comes from the operator


def test_both_controllers_arrive_as_they_are_held(rig: Rig) -> None:
    """The pose is the grip's, not that of the aim, which lies centimetres off."""
    turned = np.array([np.cos(0.4), 0.0, np.sin(0.4), 0.0])
    rig.move("right_hand", position_m=np.array([0.3, 1.1, -0.5]), quaternion_wxyz=turned)
    rig.move("left_hand", position_m=np.array([-0.3, 1.0, -0.2]), trigger=0.5)
    right = rig.wait(lambda r: abs(r.position_m[0] - 0.3) < 1e-3)
    np.testing.assert_allclose(right.position_m, [0.3, 1.1, -0.5], atol=1e-5)
    np.testing.assert_allclose(right.quaternion_wxyz, turned, atol=1e-5)
    left = rig.wait(lambda r: r.trigger == 0.5, "left_hand")
    np.testing.assert_allclose(left.position_m, [-0.3, 1.0, -0.2], atol=1e-5)
    assert rig.headset.browser.errors == []


def test_stick_and_buttons_arrive_by_their_names(rig: Rig) -> None:
    """X of the left controller is ``a`` as A of the right is; the stick's y is forward."""
    rig.move(stick=np.array([0.5, 1.0]), buttons=frozenset({"a", "b", "thumbstick"}))
    reading = rig.wait(lambda r: "a" in r.buttons)
    assert reading.buttons == {"a", "b", "thumbstick"}
    assert reading.stick.tolist() == [0.5, 1.0]
    rig.move("left_hand", buttons=frozenset({"a"}), squeeze=0.8)
    assert rig.wait(lambda r: "a" in r.buttons, "left_hand").buttons == {"a", "squeeze"}


def test_poses_come_at_the_headsets_rate(rig: Rig) -> None:
    """At least 80 % of the frames of a second reach the rig fresh."""
    eventually(
        lambda: (rig.wait(lambda r: True), rig.hub.health().values["poses_hz"] > 0.8 * 72)[1]
    )


def test_bare_hands_pinch_and_make_a_fist(bare_hands: Rig) -> None:
    """Pinching is the trigger; curling the other fingers is the grip; each alone and together."""
    rig = bare_hands
    for trigger in (0.0, 1.0):
        rig.grip(trigger)
        rig.move(trigger=trigger, squeeze=0.0)
        rig.wait(lambda r: r.squeeze == 0.0)
        assert {(r.trigger, r.squeeze) for r in rig.some_readings()[-5:]} == {(trigger, 0.0)}
    reading = rig.wait(lambda r: r.tracked)
    np.testing.assert_allclose(reading.position_m, NEAR, atol=1e-5)
    rig.move(tracked=False)
    assert rig.wait(lambda r: not r.tracked)


def test_a_phone_guides_with_its_own_pose(phone: Rig) -> None:
    """Holding the screen is the grip, a button toggles the gripper."""
    phone.move(position_m=np.array([0.1, 1.4, -0.2]))
    phone.wait(lambda r: r.tracked and abs(r.position_m[0] - 0.1) < 1e-5)
    phone.grip(trigger=1.0)
    phone.move(trigger=1.0, buttons=frozenset({"a"}))
    reading = phone.wait(lambda r: "a" in r.buttons)
    assert (reading.squeeze, reading.trigger) == (0.0, 1.0)


# -- what comes back


def test_the_camera_is_seen_in_the_headset(rig: Rig) -> None:
    """A blue picture turns the middle of what the operator sees blue."""
    pixels = np.full((120, 160, 3), (0, 0, 250), np.uint8)
    jpeg = simplejpeg.encode_jpeg(pixels, 90, colorspace="RGB")

    def blue_in_view() -> bool:
        now_ns = CLOCK.now_ns()
        rig.hub.show("cam_high", Frame(now_ns, 0, now_ns, "jpeg", 160, 120, jpeg))
        import cv2

        image = cv2.imdecode(np.frombuffer(rig.headset.browser.screenshot(), np.uint8), 1)
        height, width = image.shape[:2]
        b, g, r = image[height // 2, width // 4]
        return bool(b > 200 and g < 60 and r < 60)

    eventually(blue_in_view)
    assert rig.hub.health().values["pictures_shown"] >= 1


def test_the_page_says_how_things_stand(rig: Rig) -> None:
    """The clutch in words and a tick in the controller; a hand that is not seen."""
    rig.hub.cue("right_hand", "engaged", 0.6)
    right = "document.querySelector('#right .state').textContent"
    eventually(lambda: rig.page(right) == "guiding the arm")
    assert ["right", 0.6] in rig.page("headset.pulses")
    rig.hub.cue("right_hand", "idle", 0.0)
    rig.move(tracked=False)
    eventually(lambda: rig.page(right) == "not seen by the headset")
    assert "ms old" in rig.page("document.getElementById('figures').textContent")


# -- what goes wrong


def test_lost_tracking_is_told(rig: Rig) -> None:
    """No pose, or one by dead reckoning: the last one seen is told, as not tracked."""
    rig.grip()
    rig.move(tracked=False, squeeze=1.0, position_m=np.zeros(3))
    lost = rig.wait(lambda r: not r.tracked)
    np.testing.assert_allclose(lost.position_m, NEAR, atol=1e-5)
    rig.move(squeeze=1.0)
    assert rig.wait(lambda r: r.tracked)
    rig.headset.guess(True)
    assert rig.wait(lambda r: not r.tracked)
    rig.headset.guess(False)


@pytest.mark.parametrize("fault", ["hide", "unplug", "recentre"])
def test_what_takes_the_hand_away_opens_the_clutch(rig: Rig, fault: str) -> None:
    """A dialog of the headset, a dead battery, a moved origin; the grip must open to go on."""
    rig.grip()
    losses = rig.hub.health().values["losses"]
    if fault == "hide":
        rig.headset.hide(True)
    elif fault == "unplug":
        rig.headset.unplug("right_hand", True)
    else:
        rig.headset.recentre()
    gone = rig.wait(lambda r: not r.tracked)
    assert gone.squeeze == 0.0
    assert rig.hub.health().values["losses"] == losses  # the page told it, not its silence
    if fault != "recentre":  # and stays away
        assert not any(r.tracked for r in rig.some_readings())
    rig.headset.hide(False)
    rig.headset.unplug("right_hand", False)
    rig.move(squeeze=1.0, trigger=0.25)
    assert rig.wait(lambda r: r.tracked and r.trigger == 0.25).squeeze == 0.0
    rig.grip()


def test_a_stalled_network_moves_nothing_late(rig: Rig) -> None:
    """For 0.6 s nothing comes, then all at once: what is too old by then is dropped."""
    rig.grip()
    rig.headset.stall()
    lost = rig.wait(lambda r: not r.tracked)
    assert lost.squeeze == 0.0
    time.sleep(0.6)  # the stall itself
    dropped = rig.hub.health().values["stale_dropped"]
    flowing_ns = CLOCK.now_ns()
    rig.headset.flow()
    back = rig.wait(lambda r: r.tracked)
    assert back.stamp_ns > flowing_ns - MAX_AGE_S * NS_PER_S
    assert back.squeeze == 0.0
    assert rig.hub.health().values["stale_dropped"] > dropped
    rig.grip()


def test_a_cut_connection_is_made_again_without_the_operator(rig: Rig) -> None:
    """The page comes back by itself and the session has gone on."""
    rig.grip()
    rig.headset.cut()
    assert not rig.wait(lambda r: not r.tracked).tracked
    eventually(lambda: "connection lost" in rig.page("document.body.textContent"))
    rig.headset.flow()
    assert rig.wait(lambda r: r.tracked).squeeze == 0.0
    rig.grip()
    assert rig.page("headset.entered()")


def test_a_killed_browser_is_a_lost_hand(rig: Rig) -> None:
    """The last test of the shared headset: silence, one lost reading, the loss in words."""
    rig.grip()
    rig.headset.kill()
    lost = rig.wait(lambda r: not r.tracked)
    assert lost.squeeze == 0.0
    with pytest.raises(DeviceLostError, match="grip again"):
        rig.hub.take(CLOCK.now_ns())
    assert rig.hub.take(CLOCK.now_ns()) == {"left_hand": [], "right_hand": []}
    eventually(lambda: "no headset is connected" in rig.hub.health().detail)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Chromium, no iwer: what to install."""
    headset = WebXrHeadset(INPUTS, WebXrServer())
    with monkeypatch.context() as patch:
        patch.setattr(headset_module, "IWER", headset_module.IWER / "nowhere")
        with pytest.raises(DeviceError, match="run scripts/setup"):
            headset.start()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="install the Debian package chromium"):
        headset.start()
