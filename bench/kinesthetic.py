"""A Franka guided by hand: how many of its 1 kHz states arrive, and how late.

The emulated FR3 is a process of its own; the link of the driver (``franky``) puts every state
into the ring that recordings are made of. The lag of a state is from the instant that it is
stamped with, in our time, to its arrival in our process.

    python bench/kinesthetic.py [--seconds 60] [--pace lockstep]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from drivers.emulated.franka.server import FrankaEmulator
from drivers.franka.franky_link import FrankyLink
from drivers.franka.link import Settings, free
from drivers.franka.trace import TraceRing
from teleop.clock import MonotonicClock
from teleop.messages import FloatArray
from teleop.rig_files import load_rig
from teleop.rig_franka import FrankaArm

RIG = Path(__file__).parents[1] / "docs" / "rigs" / "franka_kinesthetic.yaml"
BINS_MS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, math.inf)
LOOK_S = 0.005
"""Between two looks at what came, as the arm's session has it."""
HAND_S = 0.02


class Noted(TraceRing):
    """A ring that remembers when each state came."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived_ns: dict[int, int] = {}

    def put(
        self, robot_ms: int, arrival_ns: int, values: Sequence[FloatArray], in_control: bool
    ) -> None:
        self.arrived_ns[robot_ms] = arrival_ns
        super().put(robot_ms, arrival_ns, values, in_control)


def guide(robot: FrankaEmulator, seconds: float) -> tuple[NDArray[np.float64], int, int, float]:
    """Guide the arm about; lags in ms, states, missing states, and CPU share of our process."""
    arm = load_rig(RIG).arms["franka"]
    assert isinstance(arm, FrankaArm)
    ring = Noted()
    link = FrankyLink("franka", robot.host, ring, MonotonicClock())
    link.connect()
    link.refresh()
    limits = link.ranges()
    link.configure(
        Settings(
            arm.collision_torque_nm,
            arm.collision_force_n,
            arm.load,
            arm.wall,
            limits.min_rad,
            limits.max_rad,
        )
    )
    home = ring.newest().position_rad
    link.start(home, free(np.array(arm.guiding_damping_nms_rad)))
    samples = ring.take()[:0]
    began_s, cpu_s, hand_s = time.monotonic(), time.process_time(), 0.0
    while (now_s := time.monotonic() - began_s) < seconds:
        link.refresh()
        samples += ring.take()
        if now_s >= hand_s:
            hand_s += HAND_S
            robot.hand_to((home + 0.2 * math.sin(now_s) * np.ones(7)).tolist())
        time.sleep(LOOK_S)
    share = (time.process_time() - cpu_s) / seconds
    missing = ring.missing + ring.overrun
    link.soft_stop()
    link.release()
    lags = [(ring.arrived_ns[sample.robot_ms] - sample.stamp_ns) / 1e6 for sample in samples]
    return np.array(lags), len(samples), missing, share


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pace", choices=("lockstep", "wall"), default="lockstep")
    args = parser.parse_args()
    with FrankaEmulator(desk=False, pace=args.pace) as robot:
        lags, states, missing, share = guide(robot, args.seconds)
    print(f"{states} states in {args.seconds:g} s, {missing} missing; {share:.0%} of a core")
    shown = ", ".join(f"p{p} {np.percentile(lags, p):.2f}" for p in (50, 90, 99))
    print(f"lag, ms: {shown}, worst {lags.max():.1f}\n\n| lag, ms | states | part |\n|---|---|---|")
    for low, high in pairwise(BINS_MS):
        count = int(((lags >= low) & (lags < high)).sum())
        words = f"{low:g} to {high:g}" if high < math.inf else f"over {low:g}"
        print(f"| {words} | {count} | {count / max(1, len(lags)):.2%} |")


if __name__ == "__main__":
    main()
