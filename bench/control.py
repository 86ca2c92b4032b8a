"""Servo buses: our codec, the stock SDK, the SDK on our quiet port, and the wire's limit.

Four emulated buses of nine servos, paced at 1 Mbps, are served by a process of their own.
Each client reads current, velocity and position of all nine and writes nine goals per
cycle.

The last table is the way from a leader to its follower, on two of these buses: arm nodes and
teleoperation node are processes, as on a rig. ``software`` is from the end of the leader's
reading (its stamp) to the follower's goal handed to its port; the wire comes on top.

    python bench/control.py [--seconds 5] [--usb-latency-ms 1]
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import numpy as np
from dynamixel_sdk import COMM_SUCCESS, GroupSyncRead, GroupSyncWrite, PacketHandler, PortHandler

sys.path.insert(0, str(Path(__file__).parents[1]))

from drivers.dynamixel import table
from drivers.dynamixel.codec import GroupReader, GroupWrite
from drivers.dynamixel.port import BITS_PER_BYTE, QuietPort
from drivers.dynamixel.units import MOTION
from drivers.dynamixel.viperx import SPARES
from drivers.emulated.dynamixel.bank import ServoBank
from drivers.emulated.dynamixel.chain import chains_of
from drivers.emulated.dynamixel.motors import axes_of
from drivers.emulated.dynamixel.pty_bus import PtyBus
from teleop import messages as m
from teleop import topics
from teleop.addresses import free_base_port, topics_of
from teleop.bus import Bus
from teleop.clock import NS_PER_S, MonotonicClock, Ticker, ns_from_s
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs
from teleop.processes import NodeLoop, NodeSpec
from teleop.rig import Rig
from teleop.rig_files import load_rig
from teleop.supervisor import Supervisor
from teleop.topics import Queue

RIG = Path(__file__).parents[1] / "hardware.yaml"
IDS = list(range(1, 10))
BAUD = 1_000_000
RATE_HZ = 100
TIMEOUT_S = 0.02
BLOCK_BYTES = 10
CYCLE_BYTES = (14 + 9) + 9 * (11 + BLOCK_BYTES) + (14 + 9 * 5)
"""Read request, nine replies, write: the bytes of one cycle."""
READ_S = (CYCLE_BYTES - (14 + 9 * 5)) * BITS_PER_BYTE / BAUD
"""Request and replies on the wire: a read that took less was given an older read's reply."""


LEADER, FOLLOWER = "left_leader", "left_follower"
PAIR_READ_S = ((14 + 7) + 7 * (11 + BLOCK_BYTES)) * BITS_PER_BYTE / BAUD
"""An arm's own reading on the wire: the shadow servos are not asked."""
PAIR_WRITE_S = (14 + 7 * 5) * BITS_PER_BYTE / BAUD
PAIR_READ_TIMEOUT_S = 0.05
"""Emulated servos share the processor and may be late by some scheduler slices."""
WARM_UP_S = 1.0
PATIENCE_S = 30.0


class Client(Protocol):
    """One way of talking to a bus."""

    def cycle(self) -> bool:
        """Read all servos and write all goals; whether every servo answered."""

    def close(self) -> None:
        """Release the port."""


class Codec:
    """Ours."""

    def __init__(self, path: str) -> None:
        self._port = QuietPort(path, MonotonicClock(), BAUD)
        self._port.openPort()
        self._reader = GroupReader(self._port, IDS, MOTION, TIMEOUT_S, SPARES)
        self._writer = GroupWrite(IDS, table.GOAL_POSITION)

    def cycle(self) -> bool:
        reply = self._reader.read()
        if reply.missing:
            return False
        goals = reply.records[table.PRESENT_POSITION.name]
        self._port.write_all(self._writer.pack(goals))
        return True

    def close(self) -> None:
        self._port.closePort()


class Sdk:
    """The vendor's group read and write, on any port."""

    def __init__(self, port: PortHandler) -> None:
        self._port = port
        if not port.openPort():
            raise OSError(f"cannot open {port.port_name}")
        handler = PacketHandler(2.0)
        self._reader = GroupSyncRead(port, handler, MOTION[0].address, BLOCK_BYTES)
        self._writer = GroupSyncWrite(port, handler, table.GOAL_POSITION.address, 4)
        for servo_id in IDS:
            self._reader.addParam(servo_id)

    def cycle(self) -> bool:
        if self._reader.txRxPacket() != COMM_SUCCESS:
            return False
        for servo_id in IDS:
            values = [self._reader.getData(servo_id, r.address, r.size) for r in MOTION]
            self._writer.addParam(servo_id, list(values[-1].to_bytes(4, "little")))
        self._writer.txPacket()
        self._writer.clearParam()
        return True

    def close(self) -> None:
        self._port.closePort()


CLIENTS: dict[str, Callable[[str], Client]] = {
    "tandem codec": Codec,
    "SDK on our quiet port": lambda path: Sdk(QuietPort(path, MonotonicClock(), BAUD)),
    "stock SDK": lambda path: Sdk(PortHandler(path)),
}


@dataclass
class Run:
    """What one client did on one bus."""

    cycles: int = 0
    failed: int = 0
    stale: int = 0
    """Cycles faster than their bytes take on the wire; the rate means nothing then."""
    missed: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    cycle_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)

    def take(self, client: Client) -> None:
        """One cycle of the client."""
        start = time.monotonic()
        done = client.cycle()
        took_s = time.monotonic() - start
        self.cycles += 1
        self.failed += not done
        self.stale += done and took_s < READ_S
        self.cycle_ms.append(took_s * 1e3)

    @property
    def cpu_us(self) -> float:
        """Processor time per cycle, of the client's own thread."""
        return self.cpu_s / max(1, self.cycles) * 1e6


def free_run(client: Client, seconds: float) -> Run:
    """Cycle after cycle, as fast as the bus goes."""
    run = Run()
    cpu, start = time.thread_time(), time.monotonic()
    while time.monotonic() - start < seconds:
        run.take(client)
    run.cpu_s, run.seconds = time.thread_time() - cpu, time.monotonic() - start
    return run


def paced_run(client: Client, seconds: float, run: Run) -> None:
    """At a fixed rate; lateness is that of each cycle's start."""
    clock = MonotonicClock()
    ticker = Ticker(NS_PER_S // RATE_HZ, clock.now_ns())
    cpu, start = time.thread_time(), time.monotonic()
    while time.monotonic() - start < seconds:
        clock.sleep_until_ns(ticker.deadline_ns)
        now_ns = clock.now_ns()
        run.late_ms.append((now_ns - ticker.deadline_ns) / 1e6)
        run.missed += ticker.advance(now_ns)
        run.take(client)
    run.cpu_s, run.seconds = time.thread_time() - cpu, time.monotonic() - start


def four_buses(make: Callable[[str], Client], paths: list[str], seconds: float) -> list[Run]:
    """One thread per bus, all at once."""
    clients = [make(path) for path in paths]
    runs = [Run() for _ in paths]
    threads = [
        threading.Thread(target=paced_run, args=(client, seconds, run))
        for client, run in zip(clients, runs, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    return runs


def serve(folder: str, usb_latency_s: float, stop: Connection) -> None:
    """The emulated buses, in a process of their own."""
    rig = load_rig(RIG)
    chains = chains_of(rig, ServoBank(axes_of(rig)))
    with ExitStack() as stack:
        for name, chain in chains.items():
            link = Path(folder) / name
            stack.enter_context(PtyBus(chain, link, paced=True, usb_latency_s=usb_latency_s))
        stop.send("serving")
        stop.recv()


@contextmanager
def buses(usb_latency_s: float) -> Iterator[list[str]]:
    """Paths of four served buses."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=serve, args=(folder, usb_latency_s, theirs))
        process.start()
        try:
            ours.recv()
            yield sorted(str(path) for path in Path(folder).iterdir())
        finally:
            ours.send("stop")
            process.join(10)


class Director:
    """Stands for the session of one episode, and takes the times."""

    name = "session"

    def __init__(self, seconds: float) -> None:
        self.plan = NodePlan(
            ns_from_s(0.02),
            {
                topics.arm_applied(FOLLOWER): Queue.ALL,
                topics.arm_state(LEADER): Queue.ALL,
                topics.node_health(FOLLOWER): Queue.LATEST,
            },
            (topics.SESSION_PHASE, topics.SESSION_STOP),
        )
        self.software_ms: list[float] = []
        self.readings = 0
        self.finished = False
        self.words = "no word of the follower"
        self._seconds = seconds
        self._phase = "homing"
        self._since_ns = 0
        self._last_origin_ns = 0

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Home at first, then run; count and time what is written while running."""
        self._since_ns = self._since_ns or now_ns
        running_s = (now_ns - self._since_ns) / NS_PER_S
        if (health := inputs.latest(topics.node_health(FOLLOWER), m.Health)) is not None:
            self.words = f"{health.state} {health.detail}"
        applied = inputs.all(topics.arm_applied(FOLLOWER), m.ArmApplied)
        if self._phase == "homing" and any(a.mode == "follow" for a in applied):
            self._phase, self._since_ns = "running", now_ns
        elif self._phase == "running" and running_s > WARM_UP_S:
            self.finished = running_s > WARM_UP_S + self._seconds
            self.readings += len(inputs.all(topics.arm_state(LEADER), m.ArmState))
            for each in applied:
                self._take(each)
        return [
            (topics.SESSION_PHASE, m.SessionPhase(now_ns, 0, self._phase, 0, "")),
            (topics.SESSION_STOP, m.StopState(now_ns, 0, False, "")),
        ]

    def _take(self, applied: m.ArmApplied) -> None:
        """Only the first write of a command is its answer; later ones fill a commander's gap."""
        if applied.origin_ns > self._last_origin_ns:
            self.software_ms.append((applied.stamp_ns - applied.origin_ns) / 1e6)
            self._last_origin_ns = applied.origin_ns

    def health(self, now_ns: int) -> NodeHealth:
        """Nobody asks."""
        return NodeHealth()

    def close(self) -> None:
        """Nothing to release."""


def pair_rig(paths: list[str]) -> Rig:
    """One leader and its follower on two of the served buses."""
    rig = load_rig(RIG)
    ports = {Path(path).name: path for path in paths}
    arms = {
        name: rig.arms[name].model_dump()
        | {"port": ports[name], "read_timeout_s": PAIR_READ_TIMEOUT_S}
        for name in (LEADER, FOLLOWER)
    }
    rig = rig.replaced(backend="emulated", arms=arms, cameras={}, tasks={})
    base_port = free_base_port(len(topics_of(rig)))
    return rig.replaced(network=rig.network.model_dump() | {"base_port": base_port})


def leader_to_follower(paths: list[str], seconds: float) -> Director:
    """Arm nodes and commander as processes; this process plays the session."""
    rig = pair_rig(paths)
    specs = [NodeSpec(arm, "drivers.arm.node:build", "arm") for arm in (LEADER, FOLLOWER)]
    options = {"lease": "bench"}
    specs.append(NodeSpec("commander", "teleop.teleop_node:build", "input", options))
    director = Director(seconds)
    give_up_s = time.monotonic() + PATIENCE_S + seconds
    with (
        Bus(rig) as bus,
        tempfile.TemporaryDirectory() as logs,
        Supervisor(rig, specs, Path(logs)),
    ):
        loop = NodeLoop(director, rig, bus)
        while not director.finished:
            if time.monotonic() > give_up_s:
                raise SystemExit(f"the follower did not follow: {director.words}")
            loop.turn()
        loop.close()
    return director


def print_leader_to_follower(director: Director, usb_latency_s: float) -> None:
    """The table: what software adds, and the way as a whole."""
    floor_ms = (PAIR_READ_S + PAIR_WRITE_S + usb_latency_s) * 1e3
    software = np.array(director.software_ms)
    print(f"\nLeader to follower, {director.readings} leader readings, {len(software)} written\n")
    print("| ms | p50 | p90 | p99 | worst |\n" + "|---" * 5 + "|")
    print(f"| wire alone: leader read and goal write | {floor_ms:.2f} |" + " - |" * 3)
    for name, values in (("software", software), ("wire and software", software + floor_ms)):
        cells = " | ".join(f"{v:.2f}" for v in np.percentile(values, [50, 90, 99, 100]))
        print(f"| {name} | {cells} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument(
        "--usb-latency-ms", type=float, default=0.0, help="of each emulated adapter"
    )
    args = parser.parse_args()
    limit_hz = 1 / (CYCLE_BYTES * BITS_PER_BYTE / BAUD + args.usb_latency_ms / 1e3)
    print(f"{platform.platform()}, Python {platform.python_version()}, {time.strftime('%F')}")
    print(f"9 servos, {CYCLE_BYTES} bytes per cycle at {BAUD} baud, read and write\n")
    print("| client | one bus Hz | of wire limit | median cycle ms | failed | stale |", end="")
    print(
        f" CPU us/cycle | 4 x {RATE_HZ} Hz: cycles | missed | failed | stale | start late p50 ms |",
        end="",
    )
    print(" p99 ms | CPU us/cycle |\n" + "|---" * 14 + "|")
    print(f"| wire limit | {limit_hz:.0f} | 100% | {1e3 / limit_hz:.2f} |" + " - |" * 10)
    for name, make in CLIENTS.items():
        with buses(args.usb_latency_ms / 1e3) as paths:
            client = make(paths[0])
            one = free_run(client, args.seconds)
            client.close()
            four = four_buses(make, paths, args.seconds)
        print(f"| {name} | {one_bus_cells(one, limit_hz)} | {four_bus_cells(four)} |")
    with buses(args.usb_latency_ms / 1e3) as paths:
        director = leader_to_follower(paths, max(10.0, args.seconds))
    print_leader_to_follower(director, args.usb_latency_ms / 1e3)


def one_bus_cells(run: Run, limit_hz: float) -> str:
    """What one bus gave, free running."""
    hz = (run.cycles - run.failed) / run.seconds
    return (
        f"{hz:.0f} | {hz / limit_hz:.0%} | {np.median(run.cycle_ms):.2f} | "
        f"{run.failed} | {run.stale} | {run.cpu_us:.0f}"
    )


def four_bus_cells(runs: list[Run]) -> str:
    """What four buses gave together, at the fixed rate."""
    late = np.concatenate([run.late_ms for run in runs])
    cycles = sum(run.cycles for run in runs)
    return (
        f"{cycles} | {sum(run.missed for run in runs)} | {sum(run.failed for run in runs)} | "
        f"{sum(run.stale for run in runs)} | {np.percentile(late, 50):.2f} | "
        f"{np.percentile(late, 99):.2f} | {sum(run.cpu_s for run in runs) / cycles * 1e6:.0f}"
    )


if __name__ == "__main__":
    main()
