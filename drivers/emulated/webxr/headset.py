"""An emulated headset: the rig's own page in a browser without a window.

The page is what a real headset loads. Below it, iwer (Meta's WebXR emulator, MIT licence; see
scripts/setup) stands in for the headset's runtime, and ``stall_proxy.py`` for its network.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from drivers.emulated.stand_in import HandPose, PuckPush
from drivers.emulated.webxr.browser import Browser, program_path
from drivers.emulated.webxr.stall_proxy import StallProxy
from teleop.clock import NS_PER_S, MonotonicClock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig_inputs import WebXrInput, WebXrServer

log = logging.getLogger(__name__)

IWER = Path(sys.prefix) / "share" / "iwer" / "iwer.min.js"
SCRIPT = Path(__file__).with_name("headset.js")
RATE_HZ = 72.0
"""Frames of a Quest 2 or 3 in its browser, unless the page asks for more."""
POLL_S = 0.1
CONNECT_S = 1.0
ENTERED_S = 60.0

Kind = Literal["controllers", "bare hands", "phone"]


class WebXrHeadset:
    """A headset that opens the rig's page as soon as it is served, and enters.

    Args:
        inputs: The rig's WebXR inputs by name.
        server: Where the page will be served, on loopback.
        kind: What the operator holds.
        rate_hz: Frames per second.
        size: Of the page and of what both eyes see together, pixels. Drawn by the processor.
    """

    def __init__(
        self,
        inputs: Mapping[str, WebXrInput],
        server: WebXrServer,
        kind: Kind = "controllers",
        rate_hz: float = RATE_HZ,
        size: tuple[int, int] = (320, 180),
    ) -> None:
        self._hand_of = {name: config.hand for name, config in inputs.items()}
        self._server = server
        self._kind: Kind = kind
        self._rate_hz = rate_hz
        self.browser = Browser(*size)
        self._proxy = StallProxy(server.host, server.port)
        self._clock = MonotonicClock()
        self._changed = threading.Condition()
        self._poses: dict[str, HandPose] = {}
        self._closing = False
        self._entered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headset", daemon=True)

    def start(self) -> None:
        """Start the browser; it waits for the page to be served.

        Raises:
            DeviceError: Chromium or iwer is not installed.
        """
        program_path()
        if not IWER.exists():
            raise DeviceError(f"emulated headset: found no iwer at {IWER}; run scripts/setup")
        self._port = self._proxy.start()
        self._thread.start()

    def move(self, name: str, hand: HandPose | PuckPush) -> None:
        """Where the hand of input ``name`` is from now on; never waits."""
        assert isinstance(hand, HandPose)
        with self._changed:
            self._poses[self._hand_of[name]] = hand
            self._changed.notify()

    def wait_until_entered(self, patience_s: float = ENTERED_S) -> None:
        """Return when the operator is in VR.

        Raises:
            DeviceError: it did not come to that; says what the page shows.
        """
        if not self._entered.wait(patience_s):
            shown = self.browser.evaluate("document.body.innerText")
            raise DeviceError(f"emulated headset: could not enter; the page shows: {shown}")

    def close(self) -> None:
        """Take the headset off and switch it off."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self.browser.kill()
        if self._thread.is_alive():
            self._thread.join(ENTERED_S)
        self._proxy.close()

    # Faults

    def kill(self) -> None:
        """The browser crashes."""
        self.browser.kill()

    def stall(self) -> None:
        """The network carries nothing until ``flow``; then all comes in one burst."""
        self._proxy.stall()

    def cut(self) -> None:
        """The network breaks the connection, and is away until ``flow``."""
        self._proxy.cut()

    def flow(self) -> None:
        """The network is well again."""
        self._proxy.flow()

    def hide(self, hidden: bool) -> None:
        """The headset covers the page by a dialog of its own, or takes it away again."""
        self.browser.evaluate(f"headset.hide({json.dumps(hidden)})")

    def unplug(self, name: str, away: bool) -> None:
        """The controller of an input switches off, or on again."""
        self.browser.evaluate(f"headset.plug('{self._hand_of[name]}', {json.dumps(not away)})")

    def guess(self, guessing: bool) -> None:
        """Controllers are out of the headset's sight: poses go on by dead reckoning."""
        self.browser.evaluate(f"headset.guess({json.dumps(guessing)})")

    def recentre(self) -> None:
        """The operator moves the origin of the room."""
        self.browser.evaluate("headset.recentre()")

    # The operator's doings, in a thread.

    def _run(self) -> None:
        try:
            self._open_page()
            self._press_enter()
            while self._send_poses():
                pass
        except DeviceLostError:
            if not self._closing:
                log.warning("emulated headset: the browser is gone")
        except DeviceError as error:
            if not self._closing:
                log.error("%s", error)

    def _open_page(self) -> None:
        from drivers.webxr import credentials as webxr_credentials

        self.browser.start()
        options = {
            "rateHz": self._rate_hz,
            "bareHands": self._kind == "bare hands",
            "phone": self._kind == "phone",
        }
        parts = [IWER.read_text("utf-8"), f"globalThis.headsetOptions={json.dumps(options)};"]
        script = "\n".join([*parts, SCRIPT.read_text("utf-8")])
        self.browser.command("Page.addScriptToEvaluateOnNewDocument", source=script)
        while not self._closing and not self._served():
            self._rest()
        url = f"https://127.0.0.1:{self._port}/#{webxr_credentials.pairing_code()}"
        self.browser.command("Page.navigate", url=url)

    def _served(self) -> bool:
        try:
            address = (self._server.host, self._server.port)
            socket.create_connection(address, CONNECT_S).close()
        except OSError:
            return False
        return True

    def _press_enter(self) -> None:
        button = "enter-ar" if self._kind == "phone" else "enter-vr"
        press = (
            "(() => { const button = document.getElementById('" + button + "');"
            "if (!button || button.hidden) return false; button.click(); return true; })()"
        )
        self._until(press)
        self._until("headset.entered()")
        self._entered.set()

    def _until(self, condition: str) -> None:
        deadline_ns = self._clock.now_ns() + ns_from_s(ENTERED_S)
        while not self._closing and not self.browser.evaluate(condition):
            if self._clock.now_ns() > deadline_ns:
                shown = self.browser.evaluate("document.body.innerText")
                raise DeviceError(f"emulated headset: could not enter; the page shows: {shown}")
            self._rest()

    def _rest(self) -> None:
        self._clock.sleep_until_ns(self._clock.now_ns() + round(POLL_S * NS_PER_S))

    def _send_poses(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._poses or self._closing)
            poses, self._poses = self._poses, {}
        if self._closing:
            return False
        moves = (f"headset.move('{hand}',{_json(pose)});" for hand, pose in poses.items())
        self.browser.evaluate("".join(moves) + "0")
        return True


def _json(hand: HandPose) -> str:
    w, x, y, z = (float(value) for value in hand.quaternion_wxyz)
    return json.dumps(
        {
            "position": [float(value) for value in hand.position_m],
            "quaternion": [x, y, z, w],
            "tracked": hand.tracked,
            "trigger": hand.trigger,
            "squeeze": hand.squeeze,
            "stick": [float(value) for value in hand.stick],
            "buttons": sorted(hand.buttons),
        }
    )
