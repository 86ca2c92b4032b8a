"""The serial port of a servo bus: quiet, locked, with clear errors.

``ServoPort`` is what both users of a bus share: the vendor's ``dynamixel_sdk`` (set-up)
through the ``PortHandler`` methods, and the lean codec (control loop) through
``write_all``, ``read_exactly`` and ``discard_input``. A subclass supplies the five
primitives at its end; ``QuietPort`` does it with a tty, the emulator with a servo chain in
virtual time.

The stock port spins on a non-blocking read, which costs 4 ms of processor time per 1 Mbps
cycle and, worse, uses up the scheduler slice, so that the reader is not running when its
data comes. This one sleeps in ``poll``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios
from abc import abstractmethod
from pathlib import Path

from dynamixel_sdk import PortHandler

from teleop.clock import NS_PER_S, Clock, MonotonicClock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError

BITS_PER_BYTE = 10
"""Start bit, eight data bits, stop bit."""

SDK_ALLOWANCE_S = 0.034
"""Time beyond the wire time that a set-up reply may take: the SDK's own 2 x 16 + 2 ms,
which also covers a servo writing to its EEPROM."""

SETTLE_S = 0.02
"""Silence after which an answer that failed to come is taken to be lost, not late."""

TERMIOS_BAUD = {
    9_600: termios.B9600,
    57_600: termios.B57600,
    115_200: termios.B115200,
    1_000_000: termios.B1000000,
    2_000_000: termios.B2000000,
    3_000_000: termios.B3000000,
    4_000_000: termios.B4000000,
}
"""The rates of servo register 8 (``table.BAUD_RATES``)."""

READ_SIZE = 4096
_GONE = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF, errno.EPIPE)


class ServoPort(PortHandler):  # type: ignore[misc]  # the SDK is untyped
    """Base of all servo ports: buffering and time-outs, in the time of ``clock``.

    Every method may raise ``DeviceLostError`` when the line has gone; the port is then
    closed for good and a new object must be made.
    """

    def __init__(self, name: str, clock: Clock, baud: int = 1_000_000) -> None:
        super().__init__(name)
        self.is_open = False
        self.baudrate = baud
        self.clock = clock
        self.suspect = False
        """An answer failed to come and may still come late: settle before the next question."""
        self._buffer = b""
        self._deadline_ns = 0

    # What the lean codec uses.

    def write_all(self, data: bytes) -> None:
        """Send all bytes."""
        try:
            self._send(data)
        except OSError as error:
            raise self._lost(error) from error

    def read_exactly(self, count: int, deadline_ns: int) -> bytes:
        """The next ``count`` bytes, or the fewer that came by the deadline."""
        data = self._buffer
        while len(data) < count:
            try:
                more = self._receive(deadline_ns)
            except OSError as error:
                self._buffer = data
                raise self._lost(error) from error
            if not more:
                break
            data = data + more if data else more
        self._buffer = data[count:]
        return data[:count]

    def discard_input(self) -> None:
        """Throw away everything that has come so far."""
        self._buffer = b""
        try:
            self._discard()
        except OSError as error:
            raise self._lost(error) from error

    def settle(self, quiet_s: float) -> None:
        """Throw away input until the line has been silent for ``quiet_s``."""
        self._buffer = b""
        while self.read_exactly(READ_SIZE, self.clock.now_ns() + ns_from_s(quiet_s)):
            pass

    def wire_ns(self, count: int) -> int:
        """Time that ``count`` bytes spend on the wire."""
        return count * BITS_PER_BYTE * NS_PER_S // int(self.baudrate)

    # What dynamixel_sdk uses; its names and units (milliseconds) are kept.

    def openPort(self) -> bool:  # noqa: N802
        """Open at the present baud rate.

        Raises:
            DeviceError: the port is absent, not permitted, or used by another program.
        """
        if self.is_open:
            self.closePort()
        self._open(self.baudrate)
        self._buffer = b""
        self.is_open = True
        self.is_using = False
        self.tx_time_per_byte = 1e3 * BITS_PER_BYTE / self.baudrate
        return True

    def closePort(self) -> None:  # noqa: N802
        if self.is_open:
            self.is_open = False
            self._close()

    def setBaudRate(self, baudrate: int) -> bool:  # noqa: N802
        """Change the rate, without reopening when the port is open."""
        self.baudrate = baudrate
        if not self.is_open:
            return self.openPort()
        self._set_baud(baudrate)
        self._buffer = b""
        self.tx_time_per_byte = 1e3 * BITS_PER_BYTE / baudrate
        return True

    def clearPort(self) -> None:  # noqa: N802
        """Called by the SDK before each request; a late answer would pass for the next one's."""
        if self.suspect:
            self.settle(SETTLE_S)
            self.suspect = False
        self.discard_input()

    def getBytesAvailable(self) -> int:  # noqa: N802
        return len(self._buffer)

    def readPort(self, length: int) -> bytes:  # noqa: N802
        """Up to ``length`` bytes; sleeps until some come or the packet time-out is reached."""
        if not self._buffer:
            try:
                self._buffer = self._receive(self._deadline_ns)
            except OSError as error:
                raise self._lost(error) from error
        data = self._buffer
        self._buffer = data[length:]
        return data[:length]

    def writePort(self, packet: list[int]) -> int:  # noqa: N802
        self.write_all(bytes(packet))
        return len(packet)

    def setPacketTimeout(self, packet_length: int) -> None:  # noqa: N802
        allowed_ns = self.wire_ns(packet_length) + ns_from_s(SDK_ALLOWANCE_S)
        self._deadline_ns = self.clock.now_ns() + allowed_ns

    def setPacketTimeoutMillis(self, msec: float) -> None:  # noqa: N802
        self._deadline_ns = self.clock.now_ns() + ns_from_s(msec / 1e3)

    def isPacketTimeout(self) -> bool:  # noqa: N802
        return self.clock.now_ns() >= self._deadline_ns

    def getCurrentTime(self) -> float:  # noqa: N802
        return self.clock.now_ns() / 1e6

    # What a subclass supplies. An OSError from any of the last four means the line has gone.

    @abstractmethod
    def _open(self, baud: int) -> None:
        """Open the line, or raise ``DeviceError`` in words."""

    @abstractmethod
    def _close(self) -> None:
        """Release the line; must not raise."""

    @abstractmethod
    def _set_baud(self, baud: int) -> None:
        """Change the rate of the open line and drop pending input."""

    @abstractmethod
    def _send(self, data: bytes) -> None:
        """Send all bytes."""

    @abstractmethod
    def _receive(self, deadline_ns: int) -> bytes:
        """Sleep until bytes are there or the deadline; b"" means the deadline has passed."""

    @abstractmethod
    def _discard(self) -> None:
        """Drop all bytes that have come."""

    def _lost(self, error: OSError) -> DeviceLostError:
        self.closePort()
        self.is_using = False
        reason = error.strerror or str(error)
        return DeviceLostError(
            f"serial port {self.port_name} has gone ({reason}); "
            "check its USB cable and the arm's power"
        )


class QuietPort(ServoPort):
    """A tty, locked against other programs, that sleeps in ``poll`` while it waits."""

    def __init__(self, path: str, clock: Clock | None = None, baud: int = 1_000_000) -> None:
        super().__init__(path, clock or MonotonicClock(), baud)
        self._fd = -1

    def _open(self, baud: int) -> None:
        try:
            fd = os.open(self.port_name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(_why_not_opened(self.port_name, error)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._fd = fd
            self._set_baud(baud)
        except OSError as error:
            self._fd = -1
            os.close(fd)
            raise DeviceError(_why_not_opened(self.port_name, error)) from error
        except termios.error as error:
            self._fd = -1
            os.close(fd)
            raise DeviceError(
                f"{self.port_name} is not a serial port ({error.args[-1]}); correct its path"
            ) from error
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            except OSError as error:
                if error.errno not in _GONE:
                    raise

    def _set_baud(self, baud: int) -> None:
        raw = termios.CS8 | termios.CREAD | termios.CLOCAL
        attributes = termios.tcgetattr(self._fd)
        characters = attributes[6]
        characters[termios.VMIN] = characters[termios.VTIME] = 0
        speed = TERMIOS_BAUD[baud]
        termios.tcsetattr(self._fd, termios.TCSANOW, [0, 0, raw, 0, speed, speed, characters])
        termios.tcflush(self._fd, termios.TCIOFLUSH)

    def _send(self, data: bytes) -> None:
        sent = os.write(self._fd, data)
        while sent < len(data):  # the driver's output buffer was full: cannot happen in normal use
            self._wait_writable()
            sent += os.write(self._fd, data[sent:])

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(1000):
            raise OSError(errno.EIO, "the serial driver takes no more bytes")

    def _receive(self, deadline_ns: int) -> bytes:
        left_ns = deadline_ns - self.clock.now_ns()
        if not self._poll.poll(max(0.0, left_ns / 1e6)):
            return b""
        data = os.read(self._fd, READ_SIZE)
        if not data:
            raise OSError(errno.EIO, "end of file")
        return data

    def _discard(self) -> None:
        try:
            termios.tcflush(self._fd, termios.TCIFLUSH)
        except termios.error as error:
            raise OSError(*error.args) from error


def _why_not_opened(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"serial port {path} does not exist; plug the arm in or correct its path"
    if error.errno == errno.EACCES:
        return f"serial port {path}: permission denied; add this user to the group dialout"
    if error.errno in (errno.EWOULDBLOCK, errno.EBUSY):
        users = programs_using(path)
        seen = f" (open in {', '.join(users)})" if users else ""
        return f"serial port {path} is in use by another program{seen}; close that first"
    return f"serial port {path} cannot be opened: {error.strerror}"


def programs_using(path: str, proc: Path = Path("/proc")) -> list[str]:
    """Other programs that have the device open, as ``name (pid N)``, where we may see them."""
    device = str(Path(path).resolve())
    found = []
    for entry in proc.glob("[0-9]*"):
        try:
            links = [str(fd.readlink()) for fd in (entry / "fd").iterdir()]
            name = (entry / "comm").read_text().strip()
        except OSError:  # it has ended, or is another user's
            continue
        if device in links and int(entry.name) != os.getpid():
            found.append(f"{name} (pid {entry.name})")
    return sorted(found)
