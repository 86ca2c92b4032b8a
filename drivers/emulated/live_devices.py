"""What serves the emulated world to other processes: pseudo-terminals and camera URLs."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit

from drivers.emulated.addresses import servo_port
from drivers.emulated.camera.board import BoardJob
from drivers.emulated.camera.process import CameraJob, CameraProcess
from drivers.emulated.dynamixel.pty_bus import PtyBus
from drivers.emulated.stand_ins import StandIns
from drivers.emulated.world import EmulatedWorld
from teleop.clock import MonotonicClock, Ticker, ns_from_s
from teleop.rig_dynamixel import DynamixelArm

log = logging.getLogger(__name__)

SNAPSHOT_HZ = 120.0
"""Poses per second for the cameras: well above any of their frame rates."""


class LiveDevices:
    """The world's servo buses on pseudo-terminals, and its cameras in a process of their own.

    Args:
        world: The world served.
        folder: Of the run, where ports and the like are made.
        board: A calibration board that somebody shows to the cameras.

    Raises:
        DeviceError: a port cannot be made, or something that is emulated does not start.
    """

    def __init__(self, world: EmulatedWorld, folder: Path, board: BoardJob | None = None) -> None:
        self._world = world
        self._board = board
        now_ns = MonotonicClock().now_ns()
        self._snapshot_ticker = Ticker(ns_from_s(1 / SNAPSHOT_HZ), now_ns)
        self.buses: dict[str, PtyBus] = {}
        self.cameras: CameraProcess | None = None
        self.stand_ins: StandIns | None = None
        try:
            for name, chain in world.chains.items():
                if not isinstance(world.rig.arms[name], DynamixelArm):
                    continue
                port = servo_port(name, folder)
                self.buses[name] = PtyBus(chain, port, world.lock)
                self.buses[name].start()
            self.stand_ins = StandIns(world, folder, now_ns)
            if world.rig.cameras:
                self.cameras = self._start_cameras(now_ns)
        except BaseException:
            self.close()
            raise

    def _start_cameras(self, now_ns: int) -> CameraProcess:
        cameras = self._world.rig.cameras
        first = next(iter(cameras.values()))
        job = CameraJob(
            arms=self._world.plant.shown,
            task=self._world.plant.task.name,
            cameras=cameras,
            port=urlsplit(str(first.source)).port or 0,
            board=self._board,
        )
        process = CameraProcess(job, self._world.plant.snapshot(), now_ns)
        log.info("emulated cameras rendered by %s", process.backend)
        return process

    def show(self, now_ns: int) -> None:
        """Hand the plant's pose to cameras and operators when it is time."""
        if self.stand_ins is not None:
            self.stand_ins.show(now_ns)
        if self.cameras is not None and self._snapshot_ticker.due(now_ns):
            self._snapshot_ticker.advance(now_ns)
            self.cameras.show(now_ns, self._world.plant.snapshot())

    def close(self) -> None:
        """Stop serving."""
        for bus in self.buses.values():
            bus.stop()
        if self.stand_ins is not None:
            self.stand_ins.close()
        if self.cameras is not None:
            self.cameras.close()
