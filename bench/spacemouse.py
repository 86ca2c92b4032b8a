"""SpaceMouse: from a report that a puck sends to the reading that the input node takes.

An emulated puck in a process of its own sends 125 numbered reports a second, each at a random
time within its period; the driver reads them with the unmodified pyspacemouse, and ``take`` is
called as often as the input node does.
``stamped`` is until the driver's stamp, ``taken`` until the call of ``take`` that returned it.

    python bench/spacemouse.py [--seconds 20]
"""

from __future__ import annotations

import argparse
import multiprocessing
import struct
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from drivers.emulated.spacemouse.hid_mouse import FULL_SCALE, REPORT_S, HidMouse, emulated_fields
from drivers.input_node import PERIOD_S
from drivers.spacemouse.puck import SpaceMouseDevice
from teleop.clock import NS_PER_S, MonotonicClock, Ticker, ns_from_s
from teleop.rig_inputs import SpaceMouse

NUMBERS = 300
"""Reports are numbered by their x, from 1 to this and again."""
SETTLED_S = 0.5


@dataclass(frozen=True)
class Latency:
    """Delays of the reports that arrived as readings of their own."""

    sent: int
    stamped_ms: NDArray[np.float64]
    taken_ms: NDArray[np.float64]
    cpu_share: float
    """Of one core, of the reading process."""


def _send_reports(folder: str, seconds: float, pipe: Connection) -> None:
    """The puck's process: sends what it has sent when on being asked."""
    clock = MonotonicClock()
    puck = HidMouse("puck", Path(folder), "SpaceMouseWireless")
    puck.start()
    pipe.send("plugged")
    pipe.recv()
    sent: list[int] = []
    ticker = Ticker(ns_from_s(REPORT_S), clock.now_ns())
    late_ns = np.random.default_rng(0).integers(0, ns_from_s(REPORT_S), round(seconds / REPORT_S))
    for i, late in enumerate(late_ns.tolist()):
        clock.sleep_until_ns(ticker.deadline_ns + late)
        ticker.advance(clock.now_ns())
        # HID's y is towards the operator: the reading's x is forward.
        puck.report(struct.pack("<B6h", 1, 0, -(1 + i % NUMBERS), 0, 0, 0, 0))
        sent.append(puck.sent_ns)
    pipe.send(sent)
    pipe.recv()
    puck.close()


def measure(seconds: float = 20.0, poll_s: float = PERIOD_S) -> Latency:
    """Delays over some seconds, with ``take`` called every ``poll_s``; not twice at once."""
    clock = MonotonicClock()
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    taken: list[tuple[int, int, int]] = []  # Number, stamp, when it was taken.
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        process = context.Process(target=_send_reports, args=(folder, seconds, far), daemon=True)
        process.start()
        pipe.recv()
        fields = emulated_fields("puck", Path(folder))
        config = SpaceMouse.model_validate({**fields, "deadzone": 0.0, "silence_s": 1.0})
        device = SpaceMouseDevice("puck", config, clock)
        device.connect()
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(SETTLED_S))
        device.take(clock.now_ns())
        pipe.send("go")
        start_cpu, start_ns = time.process_time(), clock.now_ns()
        ticker = Ticker(ns_from_s(poll_s), start_ns)
        while not pipe.poll():
            clock.sleep_until_ns(ticker.deadline_ns)
            now_ns = clock.now_ns()
            ticker.advance(now_ns)
            for reading in device.take(now_ns).get("puck", ()):
                number = round(float(reading.linear[0]) * FULL_SCALE)
                taken.append((number, reading.stamp_ns, clock.now_ns()))
        cpu = (time.process_time() - start_cpu) * NS_PER_S / (clock.now_ns() - start_ns)
        sent = pipe.recv()
        device.close()
        pipe.send("end")
        process.join()
    stamped_ms, taken_ms = [], []
    index = -1
    for number, stamp_ns, taken_ns in taken:
        if number > 0:
            index += (number - 1 - index) % NUMBERS
            stamped_ms.append((stamp_ns - sent[index]) / 1e6)
            taken_ms.append((taken_ns - sent[index]) / 1e6)
    return Latency(len(sent), np.array(stamped_ms), np.array(taken_ms), cpu)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    print("| take every | reports | readings | delay | p50 ms | p99 ms | max ms | CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for poll_s in (0.0005, PERIOD_S):
        seen = measure(seconds, poll_s)
        for name, delays in (("stamped", seen.stamped_ms), ("taken", seen.taken_ms)):
            p50, p99 = np.percentile(delays, (50, 99))
            print(
                f"| {poll_s * 1e3:g} ms | {seen.sent} | {len(delays)} | {name} "
                f"| {p50:.2f} | {p99:.2f} | {delays.max():.2f} | {seen.cpu_share:.1%} |"
            )


if __name__ == "__main__":
    main()
