"""Running a job from start to end, on either runner."""

from __future__ import annotations

import importlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from teleop.assembly import Job, rig_for, session_plan_of, specs_of
from teleop.bus import Bus
from teleop.clock import Ticker, VirtualClock, ns_from_s
from teleop.console import Console
from teleop.lockstep import Lockstep
from teleop.messages import Health
from teleop.node import Node, NodeContext
from teleop.processes import NodeLoop, build_node
from teleop.rig import Rig
from teleop.session import Action, EpisodeResult, SessionNode
from teleop.supervisor import Supervisor

LOCKSTEP_LIMIT_S = 120.0
"""Virtual time an episode may take with homing, beyond its own longest duration."""
STATUS_PERIOD_S = 0.2
CUES = {"ready": "ready", "running": "recording", "stopping": "stopped"}


def run_lockstep(
    rig: Rig, job: Job, on_episode: Callable[[EpisodeResult], None] | None = None
) -> list[EpisodeResult]:
    """Run a job on the emulated rig in virtual time, in this process.

    Args:
        rig: The rig as read from its file.
        job: What to do; ``job.episodes`` must be given.
        on_episode: Called as each episode ends.
    """
    assert job.episodes is not None
    rig = _emulated("lockstep_rig", rig_for(rig, job))
    clock = VirtualClock()
    specs = specs_of(rig, job)
    emulator = next(spec for spec in specs if spec.name == "emulator")
    build_world = importlib.import_module("drivers.emulated.world").build_world
    world = build_world(rig, clock, emulator.options)
    session = SessionNode(rig, session_plan_of(rig, job, specs, attended=False))
    nodes: list[Node] = []
    try:
        nodes += [build_node(spec, NodeContext(rig, clock, world, spec.options)) for spec in specs]
        nodes.insert(1, session)  # after the emulator, before those who obey it
        runner = Lockstep(nodes, clock, world, rig.rates.health_hz)
        seen = 0
        limit_s = job.episodes * (session.session_plan.max_seconds + LOCKSTEP_LIMIT_S)

        def ended() -> bool:
            nonlocal seen
            while on_episode is not None and seen < len(session.closed_results):
                on_episode(session.closed_results[seen])
                seen += 1
            return session.finished

        runner.run(ended, limit_s)
    finally:
        for node in nodes:
            node.close()
        world.close()
    return session.results


def run_processes(rig: Rig, job: Job, console: Console, emulate: bool) -> list[EpisodeResult]:
    """Run a job with a process per node, in real time.

    Ctrl-C, SIGTERM and SIGHUP end the session in order; a node that dies does too.

    Raises:
        NodeFailedError: a node died; arms hold, the episode so far is kept.
    """
    rig = rig_for(rig, job)
    with tempfile.TemporaryDirectory(prefix="tandem-") as runtime, ExitStack() as stack:
        run_dir = Path(runtime)
        if emulate:
            rig = _emulated("process_rig", rig, run_dir)
        specs = specs_of(rig, job)
        attended = console.attended and not emulate
        session = SessionNode(rig, session_plan_of(rig, job, specs, attended))
        stack.enter_context(quit_on_signals(session))
        loop = NodeLoop(session, rig, stack.enter_context(Bus(rig)))
        stack.callback(loop.close)
        supervisor = stack.enter_context(Supervisor(rig, specs, run_dir))
        Attendant(session, supervisor, console).attend(loop)
    return session.results


class Attendant:
    """Stands between a running session, the operator's terminal and the supervisor."""

    def __init__(self, session: SessionNode, supervisor: Supervisor, console: Console) -> None:
        self._session = session
        self._supervisor = supervisor
        self._console = console
        self._heard: dict[str, Health] = {}
        self._phase = ""
        self._notice = ""
        self._status_ticker: Ticker | None = None

    def attend(self, loop: NodeLoop) -> None:
        """Run until the session has finished.

        Raises:
            NodeFailedError: a node died or fell silent.
        """
        self._status_ticker = Ticker(ns_from_s(STATUS_PERIOD_S), loop.now_ns())
        while not self._session.finished:
            loop.turn()
            for action in self._console.pressed():
                self._session.act(action)
            self._watch()
            self._tell(loop.now_ns())

    def _watch(self) -> None:
        for name in self._session.session_plan.must_live:
            health = self._session.heard(name)
            if health is not None and health is not self._heard.get(name):
                self._heard[name] = health
                self._supervisor.heard(name)
        self._supervisor.check()

    def _tell(self, now_ns: int) -> None:
        session, console = self._session, self._console
        if session.notice != self._notice:
            self._notice = session.notice
            console.say(session.notice)
        if session.phase != self._phase:
            self._phase = session.phase
            if session.phase in CUES:
                console.cue(CUES[session.phase])
        if self._status_ticker is not None and self._status_ticker.due(now_ns):
            self._status_ticker.advance(now_ns)
            console.status(status_line(session, now_ns))


def status_line(session: SessionNode, now_ns: int) -> str:
    """Time, rates, losses and disk in one line."""
    parts = [f"episode {session.episode}", session.phase]
    if session.phase == "running":
        parts.append(f"{session.seconds_in_phase(now_ns):5.1f} s")
    recorder = session.heard("recorder")
    if recorder is not None:
        parts.append(recorder.detail)
    for name in session.session_plan.must_live:
        health = session.heard(name)
        if health is not None and not health.ok:
            parts.append(f"{name}: {health.state} {health.detail}")
    return " | ".join(part for part in parts if part)


@contextmanager
def quit_on_signals(session: SessionNode) -> Iterator[None]:
    """Turn the three polite signals into an ordered end for as long as a run lasts."""

    def quit_session(signum: int, frame: object) -> None:
        session.act(Action.QUIT)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {s: signal.signal(s, quit_session) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _emulated(function: str, rig: Rig, *args: Any) -> Rig:
    """The rig with emulated addresses; the emulator is imported only when asked for."""
    addresses = importlib.import_module("drivers.emulated.addresses")
    emulated: Rig = getattr(addresses, function)(rig, *args)
    return emulated
