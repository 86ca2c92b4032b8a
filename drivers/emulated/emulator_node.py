"""The emulated world as a node of the rig.

In lockstep it reports on the runner's world. In the process runner it also keeps the world at
real time and serves its devices: servo buses on pseudo-terminals, camera pictures by a process
of their own.
"""

from __future__ import annotations

from pathlib import Path

from drivers.emulated.camera.board import BoardJob
from drivers.emulated.camera.rendering import choose_backend
from drivers.emulated.live_devices import LiveDevices
from drivers.emulated.world import EmulatedWorld, build_world
from teleop import messages as m
from teleop import topics
from teleop.clock import Ticker, ns_from_s
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs, Sequencer
from teleop.topics import Queue

LIVE_PERIOD_S = 0.004
"""Two physics steps: the joints that servos report are at most this old."""


class EmulatorNode:
    """Hears the session's phase, moves the world, says how the task stands.

    Args:
        world: The emulated rig.
        devices: What serves the world to other processes; None in lockstep.
        first_episode: Added to the session's episode number to choose the scene.
    """

    name = "emulator"

    def __init__(
        self, world: EmulatedWorld, devices: LiveDevices | None, first_episode: int
    ) -> None:
        self._world = world
        self._devices = devices
        self._first_episode = first_episode
        self._announcement = _announcement(world, devices)
        self._seq = Sequencer()
        self._task_ticker: Ticker | None = None
        arm_period_s = 1 / world.rig.rates.arm_hz
        self.plan = NodePlan(
            period_ns=ns_from_s(LIVE_PERIOD_S if devices is not None else arm_period_s),
            subscriptions={topics.SESSION_PHASE: Queue.ALL},
            publications=(topics.TASK_STATE,),
        )

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Move the world to now and report the task."""
        for phase in inputs.all(topics.SESSION_PHASE, m.SessionPhase):
            self._world.set_phase(phase.phase, self._first_episode + phase.episode)
        self._world.advance_to(now_ns)
        if self._devices is not None:
            self._devices.show(now_ns)
        if self._task_ticker is None:
            self._task_ticker = Ticker(ns_from_s(1 / self._world.rig.rates.task_hz), now_ns)
        if not self._task_ticker.due(now_ns):
            return []
        self._task_ticker.advance(now_ns)
        stage, last, success, poses = self._world.plant.task_state()
        topic = topics.TASK_STATE
        task = self._world.plant.task.name
        state = m.TaskState(now_ns, self._seq.next(topic), task, stage, last, success, poses)
        return [(topic, state)]

    def health(self, now_ns: int) -> NodeHealth:
        """``finished`` when the operator has done what it wanted; says what is emulated."""
        state = "finished" if self._world.operator_finished else "ok"
        values = {"slipped_s": self._world.slipped_s}
        return NodeHealth(state=state, detail=self._announcement, values=values)

    def close(self) -> None:
        """Stop serving devices; the lockstep runner closes its own world."""
        if self._devices is not None:
            self._devices.close()
            self._world.close()


def _announcement(world: EmulatedWorld, devices: LiveDevices | None) -> str:
    if not world.rig.cameras:
        return "no cameras"
    live = devices.cameras if devices is not None else None
    backend = live.backend if live is not None else choose_backend()
    how = "no OpenGL works here" if backend == "sketch" else "OpenGL without a screen"
    return f"cameras rendered by {backend} ({how})"


def build(name: str, context: NodeContext) -> EmulatorNode:
    """The emulator over the runner's world in lockstep, else over a live one."""
    first_episode = int(str(context.options.get("first_episode", 0)))
    if context.world is not None:
        assert isinstance(context.world, EmulatedWorld)
        return EmulatorNode(context.world, None, first_episode)
    world = build_world(context.rig, context.clock, context.options)
    folder = Path(str(context.options["runtime_dir"]))
    board = BoardJob.of(context.options)
    if board is not None and board.arm:
        world.leave_standing(board.arm)
    return EmulatorNode(world, LiveDevices(world, folder, board), first_episode)
