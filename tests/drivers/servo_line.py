"""Nine emulated servos behind a pseudo-terminal, and the stock SDK's port to them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dynamixel_sdk as sdk
import numpy as np

from drivers.emulated.dynamixel.bank import ServoBank, axes_of
from drivers.emulated.dynamixel.chain import ServoChain
from drivers.emulated.dynamixel.pty_bus import PtyBus
from teleop.rig_files import DEFAULT_RIG, load_rig

ARM = "left_follower"
IDS = range(1, 10)
LED, TORQUE, GAIN, GOAL, MOVING, CURRENT, POSITION = 65, 64, 84, 116, 122, 126, 132
DONE = (sdk.COMM_SUCCESS, 0)
POINTERS = ((168, 224), (578, 634))
"""First indirect address and first indirect data of both blocks (e-manual)."""
TICK_RAD = 2 * np.pi / 4096


class Line:
    """Stock SDK, its port, and the servos at the other end."""

    def __init__(self, chain: ServoChain, path: Path) -> None:
        self.chain = chain
        self.path = str(path)
        self.port = sdk.PortHandler(self.path)
        self.sdk = sdk.PacketHandler(2.0)

    def turn_all(self, angle_rad: float) -> None:
        """Put every joint somewhere."""
        self.chain.bank.angle_rad[:] = angle_rad

    def await_ping(self, servo_id: int) -> None:
        """Wait until a servo that was deaf answers again."""
        until = time.monotonic() + 10
        while self.sdk.ping(self.port, servo_id)[1] != sdk.COMM_SUCCESS:
            assert time.monotonic() < until, f"servo {servo_id} stays deaf"

    def unasked(self, count: int) -> bytes:
        """Bytes of an answer that a call did not wait for."""
        until = time.monotonic() + 10
        while self.port.getBytesAvailable() < count:
            assert time.monotonic() < until, f"no {count} bytes came"
        return bytes(self.port.readPort(count))

    def point(self, block: int, addresses: list[int]) -> None:
        """Let the indirect data of a block stand for these addresses."""
        for i, address in enumerate(addresses):
            pointer = POINTERS[block][0] + 2 * i
            assert self.sdk.write2ByteTxRx(self.port, 1, pointer, address) == DONE


@contextlib.contextmanager
def served_line(folder: Path) -> Iterator[Line]:
    """The servos of a follower arm at 1 Mbit/s, all joints at zero, the stock port open."""
    rig = load_rig(DEFAULT_RIG)
    bank = ServoBank(axes_of(rig))
    bank.torque_nm(0.002, np.zeros(len(bank)), np.zeros(len(bank)))
    chain = ServoChain(ARM, rig.arm_model(ARM), bank)
    with PtyBus(chain, folder / "ttyDXL", threading.Lock()):
        line = Line(chain, folder / "ttyDXL")
        assert line.port.openPort()
        yield line
        line.port.closePort()
