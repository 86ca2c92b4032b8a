"""One TCPROS connection: a header from each side, then frames, each behind its length.

Source: wiki.ros.org/ROS/TCPROS and wiki.ros.org/ROS/Connection%20Header. Nothing here waits
without a limit.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import struct
import time
import xmlrpc.client
from collections.abc import Mapping
from typing import Any, Self

from teleop.errors import DeviceError, DeviceLostError, WireError

TIMEOUT_S = 2.0
"""Of one exchange with the master or another node; on one machine it takes about 1 ms."""
MAX_FRAME = 1 << 20
"""Bytes; a joint state has about 500. A larger one is another protocol talking."""
SEND_BUFFER = 16_384
"""Bytes that may wait for a receiver who does not read: some tens of commands."""


class Link:
    """A connected socket on which frames go both ways."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connected.setblocking(False)

    @classmethod
    def to(cls, host: str, port: int, timeout_s: float) -> Self:
        """Connect.

        Raises:
            DeviceError: nobody answers there.
        """
        try:
            return cls(socket.create_connection((host, port), timeout_s))
        except OSError as error:
            raise DeviceError(f"no connection to {host}:{port}: {_words(error)}") from None

    def greet(self, header: Mapping[str, str], timeout_s: float) -> dict[str, str]:
        """Send our header, return the other side's.

        Raises:
            DeviceError: it refuses, in its words.
            DeviceLostError: it hung up.
        """
        self.send(encode_header(header), timeout_s)
        answer = decode_header(self.receive(timeout_s))
        if "error" in answer:
            raise DeviceError(answer["error"])
        return answer

    def send(self, data: bytes, timeout_s: float) -> None:
        """Send all bytes.

        Raises:
            DeviceError: the other side does not take them in time.
            DeviceLostError: it hung up.
        """
        deadline_s = time.monotonic() + timeout_s
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline_s, "takes no bytes")
            except OSError as error:
                raise DeviceLostError(f"connection lost: {_words(error)}") from None

    def receive(self, timeout_s: float) -> bytes:
        """The next frame.

        Raises:
            DeviceError: it does not come in time.
            DeviceLostError: the other side hung up.
            WireError: it is too long to be one.
        """
        deadline_s = time.monotonic() + timeout_s
        (size,) = struct.unpack("<I", self._exactly(4, deadline_s))
        if size > MAX_FRAME:
            raise WireError(f"a frame of {size} bytes; does another protocol answer there?")
        return self._exactly(size, deadline_s)

    def receive_byte(self, timeout_s: float) -> int:
        """One byte outside the frames; raises as ``receive`` does."""
        return self._exactly(1, time.monotonic() + timeout_s)[0]

    def has_input(self, patience_s: float) -> bool:
        """Whether bytes, or the end, have come; waits for that at most so long."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(patience_s * 1e3))

    @property
    def alive(self) -> bool:
        """Whether the other side has not hung up, as far as is known here."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Hang up; whoever waits in another thread is told at once. Never raises."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, count: int, deadline_s: float) -> bytes:
        parts, left = [], count
        while left:
            try:
                part = self._socket.recv(left)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline_s, "sends nothing")
                continue
            except OSError as error:
                raise DeviceLostError(f"connection lost: {_words(error)}") from None
            if not part:
                raise DeviceLostError("connection closed by the other side")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _wait(self, event: int, deadline_s: float, fault: str) -> None:
        poll = select.poll()
        try:
            poll.register(self._socket, event)
        except ValueError:  # closed by another thread
            raise DeviceLostError("connection closed") from None
        if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1e3):
            raise DeviceError(f"the other side {fault}")


def encode_header(fields: Mapping[str, str]) -> bytes:
    """A connection header as a frame."""
    parts = []
    for key, value in fields.items():
        line = f"{key}={value}".encode()
        parts.append(struct.pack("<I", len(line)) + line)
    body = b"".join(parts)
    return struct.pack("<I", len(body)) + body


def decode_header(body: bytes) -> dict[str, str]:
    """The fields of a connection header.

    Raises:
        WireError: it is not one.
    """
    fields, at = {}, 0
    try:
        while at < len(body):
            (size,) = struct.unpack_from("<I", body, at)
            key, equals, value = body[at + 4 : at + 4 + size].decode().partition("=")
            if not equals:
                raise ValueError("a field without a value")
            fields[key] = value
            at += 4 + size
    except (struct.error, ValueError) as error:
        raise WireError(f"not a TCPROS connection header: {error}") from None
    return fields


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


class PatientTransport(xmlrpc.client.Transport):
    """XML-RPC calls that do not wait for ever."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        """As the base does, with a time-out."""
        connection = super().make_connection(host)
        connection.timeout = TIMEOUT_S
        return connection
