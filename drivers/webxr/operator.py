"""The connection of one operator's page: its clock, its pings, its camera view."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from drivers.webxr import protocol
from drivers.webxr.clock import MIN_PINGS, RemoteClock
from drivers.webxr.protocol import Packet
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.messages import Frame
from teleop.rig_inputs import WebXrServer

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 1.0
_PING_S = 0.2
_FIRST_PING_S = 0.02
"""Until the clock's offset is known."""
_GIVEN_UP_NS = 2 * NS_PER_S
"""Silence of a page, which answers pings even before the session, that frees its place."""
_MAX_UNSHOWN = 4
"""Pictures under way to the page; more only queue up in the network and grow old there."""
_AGES = 90
"""Poses of about one second."""
_PINGS_KEPT = 100
_JPEG_QUALITY = 80


class Operator:
    """One paired page. All methods run in the server's thread.

    Args:
        socket: Its WebSocket.
        request: The one that opened it.
        client: The page's own identity, the same when it comes back.
        config: The camera view's rate.
        clock: The rig's.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        client: str,
        config: WebXrServer,
        clock: Clock,
    ) -> None:
        self.socket = socket
        self.client = client
        self.where = f"a page at {request.remote}"
        self.heard_ns = clock.now_ns()
        self._transport = request.transport
        self._view = config.view
        self._view_ns = ns_from_s(1.0 / config.view_fps)
        self._clock = clock
        self._remote = RemoteClock()
        self._pings: dict[int, int] = {}
        self._count = 0
        self._ages_ms: deque[float] = deque(maxlen=_AGES)
        self._last_ns = -1
        self._frame: Frame | None = None
        self._frame_came = asyncio.Event()
        self._sent = self._shown = 0
        self._told = asyncio.Event()
        self._pulses: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def company(
        self, hands: Mapping[str, Mapping[str, str]], states: Mapping[str, str]
    ) -> AsyncIterator[None]:
        """Greet, then ping, tell states and send pictures meanwhile."""
        welcome = {
            "hands": {name: dict(buttons) for name, buttons in hands.items()},
            "view": self._view,
        }
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"welcome": welcome})
        work: list[Coroutine[object, object, None]] = [
            self._ping(),
            self._tell(states),
            self._send_frames(),
            self._watch(),
        ]
        tasks = [asyncio.create_task(w) for w in work]
        for task in tasks:
            task.add_done_callback(_complain)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def abort(self) -> None:
        """Cut the connection without waiting for the other side."""
        if self._transport is not None:
            self._transport.abort()

    def dismiss(self) -> None:
        """Tell the page that its place is taken, and part; it does not come back by itself."""
        self._parting = asyncio.create_task(self._part())

    async def _part(self) -> None:
        words = "This page was opened once more, and the rig listens to the newer one. Reload to"
        words += " take over."
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self.socket.send_json({"refused": {"reason": "replaced", "words": words}})
                await self.socket.close()
        self.abort()

    def stamp(self, packet: Packet) -> int | None:
        """The packet's instant on the rig's clock; None when it cannot be told, or is not new.

        A better ping may move the clock back by some milliseconds: what then is not later than the
        last packet was late already, and a stream of stamps never runs backward.
        """
        received_ns = self.heard_ns = self._clock.now_ns()
        stamp_ns = self._remote.rig_ns(packet.client_ms)
        if stamp_ns is None:
            return None
        if stamp_ns > received_ns + self._remote.error_ns:  # from the future: its clock jumped
            self._remote.restart()
            return None
        stamp_ns = min(stamp_ns, received_ns)
        if stamp_ns <= self._last_ns:
            return None
        self._last_ns = stamp_ns
        self._ages_ms.append((received_ns - stamp_ns) / 1e6)
        return stamp_ns

    def answer(self, text: str) -> None:
        """Take the page's answer to a ping or a picture.

        Raises:
            WireError: it is neither.
        """
        now_ns = self._clock.now_ns()
        self.heard_ns = now_ns
        message = protocol.decode_text(text)
        if "shown" in message:
            self._shown = min(self._shown + 1, self._sent)
            self._frame_came.set()
            return
        number = int(protocol.number_in(message, "pong"))
        at_ms = protocol.number_in(message, "at")
        sent_ns = self._pings.pop(number, None)
        if sent_ns is not None:
            self._remote.add(sent_ns, at_ms, now_ns)

    def offer(self, frame: Frame) -> None:
        """Make this the next picture to be sent."""
        self._frame = frame
        self._frame_came.set()

    def tell_state(self, hand: str, pulse: float) -> None:
        """Tell the states now, and a pulse for one hand."""
        if pulse > 0.0:
            self._pulses[hand] = min(pulse, 1.0)
        self._told.set()

    def values(self) -> dict[str, float]:
        """Measurements by name."""
        ages = list(self._ages_ms)
        values = {
            "round_trip_ms": self._remote.round_trip_ms,
            "pictures_shown": float(self._shown),
            "clock_steps": float(self._remote.steps),
        }
        if ages:
            values |= {"pose_age_ms": median(ages), "pose_age_max_ms": max(ages)}
        return values

    async def _ping(self) -> None:
        while True:
            self._count += 1
            self._pings[self._count] = self._clock.now_ns()
            for old in [n for n in self._pings if n <= self._count - _PINGS_KEPT]:
                del self._pings[old]
            await self.socket.send_str(f'{{"ping":{self._count}}}')
            await asyncio.sleep(_FIRST_PING_S if self._count <= 2 * MIN_PINGS else _PING_S)

    async def _tell(self, states: Mapping[str, str]) -> None:
        while True:
            pulses, self._pulses = self._pulses, {}
            ages = list(self._ages_ms)
            trip_ms = self._remote.round_trip_ms
            status = {
                "states": dict(states),
                "pulses": pulses,
                "age_ms": round(median(ages), 2) if ages else None,
                "round_trip_ms": round(trip_ms, 2) if trip_ms == trip_ms else None,
            }
            await self.socket.send_str(json.dumps({"status": status}))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), _PING_S)
            self._told.clear()

    async def _send_frames(self) -> None:
        due_ns = 0
        while True:
            await self._frame_came.wait()
            left_ns = due_ns - self._clock.now_ns()
            if left_ns > 0:
                await asyncio.sleep(left_ns / NS_PER_S)
            self._frame_came.clear()
            if self._frame is None or self._sent - self._shown >= _MAX_UNSHOWN:
                continue
            frame, self._frame = self._frame, None
            due_ns = max(due_ns, self._clock.now_ns() - self._view_ns) + self._view_ns
            self._sent += 1
            await self.socket.send_bytes(protocol.view_message(self._sent, _jpeg_of(frame)))

    async def _watch(self) -> None:
        while self._clock.now_ns() - self.heard_ns < _GIVEN_UP_NS:
            await asyncio.sleep(_PING_S)
        self.abort()


def _complain(task: asyncio.Task[None]) -> None:
    """Log what went wrong, unless it is the connection: its reader tells of that."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ConnectionError):
        log.error("webxr: %s", error, exc_info=error)


def _jpeg_of(frame: Frame) -> bytes:
    if frame.encoding == "jpeg":
        return frame.data
    pixels = np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, 3)
    return bytes(simplejpeg.encode_jpeg(pixels, _JPEG_QUALITY, colorspace="RGB"))
