"""Stands in for SpaceMice: their HID reports, given to programs by a stand-in for hidapi.

The folder of a run holds a copy of the library that ``hid_stub.c`` makes, and one file and one
socket per attached device; the library finds them beside itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drivers.emulated.c_library import c_library
from drivers.emulated.stand_in import HandPose, PuckPush
from teleop.clock import NS_PER_S, MonotonicClock, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import FloatArray

SONAME = "libhidapi-hidraw.so.0"
"""The name by which easyhid finds a library that is loaded already, where the real one is
installed too."""
SOURCE = Path(__file__).with_name("hid_stub.c")
REPORT_S = 0.008
"""Time between the reports of a puck that is pushed (USB captures of a SpaceNavigator)."""
REST_REPORTS = 3
"""Zero reports on letting go, after which it is silent (same captures)."""
FULL_SCALE = 350
"""Report value at full deflection (pyspacemouse, libspnav)."""
AXES, ROTATION, BUTTONS, LAMP = 1, 2, 3, 4
"""Report numbers; ``ROTATION`` of split models only."""
ANSWER_S = 10.0
"""How long faults and starting wait for the serving thread."""


@dataclass(frozen=True, slots=True)
class Model:
    """How one kind of puck presents itself."""

    vendor: int
    product: int
    title: str
    split: bool
    """Rotation in a report of its own."""
    button_bytes: int = 2


MODELS = {
    "SpaceNavigator": Model(0x046D, 0xC626, "SpaceNavigator", True),
    "SpaceMouseCompact": Model(0x256F, 0xC635, "SpaceMouse Compact", True),
    "SpaceMouseUSB": Model(0x256F, 0xC641, "SpaceMouse Module", True),
    "SpaceExplorer": Model(0x046D, 0xC627, "SpaceExplorer", True),
    "SpacePilot": Model(0x046D, 0xC625, "SpacePilot", True, 4),
    "SpacePilotPro": Model(0x046D, 0xC629, "SpacePilot PRO", True, 4),
    "SpaceMousePro": Model(0x046D, 0xC62B, "SpaceMouse Pro", True, 4),
    "SpaceMouseWireless": Model(0x256F, 0xC62E, "SpaceMouse Wireless", False),
    "SpaceMouseWirelessNew": Model(0x256F, 0xC63A, "SpaceMouse Wireless", False),
    "SpaceMouseProWireless": Model(0x256F, 0xC632, "SpaceMouse Pro Wireless", False, 6),
    "SpaceMouseProWirelessBluetooth": Model(0x256F, 0xC638, "SpaceMouse Pro Wireless", False, 6),
    "SpaceMouseEnterprise": Model(0x256F, 0xC633, "SpaceMouse Enterprise", False, 6),
    "UniversalReceiver": Model(0x256F, 0xC652, "3Dconnexion Universal Receiver", False, 6),
}
"""By pyspacemouse's names. Ids and layouts: pyspacemouse's devices.toml; lengths of the button
report: its issue 49 (wireless, Pro wireless), others as long as their highest button needs."""


def emulated_fields(name: str, runtime_dir: Path) -> dict[str, str]:
    """What to replace in the rig's description of a SpaceMouse so that it finds its stand-in."""
    folder = _folder(runtime_dir)
    return {"library": str(folder / SONAME), "path": str(_link(folder, name))}


def install_library(runtime_dir: Path) -> Path:
    """Put the stand-in for hidapi into the run's folder, compiled if it never was.

    Raises:
        DeviceError: there is no C compiler.
    """
    folder = _folder(runtime_dir)
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / SONAME
    if not library.exists():
        flags = ("-std=c11", f"-Wl,-soname,{SONAME}")
        _copy(c_library("emulated SpaceMouse", SOURCE, flags), library)
    return library


class HidMouse:
    """One SpaceMouse; see ``drivers.emulated.stand_in.StandIn``.

    Args:
        name: The input's name in the rig; the device gets a link of that name, as by udev.
        runtime_dir: The run's folder.
        model: Its kind, one of ``MODELS``.
        interface: Its USB interface number, for receivers that show several.
        plugged: Whether it is there from the start.
    """

    def __init__(
        self,
        name: str,
        runtime_dir: Path,
        model: str = "SpaceMouseCompact",
        interface: int = 0,
        plugged: bool = True,
    ) -> None:
        self.name = name
        self.runtime_dir = runtime_dir
        self.link = _link(_folder(runtime_dir), name)
        self.lamp_writes: list[bytes] = []
        """Output reports received, each with the number before it that easyhid adds."""
        self.opened = 0
        """How often a program has opened it."""
        self.sent_ns = 0
        """When it last sent a report."""
        self._folder = _folder(runtime_dir)
        self._model = MODELS[model]
        self._interface = interface
        self._plugged_at_start = plugged
        self._clock = MonotonicClock()
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._wake_read = self._wake_write = -1
        self._thread = threading.Thread(target=self._serve, name=f"hid-{name}", daemon=True)
        self._stopping = False
        self._node: Path | None = None
        self._listener: socket.socket | None = None
        self._clients: list[socket.socket] = []
        self._raw: tuple[int, ...] = (0,) * 6
        self._pressed = 0
        self._rest_reports_left = 0
        self._due_ns = 0
        self._silent = False

    def start(self) -> None:
        """Serve; the device is there when this returns.

        Raises:
            DeviceError: there is no C compiler.
        """
        install_library(self.runtime_dir)
        self._wake_read, self._wake_write = os.pipe()
        self._thread.start()
        if self._plugged_at_start:
            self.plug()

    def move(self, name: str, hand: HandPose | PuckPush) -> None:
        """Push the puck, and press exactly these buttons, from now on."""
        if name != self.name or not isinstance(hand, PuckPush):
            raise ValueError(f"{self.name} is a puck of its own: it takes no {hand} for {name}")
        self._order(lambda: self._push(hand))

    def close(self) -> None:
        """Unplug it for good."""
        if self._thread.is_alive():
            self._order(self._finish)
            self._thread.join(ANSWER_S)
            os.close(self._wake_read)
            os.close(self._wake_write)

    @property
    def lamp(self) -> bool | None:
        """Whether its lamp shines; None while it was never written."""
        return bool(self.lamp_writes[-1][2]) if self.lamp_writes else None

    # Faults

    def unplug(self) -> None:
        """Pull it out; it forgets its push and buttons."""
        self._order(self._pull).wait(ANSWER_S)

    def plug(self) -> None:
        """Plug it in, at the lowest free device number."""
        self._order(self._attach).wait(ANSWER_S)

    def refuse(self, refused: bool) -> None:
        """Let nobody open it, as without a udev rule."""
        if self._node is not None:
            self._node.chmod(0o000 if refused else 0o666)

    def fall_silent(self, silent: bool) -> None:
        """Send nothing more, whatever is pushed: a battery that died, a radio out of reach."""
        self._order(lambda: setattr(self, "_silent", silent)).wait(ANSWER_S)

    def flood(self, pushes: Sequence[PuckPush]) -> None:
        """Report all of these at once; the last one stays."""

        def burst() -> None:
            for push in pushes:
                self._push(push)
                self._send_axes()

        self._order(burst).wait(ANSWER_S)

    def report(self, *reports: bytes) -> None:
        """Send reports as they are, at once."""

        def burst() -> None:
            for report in reports:
                self._send(report)

        self._order(burst).wait(ANSWER_S)

    # All below runs in the serving thread.

    def _order(self, order: Callable[[], None]) -> threading.Event:
        done = threading.Event()
        self._orders.append((order, done))
        os.write(self._wake_write, b"!")
        return done

    def _serve(self) -> None:
        while not self._stopping:
            files: list[int | socket.socket] = [self._wake_read, *self._clients]
            if self._listener is not None:
                files.append(self._listener)
            ready, _, _ = select.select(files, [], [], self._patience_s())
            if self._listener in ready:
                self._accept()
            for client in [c for c in self._clients if c in ready]:
                self._hear(client)
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            while self._orders:
                order, done = self._orders.popleft()
                order()
                done.set()
            self._speak()

    def _patience_s(self) -> float | None:
        if not (any(self._raw) or self._rest_reports_left):
            return None
        return max(0, self._due_ns - self._clock.now_ns()) / NS_PER_S

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        client.setblocking(False)
        self._clients.append(client)
        self.opened += 1

    def _hear(self, client: socket.socket) -> None:
        try:
            data = client.recv(64)
        except ConnectionError:
            data = b""
        if data:
            self.lamp_writes.append(data)
        else:
            self._clients.remove(client)
            client.close()

    def _push(self, push: PuckPush) -> None:
        was_at_rest = not any(self._raw)
        self._raw = raw_of(push)
        if not any(self._raw) and not was_at_rest:
            self._rest_reports_left = REST_REPORTS
        if was_at_rest and any(self._raw) and not self._rest_reports_left:
            self._due_ns = self._clock.now_ns()
        mask = sum(1 << int(b.removeprefix("button_")) for b in push.buttons)
        if mask != self._pressed:
            self._pressed = mask
            self._send(bytes([BUTTONS]) + mask.to_bytes(self._model.button_bytes, "little"))

    def _speak(self) -> None:
        now_ns = self._clock.now_ns()
        if now_ns < self._due_ns or not (any(self._raw) or self._rest_reports_left):
            return
        self._due_ns = max(self._due_ns + ns_from_s(REPORT_S), now_ns)
        if not any(self._raw):
            self._rest_reports_left -= 1
        self._send_axes()

    def _send_axes(self) -> None:
        if self._model.split:
            self._send(struct.pack("<B3h", AXES, *self._raw[:3]))
            self._send(struct.pack("<B3h", ROTATION, *self._raw[3:]))
        else:
            self._send(struct.pack("<B6h", AXES, *self._raw))

    def _send(self, report: bytes) -> None:
        self.sent_ns = self._clock.now_ns()
        for client in () if self._silent else self._clients:
            # A full queue loses the newest, as the kernel's does; the closed are found by _hear.
            with contextlib.suppress(BlockingIOError, ConnectionError):
                client.send(report)

    def _attach(self) -> None:
        if self._node is not None:
            return
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._node = self._folder / f"hidraw{_bind_lowest(self._listener, self._folder)}"
        self._listener.listen(8)
        model = self._model
        text = (
            f"{model.vendor:x} {model.product:x} 100 1 8 {self._interface}\n"
            f"3Dconnexion\n{model.title}\n\n"
        )
        _put(self._node, lambda new: new.write_text(text))
        _put(self.link, lambda new: new.symlink_to(self._node or ""))

    def _pull(self) -> None:
        if self._node is None or self._listener is None:
            return
        self.link.unlink(missing_ok=True)
        self._node.unlink()
        self._node.with_suffix(".sock").unlink()
        for end in (self._listener, *self._clients):
            end.close()
        self._node, self._listener = None, None
        self._clients.clear()
        self._raw, self._pressed, self._rest_reports_left = (0,) * 6, 0, 0

    def _finish(self) -> None:
        self._pull()
        self._stopping = True


def raw_of(push: PuckPush) -> tuple[int, ...]:
    """Report values of a push: the puck's own axes are x right, y to the operator, z down."""

    def own(vector: FloatArray) -> list[int]:
        forward, left, up = np.rint(np.clip(vector, -1, 1) * FULL_SCALE).astype(int).tolist()
        return [-left, -forward, -up]

    return (*own(push.linear), *own(push.angular))


def _folder(runtime_dir: Path) -> Path:
    return runtime_dir / "hid"


def _link(folder: Path, name: str) -> Path:
    return folder / f"puck-{name}"


def _bind_lowest(listener: socket.socket, folder: Path) -> int:
    """Bind to the first free device number; through /proc as a socket's path must be short."""
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        for number in range(64):  # HIDRAW_MAX_DEVICES of linux/hidraw.h
            try:
                listener.bind(f"/proc/self/fd/{at}/hidraw{number}.sock")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return number
    finally:
        os.close(at)
    raise DeviceError(f"{folder}: 64 emulated HID devices are there already; close some")


def _put(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file or link under another name first: it is there whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.unlink(missing_ok=True)
    make(new)
    new.replace(path)


def _copy(source: Path, target: Path) -> None:
    _put(target, lambda new: shutil.copyfile(source, new))
