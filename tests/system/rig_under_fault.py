"""A whole lockstep rig that is broken and mended in the middle of an episode."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recorder.episode import Episode
from teleop import messages as m
from teleop import topics
from teleop.assembly import Job
from teleop.clock import NS_PER_S, ns_from_s
from teleop.limits import limits_of
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs
from teleop.rig import Rig
from teleop.runs import LockstepRig
from teleop.session import Action
from teleop.topics import Queue

SETTLE_S = 0.5
BREAK_S = 2.0
MEND_S = 4.0
END_S = 7.0


class Witness:
    """Hears everything that devices and the commander say."""

    name = "witness"

    def __init__(self, rig: Rig) -> None:
        names = (*rig.arms, *rig.cameras, "commander")
        self.plan = NodePlan(
            ns_from_s(0.02),
            {
                **{topics.node_health(name): Queue.ALL for name in names},
                **{topics.arm_applied(arm): Queue.ALL for arm in rig.arms},
                **{topics.arm_state(arm): Queue.ALL for arm in rig.arms},
            },
        )
        self.heard: dict[str, list[m.Health]] = {name: [] for name in names}
        self.applied: dict[str, list[m.ArmApplied]] = {arm: [] for arm in rig.arms}
        self.states: dict[str, list[m.ArmState]] = {arm: [] for arm in rig.arms}

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        for name, said in self.heard.items():
            said += inputs.all(topics.node_health(name), m.Health)
        for arm in self.applied:
            self.applied[arm] += inputs.all(topics.arm_applied(arm), m.ArmApplied)
            self.states[arm] += inputs.all(topics.arm_state(arm), m.ArmState)
        return []

    def health(self, now_ns: int) -> NodeHealth:
        return NodeHealth()

    def close(self) -> None: ...


@dataclass
class Outcome:
    """What became of a broken episode."""

    rig: Rig
    witness: Witness
    episode: Episode
    broken_ns: int
    mended_ns: int

    def complaints(self, node: str) -> str:
        """What a node said between breaking and a second after mending."""
        return " | ".join(
            f"{h.state}: {h.detail}"
            for h in self.witness.heard[node]
            if not h.ok and self.broken_ns <= h.stamp_ns <= self.mended_ns + NS_PER_S
        )

    def refusals(self, arm: str) -> str:
        """What an arm that is well said while things were broken."""
        return " | ".join(
            h.detail
            for h in self.witness.heard[arm]
            if h.ok and self.broken_ns <= h.stamp_ns <= self.mended_ns + NS_PER_S
        )

    def applied_while_broken(self, arm: str) -> list[m.ArmApplied]:
        """What was let through meanwhile."""
        said = self.witness.applied[arm]
        return [a for a in said if self.broken_ns <= a.stamp_ns <= self.mended_ns]

    def states_of(self, node: str, since_ns: int) -> list[str]:
        """The states a node reported from an instant on, runs of equals once."""
        states = [h.state for h in self.witness.heard[node] if h.stamp_ns >= since_ns]
        return [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s]

    def stands_still(self, arm: str, since_ns: int, until_ns: int) -> bool:
        """Whether the arm was measured within a degree of one pose all the time."""
        poses = [
            s.position_rad for s in self.witness.states[arm] if since_ns <= s.stamp_ns <= until_ns
        ]
        return len(poses) > 0 and float(np.ptp(np.stack(poses), axis=0).max()) < 0.02

    def within_limits(self) -> bool:
        """Whether no follower was ever sent beyond position, speed or acceleration limits."""
        for arm in self.rig.followers:
            limits = limits_of(self.rig.arm_model(arm), self.rig.safety)
            said = self.witness.applied[arm]
            q = np.stack([a.position_rad for a in said])
            t = np.array([a.stamp_ns for a in said]) / NS_PER_S
            steady = np.diff(t) < 0.1  # across an outage the arm restarts where it is measured
            way = np.abs(np.diff(q, axis=0))[steady]
            # A retried read makes one write late and the next one soon after it, so the time
            # that counts is the tick's, at most one period more than the stamps say.
            allowed_s = np.diff(t)[steady, None] + 1 / self.rig.rates.arm_hz
            if (q < limits.min_rad - 1e-9).any() or (q > limits.max_rad + 1e-9).any():
                return False
            if (way > np.asarray(limits.max_velocity_rad_s) * allowed_s + 1e-6).any():
                return False
        return True


def for_seconds(run: LockstepRig, seconds: float) -> None:
    """Let virtual time pass."""
    end_ns = run.clock.now_ns() + ns_from_s(seconds)
    run.run(lambda: run.clock.now_ns() >= end_ns, seconds + 1)


def until_phase(run: LockstepRig, phase: str, at_least_s: float = 0.0) -> None:
    """Run until the session has been in a phase for so long."""
    session = run.session
    run.run(
        lambda: (
            session.phase == phase and session.seconds_in_phase(run.clock.now_ns()) >= at_least_s
        ),
        60,
    )


def stop_clear_confirm(run: LockstepRig) -> None:
    """What the operator does after a fault that lasts; each key takes effect in time."""
    for action in (Action.EMERGENCY_STOP, Action.CLEAR_STOP, Action.CONFIRM):
        run.session.act(action)
        for_seconds(run, SETTLE_S)


def change_commands(
    run: LockstepRig, arm: str, change: Callable[[m.ArmCommand], m.ArmCommand]
) -> None:
    """From now on the commander sends an arm something else than it means to."""
    commander = run.nodes["commander"]
    original = type(commander).step

    def step(inputs: Inputs, now_ns: int) -> Outputs:
        outputs = original(commander, inputs, now_ns)  # type: ignore[arg-type]
        return [
            (topic, change(message))
            if topic == topics.arm_command(arm) and isinstance(message, m.ArmCommand)
            else (topic, message)
            for topic, message in outputs
        ]

    commander.step = step  # type: ignore[method-assign]


def run_broken(
    rig: Rig,
    folder: Path,
    break_it: Callable[[LockstepRig], None],
    mend_it: Callable[[LockstepRig], None] = lambda run: None,
    cameras: tuple[str, ...] = (),
) -> Outcome:
    """Teleoperate a transfer, break something 2 s into it, mend it at 4 s, stop at 7 s."""
    job = Job("record", "transfer_cube", 1, folder, cameras=cameras, max_seconds=END_S)
    witness = Witness(rig)
    with LockstepRig(rig, job, [witness]) as run:
        session = run.session
        until_phase(run, "running", BREAK_S)
        broken_ns = run.clock.now_ns()
        break_it(run)
        until_phase(run, "running", MEND_S)
        mended_ns = run.clock.now_ns()
        mend_it(run)
        run.run(lambda: session.finished, 60)
    episode = Episode(session.results[0].path)
    return Outcome(rig, witness, episode, broken_ns, mended_ns)
