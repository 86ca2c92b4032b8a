"""What recording costs: our recorder beside the original ALOHA way.

    python bench/record.py [--seconds 10] [--out DIR]

Ours: another process publishes four cameras at 480x640 (JPEG, about 100 kB) over the bus, and
this process runs the recorder node with its sockets, as on the rig. CPU time per frame is
given twice: of the recorder's own step (checksum, writing to the journals), and of the whole
process, with the bus (receiving over TCP, decoding messages, waking up) and timed syncs. With
arms, the messages of four arms at 100 Hz are in both.

ALOHA: raw images collected in lists in memory and written with h5py when the episode ends
(tonyzhaozh/aloha, record_episodes.py); images are handed over in memory, so receiving them
costs nothing here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import simplejpeg

sys.path.insert(0, str(Path(__file__).parents[1]))

from recorder.meta import Origin
from recorder.recorder_node import RecorderNode
from teleop import topics
from teleop.addresses import free_base_port, nominal_rate_hz, topics_of
from teleop.bus import Bus
from teleop.clock import NS_PER_S, MonotonicClock, Ticker
from teleop.messages import ArmApplied, ArmCommand, ArmState, EpisodeEvent, Frame, Message
from teleop.node import Inputs, Outputs, Received
from teleop.processes import SWITCH_INTERVAL_S, NodeLoop
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 480, 640
LENGTHS = (0.3, 1.0)
"""Parts of the episode at which memory is looked at."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    fps: int
    seconds: float
    step_ms_per_frame: float
    process_ms_per_frame: float
    memory_mb: tuple[float, float]
    next_start_ms: float | None
    durable_s: float
    file_mb: float
    note: str


def pictures() -> list[np.ndarray]:
    """Sixteen textured, noisy images, (H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (HEIGHT // 20, WIDTH // 20, 3), np.uint8)
    base = np.kron(coarse, np.ones((20, 20, 1), np.uint8)).astype(np.int16)
    return [
        np.clip(np.roll(base, 8 * i, 1) + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
        for i in range(16)
    ]


def bench_rig(fps: int) -> Rig:
    """The shipped rig with four cameras at this rate, on free ports."""
    rig = load_rig(ROOT / "hardware.yaml")
    cameras = {n: c.model_dump() | {"fps": fps} for n, c in rig.cameras.items()}
    return rig.replaced(
        cameras=cameras,
        tasks={"bench": {"instruction": "none", "max_seconds": 10}},
        network={"base_port": free_base_port(64)},
        recording={"min_free_bytes": 0},
        backend="emulated",
    )


# -- the publishing process ---------------------------------------------------------------


def publish(rig: Rig) -> None:
    """Publish cameras and arms at their rates until standard input closes."""
    jpegs = [simplejpeg.encode_jpeg(picture, quality=90) for picture in pictures()]
    kinds = ("arm", "camera")
    names = [t for t in topics_of(rig) if topics.row_of(t).rate in kinds]
    clock = MonotonicClock()
    os.set_blocking(0, False)
    with Bus(rig) as bus:
        publisher = bus.publisher(names)
        start_ns = clock.now_ns()
        tickers = {
            name: Ticker(
                round(NS_PER_S / (nominal_rate_hz(rig, name) or 1)), start_ns + i * 200_000
            )
            for i, name in enumerate(names)
        }
        while sys.stdin.buffer.read(1) != b"":
            clock.sleep_until_ns(min(ticker.deadline_ns for ticker in tickers.values()))
            now_ns = clock.now_ns()
            for name, ticker in tickers.items():
                if ticker.due(now_ns):
                    publisher.send(name, _message(name, ticker.ticks, now_ns, jpegs))
                    ticker.advance(now_ns)
        publisher.close()


def _message(topic: str, seq: int, now_ns: int, jpegs: list[bytes]) -> Message:
    q = np.full(6, np.sin(now_ns / NS_PER_S))
    kind = topics.row_of(topic).message
    if kind is Frame:
        data = jpegs[seq % len(jpegs)]
        return Frame(now_ns, seq, now_ns, "jpeg", WIDTH, HEIGHT, data)
    if kind is ArmState:
        return ArmState(now_ns, seq, q, q, q, 0.5, 0.0, 0.1)
    if kind is ArmCommand:
        return ArmCommand(now_ns, seq, q, 0.5, now_ns + NS_PER_S, "teleop", "bench")
    return ArmApplied(now_ns, seq, q, 0.5, seq, now_ns, "follow", 0)


# -- ours ---------------------------------------------------------------------------------


class MeasuredNode(RecorderNode):
    """A recorder whose steps are timed."""

    step_cpu_ns = 0

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        before_ns = time.thread_time_ns()
        outputs = super().step(inputs, now_ns)
        self.step_cpu_ns += time.thread_time_ns() - before_ns
        return outputs


class CameraOnlyNode(MeasuredNode):
    """A recorder that asks for no arm, to see what frames alone cost."""

    def __init__(self, rig: Rig, out: Path) -> None:
        camera_rig = rig.replaced(arms={}, arm_models={})
        super().__init__("recorder", camera_rig, out, "bench", "", {}, Origin(), 0)


def ours(fps: int, seconds: float, out: Path, with_arms: bool) -> Row:
    """Record one episode from the bus, then start another while the first is saved."""
    rig = bench_rig(fps)
    if with_arms:
        node = MeasuredNode("recorder", rig, out, "bench", "", {}, Origin(), 0)
    else:
        node = CameraOnlyNode(rig, out)
    command = [sys.executable, __file__, "--publish"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env=_environment(rig))
    try:
        with Bus(rig) as bus:
            sys.setswitchinterval(SWITCH_INTERVAL_S)  # as in the node's own process
            loop = NodeLoop(node, rig, bus)
            try:
                return _record(node, loop, fps, seconds, with_arms)
            finally:
                node.close()
                loop.close()
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(timeout=20)


def _environment(rig: Rig) -> dict[str, str]:
    return {**os.environ, "TANDEM_BENCH_RIG": rig.model_dump_json()}


def _record(node: MeasuredNode, loop: NodeLoop, fps: int, seconds: float, with_arms: bool) -> Row:
    clock = MonotonicClock()
    begin_ns = clock.now_ns()
    while not (node.health(clock.now_ns()).ok and clock.now_ns() - begin_ns > NS_PER_S):
        loop.turn()
    _say(node, clock, "start", 0)
    node.step_cpu_ns = 0
    cpu_s, start_s = time.process_time(), time.perf_counter()
    memory = []
    for part in LENGTHS:
        while time.perf_counter() - start_s < part * seconds:
            loop.turn()
        memory.append(_anonymous_mb())
    cpu_s, step_s = time.process_time() - cpu_s, node.step_cpu_ns / NS_PER_S
    health = node.health(clock.now_ns())
    stop_s = time.perf_counter()
    _say(node, clock, "stop", 0)
    said = _say(node, clock, "start", 1)
    next_s = time.perf_counter() - stop_s
    assert any(event.kind == "started" for event in said), said
    saved = None
    while saved is None:
        outputs = node.step(Inputs(), clock.now_ns())
        saved = next((e for _, e in outputs if getattr(e, "kind", "") == "saved"), None)
        time.sleep(0.001)
    durable_s = time.perf_counter() - stop_s
    detail = json.loads(saved.detail)
    path = Path(detail["path"])
    with h5py.File(path) as file:
        frames = sum(len(v["seq"]) for v in file["streams/camera"].values())
    note = f"{detail['verdict']}, {health.values['drops']:.0f} lost"
    what = "ours, cameras and 4 arms" if with_arms else "ours, cameras"
    return Row(
        what,
        fps,
        seconds,
        1000 * step_s / frames,
        1000 * cpu_s / frames,
        (memory[0], memory[1]),
        1000 * next_s,
        durable_s,
        path.stat().st_size / 1e6,
        note,
    )


def _say(node: RecorderNode, clock: MonotonicClock, kind: str, episode: int) -> list[EpisodeEvent]:
    now_ns = clock.now_ns()
    event = EpisodeEvent(now_ns, episode * 2 + (kind == "stop"), kind, episode, "bench", "", "")
    outputs = node.step(Inputs({topics.SESSION_EVENT: [Received(event, now_ns)]}), now_ns)
    return [message for _, message in outputs if isinstance(message, EpisodeEvent)]


# -- the ALOHA way ------------------------------------------------------------------------


def aloha(fps: int, seconds: float, out: Path) -> Row:
    """Lists of raw images, written at the end."""
    names = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    sources = pictures()
    count = int(fps * seconds)
    images: dict[str, list[np.ndarray]] = {name: [] for name in names}
    memory, cpu_s = [], time.process_time()
    for part in LENGTHS:
        while len(images[names[0]]) < part * count:
            for name in names:
                # the copy that cv_bridge makes of each message
                images[name].append(sources[len(images[name]) % len(sources)].copy())
        memory.append(_anonymous_mb())
    cpu_s = time.process_time() - cpu_s
    stop_s = time.perf_counter()
    path = out / "aloha.hdf5"
    with h5py.File(path, "w", rdcc_nbytes=1024**2 * 2) as file:
        group = file.create_group("observations/images")
        for name, frames in images.items():
            shape = (count, HEIGHT, WIDTH, 3)
            group.create_dataset(name, shape, "uint8", chunks=(1, *shape[1:]))[...] = frames
    with open(path, "rb") as raw:
        os.fsync(raw.fileno())
    durable_s = time.perf_counter() - stop_s
    size_mb = path.stat().st_size / 1e6
    cpu_ms = 1000 * cpu_s / (count * len(names))
    memory_mb = (memory[0], memory[1])
    note = "the next start waits for the file"
    return Row(
        "ALOHA way",
        fps,
        seconds,
        cpu_ms,
        cpu_ms,
        memory_mb,
        1000 * durable_s,
        durable_s,
        size_mb,
        note,
    )


def _anonymous_mb() -> float:
    """Memory of this process that is not file cache."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return float(line.split()[1]) / 1e3
    return float("nan")


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [
        f"4 cameras {HEIGHT}x{WIDTH}; {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}",
        f"{'writer':26} {'fps':>3} {'s':>4} {'CPU ms/frame: step':>18} {'process':>8} "
        f"{'memory MB at 30 %, end':>23} "
        f"{'next start ms':>13} {'durable s':>9} {'file MB':>8}  note",
    ]
    for row in rows:
        memory = f"{row.memory_mb[0]:.0f}, {row.memory_mb[1]:.0f}"
        lines.append(
            f"{row.what:26} {row.fps:3d} {row.seconds:4.0f} {row.step_ms_per_frame:18.3f} "
            f"{row.process_ms_per_frame:8.3f} "
            f"{memory:>23} {row.next_start_ms or 0:13.1f} {row.durable_s:9.2f} "
            f"{row.file_mb:8.0f}  {row.note}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each episode")
    parser.add_argument("--out", type=Path, help="folder for the files; default: a temporary one")
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish:
        publish(Rig.model_validate_json(os.environ["TANDEM_BENCH_RIG"]))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-record-", dir=args.out))
    try:
        rows = []
        for fps in (50, 60):
            rows.append(ours(fps, args.seconds, folder / f"cameras{fps}", with_arms=False))
            rows.append(ours(fps, args.seconds, folder / f"arms{fps}", with_arms=True))
        # last: what it leaves in memory must not stand in our rows
        rows += [aloha(fps, min(args.seconds, 5.0), folder) for fps in (50, 60)]
        print(table(rows))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
