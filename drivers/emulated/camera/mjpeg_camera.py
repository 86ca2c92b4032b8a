"""Network cameras on the loopback interface: motion JPEG over HTTP.

Each camera is one endless ``multipart/x-mixed-replace`` answer, the form in which network
cameras have served motion JPEG since Netscape's server push. A client gets each new frame
once and, when it reads too slowly, skips to the newest: nothing piles up in the server.
"""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from teleop.errors import DeviceError, UnknownNameError

log = logging.getLogger(__name__)

BOUNDARY = "tandemframe"
SUFFIX = ".mjpg"
_SEND_BUFFER_BYTES = 262_144
"""A few frames: more would let a slow client see old pictures."""
_STOP_POLL_S = 0.1


@dataclass(slots=True)
class _Feed:
    """One camera: its newest frame and its faults. Guarded by the server's condition."""

    jpeg: bytes | None = None
    count: int = 0
    frozen: bool = False
    stalled: bool = False
    plugged: bool = True
    plug_count: int = 0
    clients: int = field(default=0)


class MjpegServer:
    """Serves ``/<camera>.mjpg`` from frames handed in by ``publish``."""

    def __init__(self, cameras: list[str] | tuple[str, ...], port: int = 0) -> None:
        """Bind 127.0.0.1 and start serving.

        Args:
            cameras: the names that exist; others answer 404.
            port: TCP port, 0 for any free one.

        Raises:
            DeviceError: the port is taken.
        """
        self._feeds = {camera: _Feed() for camera in cameras}
        self._changed = threading.Condition()
        self._closed = False
        try:
            self._http = _Http(("127.0.0.1", port), self)
        except OSError as error:
            raise DeviceError(
                f"camera server: port {port} cannot be bound ({error.strerror}); "
                "stop the program that holds it or choose another port"
            ) from error
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            kwargs={"poll_interval": _STOP_POLL_S},
            name="mjpeg-server",
            daemon=True,
        )
        self._thread.start()

    def url(self, camera: str) -> str:
        """Where a camera is served."""
        self._feed(camera)
        return f"http://127.0.0.1:{self.port}/{camera}{SUFFIX}"

    def publish(self, camera: str, jpeg: bytes) -> None:
        """Make this the camera's newest frame; a frozen camera sends its old one again."""
        feed = self._feed(camera)
        with self._changed:
            if feed.stalled:
                return
            if feed.jpeg is None or not feed.frozen:
                feed.jpeg = jpeg
            feed.count += 1
            self._changed.notify_all()

    def clients(self, camera: str) -> int:
        """How many programs are reading this camera now."""
        return self._feed(camera).clients

    def freeze(self, camera: str) -> None:
        """Fault: the camera goes on sending, always the same frame."""
        with self._changed:
            self._feed(camera).frozen = True

    def stall(self, camera: str) -> None:
        """Fault: the connection stays open and nothing comes any more."""
        with self._changed:
            self._feed(camera).stalled = True

    def thaw(self, camera: str) -> None:
        """End of ``freeze`` and ``stall``."""
        with self._changed:
            feed = self._feed(camera)
            feed.frozen = feed.stalled = False

    def unplug(self, camera: str) -> None:
        """Fault: connections are closed, new ones get 404."""
        with self._changed:
            feed = self._feed(camera)
            feed.plugged = False
            feed.plug_count += 1
            feed.jpeg = None
            self._changed.notify_all()

    def replug(self, camera: str) -> None:
        """End of ``unplug``; the camera shows nothing until its next frame."""
        with self._changed:
            self._feed(camera).plugged = True

    def close(self) -> None:
        """Close all connections and free the port."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _feed(self, camera: str) -> _Feed:
        try:
            return self._feeds[camera]
        except KeyError:
            raise UnknownNameError("camera", camera, self._feeds) from None

    def open_feed(self, path: str) -> _Feed | None:
        """The plugged-in camera that a request path names, if there is one."""
        feed = self._feeds.get(path.removeprefix("/").removesuffix(SUFFIX))
        return feed if feed is not None and feed.plugged else None

    def stream(self, feed: _Feed, connection: socket.socket) -> None:
        """Send every new frame of a camera until it is unplugged or the client goes."""
        seen = -1
        with self._changed:
            plug_count = feed.plug_count
            feed.clients += 1
        try:
            while (frame := self._next(feed, seen, plug_count)) is not None:
                seen, jpeg = frame
                head = (
                    f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                    f"Content-Length: {len(jpeg)}\r\n\r\n"
                )
                connection.sendall(b"".join((head.encode(), jpeg, b"\r\n")))
        finally:
            with self._changed:
                feed.clients -= 1

    def _next(self, feed: _Feed, seen: int, plug_count: int) -> tuple[int, bytes] | None:
        """Wait for a frame newer than ``seen``; None when this connection is over."""
        with self._changed:
            while True:
                if self._closed or feed.plug_count != plug_count:
                    return None
                if feed.jpeg is not None and feed.count != seen:
                    return feed.count, feed.jpeg
                self._changed.wait()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], cameras: MjpegServer) -> None:
        self.cameras = cameras
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is everyday life; the default prints a traceback for it."""
        log.debug("camera client %s went away", client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one client."""

    def do_GET(self) -> None:
        cameras = cast(_Http, self.server).cameras
        feed = cameras.open_feed(self.path)
        if feed is None:
            self.send_error(HTTPStatus.NOT_FOUND, "no such camera")
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        cameras.stream(feed, self.connection)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("camera server: " + format, *args)
