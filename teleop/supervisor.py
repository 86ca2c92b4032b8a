"""Starts the nodes as processes, watches them, and stops them in the order that is safe.

Nothing is restarted: an arm that lost its node holds, and a person decides what comes next.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from teleop.clock import Clock, MonotonicClock, ns_from_s
from teleop.errors import NodeFailedError
from teleop.processes import NodeSpec, StopGroup, spec_as_json
from teleop.rig import Rig

log = logging.getLogger(__name__)

STOP_TIMEOUT_S: Mapping[StopGroup, float] = {
    "input": 5.0,
    "recorder": 120.0,  # it finishes writing the episode
    "arm": 5.0,
    "world": 5.0,
}
HEARTBEAT_TIMEOUT_S = 3.0
"""Silence of a node's health, sent several times a second, that counts as dead. A desktop
that swaps can stall a process for about a second; the arms guard themselves meanwhile."""


class Supervisor:
    """The running nodes of one job.

    Args:
        rig: The rig, with the addresses the nodes shall use.
        specs: In start order.
        log_dir: Where each node's messages go, ``<node>.log``.
    """

    def __init__(self, rig: Rig, specs: Sequence[NodeSpec], log_dir: Path) -> None:
        self._rig = rig
        self._specs = list(specs)
        self._log_dir = log_dir
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._last_heard_ns: dict[str, int] = {}
        self._clock: Clock = MonotonicClock()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all nodes, those of one stop group together.

        Raises:
            NodeFailedError: a node could not be built; its own words are passed on.
        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for group in dict.fromkeys(spec.group for spec in self._specs):
            started = [spec for spec in self._specs if spec.group == group]
            for spec in started:
                self._processes[spec.name] = self._spawn(spec)
            begun_ns = self._clock.now_ns()
            for spec in started:
                self._await_ready(spec, begun_ns)

    def _spawn(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        # A process group of its own keeps Ctrl-C in the terminal from the child, which cannot
        # ignore it before its imports are through. Not a session of its own: the system may
        # schedule those as equals whatever their priority (autogroup).
        with (self._log_dir / f"{spec.name}.log").open("wb") as node_log:
            process = subprocess.Popen(
                [sys.executable, "-m", "teleop.processes", spec.name],  # the name is for ps
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=node_log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                process_group=0,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as stdin:
                stdin.write(spec_as_json(spec, self._rig).encode())
        except OSError as error:
            process.kill()
            process.wait()
            process.stdout.close()
            raise self._died_starting(spec.name) from error
        return process

    def _await_ready(self, spec: NodeSpec, begun_ns: int) -> None:
        name, process = spec.name, self._processes[spec.name]
        answer: IO[bytes] | None = process.stdout
        assert answer is not None
        left_s = max(0.0, spec.start_s - (self._clock.now_ns() - begun_ns) / 1e9)
        if not select.select([answer], [], [], left_s)[0]:
            raise NodeFailedError(
                f"node {name} did not start within {spec.start_s:g} s; see {self._log(name)}"
            )
        line = answer.readline()
        if not line:
            process.wait()
            raise self._died_starting(name)
        said = json.loads(line)
        if "error" in said:
            raise NodeFailedError(f"{name}: {said['error']}")
        self._last_heard_ns[name] = self._clock.now_ns()

    def heard(self, name: str) -> None:
        """Note a heartbeat."""
        self._last_heard_ns[name] = self._clock.now_ns()

    def check(self) -> None:
        """Look for dead and silent nodes.

        Raises:
            NodeFailedError: naming the first one.
        """
        now_ns = self._clock.now_ns()
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
                raise NodeFailedError(
                    f"node {name} {how}: {self._last_words(name)}; see {self._log(name)}"
                )
            silent_s = (now_ns - self._last_heard_ns[name]) / 1e9
            if silent_s > HEARTBEAT_TIMEOUT_S:
                raise NodeFailedError(f"node {name} has been silent for {silent_s:.1f} s")

    def stop(self) -> None:
        """Stop inputs, then the recorder, then the arms, the emulated world last."""
        group: StopGroup
        for group, timeout_s in STOP_TIMEOUT_S.items():
            names = [s.name for s in self._specs if s.group == group and s.name in self._processes]
            for name in names:
                self._processes[name].terminate()
            deadline_ns = self._clock.now_ns() + ns_from_s(timeout_s)
            for name in names:
                self._reap(name, deadline_ns)

    def _reap(self, name: str, deadline_ns: int) -> None:
        process = self._processes.pop(name)
        try:
            process.wait(max(0.1, (deadline_ns - self._clock.now_ns()) / 1e9))
        except subprocess.TimeoutExpired:
            log.error("node %s did not stop when asked; killing it", name)
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def pid(self, name: str) -> int:
        """The process id of a node."""
        return self._processes[name].pid

    def _died_starting(self, name: str) -> NodeFailedError:
        return NodeFailedError(
            f"node {name} died while starting: {self._last_words(name)}; see {self._log(name)}"
        )

    def _log(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
