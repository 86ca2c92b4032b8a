"""The headset page's server and hub, with a plain WebSocket client as the headset."""

from __future__ import annotations

import contextlib
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg

from drivers.base import HandReading
from drivers.webxr import credentials as webxr_credentials
from drivers.webxr import protocol as webxr_protocol
from drivers.webxr.clock import RemoteClock
from drivers.webxr.hub import WebXrHub
from drivers.webxr.server import PageServer
from teleop.addresses import free_base_port
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError, WireError
from teleop.messages import Frame
from teleop.rig_inputs import WebXrInput, WebXrServer
from tests.drivers.webxr_page_client import PlainPage, eventually, hand

CLOCK = MonotonicClock()
INPUTS = {"left_hand": WebXrInput(hand="left"), "right_hand": WebXrInput(hand="right")}


class Rig:
    """A hub that is served, and pages that open it."""

    def __init__(self, **server: Any) -> None:
        self.config = WebXrServer(port=free_base_port(1), **server)
        self.hub = WebXrHub(INPUTS, self.config, CLOCK)
        self.hub.connect()
        self.code = webxr_credentials.pairing_code()
        self.pages: list[PlainPage] = []

    def page(self, code: str | None = None, **options: Any) -> PlainPage:
        page = PlainPage(self.config.port, self.code if code is None else code, **options)
        self.pages.append(page)
        return page

    def count(self, name: str) -> float:
        return self.hub.health().values[name]

    def take(self) -> dict[str, list[HandReading]]:
        return dict(self.hub.take(CLOCK.now_ns()))

    def wait(self, wanted: Callable[[HandReading], bool], name: str = "right_hand") -> HandReading:
        """The first reading of a kind."""
        found: list[HandReading] = eventually(
            lambda: [reading for reading in self.take()[name] if wanted(reading)]
        )
        return found[0]

    def close(self) -> None:
        for page in self.pages:
            page.close()
        self.hub.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration, apart from the real one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "tandem" / "webxr"


@pytest.fixture
def rig(folder: Path) -> Iterator[Rig]:
    rig = Rig(view="cam_high", max_age_s=0.3)  # others use this machine's processors too
    yield rig
    rig.close()


def frame(k: int, encoding: str = "jpeg") -> Frame:
    """A picture; as JPEG its bytes tell its number."""
    pixels = np.full((16, 24, 3), k, np.uint8)
    data = b"picture %d" % k if encoding == "jpeg" else pixels.tobytes()
    return Frame(CLOCK.now_ns(), k, CLOCK.now_ns(), encoding, 24, 16, data)


# -- pairing


def test_certificate_and_code_are_made_once_and_kept_private(folder: Path) -> None:
    """A headset's prompt and bookmark stay good; nobody else reads them."""
    first = webxr_credentials.obtain(WebXrServer())
    second = webxr_credentials.obtain(WebXrServer())
    assert first == second
    assert len(first.code) == 6
    assert "localhost" in first.names
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_a_certificate_for_another_address_is_made_anew(folder: Path) -> None:
    """The rig file names a network address that the kept certificate does not bear."""
    before = webxr_credentials.obtain(WebXrServer()).certificate.read_bytes()
    after = webxr_credentials.obtain(WebXrServer(host="10.9.8.7")).certificate.read_bytes()
    assert before != after


def test_a_certificate_that_is_missing_is_told_with_its_path(folder: Path) -> None:
    """A path in the rig file is never replaced by something self-made."""
    config = WebXrServer(certificate=Path("/nowhere/c.pem"), key=Path("/nowhere/k.pem"))
    with pytest.raises(DeviceError, match=r"/nowhere/c\.pem"):
        webxr_credentials.obtain(config)


def test_a_page_with_the_code_is_welcomed(rig: Rig) -> None:
    """It learns which hands the rig uses, what their buttons ask for, and the camera."""
    welcome = rig.page().welcome()
    assert welcome["hands"]["left"] == {"a": "start_stop", "b": "redo"}
    assert sorted(welcome["hands"]) == ["left", "right"]
    assert welcome["view"] == "cam_high"


def test_a_wrong_code_is_refused_and_slows_guessing(rig: Rig) -> None:
    """After a wrong guess even the right code has to wait a second."""
    assert rig.page("not it").refusal()["reason"] == "code"
    assert rig.page().refusal()["reason"] == "wait"
    time.sleep(1.0)
    known = rig.page(client="known")
    assert known.welcome()
    known.close()
    eventually(lambda: "no headset is connected" in rig.hub.health().detail)
    assert rig.page("not it").refusal()["reason"] == "code"
    assert rig.page(client="known").welcome()  # who guesses keeps no operator away


def test_sockets_that_say_nothing_are_limited(rig: Rig) -> None:
    """So nobody on the network fills the server; those who speak are served again later."""
    silent = [rig.page(hello=False) for _ in range(20)]
    assert [page.status for page in silent] == [101] * 16 + [503] * 4
    silent[0].close()
    eventually(lambda: rig.page(hello=False).status == 101)


def test_a_second_operator_is_refused_until_the_first_leaves(rig: Rig) -> None:
    """One robot, one operator."""
    first = rig.page(client="one")
    first.welcome()
    refusal = rig.page(client="two").refusal()
    assert refusal["reason"] == "busy"
    assert "Another headset" in refusal["words"]
    first.close()
    eventually(lambda: "no headset is connected" in rig.hub.health().detail)
    assert rig.page(client="two").welcome()


def test_the_same_page_takes_its_place_again(folder: Path) -> None:
    """Its old connection may still look alive; it is told as gone, so hands must grip anew."""
    told: list[str] = []
    listener = SimpleNamespace(
        page_came=lambda: told.append("came"), page_went=lambda: told.append("went")
    )
    config = WebXrServer(port=free_base_port(1))
    server = PageServer(config, {"right": {}}, CLOCK, listener)
    server.start()
    with contextlib.closing(server):
        code = webxr_credentials.pairing_code()
        first = PlainPage(config.port, code, client="one")
        first.welcome()
        second = PlainPage(config.port, code, client="one")
        assert second.welcome()
        assert first.closed.wait(10.0)
        assert first.refusal()["reason"] == "replaced"
        assert told == ["came", "went", "came"]
        second.close()


def test_a_page_that_fell_silent_loses_its_place(rig: Rig) -> None:
    """A headset that lost its network without a word does not lock others out."""
    first = rig.page(client="one")
    first.welcome()
    first.answers_pings = False
    assert first.closed.wait(10.0)
    assert rig.page(client="two").welcome()


@pytest.mark.parametrize("origin", ["https://evil.example", "https://192.168.7.7:8443", "null", ""])
def test_a_foreign_page_is_refused(rig: Rig, origin: str) -> None:
    """Even with the right code: a browser on this network may show any page."""
    assert rig.page(origin=origin).status == 403


def test_a_foreign_name_for_this_rig_is_refused(rig: Rig) -> None:
    """A name that an attacker lets resolve to this rig makes his page look like ours."""
    assert rig.page(host="evil.example").status == 403
    assert rig.page(host="localhost").welcome()


def test_the_page_is_served_and_nothing_else(rig: Rig) -> None:
    """Its files by name, with headers that keep foreign content out."""
    trusting = ssl._create_unverified_context()
    base = f"https://127.0.0.1:{rig.config.port}"
    with urllib.request.urlopen(f"{base}/", context=trusting) as answer:
        assert b"Enter VR" in answer.read()
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    with urllib.request.urlopen(f"{base}/app.js", context=trusting) as answer:
        assert answer.headers["Content-Type"].startswith("text/javascript")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{base}/../webxr.py", context=trusting)


def test_a_port_that_is_taken_is_told_in_words(rig: Rig) -> None:
    """The second rig on one machine."""
    with pytest.raises(DeviceError, match=f"port {rig.config.port} .* cannot be bound"):
        WebXrHub(INPUTS, rig.config, CLOCK).connect()


# -- poses


def test_a_packet_becomes_a_reading_of_each_hand(rig: Rig) -> None:
    """Pose, analog values and buttons by their xr-standard index."""
    page = rig.page()
    page.welcome()
    turned = np.array([0.8, 0.0, 0.6, 0.0])
    right = hand(
        position_m=np.array([0.3, 1.0, -0.5]),
        quaternion_wxyz=turned,
        trigger=0.25,
        stick=np.array([0.5, -1.0]),
        buttons=frozenset({"a", "thumbstick"}),
    )
    page.send_hands(right=right, left=hand(tracked=False, squeeze=1.0))
    readings = eventually(lambda: (took := rig.take())["right_hand"] and took)
    [reading], [left] = readings["right_hand"], readings["left_hand"]
    np.testing.assert_allclose(reading.position_m, [0.3, 1.0, -0.5], atol=1e-6)
    np.testing.assert_allclose(reading.quaternion_wxyz, turned, atol=1e-6)
    assert (reading.trigger, reading.buttons) == (0.25, {"a", "thumbstick"})
    assert reading.stick.tolist() == [0.5, -1.0]
    assert (left.tracked, left.squeeze) == (False, 1.0)  # not seen, and its grip still held


@pytest.mark.parametrize("skew_ms", [-3.6e6, 0.0, 12345.678])
def test_stamps_are_of_the_rigs_clock(rig: Rig, skew_ms: float) -> None:
    """Whatever the headset's clock says: two clocks that nobody ever set."""
    page = rig.page(skew_ms=skew_ms)
    page.welcome()
    before_ns = CLOCK.now_ns()
    page.send_hands(right=hand())
    reading = rig.wait(lambda r: True)
    assert before_ns - 5e6 < reading.stamp_ns < CLOCK.now_ns()


def test_a_clock_that_jumps_is_followed(rig: Rig) -> None:
    """Pages' clocks stop while a headset sleeps."""
    page = rig.page()
    page.welcome()
    page.send_hands(right=hand())
    assert rig.wait(lambda r: r.tracked)
    page.skew_ms = -100_000.0

    def comes_again() -> list[HandReading]:
        page.send_hands(right=hand())
        with contextlib.suppress(DeviceLostError):  # it was silent for the rig meanwhile
            return [r for r in rig.take()["right_hand"] if r.tracked]
        return []

    assert eventually(comes_again)
    assert rig.count("clock_steps") == 1


def test_stamps_never_run_backward_when_a_better_ping_moves_the_clock(rig: Rig) -> None:
    """A page that was slow to answer at first, and is quick now: the clock goes back by 30 ms."""
    page = rig.page(answer_takes_s=0.06)
    page.welcome()
    page.answer_takes_s, slow = 0.0, page.pongs
    stamps: list[int] = []
    while page.pongs < slow + 4:
        page.send_hands(age_ms=50.0, right=hand())
        stamps += [reading.stamp_ns for reading in rig.take()["right_hand"]]
    assert len(stamps) > 20
    assert np.diff(stamps).min() > 0


def test_a_burst_of_old_poses_is_dropped(rig: Rig) -> None:
    """What a network held back for a second is not acted on; what is fresh is."""
    page = rig.page()
    page.welcome()
    for k in range(50):
        page.send_hands(age_ms=1500 - 20 * k, right=hand(position_m=np.array([0.01 * k, 1, 0])))
    page.send_hands(right=hand(position_m=np.array([0.9, 1, 0])))
    assert rig.wait(lambda r: True).position_m[0] == pytest.approx(0.9)
    assert rig.count("stale_dropped") == 50


def test_silence_loses_the_hand_and_tells_it_once(rig: Rig) -> None:
    """One open, untracked reading where it was, then the loss in words; then quiet."""
    page = rig.page()
    page.welcome()
    page.send_hands(right=hand(squeeze=0.0))
    page.send_hands(right=hand(squeeze=1.0))
    assert rig.wait(lambda r: r.squeeze == 1.0).tracked
    lost = rig.wait(lambda r: not r.tracked)
    assert lost.squeeze == 0.0
    np.testing.assert_allclose(lost.position_m, [0.1, 1.2, -0.3], atol=1e-6)
    with pytest.raises(DeviceLostError, match=r"no fresh pose for 0\.25 s"):
        rig.take()
    assert rig.take() == {"left_hand": [], "right_hand": []}
    assert "press Enter VR" in rig.hub.health().detail


def test_a_broken_connection_is_told_at_once(rig: Rig) -> None:
    """No waiting for the silence when the socket itself ends."""
    page = rig.page()
    page.welcome()
    page.send_hands(right=hand())
    assert rig.wait(lambda r: r.tracked)
    page.close()
    assert not rig.wait(lambda r: not r.tracked).tracked
    with pytest.raises(DeviceLostError, match=r"connection broke|no fresh pose"):
        rig.take()


def test_a_session_that_ends_is_no_fault(rig: Rig) -> None:
    """The operator took the headset off: hands are lost, and nothing is raised."""
    page = rig.page()
    page.welcome()
    page.send_hands(right=hand())
    assert rig.wait(lambda r: r.tracked)
    page.send_hands(running=False)
    assert not rig.wait(lambda r: not r.tracked).tracked
    assert rig.take() == {"left_hand": [], "right_hand": []}


def test_a_grip_held_through_a_loss_must_open_first(rig: Rig) -> None:
    """Coming back must not be a new press."""
    page = rig.page()
    page.welcome()
    page.send_hands(right=hand(squeeze=0.0))
    page.send_hands()  # the controller has gone
    page.send_hands(right=hand(squeeze=1.0, trigger=0.5))
    assert rig.wait(lambda r: r.trigger == 0.5).squeeze == 0.0
    page.send_hands(right=hand(squeeze=0.0))
    page.send_hands(right=hand(squeeze=1.0))
    assert rig.wait(lambda r: r.squeeze == 1.0)


def test_nonsense_is_counted_and_dropped(rig: Rig) -> None:
    """Wrong sizes, NaN, no JSON: the connection lives, the robot sees nothing of it."""
    page = rig.page()
    page.welcome()
    good = webxr_protocol.encode(
        webxr_protocol.Packet(0, page.now_ms(), True, {"left": hand(), "right": hand()})
    )
    for bad in (b"", good[:-1], b"\x09" + good[1:], good[:24] + b"\xff" * 4 + good[28:]):
        page.send(bad)
    for text in ("{", "[]", '{"pong": "x"}', '{"pong": 1, "at": NaN}', "x" * 3000):
        page.send(text)
    eventually(lambda: rig.count("malformed") == 9)
    page.send_hands(right=hand(trigger=1.0))
    assert rig.wait(lambda r: r.trigger == 1.0)


def test_a_packet_of_another_version_asks_for_a_reload() -> None:
    """A browser may hold an old page."""
    packet = webxr_protocol.Packet(0, 0.0, True, {"left": hand(), "right": hand()})
    with pytest.raises(WireError, match="reload the page"):
        webxr_protocol.decode(b"\x07" + webxr_protocol.encode(packet)[1:])


def test_the_clocks_offset_is_known_to_half_the_best_round_trip() -> None:
    """However asymmetric the network is, and however bad most pings are."""
    rng = np.random.default_rng(4)
    offset_ms, best_ms = 777.0, 1e9
    remote = RemoteClock()
    for k in range(40):
        there_ms, back_ms = rng.exponential(20.0, 2) + 0.2
        sent_ms = 200.0 * k
        client_ms = sent_ms + there_ms - offset_ms
        remote.add(int(sent_ms * 1e6), client_ms, int((sent_ms + there_ms + back_ms) * 1e6))
        best_ms = min(best_ms, there_ms + back_ms)
    rig_ns = remote.rig_ns(0.0)
    assert rig_ns is not None
    assert abs(rig_ns / 1e6 - offset_ms) <= best_ms / 2 + 1e-3
    assert remote.steps == 0


# -- what the operator sees and feels


def test_the_operator_learns_states_and_feels_pulses(rig: Rig) -> None:
    """The clutch's state by hand, and a tick when it changes."""
    page = rig.page()
    page.welcome()
    rig.hub.cue("right_hand", "engaged", 0.7)
    status = eventually(
        lambda: [t["status"] for t in page.texts if t.get("status", {}).get("pulses")]
    )
    assert status[0]["states"] == {"left": "idle", "right": "engaged"}
    assert status[0]["pulses"] == {"right": 0.7}


def test_pictures_are_the_newest_and_few_are_under_way(rig: Rig) -> None:
    """A page that shows none gets four; when it shows them, it gets the newest next."""
    page = rig.page()
    page.welcome()
    page.shows_pictures = False
    for k in range(40):
        rig.hub.show("cam_high", frame(k))
        rig.hub.show("another", frame(99))
        time.sleep(0.01)
    eventually(lambda: len(page.pictures) == 4)
    page.send('{"shown":1}')
    eventually(lambda: len(page.pictures) == 5)
    assert page.pictures[0] == b"picture 0"
    assert page.pictures[4] == b"picture 39"


def test_raw_pictures_are_encoded(rig: Rig) -> None:
    """A camera that makes no JPEG itself can be looked through too."""
    page = rig.page()
    page.welcome()
    rig.hub.show("cam_high", frame(120, "rgb8"))
    picture = eventually(lambda: page.pictures)[0]
    assert simplejpeg.decode_jpeg(picture)[8, 12] == pytest.approx([120, 120, 120], abs=3)
