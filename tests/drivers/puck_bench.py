"""Emulated SpaceMice on a bench, and drivers that read them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from drivers.base import PuckReading
from drivers.emulated.spacemouse.hid_mouse import HidMouse, emulated_fields
from drivers.emulated.stand_in import PuckPush
from drivers.spacemouse.puck import SpaceMouseDevice
from teleop.clock import Clock, MonotonicClock, ns_from_s
from teleop.errors import DeviceLostError
from teleop.rig_inputs import SpaceMouse
from tests.waiting import wait_until

CLOCK = MonotonicClock()
PATIENCE_S = 20.0
REST = PuckPush(np.zeros(3), np.zeros(3))


def push(x: float = 0, y: float = 0, z: float = 0, yaw: float = 0, *buttons: str) -> PuckPush:
    return PuckPush(np.array([x, y, z]), np.array([0.0, 0.0, yaw]), frozenset(buttons))


class StallingClock(MonotonicClock):
    """A clock by which a driver's thread can be held up, as a busy machine holds it."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self._held = threading.Event()
        self._go.set()

    def stall(self) -> None:
        """Hold the thread; it is held when this returns."""
        self._go.clear()
        assert self._held.wait(PATIENCE_S)

    def go_on(self) -> None:
        """Let it go."""
        self._held.clear()
        self._go.set()

    def now_ns(self) -> int:
        if not self._go.is_set() and threading.current_thread().name.startswith("spacemouse"):
            self._held.set()
            self._go.wait(PATIENCE_S)
        return super().now_ns()


class Bench:
    """Emulated pucks and drivers that read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pucks: list[HidMouse] = []
        self.devices: list[SpaceMouseDevice] = []

    def puck(self, name: str, **options: object) -> HidMouse:
        made = HidMouse(name, self.folder, **options)  # type: ignore[arg-type]
        made.start()
        self.pucks.append(made)
        return made

    def config(self, name: str = "puck", **fields: object) -> SpaceMouse:
        return SpaceMouse.model_validate(emulated_fields(name, self.folder) | fields)

    def driver(self, name: str = "puck", clock: Clock = CLOCK, **fields: object) -> Hand:
        device = SpaceMouseDevice(name, self.config(name, **fields), clock)
        device.connect()
        self.devices.append(device)
        return Hand(name, device)

    def close(self) -> None:
        for device in self.devices:
            device.close()
        for puck in self.pucks:
            puck.close()


class Hand:
    """A driver, with all that it has told so far."""

    def __init__(self, name: str, device: SpaceMouseDevice) -> None:
        self.name = name
        self.device = device
        self.told: list[PuckReading] = []
        self.lost = ""

    def look(self) -> PuckReading | None:
        """Take what there is; the newest reading of all, none while lost."""
        try:
            self.told.extend(self.device.take(CLOCK.now_ns()).get(self.name, ()))
            self.lost = ""
        except DeviceLostError as error:
            self.lost = str(error)
        return self.told[-1] if self.told else None

    def wait(self, condition: Callable[[PuckReading], bool], what: str) -> PuckReading:
        def reached() -> bool:
            newest = self.look()
            return newest is not None and condition(newest)

        wait_until(reached, what)
        return self.told[-1]

    def wait_for_motion(self) -> PuckReading:
        return self.wait(lambda r: bool(r.linear.any() or r.angular.any()), "motion")

    def wait_for_rest(self) -> PuckReading:
        return self.wait(lambda r: not (r.linear.any() or r.angular.any()), "rest")

    def settle(self) -> Hand:
        """Wait until a push would count: 0.3 s after opening."""
        count = len(self.told)
        first = self.wait(lambda _: len(self.told) > count, "a first reading")
        self.wait(lambda r: r.stamp_ns > first.stamp_ns + ns_from_s(0.35), "the puck to settle")
        return self

    def wait_for_loss(self) -> str:
        wait_until(lambda: self.look() is not None and bool(self.lost), "the loss")
        return self.lost
