"""The process of the emulated Franka: one loop that serves every port and keeps the pace."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from drivers.emulated.franka.arm import HOME_RAD, EmulatedArm
from drivers.emulated.franka.faults import inject
from drivers.emulated.franka.fci import FciServer, Watch, listen
from drivers.emulated.franka.gripper import GripperServer
from drivers.emulated.franka.model import model_library
from drivers.emulated.franka.motion import MotionControl
from drivers.emulated.franka.profile import PROFILES, RobotMode, RobotName
from teleop.clock import NS_PER_S
from teleop.errors import TandemError

log = logging.getLogger(__name__)

T = TypeVar("T")
Pace = Literal["lockstep", "wall", "free"]
TICK_NS = 1_000_000
CATCH_UP_NS = 20_000_000
"""Lateness that is made up for at once; more is skipped and the robot's clock falls behind."""
PATIENCE_NS = 3 * NS_PER_S
"""Lockstep waits so long for a client's command before it takes the client for gone."""
FIRST_WAIT_NS = 8_000_000
"""How long it waits for a first command; twice that is less than what is made up for."""
LONGEST_WAIT_S = 0.005
READ_SIZE = 65536


@dataclass(frozen=True, slots=True)
class RobotJob:
    """What to emulate, and where."""

    host: str
    robot: RobotName = "fr3"
    pace: Pace = "lockstep"
    desk: bool = True
    desk_port: int = 0
    """0 for any free one."""
    desk_user: str = ""
    desk_password: str = ""
    start_rad: tuple[float, ...] = HOME_RAD
    gripper_latency_s: float = 0.0

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RobotJob:
        """The inverse of ``to_json``."""
        fields = json.loads(text)
        return cls(**(fields | {"start_rad": tuple(fields["start_rad"])}))


class EmulatedFranka:
    """Arm, hand and interfaces in one place; ``run`` is the loop.

    Args:
        job: what to emulate.
        library: model library that a version 5 client is given.

    Raises:
        OSError: a port is taken.
    """

    def __init__(self, job: RobotJob, library: bytes = b"") -> None:
        profile = PROFILES[job.robot]
        self.arm = EmulatedArm(profile, job.start_rad)
        self.motion = MotionControl(profile, self.arm)
        self.watch: Watch = {}
        self.fci = FciServer(job.host, profile, self.arm, self.motion, self.watch, library)
        self.gripper = GripperServer(
            job.host, self.watch, time.monotonic_ns(), job.gripper_latency_s
        )
        self.thaw_ns: int | None = None
        """When a freeze of limited length ends."""
        self.press: Callable[[str, bool], None] | None = None
        """Reports a pilot button down (True) or up."""
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pace = job.pace
        self._control = listen(job.host, 0)
        self.watch[self._control] = self._accept_control
        self._talks: dict[socket.socket, bytes] = {}
        self._stopping = False
        self._ticks = self._late = 0

    @property
    def control_port(self) -> int:
        """Where tests and operators talk to the emulator."""
        return int(self._control.getsockname()[1])

    def ask(self, action: Callable[[], T]) -> Future[T]:
        """Have something done between two ticks; from any thread."""
        future: Future[T] = Future()
        self._orders.put(lambda: future.set_result(action()))
        return future

    def fci_is_active(self) -> bool:
        """Whether the control interface is switched on."""
        return self.fci.is_active

    def set_fci(self, active: bool) -> None:
        """Switch the control interface on or off."""
        self.fci.set_active(active)

    def brakes_are_locked(self) -> bool:
        """Whether the joints are held by their brakes."""
        return self.motion.mode is RobotMode.OTHER

    def lock_brakes(self, locked: bool) -> None:
        """Lock the brakes, or open them."""
        if locked != self.brakes_are_locked():
            self.motion.end("aborted", RobotMode.OTHER if locked else RobotMode.IDLE)

    def run(self, parent_pipe: int | None = None) -> None:
        """Serve until stopped, or until the parent's end of a pipe is closed."""
        due_ns = time.monotonic_ns()
        while not self._stopping:
            due_ns += TICK_NS
            due_ns = self._await_tick(due_ns, parent_pipe)
            self._ticks += 1
            self.fci.tick()
            while not self._orders.empty():
                self._orders.get()()

    def close(self) -> None:
        """Close every port."""
        self.fci.close()
        self.gripper.close()
        for talk in [*self._talks, self._control]:
            talk.close()

    def _await_tick(self, due_ns: int, parent_pipe: int | None) -> int:
        """Sleep until the tick is due, then serve the sockets; when it was due, at last.

        In lockstep it serves on until the client has answered the last state.
        """
        may_hurry = self._pace == "free" and self.motion.is_commanded
        if (wait_ns := due_ns - time.monotonic_ns()) > 0 and not may_hurry:
            time.sleep(wait_ns / NS_PER_S)  # one waking per tick: the costly part
        began_ns = time.monotonic_ns()
        pipes: list[Any] = [] if parent_pipe is None else [parent_pipe]
        while not self._stopping:
            self._look_after(now_ns := time.monotonic_ns())
            owed = self._pace != "wall" and self.fci.awaits_reply
            # A client looks at a state or two before it commands, and then shall not miss any.
            patience_ns = PATIENCE_NS if self.motion.is_commanded else FIRST_WAIT_NS
            if owed and now_ns - began_ns > patience_ns:
                if self.motion.is_commanded:
                    self.motion.reflex("communication_constraints_violation")
                owed = False
            wait_s = LONGEST_WAIT_S if owed else 0.0
            readable, _, _ = select.select([*self.watch, *pipes], [], [], wait_s)
            for ready in readable:
                if ready in pipes:
                    self._stopping = not os.read(ready, READ_SIZE)
                elif ready in self.watch:
                    self.watch[ready]()
            if not (owed and self.fci.awaits_reply):
                break
        late_ns = time.monotonic_ns() - due_ns
        self._late += late_ns > TICK_NS
        return due_ns if late_ns < CATCH_UP_NS and not may_hurry else due_ns + late_ns

    def _look_after(self, now_ns: int) -> None:
        """What goes by the wall's clock: the hand, and the end of a freeze."""
        if now_ns >= self.gripper.due_ns:
            self.gripper.advance(now_ns)
            self._thaw(now_ns)

    def _thaw(self, now_ns: int) -> None:
        if self.thaw_ns is not None and now_ns >= self.thaw_ns:
            self.thaw_ns = None
            self.fci.is_frozen = False

    def _accept_control(self) -> None:
        talk, _ = self._control.accept()
        talk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._talks[talk] = b""
        self.watch[talk] = lambda: self._take_orders(talk)

    def _take_orders(self, talk: socket.socket) -> None:
        """Answer each line of JSON by one."""
        try:
            data = talk.recv(READ_SIZE)
        except OSError:
            data = b""
        if not data:
            self.watch.pop(talk)
            self._talks.pop(talk)
            talk.close()
            return
        *lines, self._talks[talk] = (self._talks[talk] + data).split(b"\n")
        for line in lines:
            try:
                wish = json.loads(line)
                answer: dict[str, Any] = {"ok": self._carry_out(wish.pop("order"), **wish)}
            except (ValueError, TypeError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            talk.sendall(json.dumps(answer).encode() + b"\n")

    def _carry_out(self, order: str, **args: Any) -> object:
        if order == "state":
            return self._state()
        if order == "push":
            self.arm.hand.push(**args)
        elif order == "pull_to":
            self.arm.hand.pull_to(**args)
        elif order == "let_go":
            self.arm.hand.let_go()
        elif order == "press":
            if self.press is None:
                raise ValueError("this emulated robot has no Desk, hence no buttons")
            self.press(args["button"], args["down"])
        elif order == "fault":
            inject(self, **args)
        elif order == "figures":
            return self._figures()
        else:
            raise ValueError(f"no such order: {order!r}")
        return None

    def _state(self) -> dict[str, Any]:
        return {
            "time_ms": self.fci.time_ms,
            "q": self.arm.q.tolist(),
            "dq": self.arm.dq.tolist(),
            "gripper": self.gripper.width_m,
            "grasped": self.gripper.is_grasped,
            "robot_mode": self.motion.mode.name.lower(),
            "guiding": self.motion.yields_to_hand,
            "errors": sorted(self.motion.errors),
            "connected": self.fci.has_client,
        }

    def _figures(self) -> dict[str, Any]:
        return {
            "ticks": self._ticks,
            "late_ticks": self._late,
            "commands": self.fci.commands_received,
            "lost_commands": self.motion.lost_total,
            "cpu_s": time.process_time(),
        }


def serve(job: RobotJob, parent_pipe: int | None = None) -> None:
    """Emulate until stopped; tells its addresses as one line of JSON on standard output.

    Args:
        job: what to emulate.
        parent_pipe: a file descriptor; when its other end closes, the emulation ends.
    """
    # Ctrl-C goes to the whole terminal; whoever started us ends us after our clients.
    if parent_pipe is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        robot = EmulatedFranka(job, model_library().read_bytes() if job.robot == "panda" else b"")
    except (OSError, TandemError) as error:
        _tell({"error": str(error)})
        return
    try:
        with contextlib.ExitStack() as open_parts:
            open_parts.callback(robot.close)
            desk_port = None
            if job.desk:
                desk_port = _open_desk(robot, job, open_parts)
            _tell({"control_port": robot.control_port, "desk_port": desk_port})
            robot.run(parent_pipe)
    except TandemError as error:
        _tell({"error": str(error)})


def _open_desk(robot: EmulatedFranka, job: RobotJob, parts: contextlib.ExitStack) -> int:
    """Start Desk; its port."""
    from drivers.emulated.franka.desk import DeskServer  # its packages are wanted only here

    desk = DeskServer(robot, job.robot, job.host, job.desk_port, job.desk_user, job.desk_password)
    parts.callback(desk.close)
    robot.press = desk.press
    return desk.port


def _tell(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
