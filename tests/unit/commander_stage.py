"""A stage for commanders: arms that go at once where they are sent, and a session to direct."""

from __future__ import annotations

from typing import cast

import numpy as np

from teleop import topics
from teleop.commander import Commander
from teleop.messages import (
    POSITION,
    ArmCommand,
    ArmState,
    FloatArray,
    Health,
    InputCue,
    Message,
    SessionPhase,
    StopState,
)
from teleop.node import Inputs, Received
from teleop.rig import Rig

TICK_NS = 10_000_000
START_NS = 1_000_000_000


class Stage:
    """Steps one commander with readings of all arms, in virtual time."""

    def __init__(self, rig: Rig, node: Commander) -> None:
        self.rig = rig
        self.node = node
        self.now_ns = START_NS
        self.phase = "starting"
        self.episode = 0
        self.stop = False
        self.silent: set[str] = set()
        self.pose = {arm: np.array(rig.arm_model(arm).sleep_rad) for arm in rig.arms}
        self.gripper: dict[str, float | None] = dict.fromkeys(rig.arms, 0.0)
        self.health: dict[str, Health] = {}
        self.sent: list[tuple[int, str, ArmCommand]] = []
        """When, to which arm, what."""
        self.cues: list[tuple[str, InputCue]] = []
        """What input devices were told, by input."""
        self._seq = 0

    def state(self, arm: str, age_ns: int = 0) -> ArmState:
        """A reading of an arm where it is now."""
        zeros = np.zeros_like(self.pose[arm])
        stamp_ns = self.now_ns - age_ns
        return ArmState(
            stamp_ns, self._seq, self.pose[arm].copy(), zeros, zeros, self.gripper[arm], 0.0, 0.0
        )

    def inputs(self, *extra: tuple[str, Message]) -> Inputs:
        """What the rig says in this tick."""
        self._seq += 1
        said: list[tuple[str, Message]] = [
            (topics.arm_state(arm), self.state(arm)) for arm in self.pose if arm not in self.silent
        ]
        said.append((topics.SESSION_PHASE, self._phase()))
        said.append((topics.SESSION_STOP, StopState(self.now_ns, self._seq, self.stop, "")))
        said += [(topics.node_health(arm), health) for arm, health in self.health.items()]
        return self.arriving([*said, *extra])

    def arriving(self, said: list[tuple[str, Message]]) -> Inputs:
        """Messages that arrive now."""
        return Inputs({topic: [Received(message, self.now_ns)] for topic, message in said})

    def _phase(self) -> SessionPhase:
        return SessionPhase(self.now_ns, self._seq, self.phase, self.episode, "")

    def tick(self, *extra: tuple[str, Message]) -> list[tuple[str, ArmCommand]]:
        """One tick; obedient arms go where they are sent."""
        self.now_ns += TICK_NS
        return self.take(self.inputs(*extra))

    def take(self, inputs: Inputs) -> list[tuple[str, ArmCommand]]:
        """Step the node with these inputs; returns its commands by arm."""
        commands = []
        for topic, message in self.node.step(inputs, self.now_ns):
            arm = topic.split("/")[1]
            if isinstance(message, InputCue):
                self.cues.append((arm, message))
                continue
            assert topic == topics.arm_command(arm)
            command = cast(ArmCommand, message)
            commands.append((arm, command))
            self.sent.append((self.now_ns, arm, command))
            if command.mode == POSITION:
                self.pose[arm] = command.position_rad.copy()
                self.gripper[arm] = command.gripper
        return commands

    def ticks(self, count: int) -> list[tuple[str, ArmCommand]]:
        """Several ticks; all their commands."""
        return [command for _ in range(count) for command in self.tick()]

    def enter(self, phase: str, episode: int | None = None) -> None:
        """The session goes on."""
        self.phase = phase
        self.episode = self.episode if episode is None else episode

    def home(self) -> None:
        """Through homing, until the commander says that it is done."""
        self.enter("homing")
        for _ in range(2000):
            self.tick()
            if self.node.health(self.now_ns).state == "home":
                return
        raise AssertionError(f"not home: {self.node.health(self.now_ns)}")

    def run(self) -> None:
        """Through homing and ready into running."""
        self.home()
        self.enter("ready")
        self.ticks(5)
        self.enter("running")
        self.tick()

    def refuse(self, arm: str, detail: str, ok: bool = True) -> None:
        """The arm's node complains."""
        self.health[arm] = Health(self.now_ns, 0, arm, ok, "hold", detail, {})

    def path(self, arm: str) -> FloatArray:
        """All positions that an arm was sent to, shape (N, J)."""
        return np.array(
            [c.position_rad for _, name, c in self.sent if name == arm and c.mode == POSITION]
        )


def modes(commands: list[tuple[str, ArmCommand]], arm: str) -> set[str]:
    """Modes asked of an arm."""
    return {command.mode for name, command in commands if name == arm}


def leases(commands: list[tuple[str, ArmCommand]]) -> set[str]:
    """Leases under which was commanded."""
    return {command.lease for _, command in commands}
