"""The buttons on a Franka's wrist (the Pilot), which Desk tells by a websocket, FCI does not.

The arrows tell nothing while FCI is active and the Pilot is set to the end effector. The
websocket's own keepalive notices a cut cable, after some 40 s; a closed session at once.

Tested against a protocol emulator only.
"""

from __future__ import annotations

import logging
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drivers.base import ButtonReading, DeviceHealth, InputReading
from teleop.clock import Clock
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import Frame
from teleop.rig_inputs import PILOT_BUTTONS
from teleop.rig_inputs import FrankaPilot as PilotInput

if TYPE_CHECKING:
    from drivers.franka.franky_link import DeskButtons

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How long one wait for a button lasts; a button itself is told at once."""
CONNECT_S = 15.0
"""Beyond the two requests and the websocket, each with its own timeout."""
RETRY_S = 1.0
CLOSE_S = 3.0


class FrankaPilot:
    """See ``drivers.base.InputDevice``; one input, the buttons of one robot.

    Args:
        name: The input's name in the rig.
        config: Its description.
        clock: Stamps the buttons.
    """

    def __init__(self, name: str, config: PilotInput, clock: Clock) -> None:
        self._name = name
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._readings: list[ButtonReading] = []
        self._pressed: frozenset[str] = frozenset()
        self._failure: DeviceError | None = None
        self._sessions = 0
        self._opened = threading.Event()
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def connect(self) -> None:
        """See ``drivers.base.InputDevice``."""
        self._password = _secret(self._name, self._config.password_file.expanduser())
        self._thread.start()
        if not self._opened.wait(CONNECT_S):
            raise DeviceError(
                f"{self._name}: Desk at {self._config.address} has not answered for "
                f"{CONNECT_S:g} s; open it in a browser to see whether it runs"
            )
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    def take(self, now_ns: int) -> Mapping[str, Sequence[InputReading]]:
        """See ``drivers.base.InputDevice``."""
        with self._lock:
            readings, self._readings = self._readings, []
            failure = self._failure
        if failure is not None and not readings:
            raise DeviceLostError(str(failure))
        return {self._name: readings}

    def cue(self, name: str, state: str, pulse: float) -> None:
        """Desk gives programs no use of the Pilot's lights."""

    def show(self, camera: str, frame: Frame) -> None:
        """The Pilot has no display."""

    def health(self) -> DeviceHealth:
        """See ``drivers.base.InputDevice``."""
        values = {"reconnections": float(max(0, self._sessions - 1))}
        if (failure := self._failure) is not None:
            return DeviceHealth(False, str(failure), values)
        return DeviceHealth(values=values)

    def close(self) -> None:
        """See ``drivers.base.InputDevice``."""
        self._quit.set()
        if self._thread.ident:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        from drivers.franka.franky_link import DeskButtons

        config = self._config
        while not self._quit.is_set():
            try:
                desk = DeskButtons(self._name, config.address, config.username, self._password)
                self._sessions, self._failure = self._sessions + 1, None
                self._opened.set()
                self._listen(desk)
            except Exception as error:  # noqa: BLE001 - whatever it was, nothing stays pressed
                told = (
                    error
                    if isinstance(error, DeviceError)
                    else DeviceError(f"{self._name}: {error}")
                )
                self._lose(told)
                if self._sessions == 0:
                    self._opened.set()
                    return  # ``connect`` tells.
            self._quit.wait(RETRY_S)

    def _listen(self, desk: DeskButtons) -> None:
        try:
            while not self._quit.is_set():
                changes = desk.poll(POLL_S)
                stamp_ns = self._clock.now_ns()
                for button, pressed in changes:
                    self._changed(button, pressed, stamp_ns)
        finally:
            desk.close()

    def _changed(self, button: str, pressed: bool, stamp_ns: int) -> None:
        if button not in PILOT_BUTTONS:
            return
        with self._lock:
            one = frozenset({button})
            self._pressed = self._pressed | one if pressed else self._pressed - one
            self._readings.append(ButtonReading(stamp_ns, self._pressed))

    def _lose(self, error: DeviceError) -> None:
        """Whatever was pressed counts as let go."""
        if str(error) != str(self._failure):
            log.warning("%s", error)
        with self._lock:
            if self._pressed:
                self._pressed = frozenset()
                self._readings.append(ButtonReading(self._clock.now_ns(), self._pressed))
            self._failure = error


def _secret(name: str, file: Path) -> str:
    """The password in a file that nobody else may read.

    Raises:
        DeviceError: the file is absent, empty, or open to others.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
        others = file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"{name}: password_file {file} cannot be read: {error}") from None
    if others:
        raise DeviceError(f"{name}: others may read password_file {file}; run: chmod 600 {file}")
    if not text:
        raise DeviceError(f"{name}: password_file {file} is empty; write Desk's password into it")
    return text
