"""The emulated Franka Control Interface: commands over TCP, states and goals over UDP.

One client at a time, as on the robot. Nothing here waits: the process that owns the server
watches its sockets and calls ``tick`` once per emulated millisecond.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from drivers.emulated.franka.arm import EmulatedArm
from drivers.emulated.franka.model import robot_urdf
from drivers.emulated.franka.motion import MotionControl
from drivers.emulated.franka.profile import (
    CONNECT,
    FCI_PORT,
    FRAME,
    HEADER,
    LOAD,
    MOVE,
    Profile,
    RobotMode,
)
from drivers.emulated.franka.state import StateDatagram

log = logging.getLogger(__name__)

Watch = dict[socket.socket, Callable[[], None]]
"""Sockets with something to do when they become readable."""
READ_SIZE = 65536
SEND_TIMEOUT_S = 1.0
"""For a client that does not read its replies."""
FIRST_MS = 1000
"""What the robot's clock shows at the start."""


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        OSError: the port is taken.
    """
    server = socket.socket()
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(4)
    except OSError:
        server.close()
        raise
    return server


class Client:
    """One TCP connection, its unread bytes, and where it wants its states."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SEND_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tcp = connection
        self.unread = b""
        self.state_address: tuple[str, int] | None = None

    def receive(self) -> bool:
        """Read what is there; False when the client has gone."""
        try:
            data = self.tcp.recv(READ_SIZE)
        except OSError:
            return False
        self.unread += data
        return bool(data)

    def requests(self, header: struct.Struct) -> Iterator[tuple[int, int, bytes]]:
        """Take the whole requests out of what was read: command, number, and what follows.

        Args:
            header: Command, number, and the size of all of it, which both protocols begin with.
        """
        while len(self.unread) >= header.size:
            command, number, size = header.unpack_from(self.unread)
            if len(self.unread) < size:
                return
            payload, self.unread = self.unread[header.size : size], self.unread[size:]
            yield command, number, payload

    def is_gone(self) -> bool:
        """Whether the client has closed its end and all it sent has been read."""
        try:
            readable, _, _ = select.select([self.tcp], [], [], 0)
            return bool(readable) and not self.tcp.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def send(self, data: bytes) -> None:
        """Send a reply; a client that is gone is noticed when reading."""
        try:
            self.tcp.sendall(data)
        except OSError as error:
            log.info("reply not delivered: %s", error)


class FciServer:
    """The control interface on TCP port 1337 of ``host``.

    Args:
        host: where to listen.
        profile: the interface's version.
        arm: what the motions move.
        motion: its modes.
        watch: sockets are entered here.
        library: what a version 5 client is given as its model.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        host: str,
        profile: Profile,
        arm: EmulatedArm,
        motion: MotionControl,
        watch: Watch,
        library: bytes = b"",
    ) -> None:
        self.time_ms = FIRST_MS
        self.claimed_version = profile.version
        """The version it says it has."""
        self.is_frozen = False
        """Whether states have stopped."""
        self.is_black_hole = False
        """Whether it accepts clients and never says a word."""
        self.is_busy = False
        """Whether somebody else has the robot."""
        self.packets_to_drop = 0
        self.commands_received = 0
        self._host = host
        self._profile = profile
        self._motion = motion
        self._state = StateDatagram(profile, arm, motion)
        self._watch = watch
        self._names = {number: name for name, number in profile.commands.items()}
        self._models = {"get_robot_model": robot_urdf(profile), "load_model_library": library}
        self._client: Client | None = None
        self._move: tuple[int, int] | None = None
        self._inbox: np.ndarray[Any, np.dtype[Any]] | None = None
        self._answered_ms = self._sent_ms = self._began_ms = 0
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((host, 0))
        self._udp.setblocking(False)
        watch[self._udp] = self._take_datagrams
        self._listener: socket.socket | None = None
        self.set_active(True)

    @property
    def is_active(self) -> bool:
        """Whether the interface is switched on, as Desk does."""
        return self._listener is not None

    @property
    def version(self) -> int:
        """The version it has."""
        return self._profile.version

    @property
    def has_client(self) -> bool:
        """Whether a client is connected."""
        return self._client is not None

    @property
    def awaits_reply(self) -> bool:
        """Whether the client owes a command for the last state."""
        return (
            self._motion.mode is RobotMode.MOVE
            and max(self._answered_ms, self._began_ms) < self._sent_ms
            and not (self.is_frozen or self.is_black_hole)
        )

    def set_active(self, active: bool) -> None:
        """Switch the interface on or off; off, its port refuses."""
        if active and self._listener is None:
            self._listener = listen(self._host, FCI_PORT)
            self._watch[self._listener] = self._accept
        elif not active and self._listener is not None:
            self.drop_client()
            self._watch.pop(self._listener)
            self._listener.close()
            self._listener = None

    def drop_client(self) -> None:
        """Close the connection; a motion ends."""
        if self._client is None:
            return
        self._watch.pop(self._client.tcp, None)
        self._client.tcp.close()
        self._client = self._move = None
        if self._motion.mode is RobotMode.MOVE:
            self._motion.end("aborted")
            self._motion.outcome = None

    def tick(self) -> None:
        """One millisecond: the newest command, the arm, the state."""
        self.time_ms += 1
        command, self._inbox = self._inbox, None
        if command is not None and self.packets_to_drop > 0:
            self.packets_to_drop -= 1
            command = None
        self._motion.step(None if command is None else command[0])
        if self._client and self._client.state_address and not self.is_black_hole:
            if not self.is_frozen:
                self._send_state(self._client.state_address)
            self._tell_outcome()

    def close(self) -> None:
        """Close every socket."""
        self.set_active(False)
        self._watch.pop(self._udp, None)
        self._udp.close()

    def _send_state(self, address: tuple[str, int]) -> None:
        try:
            self._udp.sendto(self._state.refresh(self.time_ms), address)
            self._sent_ms = self.time_ms
        except OSError as error:
            log.debug("state not sent: %s", error)

    def _tell_outcome(self) -> None:
        """Send the second reply to a move that has ended, after the state that shows it."""
        outcome, self._motion.outcome = self._motion.outcome, None
        if outcome and self._move:
            move, self._move = self._move, None
            self._reply(*move, self._profile.move_status[outcome])

    def _take_datagrams(self) -> None:
        """Keep the newest command; stop reading at the one that answers the last state."""
        while True:
            try:
                data = self._udp.recv(READ_SIZE)
            except OSError:  # no more, or an ICMP error of a client that has gone
                return
            if len(data) != self._profile.command_type.itemsize:
                log.warning("a datagram of %d bytes is no command", len(data))
                continue
            command = np.frombuffer(data, self._profile.command_type)
            self._answered_ms = int(command["message_id"][0])
            self.commands_received += 1
            if self._answered_ms >= self._began_ms:  # else it belongs to the motion before
                self._inbox = command
            if self._answered_ms >= self._sent_ms:
                return

    def _accept(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        if self._client is not None and self._client.is_gone():
            self.drop_client()
        if self._client is not None or self.is_busy:
            connection.close()
            return
        self._client = Client(connection)
        self._watch[connection] = self._take_requests

    def _take_requests(self) -> None:
        client = self._client
        if client is None or not client.receive():
            self.drop_client()
            return
        for number, request, payload in client.requests(HEADER):
            if not self.is_black_hole:
                self._answer(number, request, payload)

    def _reply(self, number: int, request: int, status: int, extra: bytes = b"") -> None:
        if self._client is not None:
            body = bytes((status,)) + extra
            header = HEADER.pack(number, request, HEADER.size + len(body))
            self._client.send(header + body)

    def _answer(self, number: int, request: int, payload: bytes) -> None:
        name = self._names.get(number)
        if name == "connect":
            self._connect(number, request, payload)
        elif name == "move":
            self._begin_move(number, request, payload)
        elif name == "stop_move":
            self._stop_move(number, request)
        elif name == "automatic_error_recovery":
            status = self._profile.recovery_status[self._motion.recover()]
            self._reply(number, request, status)
        elif name in self._models:
            self._reply(number, request, 0, self._models[name])
        elif name is not None:
            self._reply(number, request, self._set(name, payload))
        else:
            log.warning("command %d is not one of version %d", number, self._profile.version)

    def _connect(self, number: int, request: int, payload: bytes) -> None:
        version, port = CONNECT.unpack(payload)
        matches = version == self.claimed_version
        claim = self.claimed_version.to_bytes(2, "little")
        self._reply(number, request, 0 if matches else 1, claim)
        if matches and self._client is not None:
            self._client.state_address = (self._client.tcp.getpeername()[0], port)

    def _begin_move(self, number: int, request: int, payload: bytes) -> None:
        status = self._motion.begin(*MOVE.unpack_from(payload))
        if status == "started":
            self._move = (number, request)
            self._began_ms, self._inbox = self.time_ms, None
        self._reply(number, request, self._profile.move_status[status])

    def _stop_move(self, number: int, request: int) -> None:
        moving = self._motion.mode is RobotMode.MOVE
        if moving:
            self._motion.end("preempted")
            self._tell_outcome()
        self._reply(number, request, 0 if moving else 1)

    def _set(self, name: str, payload: bytes) -> int:
        """Carry out a setting; 0, or 1 when it is not possible now."""
        if self._motion.mode is RobotMode.MOVE and name != "set_load":
            return 1
        if name == "set_collision_behavior":
            self._motion.set_collision_behavior(payload)
        elif name == "set_load":
            load = LOAD.unpack(payload)
            self._state.set_load(load[0], load[1:4], load[4:13])
        elif name == "set_ne_to_ee":
            self._state.set_tool(FRAME.unpack(payload))
        elif name == "set_ee_to_k":
            self._state.set_stiffness_frame(FRAME.unpack(payload))
        return 0
