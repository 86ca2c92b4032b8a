"""The headset's page without a browser: a WebSocket client with a clock of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np

from drivers.webxr import protocol as webxr_protocol
from drivers.webxr.protocol import HANDS, HandSample, Packet

PATIENCE_S = 20.0


def eventually(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The condition's value as soon as it is true; fails when it never is."""
    end = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
    return value


def hand(**changes: Any) -> HandSample:
    """A tracked, open hand at (0.1, 1.2, -0.3)."""
    fields: dict[str, Any] = {
        "present": True,
        "tracked": True,
        "position_m": np.array([0.1, 1.2, -0.3]),
        "quaternion_wxyz": np.array([1.0, 0.0, 0.0, 0.0]),
        "trigger": 0.0,
        "squeeze": 0.0,
        "stick": np.zeros(2),
        "buttons": frozenset(),
    }
    return HandSample(**{**fields, **changes})


class PlainPage:
    """Connects at once; answers pings unless told not to.

    Args:
        port: The server's.
        code: Pairing code.
        client: Identity of this page.
        origin: Where it pretends to come from; the server's own address when not given.
        skew_ms: Its clock less the rig's.
        host: The name it calls the server by.
    """

    def __init__(
        self,
        port: int,
        code: str,
        client: str = "one",
        origin: str | None = None,
        skew_ms: float = 0.0,
        host: str = "127.0.0.1",
        hello: bool = True,
        answer_takes_s: float = 0.0,
    ) -> None:
        self.skew_ms = skew_ms
        self.answers_pings = self.shows_pictures = True
        self.answer_takes_s = answer_takes_s
        self.texts: list[dict[str, Any]] = []
        self.pictures: list[bytes] = []
        self.closed = threading.Event()
        self.status = 0
        """HTTP status of the answer to the request for a socket; 101 is a socket."""
        self.pongs = self.seq = 0
        self._says_hello = hello
        self._hello = {"version": webxr_protocol.VERSION, "code": code, "client": client}
        self._host = f"{host}:{port}"
        self._origin = f"https://{self._host}" if origin is None else origin
        self._url = f"https://127.0.0.1:{port}/socket"
        self._open = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)
        self._thread.start()
        assert self._open.wait(PATIENCE_S)

    def now_ms(self) -> float:
        """Its clock, as ``performance.now()``."""
        return time.monotonic() * 1e3 + self.skew_ms

    def welcome(self) -> dict[str, Any]:
        """What it was welcomed with, once its clock is known to the rig too."""
        eventually(lambda: self.pongs > 6)
        return next(text["welcome"] for text in self.texts if "welcome" in text)

    def refusal(self) -> dict[str, Any]:
        """Why it was sent away."""
        found = eventually(lambda: [t["refused"] for t in self.texts if "refused" in t])
        return dict(found[0])

    def send(self, data: bytes | str) -> None:
        """Send a message as it is."""
        asyncio.run_coroutine_threadsafe(self._send(data), self._loop).result(PATIENCE_S)

    def send_hands(self, age_ms: float = 0.0, running: bool = True, **hands: HandSample) -> None:
        """Send one frame; hands not given are absent."""
        absent = hand(present=False, tracked=False)
        self.seq += 1
        samples = {name: hands.get(name, absent) for name in HANDS}
        packet = Packet(self.seq, self.now_ms() - age_ms, running, samples)
        self.send(webxr_protocol.encode(packet))

    def close(self) -> None:
        """Close the socket, as a closed page does."""
        if not self.closed.is_set():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(PATIENCE_S)

    async def _send(self, data: bytes | str) -> None:
        if isinstance(data, str):
            await self._socket.send_str(data)
        else:
            await self._socket.send_bytes(data)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._talk())
        try:
            await self._task
        except (asyncio.CancelledError, aiohttp.ClientError):
            pass
        finally:
            self.closed.set()
            self._open.set()

    async def _talk(self) -> None:
        headers = {"Host": self._host} | ({"Origin": self._origin} if self._origin else {})
        async with aiohttp.ClientSession() as session:
            try:
                connecting = session.ws_connect(self._url, ssl=False, headers=headers)
                self._socket = await connecting
            except aiohttp.WSServerHandshakeError as error:
                self.status = error.status
                return
            self.status = 101
            async with self._socket:
                if self._says_hello:
                    await self._socket.send_json(self._hello)
                self._open.set()
                async for message in self._socket:
                    await self._hear(message)

    async def _hear(self, message: aiohttp.WSMessage) -> None:
        if message.type is aiohttp.WSMsgType.BINARY:
            self.pictures.append(message.data[8:])
            if self.shows_pictures:
                await self._socket.send_str('{"shown":1}')
            return
        text = json.loads(message.data)
        self.texts.append(text)
        if "ping" in text and self.answers_pings:
            at_ms = self.now_ms()
            await asyncio.sleep(self.answer_takes_s)
            await self._socket.send_json({"pong": text["ping"], "at": at_ms})
            self.pongs += 1
