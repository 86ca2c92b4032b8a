"""The emulated Franka hand: its command port, its 10 Hz states, its two fingers."""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from typing import NamedTuple

from drivers.emulated.franka.fci import Client, Watch, listen
from drivers.emulated.franka.profile import CONNECT

GRIPPER_PORT = 1338
VERSION = 3
"""The hand's interface is the same for both arms."""
HEADER = struct.Struct("<HII")
"""Command, id, size with this header."""
MOVE = struct.Struct("<dd")
"""Width, speed."""
GRASP = struct.Struct("<ddddd")
"""Width, tolerance inwards and outwards, speed, force."""
STATE = struct.Struct("<Idd?H")
"""Counter, width, largest width, grasped, temperature."""


class Request(IntEnum):
    """Command numbers."""

    CONNECT = 0
    HOMING = 1
    GRASP = 2
    MOVE = 3
    STOP = 4


class Status(IntEnum):
    """How a command ended."""

    SUCCESS = 0
    FAIL = 1
    UNSUCCESSFUL = 2
    ABORTED = 3


MAX_WIDTH_M = 0.08
HOMING_SPEED_M_S = 0.1
STATE_PERIOD_NS = 100_000_000
"""Users report ten to fifteen states a second."""
STEP_NS = 5_000_000
"""How often the fingers are looked after."""
TEMPERATURE_C = 28


class _Job(NamedTuple):
    """A command that has not been answered yet."""

    command: int
    request: int
    goal_m: float
    speed_m_s: float
    accepted_m: tuple[float, float] | None
    """Of a grasp: the widths between which something is held."""
    earliest_ns: int


class GripperServer:
    """The hand on TCP port 1338 of ``host``; two moves at once abort the first.

    Args:
        host: where to listen.
        watch: sockets are entered here.
        now_ns: the time.
        latency_s: least duration of a move; the FR3's hand is reported to take about 1 s for
            any distance.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, host: str, watch: Watch, now_ns: int, latency_s: float = 0.0) -> None:
        self.width_m = MAX_WIDTH_M
        self.object_m: float | None = None
        """Width of the thing between the fingers."""
        self.is_grasped = False
        self.is_frozen = False
        """Whether states have stopped."""
        self.latency_s = latency_s
        self.due_ns = now_ns
        """When ``advance`` is wanted next."""
        self._host = host
        self._watch = watch
        self._client: Client | None = None
        self._job: _Job | None = None
        self._moved_ns = self._state_ns = now_ns
        self._count = 0
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((host, 0))
        self._listener = listen(host, GRIPPER_PORT)
        watch[self._listener] = self._accept

    def advance(self, now_ns: int) -> None:
        """Move the fingers, answer what is finished, send the state when it is time."""
        elapsed_s = (now_ns - self._moved_ns) * 1e-9
        self._moved_ns, self.due_ns = now_ns, now_ns + STEP_NS
        arrived = self._job is not None and self._close_in(self._job, elapsed_s)
        if arrived and self._job is not None and now_ns >= self._job.earliest_ns:
            self._finish(self._job)
        if now_ns >= self._state_ns:
            self._state_ns = max(self._state_ns + STATE_PERIOD_NS, now_ns)
            self._send_state()

    def drop_client(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._watch.pop(self._client.tcp, None)
            self._client.tcp.close()
            self._client = None

    def close(self) -> None:
        """Close every socket."""
        self.drop_client()
        self._watch.pop(self._listener, None)
        self._listener.close()
        self._udp.close()

    def _close_in(self, job: _Job, elapsed_s: float) -> bool:
        """Move towards the job's goal or the object; True on arrival."""
        goal = job.goal_m
        if self.object_m is not None and self.width_m >= self.object_m:
            goal = max(goal, self.object_m)
        step = job.speed_m_s * elapsed_s
        self.width_m += max(-step, min(step, goal - self.width_m))
        return abs(goal - self.width_m) < 1e-9

    def _finish(self, job: _Job) -> None:
        self._job = None
        status = Status.SUCCESS
        if job.accepted_m is not None:
            lowest, highest = job.accepted_m
            self.is_grasped = self.object_m is not None and lowest < self.width_m < highest
            status = Status.SUCCESS if self.is_grasped else Status.UNSUCCESSFUL
        self._reply(job.command, job.request, status)

    def _send_state(self) -> None:
        client = self._client
        if client is None or client.state_address is None or self.is_frozen:
            return
        self._count += 1
        state = STATE.pack(self._count, self.width_m, MAX_WIDTH_M, self.is_grasped, TEMPERATURE_C)
        self._udp.sendto(state, client.state_address)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if self._client is not None and not self._client.is_gone():
            connection.close()
            return
        self.drop_client()
        self._client = Client(connection)
        self._watch[connection] = self._take_requests

    def _take_requests(self) -> None:
        client = self._client
        if client is None or not client.receive():
            self.drop_client()
            return
        for command, request, payload in client.requests(HEADER):
            self._answer(command, request, payload)

    def _answer(self, command: int, request: int, payload: bytes) -> None:
        if command == Request.CONNECT:
            version, port = CONNECT.unpack(payload)
            matches = version == VERSION
            self._reply(command, request, 0 if matches else 1, VERSION.to_bytes(2, "little"))
            if matches and self._client is not None:
                self._client.state_address = (self._client.tcp.getpeername()[0], port)
            return
        if self._job is not None:
            job, self._job = self._job, None
            self._reply(job.command, job.request, Status.ABORTED)
        if command == Request.STOP:
            self._reply(command, request, Status.SUCCESS)
        elif command == Request.HOMING:
            self._begin(command, request, MAX_WIDTH_M, HOMING_SPEED_M_S)
        elif command == Request.MOVE:
            self._begin(command, request, *MOVE.unpack(payload))
        elif command == Request.GRASP:
            width, inwards, outwards, speed, _force = GRASP.unpack(payload)
            self._begin(command, request, 0.0, speed, (width - inwards, width + outwards))

    def _begin(
        self,
        command: int,
        request: int,
        goal_m: float,
        speed_m_s: float,
        accepted_m: tuple[float, float] | None = None,
    ) -> None:
        if not 0.0 <= goal_m <= MAX_WIDTH_M + 1e-6 or speed_m_s <= 0.0:
            self._reply(command, request, Status.FAIL)
            return
        self.is_grasped = False
        earliest_ns = self._moved_ns + round(self.latency_s * 1e9)
        self._job = _Job(command, request, goal_m, speed_m_s, accepted_m, earliest_ns)

    def _reply(self, command: int, request: int, status: int, extra: bytes = b"") -> None:
        if self._client is not None:
            body = struct.pack("<H", status) + extra
            self._client.send(HEADER.pack(command, request, HEADER.size + len(body)) + body)
