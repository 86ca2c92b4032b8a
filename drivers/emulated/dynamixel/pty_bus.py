"""Serves a servo chain on a pseudo-terminal, which any program opens as a serial port."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import os
import pty
import select
import termios
import threading
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Self

from drivers.dynamixel.port import BITS_PER_BYTE, TERMIOS_BAUD
from drivers.emulated.dynamixel.chain import ServoChain
from teleop.clock import NS_PER_S, MonotonicClock, ns_from_s
from teleop.errors import DeviceError

READ_SIZE = 4096
WATCH_S = 0.02
"""How often bus watchdogs and pending faults are looked after while the line is silent: the
watchdog's own unit."""
ANSWER_S = 5.0
"""How long ``start``, ``unplug`` and the like wait for the serving thread."""
_BAUD = {code: baud for baud, code in TERMIOS_BAUD.items()}


class PtyBus:
    """One emulated bus behind a symlink, served by a thread of its own.

    The client's baud rate is read from the terminal's settings, so a servo set to another one
    is deaf, as on a wire.

    Args:
        chain: the servos.
        link: where the port shall appear; must not exist, or be a symlink.
        lock: held while the chain works, shared with whoever moves the physics.
        paced: replies take the time they would take on the wire.
        usb_latency_s: with ``paced``, what the USB adapter adds to each reply.
    """

    def __init__(
        self,
        chain: ServoChain,
        link: Path,
        lock: contextlib.AbstractContextManager[object] | None = None,
        paced: bool = False,
        usb_latency_s: float = 0.0,
    ) -> None:
        self.chain = chain
        self.link = link
        self._lock = lock if lock is not None else threading.Lock()
        self._paced = paced
        self._usb_ns = ns_from_s(usb_latency_s)
        self._clock = MonotonicClock()
        self._master = self._slave = -1
        self._outbox: list[tuple[int, int, bytes]] = []
        self._count = itertools.count()
        self._line_free_ns = 0
        self._wake_read, self._wake_write = os.pipe()
        self._orders: list[tuple[Callable[[], None], threading.Event]] = []
        self._stopping = False
        self._thread = threading.Thread(
            target=self._serve, name=f"bus-{chain.arm_name}", daemon=True
        )

    def start(self) -> None:
        """Serve; the link exists when this returns.

        Raises:
            DeviceError: the link's place is taken, or the folder is not writable.
        """
        if self.link.exists() and not self.link.is_symlink():
            raise DeviceError(f"{self.link} exists and is not a link; choose another place")
        self._thread.start()
        self._ask(self._plug)
        if not self.link.is_symlink():
            self.stop()
            raise DeviceError(
                f"cannot make the port {self.link}; check that its folder is writable"
            )

    def stop(self) -> None:
        """Stop serving and remove the link."""
        if not self._thread.is_alive():
            return
        self._ask(self._finish)
        self._thread.join(ANSWER_S)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def unplug(self) -> None:
        """Pull the USB cable: the port vanishes, the servos keep their power."""
        self._ask(self._pull)

    def replug(self) -> None:
        """Push it in again: another terminal under the same name."""
        self._ask(self._plug)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ask(self, order: Callable[[], None]) -> None:
        """Have the serving thread do something, and wait until it has."""
        done = threading.Event()
        self._orders.append((order, done))
        os.write(self._wake_write, b"!")
        if not done.wait(ANSWER_S):
            raise DeviceError(f"emulated bus {self.chain.arm_name} does not answer; restart it")

    # All below runs in the serving thread.

    def _serve(self) -> None:
        while not self._stopping:
            files = [self._wake_read] if self._master < 0 else [self._wake_read, self._master]
            ready, _, _ = select.select(files, [], [], self._patience_s())
            if self._wake_read in ready:
                self._obey()
            elif self._master in ready:
                self._hear()
            with self._lock:
                self.chain.advance(self._clock.now_ns())
            self._speak()

    def _patience_s(self) -> float:
        if not self._outbox:
            return WATCH_S
        left_ns = self._outbox[0][0] - self._clock.now_ns()
        return min(WATCH_S, max(0, left_ns) / NS_PER_S)

    def _obey(self) -> None:
        os.read(self._wake_read, READ_SIZE)
        while self._orders:
            order, done = self._orders.pop(0)
            order()
            done.set()

    def _hear(self) -> None:
        try:
            data = os.read(self._master, READ_SIZE)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EAGAIN):
                raise
            return
        now_ns = self._clock.now_ns()
        code = termios.tcgetattr(self._master)[5]
        baud = _BAUD.get(code)
        with self._lock:
            if baud is None:  # a rate no servo has: noise to all of them
                self.chain.reader.clear()
                return
            self.chain.host_baud = baud
            replies = self.chain.receive(data, now_ns)
        wire_ns = BITS_PER_BYTE * NS_PER_S // baud
        if self._paced:
            self._line_free_ns = max(now_ns, self._line_free_ns) + len(data) * wire_ns
        for ready_ns, reply in replies:
            due_ns = ready_ns
            if self._paced:
                start_ns = max(self._line_free_ns, ready_ns)
                self._line_free_ns = start_ns + len(reply) * wire_ns
                due_ns = self._line_free_ns + self._usb_ns
            heapq.heappush(self._outbox, (due_ns, next(self._count), reply))

    def _speak(self) -> None:
        now_ns = self._clock.now_ns()
        while self._outbox and self._outbox[0][0] <= now_ns:
            data = heapq.heappop(self._outbox)[2]
            if self._master >= 0:
                # A client that never reads loses bytes, as with a real line's receiver.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._master, data)

    def _plug(self) -> None:
        self._pull()
        self._master, self._slave = pty.openpty()
        # The slave stays open here, or a client's closing would hang the line up.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.chain.faults.unplugged = False
        new = self.link.with_name(self.link.name + ".new")
        with contextlib.suppress(OSError):  # start() looks whether the link is there
            new.unlink(missing_ok=True)
            new.symlink_to(os.ttyname(self._slave))
            new.replace(self.link)

    def _pull(self) -> None:
        self.chain.faults.unplugged = True
        if self.link.is_symlink():
            self.link.unlink()
        for descriptor in (self._slave, self._master):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1
        self._outbox.clear()

    def _finish(self) -> None:
        self._pull()
        self._stopping = True
