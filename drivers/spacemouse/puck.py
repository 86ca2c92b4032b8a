"""SpaceMice, 6-D pucks by 3Dconnexion.

A thread takes every report at once, since the kernel keeps 63 and drops what comes then, the
release among them.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from drivers.base import DeviceHealth, PuckReading
from drivers.spacemouse.hid import (
    UDEV_FILE,
    UDEV_RULE,
    HidLibrary,
    Probe,
    Puck,
    identify,
    probe,
)
from drivers.spacemouse.motion import PuckMotion
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import FloatArray, Frame
from teleop.rig_inputs import SpaceMouse as SpaceMouseConfig

__all__ = ["UDEV_FILE", "UDEV_RULE", "Probe", "SpaceMouseDevice", "identify", "probe"]

log = logging.getLogger(__name__)

TICK_MS = 10
"""Longest wait for a report, and so how late silence is noticed, or the lamp switched."""
KERNEL_KEEPS = 63
"""Unread reports that the kernel keeps (drivers/hid/hidraw.c: HIDRAW_BUFFER_SIZE less one)."""
BATCH = 64
"""Reports taken before what they come to is told: a flood must not silence the puck."""
BACK_OFF_S = (0.05, 0.25, 0.5, 1.0)
"""Pauses before attempts to open a lost puck; the last one repeats."""
BLINK_NS = ns_from_s(0.25)
MAX_READINGS = 1024
"""Kept for ``take``: four seconds of a split model; the oldest go first."""
CLOSE_S = 2.0


class SpaceMouseDevice:
    """One puck; see ``drivers.base.InputDevice``.

    Deflections count from 0.3 s after opening, and only once the puck was seen at rest. The lamp
    shines while engaged and blinks while the arm is lost or stopped.

    Args:
        name: The input's name in the rig.
        config: Its description.
        clock: Stamps readings; must run in real time.
    """

    def __init__(self, name: str, config: SpaceMouseConfig, clock: Clock) -> None:
        self._name = name
        self._config = config
        self._clock = clock
        self._motion = PuckMotion(config.deadzone, config.silence_s)
        self._lock = threading.Lock()
        self._readings: deque[PuckReading] = deque(maxlen=MAX_READINGS)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._device = config.device
        self._lost = ""
        """Why the puck is away; empty while it is there. Written by the thread."""
        self._backlog = 0
        """Reports read since there was none left."""
        self._cue = "idle"
        self._lamp: bool | None = None
        """As last written; None while unknown."""
        self._counts = dict.fromkeys(("reports", "overruns", "losses", "reopen_attempts"), 0.0)

    def connect(self) -> None:
        """See ``drivers.base.InputDevice``.

        Raises:
            DeviceError: no hidapi, no such puck, several to choose from, or it does not open.
            MissingExtraError: pyspacemouse is not installed.
        """
        try:
            self._hidapi = HidLibrary(self._config.library)
            puck = self._open()
        except DeviceError as error:
            raise DeviceError(f"{self._name}: {error}") from None
        if self._config.path is None:  # It may come back in the company of another kind.
            self._device = puck.kind
        self._thread = threading.Thread(
            target=self._run, args=(puck,), name=f"spacemouse-{self._name}", daemon=True
        )
        self._thread.start()

    def take(self, now_ns: int) -> Mapping[str, Sequence[PuckReading]]:
        """See ``drivers.base.InputDevice``; the last reading before a loss is of a puck let go.

        Raises:
            DeviceLostError: at every call while it is away.
        """
        with self._lock:
            readings = tuple(self._readings)
            self._readings.clear()
        if readings:
            return {self._name: readings}
        if self._gone:
            raise DeviceLostError(f"{self._name}: {self._gone}")
        return {}

    def cue(self, name: str, state: str, pulse: float) -> None:
        """Show the state by the lamp; a puck has nothing to give a pulse with."""
        self._cue = state

    def show(self, camera: str, frame: Frame) -> None:
        """A puck has no display."""

    def health(self) -> DeviceHealth:
        """Whether it is there and believed, with counts of what went wrong."""
        words = self._gone or self._motion.fault
        values = self._counts | {"silences": float(self._motion.silences)}
        return DeviceHealth(not words, f"{self._name}: {words}" if words else "", values)

    def close(self) -> None:
        """Stop reading; the lamp goes out."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                log.warning("%s: still blocked in the device on closing", self._name)

    @property
    def _gone(self) -> str:
        thread = self._thread
        if self._lost or thread is None or thread.is_alive() or self._stop.is_set():
            return self._lost
        return "its reading thread has died; restart the rig"

    # The reading thread

    def _run(self, puck: Puck | None) -> None:
        # A signal would end a wait for the next report as if the puck had been unplugged.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if puck is not None:
            self._welcome(puck)
        while not self._stop.is_set():
            if puck is None:
                puck = self._reopen()
                continue
            try:
                self._take_reports(puck)
            except DeviceLostError as error:
                self._note_loss(str(error))
                puck.close()
                puck = None
        if puck is not None:
            puck.set_lamp(False)
            puck.close()

    def _welcome(self, puck: Puck) -> None:
        """Begin anew with a puck that was just opened."""

        def axes(deflection: FloatArray) -> None:
            self._motion.axes(deflection, self._clock.now_ns())

        def buttons(pressed: frozenset[str]) -> None:
            self._motion.buttons(pressed, self._clock.now_ns())

        puck.on_axes, puck.on_buttons = axes, buttons
        self._lamp = None
        self._backlog = 0
        self._motion.restart(self._clock.now_ns())

    def _take_reports(self, puck: Puck) -> None:
        """Wait for a report, take all there are, and tell what they come to."""
        count, more = 0, True
        while more and count < BATCH:
            more = puck.read(0 if count or self._backlog else TICK_MS)
            count += more
        self._counts["reports"] += count
        self._backlog += count
        now_ns = self._clock.now_ns()
        if not more:
            if self._backlog >= KERNEL_KEEPS:
                # There were more than that, perhaps. A lost release of the puck shows as silence,
                # one of a button does not.
                self._counts["overruns"] += 1
                self._motion.forget_buttons(now_ns)
            self._backlog = 0
        readings = self._motion.tick(now_ns)
        with self._lock:
            self._readings.extend(readings)
        self._show_cue(puck, now_ns)

    def _show_cue(self, puck: Puck, now_ns: int) -> None:
        blinking = self._cue in ("lost", "stopped") and now_ns // BLINK_NS % 2 == 0
        wanted = self._cue in ("engaged", "limited") or blinking
        if wanted != self._lamp:
            puck.set_lamp(wanted)
            self._lamp = wanted

    def _note_loss(self, words: str) -> None:
        self._counts["losses"] += 1
        with self._lock:
            self._readings.extend(self._motion.lost(self._clock.now_ns()))
            self._lost = words

    def _reopen(self) -> Puck | None:
        """Try until the puck is back; None when asked to stop."""
        attempt = 0
        while not self._stop.wait(BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]):
            attempt += 1
            self._counts["reopen_attempts"] += 1
            try:
                puck = self._open()
            except DeviceError as error:
                self._lost = f"lost: {error}"
                continue
            self._welcome(puck)
            self._lost = ""
            return puck
        return None

    def _open(self) -> Puck:
        return self._hidapi.open(self._config.path, self._device)
