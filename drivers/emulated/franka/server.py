"""A Franka to talk to without one: starts the emulator's process and steers it.

``python -m drivers.emulated.franka.server`` runs one by hand; ``FrankaEmulator`` is for tests
and for ``--emulate``. The client below it is the manufacturer's unmodified library.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args

from drivers.emulated.franka.arm import HOME_RAD
from drivers.emulated.franka.gripper import GRIPPER_PORT
from drivers.emulated.franka.process import Pace, RobotJob, serve
from drivers.emulated.franka.profile import FCI_PORT, RobotName
from teleop.errors import DeviceError, DeviceLostError

START_TIMEOUT_S = 30.0
"""Importing takes a fraction of a second, and many on a loaded machine."""
ANSWER_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 3.0
PRESS_S = 0.05
"""How long a button is held."""
ATTEMPTS = 5
"""Hosts tried when another process takes the ports between choosing and starting."""
STIFFNESS_NM_RAD, CAP_NM = 60.0, 15.0
"""The hand: about as firm as a person who guides the arm, and below any sensible threshold."""


def free_franka_host() -> str:
    """A loopback address of this machine on which both of the robot's ports are free.

    Raises:
        DeviceError: none was found; the machine has no loopback aliases.
    """
    for _ in range(100):
        host = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(2, 254)}"
        if _can_listen(host, FCI_PORT) and _can_listen(host, GRIPPER_PORT):
            return host
    raise DeviceError(
        f"emulated Franka: no loopback address 127.x.y.z has ports {FCI_PORT} and "
        f"{GRIPPER_PORT} free; this needs Linux, where the whole of 127.0.0.0/8 is local"
    )


def _can_listen(host: str, port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class FrankaEmulator:
    """An emulated arm, its hand and its Desk in a process of their own.

    The process ends with ``close``, and also when this one dies in whatever way.

    Args:
        robot: ``fr3`` (server version 10) or ``panda`` (version 5).
        host: a loopback address whose ports 1337 and 1338 are free; None takes one.
        pace: ``lockstep`` ticks when the client has answered the last state, at most at
            1 kHz; ``wall`` ticks every millisecond and counts late commands as lost;
            ``free`` is lockstep as fast as it goes.
        desk: whether Desk runs beside it.
        desk_port: where; 0 for any free port.
        start_rad: where the arm stands, shape (7,); None for the manufacturer's home pose.
        gripper_latency_s: least duration of the hand's moves.
        desk_user: who may log into Desk.
        desk_password: and how.
    """

    def __init__(
        self,
        robot: RobotName = "fr3",
        host: str | None = None,
        pace: Pace = "lockstep",
        desk: bool = True,
        start_rad: Sequence[float] | None = None,
        desk_port: int = 0,
        gripper_latency_s: float = 0.0,
        desk_user: str = "operator",
        desk_password: str = "emulated",
    ) -> None:
        self.robot = robot
        self.host = host or free_franka_host()
        self.desk_address = ""
        """``host:port`` of Desk once started; empty without."""
        self.desk_user = desk_user
        self.desk_password = desk_password
        self._host_is_given = host is not None
        self._job = RobotJob(
            host=self.host,
            robot=robot,
            pace=pace,
            desk=desk,
            desk_port=desk_port,
            desk_user=desk_user,
            desk_password=desk_password,
            start_rad=tuple(map(float, HOME_RAD if start_rad is None else start_rad)),
            gripper_latency_s=gripper_latency_s,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._talk: socket.socket | None = None
        self._unread = b""
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Process id of the running emulator."""
        return self._running().pid

    def start(self) -> None:
        """Start the process; it serves when this returns.

        Raises:
            DeviceError: it did not start; says why.
        """
        for attempt in range(ATTEMPTS):
            try:
                self._start()
                break
            except DeviceError:
                self.close()
                if self._host_is_given or attempt == ATTEMPTS - 1:
                    raise
                self.host = free_franka_host()
        atexit.register(self.close)

    def close(self) -> None:
        """End the process, by force if need be."""
        atexit.unregister(self.close)
        if self._talk is not None:
            self._talk.close()
            self._talk = None
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the process ends when this pipe does
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def kill(self) -> None:
        """Pull the robot's plug: the process ends at once, without a word to its clients."""
        process = self._running()
        process.kill()
        process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self) -> dict[str, Any]:
        """What is true of the robot now.

        Returns:
            ``time_ms``, ``q`` (7, rad), ``dq`` (7, rad/s), ``gripper`` (m), ``grasped``,
            ``robot_mode`` (idle, move, guiding, reflex, user_stopped, recovery, other),
            ``guiding`` (whether the arm yields to the hand), ``errors``, ``connected``.
        """
        state: dict[str, Any] = self._ask("state")
        return state

    def figures(self) -> dict[str, Any]:
        """Counters: ``ticks``, ``late_ticks``, ``commands``, ``lost_commands``, ``cpu_s``."""
        figures: dict[str, Any] = self._ask("figures")
        return figures

    def push(self, torque_nm: Sequence[float]) -> None:
        """Press on the joints with these torques, shape (7,), until told otherwise."""
        self._ask("push", torque_nm=[float(value) for value in torque_nm])

    def hand_to(
        self,
        q_rad: Sequence[float] | None,
        stiffness_nm_rad: float = STIFFNESS_NM_RAD,
        cap_nm: float = CAP_NM,
    ) -> None:
        """Draw the arm towards a pose by a damped spring; None lets go.

        Args:
            q_rad: joint positions, shape (7,).
            stiffness_nm_rad: of the spring, per joint.
            cap_nm: the most it pulls, per joint.
        """
        if q_rad is None:
            self._ask("let_go")
            return
        target = [float(value) for value in q_rad]
        self._ask("pull_to", target_rad=target, stiffness_nm_rad=stiffness_nm_rad, cap_nm=cap_nm)

    def press(self, button: str, hold_s: float = PRESS_S) -> None:
        """Press and release a pilot button: check, circle, cross, up, down, left, right."""
        self._ask("press", button=button, down=True)
        time.sleep(hold_s)
        self._ask("press", button=button, down=False)

    def fault(self, kind: str, **args: Any) -> None:
        """Let something go wrong; the names and their arguments are ``faults.FAULTS``.

        Raises:
            ValueError: there is no such fault.
        """
        self._ask("fault", kind=kind, **args)

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
        }
        job = dataclasses.replace(self._job, host=self.host)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "drivers.emulated.franka.server", "--job", job.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        addresses = self._await_addresses(self._process)
        if addresses["desk_port"] is not None:
            self.desk_address = f"{self.host}:{addresses['desk_port']}"
        self._talk = socket.create_connection(
            (self.host, addresses["control_port"]), ANSWER_TIMEOUT_S
        )
        self._talk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _await_addresses(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        if not ready:
            raise DeviceError(
                f"emulated Franka: not ready within {START_TIMEOUT_S:g} s; "
                "the machine is overloaded"
            )
        line = process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its output says why"}
        if "error" in answer:
            raise DeviceError(f"emulated Franka at {self.host} does not start: {answer['error']}")
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise DeviceError("emulated Franka: not started; call start first")
        return self._process

    def _ask(self, order: str, **args: Any) -> Any:
        self._running()
        request = json.dumps({"order": order} | args).encode() + b"\n"
        with self._lock:
            try:
                line = self._exchange(request)
            except OSError as error:
                raise DeviceLostError(
                    f"emulated Franka at {self.host}: its process does not answer ({error})"
                ) from error
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["ok"]

    def _exchange(self, request: bytes) -> bytes:
        if self._talk is None:
            raise OSError("no connection")
        self._talk.sendall(request)
        while b"\n" not in self._unread:
            data = self._talk.recv(65536)
            if not data:
                raise OSError("connection closed")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return line


def main() -> None:
    """Emulate one robot until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Emulate a Franka arm on a loopback address.")
    parser.add_argument("--robot", choices=get_args(RobotName), default="fr3")
    parser.add_argument("--host", help="loopback address; default: one with free ports")
    parser.add_argument("--pace", choices=get_args(Pace), default="lockstep")
    parser.add_argument("--desk-port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        serve(RobotJob.from_json(options.job), sys.stdin.fileno())
        return
    job = RobotJob(
        host=options.host or free_franka_host(),
        robot=options.robot,
        pace=options.pace,
        desk_port=options.desk_port,
    )
    sys.stdout.write(f"emulated {job.robot} at {job.host}, ends with Ctrl-C\n")
    with contextlib.suppress(KeyboardInterrupt):
        serve(job)


if __name__ == "__main__":
    main()
