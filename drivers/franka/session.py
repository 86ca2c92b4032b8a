"""One connection to one Franka, kept by a thread of its own.

The vendors' constructors can wait forever and raise the calling thread's priority, their
destructors wait for threads; so one thread of ours does all of that, and everybody else asks it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from drivers.franka.hangup import FCI_PORT, hang_up
from drivers.franka.link import FrankaLink
from drivers.franka.words import silent
from teleop.errors import DeviceError, DeviceLostError, TandemError

log = logging.getLogger(__name__)

CONNECT_S = 2.0
"""A control box in the same network answers within milliseconds."""
END_S = 0.5
"""For a constructor whose connection was ended under it."""
PASS_S = 0.004
"""Pause between two looks while control runs by itself at 1 kHz."""
ASK_S = 5.0
"""More than the longest thing asked, a stop of at most 3 s."""

T = TypeVar("T")


class FrankaSession:
    """From connecting to losing or closing the connection.

    Args:
        name: The arm's name in the rig.
        address: Where it is, for words.
        link: A fresh link.
        look: Called again and again with the link while it lives; raises ``DeviceLostError`` when
            the connection is gone.
    """

    def __init__(
        self, name: str, address: str, link: FrankaLink, look: Callable[[FrankaLink], None]
    ) -> None:
        self._name = name
        self._address = address
        self._link = link
        self._look = look
        self._requests: queue.SimpleQueue[tuple[Callable[[FrankaLink], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._open = threading.Event()
        self._quit = threading.Event()
        self._failure: TandemError | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name} session", daemon=True)

    @property
    def is_opening(self) -> bool:
        """Whether the vendor's constructor has not come back."""
        return self._thread.is_alive() and not self._open.is_set()

    def open(self) -> None:
        """Connect, or wait once more for a connection that is still being made.

        Raises:
            DeviceError: in words; ``is_opening`` tells whether it may still come.
        """
        if not self._thread.ident:
            self._thread.start()
        if not self._open.wait(CONNECT_S):
            hang_up(self._address, FCI_PORT)
            self._open.wait(END_S)
            raise DeviceError(silent(self._name, self._address, CONNECT_S).words)
        self.check()

    def check(self) -> None:
        """Raise what ended the session.

        Raises:
            DeviceError: it could not be opened.
            DeviceLostError: it was open and is not any more.
        """
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    def ask(self, action: Callable[[FrankaLink], T]) -> T:
        """Have something done with the link, and wait for it.

        Raises:
            DeviceError: it failed, or was not done in time.
            DeviceLostError: the connection is gone.
        """
        self.check()
        answer: Future[T] = Future()
        self._requests.put((action, answer))
        try:
            return answer.result(ASK_S)
        except TimeoutError:
            self.check()
            raise DeviceError(f"{self._name}: the robot has not answered for {ASK_S:g} s") from None

    def close(self) -> None:
        """Stop control gently and drop the connection. Never raises."""
        self._quit.set()
        if self._thread.ident and not self.is_opening:
            self._thread.join(ASK_S)
            if self._thread.is_alive():
                log.warning("%s: the connection is still closing", self._name)

    def _run(self) -> None:
        try:
            self._link.connect()
            self._open.set()
            while not self._quit.is_set():
                self._serve()
                self._look(self._link)
                self._link.refresh()
            self._link.soft_stop()
        except TandemError as error:
            self._failure = error
            if self._open.is_set() and not isinstance(error, DeviceLostError):
                self._failure = DeviceLostError(str(error))
        except Exception as error:
            log.exception("%s: unforeseen", self._name)
            self._failure = DeviceLostError(f"{self._name}: the driver failed: {error}")
        finally:
            self._end()

    def _serve(self) -> None:
        """Do what is asked; without control, states set the pace."""
        try:
            action, answer = self._requests.get(block=self._link.in_control, timeout=PASS_S)
        except queue.Empty:
            return
        try:
            answer.set_result(action(self._link))
        except DeviceLostError as error:
            answer.set_exception(error)
            raise
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            answer.set_exception(error)

    def _end(self) -> None:
        if self._failure is None:
            self._failure = DeviceLostError(f"{self._name}: the connection is closed")
        self._open.set()
        while not self._requests.empty():
            self._requests.get()[1].set_exception(self._failure)
        self._link.release()
