"""A servo bus without wire or real time: the chain is called directly, on a virtual clock."""

from __future__ import annotations

import errno
from collections import deque

from drivers.dynamixel.port import ServoPort
from drivers.emulated.dynamixel.bus_faults import TimedReply
from drivers.emulated.dynamixel.chain import ServoChain
from teleop.clock import Clock
from teleop.errors import DeviceError

SCHEME = "virtual:"


class VirtualPort(ServoPort):
    """Port of an emulated arm in the lockstep runner and in tests.

    Waiting for a reply moves the clock to its arrival; a reply that does not come moves it to
    the deadline. With return delay 0 and no fault, time stands still.

    Args:
        chain: the bus at the other end.
        clock: the clock of all time-outs.
    """

    def __init__(self, chain: ServoChain, clock: Clock) -> None:
        super().__init__(f"{SCHEME}{chain.arm_name}", clock, chain.host_baud)
        self._chain = chain
        self._coming: deque[TimedReply] = deque()

    def _open(self, baud: int) -> None:
        if self._chain.faults.unplugged:
            raise DeviceError(
                f"serial port {self.port_name} does not exist; plug the arm in or correct its path"
            )
        if self._chain.host is not None:
            raise DeviceError(
                f"serial port {self.port_name} is in use by another driver; close that first"
            )
        self._chain.host = self
        self._set_baud(baud)

    def _close(self) -> None:
        if self._chain.host is self:
            self._chain.host = None
        self._coming.clear()

    def _set_baud(self, baud: int) -> None:
        self._chain.host_baud = baud
        self._coming.clear()

    def _send(self, data: bytes) -> None:
        self._check_cable()
        replies = self._chain.receive(data, self.clock.now_ns())
        self._coming.extend(replies)
        if len(self._coming) > len(replies):  # a late reply may be overtaken by the next one
            self._coming = deque(sorted(self._coming, key=lambda reply: reply[0]))

    def _receive(self, deadline_ns: int) -> bytes:
        self._check_cable()
        if not self._coming or self._coming[0][0] > deadline_ns:
            self.clock.sleep_until_ns(deadline_ns)
            return b""
        self.clock.sleep_until_ns(self._coming[0][0])
        return self._arrived()

    def _discard(self) -> None:
        self._check_cable()
        self._arrived()

    def _arrived(self) -> bytes:
        now_ns = self.clock.now_ns()
        data = b""
        while self._coming and self._coming[0][0] <= now_ns:
            data += self._coming.popleft()[1]
        return data

    def _check_cable(self) -> None:
        if self._chain.faults.unplugged:
            self._coming.clear()
            raise OSError(errno.EIO, "Input/output error")
