"""From an emulated input device to the goals of an arm's servos, in one process and real time.

Nothing is left out but the wire between the processes: the stand-in of the device, the vendor's
package, the driver and its node, the commander, the arm node, its driver and the servo bus. What
is written to the servos is kept for the tests, with the instant of the step that wrote it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from drivers import input_node
from drivers.arm import node as arm_node
from teleop import topics
from teleop.clock import NS_PER_S, Ticker, ns_from_s
from teleop.kinematics import ArmKinematics
from teleop.limits import limits_of
from teleop.messages import (
    ArmApplied,
    FloatArray,
    Health,
    InputCue,
    Message,
    PoseInput,
    SessionPhase,
    StopState,
    TwistInput,
)
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs, Received
from teleop.rig import Rig
from teleop.rotations import length, turn_between
from teleop.teleop_node import TeleopNode
from teleop.topics import Queue
from tests.system.servo_arm import ARM, ARM_HZ, CLOCK, ServoWorld

TICK_NS = ns_from_s(1 / ARM_HZ)
PATIENCE_S = 30.0
PAUSE_S = 0.001
"""Between two steps of the chain."""
OPERATOR_NS = ns_from_s(0.01)
SESSION_NS = ns_from_s(0.05)
HOLD_NS = ns_from_s(0.1)
"""From the loss of an input to its arm's braking (issue and ``cartesian.hold_s``)."""
STILL_RAD = 1e-6
"""Setpoints that differ by less are at rest; a servo's step is 1.5e-3."""
SERVO_STEP_RAD = 2 * np.pi / 4096
SETTLED_RAD = 2 * SERVO_STEP_RAD
"""So near to where it stays an arm counts as at rest: 2 mm at the tool of an outstretched one."""
WINDOW_NS = ns_from_s(0.05)
"""Over which the tool's speed is taken."""
LATE_NS = ns_from_s(0.025)
"""A setpoint that comes so long after the one before was kept waiting by the machine."""
CATCH_UP_NS = ns_from_s(0.2)


class _Node(Protocol):
    name: str
    plan: NodePlan

    def step(self, inputs: Inputs, now_ns: int) -> Outputs: ...

    def health(self, now_ns: int) -> NodeHealth: ...

    def close(self) -> None: ...


class _Place:
    """A node, what waits for it, and when it is due."""

    def __init__(self, node: _Node) -> None:
        self.node = node
        self.hangs = False
        self._ticker = Ticker(node.plan.period_ns, CLOCK.now_ns())
        self._waiting: dict[str, list[Received]] = {}

    def hear(self, topic: str, message: Message, now_ns: int) -> None:
        queue = self.node.plan.subscriptions.get(topic)
        if queue is not None:
            kept = self._waiting.setdefault(topic, [])
            if queue is Queue.LATEST:
                kept.clear()
            kept.append(Received(message, now_ns))

    def step(self, now_ns: int) -> Outputs:
        ticks = self._ticker.due(now_ns)
        woken = self.node.plan.wake == "input" and bool(self._waiting)
        if self.hangs or not (ticks or woken):
            return []
        if ticks:
            self._ticker.advance(now_ns)
        waiting, self._waiting = self._waiting, {}
        return self.node.step(Inputs(waiting), now_ns)


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A setpoint as it went to the servos."""

    step_ns: int
    """The present of the step that wrote it."""
    setpoint_rad: FloatArray
    goal_rad: FloatArray
    """The same as the servos have it, in their steps."""
    mode: str
    origin_ns: int
    """Stamp of the input that moves the arm; 0 while none does."""


class Chain:
    """The whole chain, stepped by whoever waits for something.

    Args:
        rig: From ``servo_arm.chain_rig``.
        input_name: The input that guides its arm.
        device: Name of that input's node.
        operator: Called every 10 ms with the present: moves the stand-in.
    """

    def __init__(
        self, rig: Rig, input_name: str, device: str, operator: Callable[[int], None]
    ) -> None:
        self.rig, self.input_name = rig, input_name
        self.world = ServoWorld(rig, ARM)
        self.operator = operator
        self.samples: list[PoseInput | TwistInput] = []
        """All that the input node has told of the input."""
        self.cues: list[str] = []
        self.written: list[Written] = []
        self.steps_ns: list[int] = []
        self._phase = "starting"
        self._said_ns = self._operated_ns = 0
        self._limits = limits_of(rig.arm_model(ARM), rig.safety)
        self._kinematics = ArmKinematics.of(rig.arm_model(ARM))
        self.arm = arm_node.build(ARM, NodeContext(rig, CLOCK, self.world))
        self.commander = TeleopNode("commander", rig, "test")
        try:
            self.input = input_node.build(device, NodeContext(rig, CLOCK))
        except BaseException:
            self.arm.close()
            raise
        self._places = [_Place(node) for node in (self.input, self.commander, self.arm)]

    def close(self) -> None:
        for place in self._places:
            place.node.close()

    # Going on

    def step(self) -> None:
        """One instant of everything."""
        now_ns = CLOCK.now_ns()
        self.steps_ns.append(now_ns)
        self.world.advance_to(now_ns)
        if now_ns - self._operated_ns >= OPERATOR_NS:
            self._operated_ns = now_ns
            self.operator(now_ns)
        if now_ns - self._said_ns >= SESSION_NS:
            self._said_ns = now_ns
            self._say(now_ns)
        for place in self._places:
            for topic, message in place.step(now_ns):
                self._carry(topic, message, now_ns)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Go on until it is so."""
        deadline_ns = CLOCK.now_ns() + ns_from_s(PATIENCE_S)
        while not condition():
            assert CLOCK.now_ns() < deadline_ns, f"not within {PATIENCE_S:g} s: {what}; {self.all}"
            self.step()
            time.sleep(PAUSE_S)

    def run(self) -> None:
        """Through the phases into an episode, in which the operator may guide."""
        self._phase = "homing"
        self.until(lambda: self.commander.health(CLOCK.now_ns()).state == "home", "home")
        self._phase = "ready"
        self.until(lambda: self.arm.mode == "follow", "the arm follows its commander")
        self._phase = "running"
        told = len(self.samples)
        self.until(lambda: len(self.samples) > told + 5, "the input tells of itself")

    def happen(self, fault: Callable[[], object]) -> int:
        """Go on while something goes wrong; returns the time at which it had."""
        happened_ns: list[int] = []

        def make() -> None:
            fault()
            happened_ns.append(CLOCK.now_ns())

        thread = threading.Thread(target=make, daemon=True)
        thread.start()
        self.until(lambda: happened_ns, "the fault itself")
        return happened_ns[0]

    def hang(self, node: _Node, hangs: bool) -> None:
        """The node's process stands still, or goes on."""
        for place in self._places:
            if place.node is node:
                place.hangs = hangs

    # What is seen

    @property
    def words(self) -> str:
        """What the input node and the commander complain of now."""
        told = [node.health(CLOCK.now_ns()) for node in (self.input, self.commander)]
        return " | ".join(health.detail for health in told if not health.ok)

    @property
    def all(self) -> str:
        """Everybody's health, for a failing test."""
        nodes = (self.input, self.commander, self.arm)
        return " | ".join(f"{n.name}: {n.health(CLOCK.now_ns())}" for n in nodes)

    def tool_m(self, written: Written) -> FloatArray:
        """Where a setpoint has the tool, in the arm's base frame."""
        return self._kinematics.forward(written.setpoint_rad).position_m

    def speed_m_s(self) -> float:
        """Of the tool, by the setpoints of the last 50 ms."""
        newest = self.written[-1]
        recent = [w for w in self.written[-20:] if newest.step_ns - w.step_ns <= WINDOW_NS]
        if len(recent) < 3 or CLOCK.now_ns() - newest.step_ns > WINDOW_NS:
            return 0.0
        span_s = (newest.step_ns - recent[0].step_ns) / NS_PER_S
        return length(self.tool_m(newest) - self.tool_m(recent[0])) / span_s

    def at_rest(self) -> bool:
        """Whether the last ten setpoints are the same."""
        last = self.written[-10:]
        moves = (_off(w.setpoint_rad, last[-1].setpoint_rad) for w in last)
        return len(last) == 10 and max(moves) <= STILL_RAD

    def longest_pause_ns(self, since_ns: int, until_ns: int) -> int:
        """How long a busy machine kept the chain waiting, at worst, in some span."""
        steps = [ns for ns in self.steps_ns if since_ns - NS_PER_S <= ns <= until_ns]
        gaps = [b - a for a, b in itertools.pairwise(steps) if b > since_ns]
        return max(gaps, default=0)

    # What must be so

    def assert_held(self, fault_ns: int) -> None:
        """Within 100 ms of the fault the arm brakes, and as quickly as its limits allow it rests.

        To the 100 ms a tick of the commander is added, to the braking one of the arm as well. The
        braking counts twice, since what its smoothed start overshot is then taken back. To each is
        added twice the longest time for which the machine kept this process waiting meanwhile:
        once before the decision, once on its way to the servos.
        """
        self.until(self.at_rest, "the arm at rest")
        held_ns = max(w.step_ns for w in self.written if w.origin_ns)
        final = self.written[-1].setpoint_rad
        away = [w.step_ns for w in self.written if _off(w.setpoint_rad, final) > SETTLED_RAD]
        rest_ns = max(held_ns, *away)
        late_ns = 2 * self.longest_pause_ns(fault_ns, rest_ns)
        around = [w for w in self.written if abs(w.step_ns - held_ns) <= 2 * TICK_NS + late_ns]
        speeds = np.max([_rates(a, b) for a, b in itertools.pairwise(around)], axis=0)
        braking_s = float((speeds / self._limits.max_acceleration_rad_s2).max())
        late = f"{late_ns / 1e6:.0f} of them for the machine"
        allowed_ns = HOLD_NS + TICK_NS + late_ns
        assert held_ns - fault_ns <= allowed_ns, (
            f"obeyed for {(held_ns - fault_ns) / 1e6:.0f} ms after the fault; allowed are "
            f"{allowed_ns / 1e6:.0f}, {late}"
        )
        allowed_ns = 2 * ns_from_s(braking_s) + 2 * TICK_NS + late_ns
        assert rest_ns - held_ns <= allowed_ns, (
            f"braked for {(rest_ns - held_ns) / 1e6:.0f} ms; allowed are "
            f"{allowed_ns / 1e6:.0f}, {late}"
        )

    def assert_stays(self, condition: Callable[[], object], what: str) -> None:
        """Until something has come about the arm does not move."""
        held = self.written[-1].setpoint_rad

        def come_about() -> bool:
            moved = _off(self.written[-1].setpoint_rad, held)
            assert moved <= STILL_RAD, f"the arm moved by {moved:.4f} rad before {what}"
            return bool(condition())

        self.until(come_about, what)

    def assert_caps(self) -> None:
        """No setpoint of the whole run was faster than the joints' caps and those on the tool."""
        for before, after in itertools.pairwise(self.written):
            assert (_rates(before, after) <= self._limits.max_velocity_rad_s + 1e-6).all()
            told = _off(after.goal_rad, after.setpoint_rad)
            assert told <= SERVO_STEP_RAD, "the servos were told something else"
        self._assert_tool_caps()

    def _assert_tool_caps(self) -> None:
        """Over 50 ms, since joints that catch up after a sudden start exceed them for a tick.

        Not shortly after the machine kept the chain waiting: there is more to catch up with. 3 %
        is the curve of a joint's motion.
        """
        cap = self.rig.cartesian
        tools = [self._kinematics.forward(w.setpoint_rad) for w in self.written]
        first, late_ns = 0, self.written[0].step_ns
        for i in range(1, len(self.written)):
            now_ns = self.written[i].step_ns
            if now_ns - self.written[i - 1].step_ns > LATE_NS:
                late_ns = now_ns
            while now_ns - self.written[first + 1].step_ns >= WINDOW_NS:
                first += 1
            span_s = (now_ns - self.written[first].step_ns) / NS_PER_S
            if now_ns - late_ns < CATCH_UP_NS or span_s * NS_PER_S < WINDOW_NS:
                continue
            far = length(tools[i].position_m - tools[first].position_m)
            turn = length(turn_between(tools[first].quaternion_wxyz, tools[i].quaternion_wxyz))
            assert far <= 1.03 * cap.speed_m_s * span_s
            assert turn <= 1.03 * cap.rotation_rad_s * span_s

    # Carrying messages

    def _say(self, now_ns: int) -> None:
        """What the session and the arm's heartbeat say."""
        phase = SessionPhase(now_ns, 0, self._phase, 0, "")
        self._carry(topics.SESSION_PHASE, phase, now_ns)
        self._carry(topics.SESSION_STOP, StopState(now_ns, 0, False, ""), now_ns)
        told = self.arm.health(now_ns)
        health = Health(now_ns, 0, ARM, told.ok, told.state, told.detail, dict(told.values))
        self._carry(topics.node_health(ARM), health, now_ns)

    def _carry(self, topic: str, message: Message, now_ns: int) -> None:
        for place in self._places:
            place.hear(topic, message, now_ns)
        if isinstance(message, PoseInput | TwistInput):
            if topic.split("/")[1] == self.input_name:
                self.samples.append(message)
        elif isinstance(message, InputCue):
            self.cues.append(message.state)
        elif isinstance(message, ArmApplied):
            goal_rad = self.world.goal_rad
            self.written.append(
                Written(now_ns, message.position_rad, goal_rad, message.mode, message.origin_ns)
            )


def _off(one: FloatArray, other: FloatArray) -> float:
    """The largest difference of two poses' joints, rad."""
    return float(np.abs(one - other).max())


def _rates(before: Written, after: Written) -> FloatArray:
    """Joint speeds between two setpoints, rad/s, shape (J,)."""
    dt_s = (after.step_ns - before.step_ns) / NS_PER_S
    return np.abs(after.setpoint_rad - before.setpoint_rad) / dt_s
