"""Running a job from start to end, on either runner."""

from __future__ import annotations

import importlib
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from teleop.assembly import Job, has_remote_policy, rig_for, session_plan_of, specs_of
from teleop.bus import Bus
from teleop.clock import NS_PER_S, BranchClock, MonotonicClock, Ticker, VirtualClock, ns_from_s
from teleop.console import Console
from teleop.errors import NodeFailedError
from teleop.lockstep import Lockstep
from teleop.messages import Health
from teleop.node import Node, NodeContext
from teleop.processes import NodeLoop, build_node
from teleop.rig import Rig
from teleop.session import SessionNode
from teleop.session_plan import Action, EpisodeResult
from teleop.supervisor import Supervisor

LOCKSTEP_LIMIT_S = 120.0
"""Virtual time an episode may take with homing, beyond its own longest duration."""
STATUS_PERIOD_S = 0.2
CUES = {"ready": "ready", "running": "recording", "stopping": "stopped"}


class LockstepRig:
    """A job on the emulated rig in virtual time: a context that can be run in pieces.

    Args:
        rig: The rig as read from its file.
        job: What to do.
        listeners: Further nodes that only listen, stepped last.
    """

    def __init__(self, rig: Rig, job: Job, listeners: Sequence[Node] = ()) -> None:
        rig = _emulated("lockstep_rig", rig_for(rig, job))
        specs = specs_of(rig, job)
        self.clock = VirtualClock()
        self.session = SessionNode(rig, session_plan_of(rig, job, specs, attended=False))
        emulator = next(spec for spec in specs if spec.name == "emulator")
        build_world = importlib.import_module("drivers.emulated.world").build_world
        self.world: Any = build_world(rig, self.clock, emulator.options)
        """The ``drivers.emulated.world.EmulatedWorld``, for looking at and breaking things."""
        self.nodes: dict[str, Node] = {}
        branches = {spec.name: BranchClock(self.clock) for spec in specs}
        try:
            for spec in specs:
                context = NodeContext(rig, branches[spec.name], self.world, spec.options)
                self.nodes[spec.name] = build_node(spec, context)
        except BaseException:
            self.close()
            raise
        # The session comes before those who obey it, whatever else the job consists of.
        nodes = [self.session, *self.nodes.values(), *listeners]
        self.runner = Lockstep(nodes, self.clock, branches, self.world, rig.rates.health_hz)

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Run until the condition holds.

        Raises:
            NodeFailedError: the limit, in virtual seconds, passed first.
        """
        self.runner.run(until, limit_s)

    def close(self) -> None:
        """Close all nodes, then the world."""
        for node in self.nodes.values():
            node.close()
        self.world.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class LockstepReport:
    """What a lockstep run came to."""

    results: list[EpisodeResult]
    rig_s: float
    """Virtual time that passed on the rig, homing included."""
    wall_s: float
    """Time it took here, start-up not included."""

    @property
    def speed(self) -> float:
        """How many times faster than real time."""
        return self.rig_s / self.wall_s


def run_lockstep(
    rig: Rig,
    job: Job,
    on_episode: Callable[[EpisodeResult], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> LockstepReport:
    """Run a job on the emulated rig in virtual time, in this process, to its end.

    Args:
        rig: The rig as read from its file.
        job: What to do; ``job.episodes`` must be given.
        on_episode: Called when an episode has been saved (or has ended, when none is recorded).
        announce: Told what is emulated and how, before it starts.
    """
    assert job.episodes is not None
    reported = 0
    wall = MonotonicClock()
    with LockstepRig(rig, job) as run:
        session = run.session
        if announce is not None:
            announce(run.nodes["emulator"].health(run.clock.now_ns()).detail)
        begun_ns = wall.now_ns()

        def ended() -> bool:
            nonlocal reported
            while on_episode is not None and reported < len(session.closed_results):
                on_episode(session.closed_results[reported])
                reported += 1
            return session.finished

        run.run(ended, job.episodes * (session.session_plan.max_seconds + LOCKSTEP_LIMIT_S))
        wall_s = (wall.now_ns() - begun_ns) / NS_PER_S
        return LockstepReport(session.results, run.clock.now_ns() / NS_PER_S, wall_s)


def run_processes(
    rig: Rig,
    job: Job,
    console: Console,
    emulate: bool,
    at_end: Callable[[SessionNode], None] | None = None,
) -> list[EpisodeResult]:
    """Run a job with a process per node, in real time.

    Ctrl-C, SIGTERM and SIGHUP end the session in order; a node that dies does too.

    Args:
        rig: The rig as read from its file.
        job: What to do.
        console: The operator's terminal.
        emulate: Without a robot.
        at_end: Given the session when it has finished, with all that nodes said last.

    Raises:
        NodeFailedError: a node died; arms hold, the episode so far is kept.
    """
    rig = rig_for(rig, job)
    with run_folder() as run_dir, ExitStack() as stack:
        if emulate:
            rig = emulated_processes(rig, job, run_dir)
        specs = specs_of(rig, job, run_dir)
        attended = console.attended and not emulate
        session = SessionNode(rig, session_plan_of(rig, job, specs, attended))
        stack.enter_context(quit_on_signals(session))
        loop = NodeLoop(session, rig, stack.enter_context(Bus(rig)))
        stack.callback(loop.close)
        supervisor = stack.enter_context(Supervisor(rig, specs, run_dir))
        Attendant(session, supervisor, console).attend(loop)
        if at_end is not None:
            at_end(session)
    return session.results


def emulated_processes(rig: Rig, job: Job, run_dir: Path) -> Rig:
    """The rig of a job with the addresses of emulated devices.

    Topics get ports that are free now; with a remote policy those of the rig file, where the
    other machine looks for them.
    """
    made = _emulated("process_rig", rig, run_dir)
    return made.replaced(network=rig.network.model_dump()) if has_remote_policy(job) else made


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder for one run's logs and port links; kept when a node failed, for its logs."""
    folder = Path(tempfile.mkdtemp(prefix="tandem-"))
    try:
        yield folder
    except NodeFailedError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


class Attendant:
    """Stands between a running session, the operator's terminal and the supervisor."""

    def __init__(self, session: SessionNode, supervisor: Supervisor, console: Console) -> None:
        self._session = session
        self._supervisor = supervisor
        self._console = console
        self._heard: dict[str, Health] = {}
        self._commander_said = ""
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
                if name == "emulator" and name not in self._heard:
                    self._console.say(f"emulator: {health.detail}")
                if name == "commander":
                    self._tell_commander(health)
                self._heard[name] = health
                self._supervisor.heard(name)
        self._supervisor.check()

    def _tell_commander(self, health: Health) -> None:
        """What a commander that is ready, or waits, wants known: once, though figures change."""
        words = re.sub(r"[\d.-]+", "", health.detail)
        if self._session.phase == "ready" and words not in ("", self._commander_said):
            self._commander_said = words
            self._console.say(f"commander: {health.detail}")

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
        if health is None:
            continue
        # An arm that holds for a reason while it should follow is well; the operator must know.
        holds = session.phase == "running" and health.state == "hold" and health.detail
        if not health.ok or holds:
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
