"""Headsets and phones that open our page in their browser (WebXR).

One page brings both hands. Poses come some 70 to 120 times a second, stamped by the headset and
translated to the rig's clock; what the network held back is dropped by age, never replayed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from drivers.base import DeviceHealth, HandReading
from drivers.webxr import credentials
from drivers.webxr.protocol import HandSample, Packet
from drivers.webxr.server import PageServer
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import DeviceLostError
from teleop.messages import Frame
from teleop.rig_inputs import WebXrInput, WebXrServer

log = logging.getLogger(__name__)

LOST_AFTER_NS = ns_from_s(0.25)
"""Without a fresh pose the hand is lost and must grip anew. Arms hold long before."""
_LET_GO = 0.1
"""Squeeze below which a hand has let go."""
_KEPT = 500
"""Packets kept for a node that does not ask: more than are fresh at any rate."""
_RATE_WINDOW_NS = NS_PER_S
_NOWHERE = HandSample(
    present=False,
    tracked=False,
    position_m=np.zeros(3),
    quaternion_wxyz=np.array([1.0, 0.0, 0.0, 0.0]),
    trigger=0.0,
    squeeze=0.0,
    stick=np.zeros(2),
    buttons=frozenset(),
)


@dataclass(slots=True)
class _Hand:
    """What is remembered of one hand between packets."""

    last: HandSample = _NOWHERE
    must_let_go: bool = False
    """It was away while it may have gripped: it counts as open until it has been seen open."""


class WebXrHub:
    """All hands of one page as inputs of the rig; see ``drivers.base.InputDevice``.

    Args:
        inputs: The rig's WebXR inputs by name.
        server: Where the page is served.
        clock: The rig's.
    """

    def __init__(self, inputs: Mapping[str, WebXrInput], server: WebXrServer, clock: Clock) -> None:
        self._hand_of = {name: config.hand for name, config in inputs.items()}
        self._config = server
        self._clock = clock
        self._max_age_ns = ns_from_s(server.max_age_s)
        used: dict[str, Mapping[str, str]] = {c.hand: c.buttons for c in inputs.values()}
        self._server = PageServer(server, used, clock, self)
        self._hands = {hand: _Hand() for hand in used}
        self._lock = threading.Lock()  # guards what follows, shared with the server's thread
        self._arrived: deque[tuple[int, Packet]] = deque(maxlen=_KEPT)
        self._connected = self._broke = False
        # What follows belongs to the node's thread.
        self._live = False
        """Fresh poses are coming."""
        self._fresh_ns = 0
        self._stamps: deque[int] = deque(maxlen=_KEPT)
        self._loss = ""
        self._counts = {"stale_dropped": 0, "losses": 0}

    def connect(self) -> None:
        """Serve the page.

        Raises:
            DeviceError: the port cannot be bound, or there is no certificate to be had.
        """
        self._server.start()
        log.info("webxr: open %s in the headset's browser", self._server.address)

    @property
    def address(self) -> str:
        """What to open in the headset, with the pairing code in it."""
        return self._server.address

    def take(self, now_ns: int) -> Mapping[str, list[HandReading]]:
        """Fresh readings by input name, oldest first; one of a lost hand when they end.

        Raises:
            DeviceLostError: once for every loss, after that reading; the page reconnects by
                itself.
        """
        if self._loss:
            loss, self._loss = self._loss, ""
            raise DeviceLostError(loss)
        with self._lock:
            arrived = list(self._arrived)
            self._arrived.clear()
            broke, self._broke = self._broke, False
        readings: dict[str, list[HandReading]] = {name: [] for name in self._hand_of}
        for stamp_ns, packet in arrived:
            if now_ns - stamp_ns > self._max_age_ns:
                self._counts["stale_dropped"] += 1
            else:
                self._take_packet(packet, stamp_ns, readings)
        if self._live and (broke or now_ns - self._fresh_ns > LOST_AFTER_NS):
            self._lose(now_ns, readings)
            self._counts["losses"] += 1
            what = "the page's connection broke" if broke else "no fresh pose for 0.25 s"
            self._loss = (
                f"webxr: {what}; check the headset, its battery and its network. The page "
                "reconnects by itself; then let go of the grip and grip again"
            )
        return readings

    def cue(self, name: str, state: str, pulse: float) -> None:
        """Show the state of an input on the page and in the headset; pulse its controller."""
        if name in self._hand_of:
            self._server.show_state(self._hand_of[name], state, pulse)

    def show(self, camera: str, frame: Frame) -> None:
        """Send the view's camera into the headset; other cameras are ignored."""
        if camera == self._config.view:
            self._server.show_frame(frame)

    def health(self) -> DeviceHealth:
        """Whether fresh poses come, at which rate and age, and what was dropped or refused."""
        now_ns = self._clock.now_ns()
        counts = {**self._counts, **self._server.counts}
        values = {name: float(count) for name, count in counts.items()}
        values |= self._server.operator_values()
        values["poses_hz"] = float(sum(now_ns - s <= _RATE_WINDOW_NS for s in self._stamps))
        if self._live:
            return DeviceHealth(values=values)
        if self._connected:
            words = "the page is open; put the headset on and press Enter VR"
        else:
            page, code = credentials.page_address(self._config), credentials.code_file()
            words = f"no headset is connected; open {page} in its browser, with the code in {code}"
        return DeviceHealth(ok=False, detail=f"webxr: {words}", values=values)

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def _take_packet(
        self, packet: Packet, stamp_ns: int, readings: Mapping[str, list[HandReading]]
    ) -> None:
        if not packet.running:
            if self._live:
                self._lose(stamp_ns, readings)
            return
        self._live = True
        self._fresh_ns = stamp_ns
        self._stamps.append(stamp_ns)
        for hand, memory in self._hands.items():
            sample = packet.hands[hand]
            if not sample.present:
                memory.must_let_go = True
            elif sample.squeeze < _LET_GO:
                memory.must_let_go = False
            memory.last = sample
        self._tell(stamp_ns, readings)

    def _lose(self, stamp_ns: int, readings: Mapping[str, list[HandReading]]) -> None:
        """All hands are gone: open, untracked, where they were last seen."""
        self._live = False
        for memory in self._hands.values():
            memory.must_let_go = True
            memory.last = replace(memory.last, tracked=False)
        self._tell(stamp_ns, readings)

    def _tell(self, stamp_ns: int, readings: Mapping[str, list[HandReading]]) -> None:
        for name, hand in self._hand_of.items():
            memory = self._hands[hand]
            sample = memory.last
            readings[name].append(
                HandReading(
                    stamp_ns=stamp_ns,
                    position_m=sample.position_m,
                    quaternion_wxyz=sample.quaternion_wxyz,
                    tracked=sample.tracked,
                    trigger=sample.trigger,
                    squeeze=0.0 if memory.must_let_go else sample.squeeze,
                    stick=sample.stick,
                    buttons=sample.buttons,
                )
            )

    # In the server's thread.

    def packet_came(self, packet: Packet, stamp_ns: int) -> None:
        """Keep it for the node."""
        with self._lock:
            self._arrived.append((stamp_ns, packet))

    def page_came(self) -> None:
        """A page has paired."""
        with self._lock:
            self._connected = True

    def page_went(self) -> None:
        """Its connection has ended."""
        with self._lock:
            self._connected = False
            self._broke = True
