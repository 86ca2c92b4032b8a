"""What every commander of the arms does alike: turns, homing, holding, telling.

A commander is the only publisher of all ``arm/*/command`` topics. It follows the session's
phases; what it does while *running* is its own (``teleop_node``, ``replay_node``, a policy).

Each homing begins a new *turn*, a lease of its own (``<lease>.<n>``). An emergency stop ends
the turn: nothing is sent until the session homes again, so clearing the stop moves nothing.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from teleop import topics
from teleop.clock import Ticker, ns_from_s
from teleop.messages import (
    POSITION,
    ArmCommand,
    ArmState,
    FloatArray,
    Health,
    SessionPhase,
    StopState,
)
from teleop.motion import Ramp
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs, Sequencer
from teleop.rig import Rig
from teleop.topics import Queue

HOME_TOLERANCE_RAD = 0.2
"""How far from its start pose an arm may rest and count as home.

The servos hold with a proportional gain only, so gravity leaves them a few hundredths off.
"""

HOMING_GRIPPER_1_S = 1.0
"""Rate of the opening while homing: a full stroke in about two seconds."""

ENGAGE_REFUSED = "engage refused"
"""How an arm node's health detail begins when it refuses the pose of a new commander."""


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Where an arm is wanted."""

    position_rad: FloatArray
    """Shape (J,)."""
    gripper: float
    """Opening, 0 closed ... 1 open."""


class Heard:
    """The newest of what the rig has said, as a commander needs it."""

    def __init__(self, arms: Sequence[str], stale_ns: int) -> None:
        self._arms = tuple(arms)
        self._stale_ns = stale_ns
        self.states: dict[str, ArmState] = {}
        self._health: dict[str, Health] = {}
        self.phase: SessionPhase | None = None
        self.stop: StopState | None = None

    def take(self, inputs: Inputs) -> None:
        """Remember the newest message of each kind."""
        for arm in self._arms:
            if (state := inputs.latest(topics.arm_state(arm), ArmState)) is not None:
                self.states[arm] = state
            if (health := inputs.latest(topics.node_health(arm), Health)) is not None:
                self._health[arm] = health
        self.phase = inputs.latest(topics.SESSION_PHASE, SessionPhase) or self.phase
        self.stop = inputs.latest(topics.SESSION_STOP, StopState) or self.stop

    def fresh(self, arm: str, now_ns: int) -> ArmState | None:
        """The arm's newest reading, unless a joint is missing or it is older than a command."""
        state = self.states.get(arm)
        if state is None or now_ns - state.stamp_ns > self._stale_ns:
            return None
        return state if np.isfinite(state.position_rad).all() else None

    def silent_arms(self, now_ns: int) -> list[str]:
        """Arms without a fresh reading."""
        return [arm for arm in self._arms if self.fresh(arm, now_ns) is None]

    def arm_health(self, arm: str) -> Health | None:
        """The arm node's newest heartbeat."""
        return self._health.get(arm)

    def troubles(self) -> list[str]:
        """What arms complain of: a refused engagement, a fault."""
        return [
            f"{arm}: {health.detail or health.state}"
            for arm, health in self._health.items()
            if not health.ok or ENGAGE_REFUSED in health.detail
        ]


class CommandWriter:
    """Makes command messages of one turn."""

    def __init__(self, source: str, lease: str, valid_ns: int) -> None:
        self._source = source
        self._base = lease
        self._valid_ns = valid_ns
        self._turn = 0
        self._seq = Sequencer()
        self.last: dict[str, Pose] = {}
        """Per arm the pose last asked for in this turn; an arm let go has none."""

    @property
    def lease(self) -> str:
        """The lease of the present turn."""
        return f"{self._base}.{self._turn}"

    def begin_turn(self) -> None:
        """Take a lease that no arm has seen."""
        self._turn += 1
        self.last.clear()

    def position(
        self, arm: str, pose: Pose, now_ns: int, origin_ns: int = 0
    ) -> tuple[str, ArmCommand]:
        """Ask for a pose; ``origin_ns`` is the stamp of the reading it was made from."""
        self.last[arm] = pose
        return self._command(arm, pose, now_ns, POSITION, origin_ns)

    def let_go(self, arm: str, pose: Pose, mode: str, now_ns: int) -> tuple[str, ArmCommand]:
        """Ask a leader to go ``LIMP`` or ``LIMP_GRIPPER``; the pose is not used by the arm."""
        self.last.pop(arm, None)
        return self._command(arm, pose, now_ns, mode, 0)

    def _command(
        self, arm: str, pose: Pose, now_ns: int, mode: str, origin_ns: int
    ) -> tuple[str, ArmCommand]:
        topic = topics.arm_command(arm)
        return topic, ArmCommand(
            stamp_ns=now_ns,
            seq=self._seq.next(topic),
            position_rad=pose.position_rad,
            gripper=pose.gripper,
            valid_until_ns=now_ns + self._valid_ns,
            source=self._source,
            lease=self.lease,
            mode=mode,
            origin_ns=origin_ns,
        )


class Homing:
    """Ramps of several arms, begun together, from where they are to where they belong."""

    def __init__(
        self, goals: Mapping[str, Pose], max_velocity_rad_s: float, goal_name: str
    ) -> None:
        self._goals = goals
        self._goal_name = goal_name
        self._max_velocity_rad_s = max_velocity_rad_s
        self._ramps: dict[str, Ramp] = {}
        self._start_ns = 0

    @property
    def started(self) -> bool:
        return bool(self._ramps)

    def start(self, states: Mapping[str, ArmState], now_ns: int) -> None:
        """Plan from the measured poses; every arm with a goal must be among ``states``."""
        self._start_ns = now_ns
        for arm, goal in self._goals.items():
            opening = states[arm].gripper
            self._ramps[arm] = Ramp(
                states[arm].position_rad,
                goal.position_rad,
                self._max_velocity_rad_s,
                gripper=(goal.gripper if opening is None else opening, goal.gripper),
                max_gripper_velocity_1_s=HOMING_GRIPPER_1_S,
            )

    def poses(self, now_ns: int) -> dict[str, Pose]:
        """Where each arm should be now."""
        elapsed_s = (now_ns - self._start_ns) / 1e9
        return {arm: Pose(*ramp.at(elapsed_s)) for arm, ramp in self._ramps.items()}

    def finished(self, now_ns: int) -> bool:
        """Whether all ramps have come to their end."""
        elapsed_s = (now_ns - self._start_ns) / 1e9
        return self.started and all(ramp.finished(elapsed_s) for ramp in self._ramps.values())

    def away(self, states: Mapping[str, ArmState], joint_names: Mapping[str, Sequence[str]]) -> str:
        """The first joint measured away from its goal, in words; empty when all are home."""
        for arm, goal in self._goals.items():
            off = np.abs(states[arm].position_rad - goal.position_rad)
            # Not <=, so that a joint that was not measured (NaN) is not home.
            if not bool((worst := off[int(np.argmax(off))]) <= HOME_TOLERANCE_RAD):
                joint = joint_names[arm][int(np.argmax(off))]
                return f"{arm} {joint} is {worst:.3f} rad from its {self._goal_name}"
        return ""


class Commander(abc.ABC):
    """A node that commands arms through the phases of a session.

    Args:
        name: The node's name.
        rig: The rig description.
        source: ``ArmCommand.source``.
        lease: Identity of this run; turns are numbered onto it.
        goals: Start pose per arm to be homed; other arms get no command while homing.
        extra_subscriptions: What the commander listens to beyond arms and session.
        goal_name: What the goals are, in words.
    """

    def __init__(
        self,
        name: str,
        rig: Rig,
        source: str,
        lease: str,
        goals: Mapping[str, Pose],
        extra_subscriptions: Mapping[str, Queue] | None = None,
        goal_name: str = "start pose",
    ) -> None:
        self.name = name
        self.rig = rig
        self.goals = dict(goals)
        stale_ns = ns_from_s(rig.safety.stale_command_s)
        self.heard = Heard(sorted(rig.arms), stale_ns)
        self.write = CommandWriter(source, lease, stale_ns)
        # A new lease is refused until the old one has been silent for as long as a command lives.
        self._pause_ns = stale_ns * 3 // 2
        period_ns = ns_from_s(1 / rig.rates.arm_hz)
        arms = sorted(rig.arms)
        self.plan = NodePlan(
            period_ns=period_ns,
            subscriptions={
                **{topics.arm_state(arm): Queue.LATEST for arm in arms},
                **{topics.node_health(arm): Queue.LATEST for arm in arms},
                topics.SESSION_PHASE: Queue.LATEST,
                topics.SESSION_STOP: Queue.LATEST,
                **(extra_subscriptions or {}),
            },
            publications=[topics.arm_command(arm) for arm in arms],
            wake="input",
        )
        self._joint_names = {
            arm: tuple(joint.name for joint in rig.arm_model(arm).joints) for arm in arms
        }
        self._ticker: Ticker | None = None
        self._phase = ("", -1)
        self._turn_open = False
        self._entered_ns = 0
        self._goal_name = goal_name
        self._homing = self._new_homing()
        self._home = False
        self._held: dict[str, Pose] = {}

    @abc.abstractmethod
    def ready(self, now_ns: int) -> Outputs:
        """Commands of one tick while waiting for the episode to start."""

    @abc.abstractmethod
    def begin(self, now_ns: int) -> None:
        """The episode starts now."""

    @abc.abstractmethod
    def run(self, inputs: Inputs, now_ns: int, tick: bool) -> Outputs:
        """Commands while running; ``tick`` is set at the arms' rate, else an input came."""

    @abc.abstractmethod
    def running_health(self, now_ns: int) -> NodeHealth:
        """State while running: ``following``, ``finished``."""

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Follow the session's phase."""
        self.heard.take(inputs)
        tick = self._tick(now_ns)
        stop, phase = self.heard.stop, self.heard.phase
        if stop is not None and stop.engaged:
            self._turn_open = False
            self._phase = ("", -1)  # Homing, if that is what is asked then, starts anew.
            return []
        if phase is None:
            return []
        if (phase.phase, phase.episode) != self._phase:
            self._phase = (phase.phase, phase.episode)
            self._enter(phase.phase, now_ns)
        if not self._turn_open:
            return []
        if phase.phase == "running":
            return self.run(inputs, now_ns, tick)
        return self._tick_outputs(phase.phase, now_ns) if tick else []

    def health(self, now_ns: int) -> NodeHealth:
        """State by phase; ``refused`` with the arms' words when one will not engage."""
        phase = self._phase[0]
        troubles = "; ".join(self.heard.troubles())
        if not self._turn_open:
            stop = self.heard.stop
            stopped = stop is not None and stop.engaged
            return NodeHealth(state="stopped" if stopped else "idle", detail=troubles)
        if troubles and phase in ("homing", "ready", "running"):
            return NodeHealth(ok=False, state="refused", detail=troubles)
        if phase == "running":
            return self.running_health(now_ns)
        if phase == "homing":
            return self._homing_health(now_ns)
        return NodeHealth(state=phase, detail=troubles)

    def close(self) -> None:
        """Say nothing more; the arms hold once no command comes."""
        self._turn_open = False

    def holding(self, now_ns: int) -> Outputs:
        """Commands that keep every homed arm at its start pose."""
        return [self.write.position(arm, pose, now_ns) for arm, pose in self.goals.items()]

    def poses_to_keep(self, now_ns: int) -> dict[str, Pose]:
        """What arms are sent as the episode ends: what each was last asked for, or where it is."""
        poses = dict(self.write.last)
        for arm in self.rig.arms:
            state = self.heard.fresh(arm, now_ns)
            if arm not in poses and arm in self.goals and state is not None:
                opening = self.goals[arm].gripper if state.gripper is None else state.gripper
                poses[arm] = Pose(state.position_rad, opening)
        return poses

    def _new_homing(self) -> Homing:
        return Homing(self.goals, self.rig.safety.homing_velocity_rad_s, self._goal_name)

    def _tick(self, now_ns: int) -> bool:
        if self._ticker is None:
            self._ticker = Ticker(self.plan.period_ns, now_ns)
        if not self._ticker.due(now_ns):
            return False
        self._ticker.advance(now_ns)
        return True

    def _enter(self, phase: str, now_ns: int) -> None:
        self._entered_ns = now_ns
        if phase == "homing":
            self.write.begin_turn()
            self._turn_open = True
            self._home = False
            self._homing = self._new_homing()
        elif phase == "running":
            self.begin(now_ns)
        elif phase == "stopping":
            self._held = self.poses_to_keep(now_ns)
        elif phase in ("starting", "done"):
            self._turn_open = False

    def _tick_outputs(self, phase: str, now_ns: int) -> Outputs:
        if phase == "homing":
            return self._home_arms(now_ns)
        if phase == "ready":
            return self.ready(now_ns)
        if phase == "stopping":
            return [self.write.position(arm, pose, now_ns) for arm, pose in self._held.items()]
        return []

    def _home_arms(self, now_ns: int) -> Outputs:
        if now_ns - self._entered_ns < self._pause_ns:
            return []
        if not self._homing.started:
            if any(self.heard.fresh(arm, now_ns) is None for arm in self.goals):
                return []
            self._homing.start(self.heard.states, now_ns)
        self._home = self._homing.finished(now_ns) and not self._homing.away(
            self.heard.states, self._joint_names
        )
        poses = self._homing.poses(now_ns)
        return [self.write.position(arm, pose, now_ns) for arm, pose in poses.items()]

    def _homing_health(self, now_ns: int) -> NodeHealth:
        if self._home:
            return NodeHealth(state="home")
        detail = ""
        if not self._homing.started:
            silent = [arm for arm in self.heard.silent_arms(now_ns) if arm in self.goals]
            detail = f"waiting for a reading of {', '.join(silent)}" if silent else ""
        elif self._homing.finished(now_ns):
            detail = self._homing.away(self.heard.states, self._joint_names)
        return NodeHealth(state="homing", detail=detail)
