"""The emulated cameras of the process runner: rendered and served by a process of their own.

The world's process holds a ``CameraProcess`` and shows it the plant's pose; the process renders
each camera at its own rate from the newest pose and serves the JPEGs by ``MjpegServer``, where
the real camera driver reads them.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import zmq

from drivers.emulated.camera.board import BoardHolder, BoardJob, add_board
from drivers.emulated.camera.mjpeg_camera import MjpegServer
from drivers.emulated.camera.rendering import BACKENDS, Backend, SceneRenderer, choose_backend
from drivers.emulated.camera.shutter import Shutter
from drivers.emulated.plant import build_model
from teleop.clock import NS_PER_S, MonotonicClock, Ticker
from teleop.errors import DeviceError, TandemError
from teleop.messages import FloatArray
from teleop.rig import OpenCvCamera as CameraConfig

log = logging.getLogger(__name__)

FAULTS = ("freeze", "stall", "thaw", "unplug", "replug")
"""Names of the ``MjpegServer`` methods that can be asked for from outside."""
_POSE, _FAULT, _STOP = b"pose", b"fault", b"stop"
_STAMP = struct.Struct("<q")
_QUEUED_POSES = 100
_START_TIMEOUT_S = 120.0
"""Importing, probing OpenGL and compiling the scene take seconds, more on a loaded machine."""
_STOP_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_MS = 10_000
_IDLE_WAIT_MS = 200


@dataclass(frozen=True, slots=True)
class CameraJob:
    """What the process renders. Plain values: they travel to a fresh process."""

    arms: tuple[str, ...]
    """As the plant was built with, so that both have the same ``qpos``."""
    task: str
    cameras: Mapping[str, CameraConfig]
    port: int = 0
    """TCP port of the server, 0 for any free one."""
    backend: Backend | None = None
    """None: the best one that works."""
    burn_in: bool = False
    """Draw number and stamp into the pictures, see ``burnt_stamp``."""
    board: BoardJob | None = None
    """A calibration board that somebody shows to the cameras."""


class CameraProcess:
    """The world's end: starts the process, feeds it poses, injects faults, stops it.

    Args:
        job: what to render.
        qpos: shape (nq,), the pose to show until the first ``show``.
        now_ns: its time.

    Raises:
        DeviceError: the process did not get ready; says why.
    """

    def __init__(self, job: CameraJob, qpos: FloatArray, now_ns: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUED_POSES)
        self._socket.setsockopt(zmq.LINGER, 0)
        feed_port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe(duplex=False)
        self._process = spawn.Process(
            target=run,
            args=(job, f"tcp://127.0.0.1:{feed_port}", theirs),
            name="emulated-cameras",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        try:
            self.port, self.backend = self._await_ready(ours)
            # Until the process has connected there is nobody to send to.
            if not self._socket.poll(_CONNECT_TIMEOUT_MS, zmq.POLLOUT):
                raise DeviceError("emulated cameras: their process does not listen for poses")
        except BaseException:
            self.close()
            raise
        self.show(now_ns, qpos)

    def _await_ready(self, answers: Connection) -> tuple[int, Backend]:
        """Port and rendering backend that the process settled on."""
        try:
            if not answers.poll(_START_TIMEOUT_S):
                raise DeviceError(
                    f"emulated cameras: not ready within {_START_TIMEOUT_S:g} s; "
                    "the machine is overloaded or OpenGL hangs"
                )
            answer: dict[str, str] = json.loads(answers.recv_bytes())
        except EOFError:
            self._process.join(_STOP_TIMEOUT_S)
            raise DeviceError(
                "emulated cameras: their process ended while starting "
                f"(exit status {self._process.exitcode}); its own output says why"
            ) from None
        if "error" in answer:
            raise DeviceError(answer["error"])
        return int(answer["port"]), _backend_named(answer["backend"])

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.is_alive()

    def show(self, now_ns: int, qpos: FloatArray) -> bool:
        """Hand over the plant's pose, shape (nq,); False when the process is too far behind."""
        try:
            self._socket.send_multipart(
                (_POSE, _STAMP.pack(now_ns), np.asarray(qpos, np.float64).tobytes()), zmq.NOBLOCK
            )
        except zmq.Again:
            return False
        return True

    def fault(self, camera: str, kind: str) -> None:
        """Inject or end a fault, one of ``FAULTS``."""
        if kind not in FAULTS:
            raise ValueError(f"camera fault {kind!r}: one of {', '.join(FAULTS)}")
        self._socket.send_multipart((_FAULT, camera.encode(), kind.encode()))

    def close(self) -> None:
        """Stop the process."""
        try:
            self._socket.send_multipart((_STOP,), zmq.NOBLOCK)
        except zmq.Again:
            log.debug("camera process does not listen, it is terminated")
        self._process.join(_STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._socket.close()
        self._context.term()


def run(job: CameraJob, feed_address: str, answers: Connection) -> None:
    """Body of the process: render and serve until told to stop or the parent is gone."""
    # Ctrl-C and hang-up go to the whole terminal; the parent stops us after the cameras' readers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = os.getppid()
    try:
        backend = job.backend or choose_backend()
        server = MjpegServer(tuple(job.cameras), job.port)
        studio = _Studio(job, backend, server)
    except TandemError as error:
        answers.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    context = zmq.Context()
    feed = context.socket(zmq.PULL)
    feed.setsockopt(zmq.RCVHWM, _QUEUED_POSES)
    feed.connect(feed_address)
    answers.send_bytes(json.dumps({"port": server.port, "backend": backend}).encode())
    answers.close()
    try:
        while os.getppid() == parent and studio.take_in(feed):
            studio.shoot()
    finally:
        server.close()
        feed.close(linger=0)
        context.term()


class _Studio:
    """Renders the cameras at their rates from the newest pose."""

    def __init__(self, job: CameraJob, backend: Backend, server: MjpegServer) -> None:
        board = job.board
        model = build_model(
            job.arms, job.task, lambda spec: add_board(spec, board.board) if board else None
        )
        renderer = SceneRenderer(model, backend)
        self._holder: BoardHolder | None = None
        if board is not None:
            seen = job.cameras[board.camera]
            self._holder = BoardHolder(board, model, renderer, seen.width / seen.height)
        self._server = server
        self._clock = MonotonicClock()
        self._pose = np.zeros(model.nq)
        self._pose_ns: int | None = None
        self._shutters = {
            name: Shutter(name, config, renderer, job.burn_in)
            for name, config in job.cameras.items()
        }
        self._tickers = _staggered(job.cameras, self._clock.now_ns())
        for name, config in job.cameras.items():
            # A camera that the scene lacks is refused now, and OpenGL is warm before we serve.
            renderer.render(self._pose, name, config.width, config.height)

    def take_in(self, feed: zmq.Socket[bytes]) -> bool:
        """Wait until the next picture is due, then read what came; False when told to stop."""
        if self._pose_ns is None:
            feed.poll(_IDLE_WAIT_MS)
        else:
            self._clock.sleep_until_ns(min(t.deadline_ns for t in self._tickers.values()))
        while True:
            try:
                kind, *parts = feed.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            if kind == _STOP:
                return False
            if kind == _POSE:
                self._pose_ns = _STAMP.unpack(parts[0])[0]
                self._pose = np.frombuffer(parts[1], np.float64)
            else:
                getattr(self._server, parts[1].decode())(parts[0].decode())

    def shoot(self) -> None:
        """Take and publish the pictures that are due."""
        if self._pose_ns is None:
            return
        for name, ticker in self._tickers.items():
            if ticker.due(now_ns := self._clock.now_ns()):
                ticker.advance(now_ns)
                if self._holder is not None:
                    self._holder.hold(self._pose, now_ns)
                self._server.publish(name, self._shutters[name].picture(self._pose, self._pose_ns))


def _staggered(cameras: Mapping[str, CameraConfig], start_ns: int) -> dict[str, Ticker]:
    """One ticker per camera, spread over the frame period so that work does not come in bursts."""
    periods = {name: round(NS_PER_S / config.fps) for name, config in cameras.items()}
    return {
        name: Ticker(period, start_ns + i * period // len(periods))
        for i, (name, period) in enumerate(periods.items())
    }


def _backend_named(name: str) -> Backend:
    return next(backend for backend in BACKENDS if backend == name)
