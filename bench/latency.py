"""From a hand on an input device to the command written to the arm, on the emulated rigs.

    python bench/latency.py [RIG ...]

Each rig is started as by ``tandem record --emulate`` and its scripted operator brings the tool to
a target. From the recorded episode: ``command`` is from the stamp of the input's reading to the
command made from it, ``written`` until the arm's driver had written that command. A command
waits for the arms' next tick, so half a period (in the last column) belongs to the mean.

The figures beside them are of the vendor's package or of the wire alone, measured earlier on the
same kind of machine by the same emulators' prototypes: a report of a SpaceMouse to its state, a
packet of a headset to our server.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from recorder.episode import Episode, find_episodes
from teleop import topics
from teleop.assembly import Job
from teleop.clock import NS_PER_S
from teleop.console import Console
from teleop.rig_files import load_rig
from teleop.runs import run_processes

RIGS = (
    "viperx_spacemouse",
    "viperx_openvr",
    "viperx_webxr",
    "franka_spacemouse",
    "franka_openvr",
)
ALONE = {
    "spacemouse": "1.3 / 4.5 (report to state)",
    "openvr": "0.003 (one state read)",
    "webxr": "0.45 / 1.7 (packet to server)",
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    rig: str
    driver: str
    commands: int
    command_ms: NDArray[np.float64]
    written_ms: NDArray[np.float64]
    period_ms: float


def measure(name: str, folder: Path) -> Row:
    """Record one episode of a rig and read the delays of its first guided arm."""
    rig = load_rig(Path(__file__).parents[1] / "docs" / "rigs" / f"{name}.yaml")
    job = Job("record", "reach", out=folder, cameras=())
    with Console(rig.operator) as console:
        run_processes(rig, job, console, emulate=True)
    arm, config = next((n, a) for n, a in sorted(rig.followers.items()) if a.input is not None)
    assert config.input is not None
    with Episode(find_episodes(folder)[0]) as episode:
        command = _delays(episode, topics.arm_command(arm))
        written = _delays(episode, topics.arm_applied(arm))
    driver = rig.inputs[config.input].driver
    return Row(name, driver, len(command), command, written, 1e3 / rig.rates.arm_hz)


def _delays(episode: Episode, topic: str) -> NDArray[np.float64]:
    """From the reading to the first message made from it, ms."""
    stream = episode.stream(topic)
    origin_ns, first = np.unique(stream["origin_ns"], return_index=True)
    first = first[origin_ns > 0]
    delays: NDArray[np.float64] = (
        (np.asarray(stream.stamp_ns)[first] - np.asarray(stream["origin_ns"])[first])
        * 1e3
        / NS_PER_S
    )
    return delays


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rigs", nargs="*", default=RIGS, metavar="RIG")
    args = parser.parse_args()
    rows = []
    for name in args.rigs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, Path(folder)))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"\n{platform.machine()}, {cores} cores, load {load:.1f}; ms, p50 / p99\n")
    print("| rig | input | commands | command | written | package alone | arm period |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        times = " | ".join(
            f"{np.percentile(part, 50):.1f} / {np.percentile(part, 99):.1f}"
            for part in (row.command_ms, row.written_ms)
        )
        alone, period = ALONE[row.driver], row.period_ms
        print(f"| {row.rig} | {row.driver} | {row.commands} | {times} | {alone} | {period:.1f} |")


if __name__ == "__main__":
    main()
