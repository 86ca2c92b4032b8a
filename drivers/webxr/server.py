"""The HTTPS server of the headset page: one port for the page and its WebSocket.

This socket moves a robot. It is bound to loopback unless the rig file says otherwise, wants the
pairing code, takes one operator at a time, and refuses pages that came from elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from drivers.webxr import credentials, protocol
from drivers.webxr.operator import SEND_TIMEOUT_S, Operator
from drivers.webxr.protocol import Packet
from teleop.clock import NS_PER_S, Clock
from teleop.errors import DeviceError, MissingExtraError, WireError
from teleop.messages import Frame
from teleop.rig_inputs import WebXrServer

try:
    from aiohttp import WSMessage, WSMsgType, web
except ImportError as error:
    raise MissingExtraError("aiohttp", "webxr", "a headset (WebXR)") from error

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "Cache-Control": "no-store",
    # A page that may frame or fetch nothing foreign; isolation also buys it a finer clock.
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MAX_MESSAGE_BYTES = 4096
_HELLO_S = 5.0
_GUESS_NS = NS_PER_S
"""Pause after a wrong pairing code in which none is looked at."""
_START_S = 15.0
_MAX_STRANGERS = 16
"""Sockets at once that have not said hello; browsers open one."""


class Listener(Protocol):
    """Who wants what comes from the headset; called in the server's thread."""

    def packet_came(self, packet: Packet, stamp_ns: int) -> None:
        """A packet, and its instant on the rig's clock."""

    def page_came(self) -> None:
        """An operator's page has paired."""

    def page_went(self) -> None:
        """Its connection has ended."""


class PageServer:
    """Serves the page and the one operator's socket, in a thread of its own.

    Args:
        config: Where.
        hands: Of those that the rig uses (see ``protocol.HANDS``), what their buttons ask
            for, to be told to the operator.
        clock: The rig's.
        listener: Gets what comes.
    """

    def __init__(
        self,
        config: WebXrServer,
        hands: Mapping[str, Mapping[str, str]],
        clock: Clock,
        listener: Listener,
    ) -> None:
        self._config = config
        self._hands = hands
        self._clock = clock
        self._listener = listener
        self._states = dict.fromkeys(hands, "idle")
        self._operator: Operator | None = None
        self._wrong_ns: int | None = None
        self._known: set[str] = set()
        self._strangers = 0
        self._malformed = self._last_refusal = ""
        self.counts = {"malformed": 0, "refused": 0, "unsynchronised": 0}
        self._thread = threading.Thread(target=self._run, name="webxr", daemon=True)
        self._started: Future[None] = Future()

    def start(self) -> None:
        """Listen; returns when a page can be opened.

        Raises:
            DeviceError: the port or the certificate cannot be used.
        """
        self._credentials = credentials.obtain(self._config)
        self._tls = self._credentials.tls()
        self._thread.start()
        try:
            self._started.result(_START_S)
        except TimeoutError as error:
            raise DeviceError(
                f"webxr: the page is not served after {_START_S:g} s; see whether this machine "
                "is overloaded, and start again"
            ) from error

    @property
    def address(self) -> str:
        """What to open in the headset's browser; whoever has it can move the robot."""
        return f"{credentials.page_address(self._config)}#{self._credentials.code}"

    def show_state(self, hand: str, state: str, pulse: float) -> None:
        """Tell the page what a hand's input does, and make its controller tick."""
        self._soon(self._show_state, hand, state, pulse)

    def show_frame(self, frame: Frame) -> None:
        """Send a picture, unless newer ones come faster than the network takes them."""
        self._soon(self._show_frame, frame)

    def operator_values(self) -> Mapping[str, float]:
        """Measurements of the present connection, if there is one."""
        operator = self._operator
        return operator.values() if operator is not None else {}

    def close(self) -> None:
        """End the connection and free the port."""
        if self._thread.is_alive():
            self._soon(self._stop.set)
            self._thread.join(_START_S)

    def _soon(self, call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(call, *arguments)

    # All below runs in the server's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.done():
                log.exception("webxr: the server of the headset's page has failed")
            else:
                self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        app = web.Application()
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/socket", self._socket)
        for file in PAGE.iterdir():
            path = "/" if file.name == "index.html" else f"/{file.name}"
            app.router.add_get(path, _page_file(file))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        host, port = self._config.host, self._config.port
        try:
            await web.TCPSite(runner, host, port, ssl_context=self._tls).start()
        except OSError as error:
            await runner.cleanup()
            raise DeviceError(
                f"webxr: port {port} of {host} cannot be bound ({error.strerror or error}); "
                "end the program that holds it, or set another host or port under webxr"
            ) from error
        self._started.set_result(None)
        await self._stop.wait()
        if self._operator is not None:
            self._operator.abort()
        await runner.cleanup()

    def _show_state(self, hand: str, state: str, pulse: float) -> None:
        changed = self._states.get(hand) != state
        self._states[hand] = state
        if self._operator is not None and (changed or pulse > 0.0):
            self._operator.tell_state(hand, pulse)

    def _show_frame(self, frame: Frame) -> None:
        if self._operator is not None:
            self._operator.offer(frame)

    # One connection

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if fault := _origin_fault(request, self._credentials.names):
            self._refused(f"a page {fault}")
            raise web.HTTPForbidden(text=fault)
        if self._strangers >= _MAX_STRANGERS:
            self._refused(f"{request.remote}: too many sockets that do not say hello")
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse(
            compress=False, max_msg_size=_MAX_MESSAGE_BYTES, timeout=SEND_TIMEOUT_S
        )
        await socket.prepare(request)
        client = await self._admit(socket, request)
        if client is not None:
            await self._attend(Operator(socket, request, client, self._config, self._clock))
        return socket

    async def _admit(self, socket: web.WebSocketResponse, request: web.Request) -> str | None:
        """The page's identity, if its hello is good and the place is free."""
        try:
            self._strangers += 1
            try:
                hello = protocol.decode_text(await socket.receive_str(timeout=_HELLO_S))
            finally:
                self._strangers -= 1
            refusal = self._refusal(hello)
        except (TimeoutError, TypeError, WireError) as error:
            log.info("webxr: %s did not say hello (%s)", request.remote, error)
            refusal = ("version", "This page is not of this rig's version. Reload it.")
        if refusal is None:
            return str(hello["client"])
        reason, words = refusal
        self._refused(f"{request.remote}: {words}")
        with contextlib.suppress(ConnectionError):
            await socket.send_json({"refused": {"reason": reason, "words": words}})
            await socket.close()
        return None

    def _refused(self, words: str) -> None:
        """Count, and log once: pages try again by themselves."""
        self.counts["refused"] += 1
        if words != self._last_refusal:
            self._last_refusal = words
            log.warning("webxr: refused %s", words)

    def _refusal(self, hello: dict[str, Any]) -> tuple[str, str] | None:
        now_ns = self._clock.now_ns()
        if hello.get("version") != protocol.VERSION or not hello.get("client"):
            return "version", "This page is not of this rig's version. Reload it."
        guessed = self._wrong_ns is not None and now_ns - self._wrong_ns < _GUESS_NS
        if guessed and hello["client"] not in self._known:  # who guesses keeps no operator away
            return "wait", "A wrong pairing code was given a moment ago. Wait a second."
        code = str(hello.get("code", ""))
        if not secrets.compare_digest(code.encode(), self._credentials.code.encode()):
            self._wrong_ns = now_ns
            return "code", "The pairing code is wrong. The rig shows it when it starts."
        self._known.add(str(hello["client"]))
        if self._operator is not None and self._operator.client != hello["client"]:
            return "busy", "Another headset guides the robot. Close the page there first."
        return None

    async def _attend(self, operator: Operator) -> None:
        if self._operator is not None:  # the same page, back before its old socket was given up
            self._operator.dismiss()
            self._listener.page_went()
        self._operator = operator
        self._listener.page_came()
        log.info("webxr: %s is connected", operator.where)
        try:
            async with operator.company(self._hands, self._states):
                async for message in operator.socket:
                    self._hear(operator, message)
        finally:
            log.info("webxr: %s is gone", operator.where)
            if self._operator is operator:
                self._operator = None
                self._listener.page_went()

    def _hear(self, operator: Operator, message: WSMessage) -> None:
        if operator is not self._operator:
            return
        try:
            if message.type is WSMsgType.BINARY:
                self._take_packet(operator, message.data)
            elif message.type is WSMsgType.TEXT:
                operator.answer(message.data)
        except WireError as error:
            self.counts["malformed"] += 1
            if str(error) != self._malformed:
                self._malformed = str(error)
                log.warning("%s; dropped", error)

    def _take_packet(self, operator: Operator, data: bytes) -> None:
        packet = protocol.decode(data)
        stamp_ns = operator.stamp(packet)
        if stamp_ns is None:
            self.counts["unsynchronised"] += 1
        else:
            self._listener.packet_came(packet, stamp_ns)


def _page_file(file: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    content, kind = file.read_bytes(), _TYPES[file.suffix]

    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return serve


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _origin_fault(request: web.Request, names: frozenset[str]) -> str:
    """Why a socket may not be opened by the page that asks; empty when it may.

    The page must be ours (same origin), and come by an address or by one of the certificate's
    names: else a foreign name that resolves to this rig would make a foreign page ours.
    """
    origin = request.headers.get("Origin", "")
    if origin.lower() != f"https://{request.host}".lower():
        return f"from {origin or 'no page at all'}: only this rig's own page may connect"
    host = (urlsplit(origin).hostname or "").lower()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host not in names:
            return f"by the name {host}, which its certificate does not bear; use the address"
    return ""
