"""The hand of a Franka as a gripper that is open or closed.

A move takes it about a second whatever the distance, and its state comes ten times a second.
So a thread of its own keeps it: the latest wish wins, and one that differs ends the motion
under way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from drivers.franka.hangup import HAND_PORT, hang_up
from drivers.franka.link import Hand, HandState
from teleop.errors import DeviceError, DeviceLostError, TandemError
from teleop.rig_franka import FrankaGripper

log = logging.getLogger(__name__)

CONNECT_S = 3.0
RETRY_S = 1.0
"""Pause between attempts to find a lost hand."""
CLOSE_S = 4.0


class FrankaHand:
    """Keeps one hand.

    Args:
        name: The arm's name in the rig.
        address: Host of the control box.
        gripper: Its description.
        open_hand: Connects to the hand; called again when it was lost.
    """

    def __init__(
        self, name: str, address: str, gripper: FrankaGripper, open_hand: Callable[[], Hand]
    ) -> None:
        self._name = name
        self._address = address
        self._gripper = gripper
        self._open_hand = open_hand
        self._state: HandState | None = None
        self._wanted: str | None = None
        self._doing: str | None = None  # What the hand does or has done last.
        self._failure: TandemError | None = None
        self._seen = threading.Event()
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name} hand", daemon=True)

    def open(self) -> None:
        """Connect, and wait for the first state.

        Raises:
            DeviceError: there is no hand, or it does not answer.
        """
        self._thread.start()
        if not self._seen.wait(CONNECT_S):
            hang_up(self._address, HAND_PORT)
            raise DeviceError(
                f"{self._name}: the hand has not answered for {CONNECT_S:g} s; check it in Desk, "
                "or set gripper: null"
            )
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    @property
    def opening(self) -> float | None:
        """Measured opening, 0 closed ... 1 open; None while the hand is lost."""
        state = self._state
        return None if state is None else state.width_m / self._gripper.open_width_m

    @property
    def state(self) -> HandState | None:
        """Newest state; None while the hand is lost."""
        return self._state

    @property
    def trouble(self) -> str:
        """Why the hand is lost; else empty."""
        return "" if self._failure is None else str(self._failure)

    def want(self, opening: float) -> None:
        """Ask for an opening; between the two thresholds nothing changes."""
        if opening < self._gripper.close_below:
            self._wanted = "closed"
        elif opening > self._gripper.open_above:
            self._wanted = "open"

    def close(self) -> None:
        """Let go of the connection; the fingers stay. Never raises."""
        self._quit.set()
        if self._thread.ident:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while not self._quit.is_set():
            try:
                hand = self._open_hand()
                try:
                    self._keep(hand)
                finally:
                    hand.release()
            except TandemError as error:
                if str(error) != self.trouble:
                    log.warning("%s", error)
                self._failure, self._state = error, None
                if not self._seen.is_set():
                    self._seen.set()
                    return  # ``open`` tells; a new try is a new connect.
            except Exception as error:
                # Told as a lost hand: an old opening must not pass for a measured one.
                log.exception("%s: unforeseen", self._name)
                self._failure = DeviceLostError(f"{self._name}: the hand's driver failed: {error}")
                self._state = None
                self._seen.set()
                return
            self._quit.wait(RETRY_S)

    def _keep(self, hand: Hand) -> None:
        """Read and obey until asked to quit, or the hand is lost."""
        self._doing = None
        while not self._quit.is_set():
            self._state, self._failure = hand.read(), None
            if not self._seen.is_set():
                # A hand found open stays; one found closed may hold nothing, so it may be closed.
                opening = self._state.width_m / self._gripper.open_width_m
                self._doing = "open" if opening > self._gripper.open_above else None
                self._seen.set()
            wanted = self._wanted
            if wanted is None or wanted == self._doing:
                continue
            if not hand.is_done():
                hand.stop()
            if wanted == "open":
                hand.begin_open(self._gripper.open_width_m, self._gripper.speed_m_s)
            else:
                gripper = self._gripper
                hand.begin_close(gripper.open_width_m, gripper.speed_m_s, gripper.force_n)
            self._doing = wanted
