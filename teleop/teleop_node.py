"""Teleoperation: what people's hands do, the arms are asked to do.

A follower mirrors its leader, joint to joint and gripper opening to gripper opening, or its tool
goes where an input device guides it (``teleop.cartesian_guide``). An arm guided by hand is let
go, and only its gripper is commanded. The arm node of each follower keeps the limits. A leader's
reading becomes a command the moment it arrives.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from teleop import topics
from teleop.cartesian_guide import CartesianGuide
from teleop.clock import ns_from_s
from teleop.commander import Commander, Pose
from teleop.messages import (
    GUIDE,
    LIMP,
    LIMP_GRIPPER,
    ArmState,
    InputCue,
    OperatorAction,
    PoseInput,
    TwistInput,
)
from teleop.node import Inputs, NodeContext, NodeHealth, Outputs, Sequencer
from teleop.rig import Rig
from teleop.rig_inputs import FrankaPilot, SpaceMouse
from teleop.topics import Queue

FOLLOWER_START_GRIPPER = 0.0
"""Followers start closed, as in ALOHA: the leaders are closed when the episode begins, so the
follower's gripper does not snap shut first, and a policy need not learn that it does."""

OTHER_START_GRIPPER = 1.0
"""Arms guided by an input, or by hand, start open: nobody pulls the trigger yet, and fingers are
ready to grasp."""

LEADER_START_GRIPPER = 0.5
"""Leaders' triggers start half way, so that closing them is a deliberate sign to start."""


def start_pose(rig: Rig, arm: str) -> Pose:
    """Where teleoperation begins."""
    if rig.arms[arm].role == "leader":
        opening = LEADER_START_GRIPPER
    elif rig.arms[arm].input is not None or arm in rig.guided:
        opening = OTHER_START_GRIPPER
    else:
        opening = FOLLOWER_START_GRIPPER
    return Pose(np.array(rig.arm_model(arm).start_rad), opening)


def joint_order(rig: Rig, leader: str, follower: str) -> list[int]:
    """Column of the leader's joints for each joint of the follower.

    By name where both arms use the same names, else by place.
    """
    theirs = [joint.name for joint in rig.arm_model(leader).joints]
    mine = [joint.name for joint in rig.arm_model(follower).joints]
    if set(theirs) == set(mine):
        return [theirs.index(name) for name in mine]
    return list(range(len(mine)))


class TeleopNode(Commander):
    """The commander of a session in which people guide the arms."""

    def __init__(self, name: str, rig: Rig, lease: str) -> None:
        moved = [arm for arm, config in rig.arms.items() if config.role != "observer"]
        goals = {arm: start_pose(rig, arm) for arm in sorted(moved)}
        self._input_of = {
            arm: config.input
            for arm, config in sorted(rig.followers.items())
            if config.input is not None
        }
        self._pucks = {
            arm for arm, name in self._input_of.items() if isinstance(rig.inputs[name], SpaceMouse)
        }
        inputs = {
            **{self._motion_of(arm): Queue.ALL for arm in self._input_of},
            **{topics.input_action(name): Queue.ALL for name in rig.inputs},
        }
        super().__init__(name, rig, "teleop", lease, goals, inputs)
        cues = [topics.input_cue(name) for name in rig.inputs]
        self.plan = replace(self.plan, publications=[*self.plan.publications, *cues])
        self._leaders = sorted(rig.leaders)
        self._leader_of = {
            follower: arm.leader
            for follower, arm in sorted(rig.followers.items())
            if arm.leader is not None
        }
        self._guides = {arm: self._guide(arm) for arm in self._input_of}
        self._alone = [
            arm
            for arm in sorted(rig.followers)
            if arm not in self._leader_of and arm not in self._guides
        ]
        self._order = {
            follower: joint_order(rig, leader, follower)
            for follower, leader in self._leader_of.items()
        }
        self._hand_gripper = {arm: self.goals[arm].gripper for arm in sorted(rig.guided)}
        self._gripper_of = _grippers(rig)
        self._stale_ns = ns_from_s(rig.safety.stale_command_s)
        self._late_readings = 0
        self._seq = Sequencer()
        self._shown: dict[str, str] = {}

    def ready(self, now_ns: int) -> Outputs:
        """Followers hold their start pose; leaders hold too, with the gripper free to close."""
        self._hand_gripper = {arm: self.goals[arm].gripper for arm in self._hand_gripper}
        held = sorted({*self.rig.followers, *self.rig.guided})
        return (
            self._let_go(LIMP_GRIPPER, now_ns)
            + [self.write.position(arm, self.goals[arm], now_ns) for arm in held]
            + self._cues("idle", now_ns)
        )

    def begin(self, now_ns: int) -> None:
        """Guides begin at the pose last commanded; a leader's first reading is its command."""
        for arm, guide in self._guides.items():
            guide.begin(self.write.last.get(arm, self.goals[arm]), now_ns)

    def run(self, inputs: Inputs, now_ns: int, tick: bool) -> Outputs:
        """A command for each new leader reading; all else at the arms' rate."""
        self._press(inputs)
        outputs: Outputs = []
        for follower, leader in self._leader_of.items():
            state = inputs.latest(topics.arm_state(leader), ArmState)
            if state is None:
                continue
            if now_ns - state.stamp_ns > self._stale_ns:
                self._late_readings += 1
                continue
            pose = self._mapped(follower, state)
            outputs.append(self.write.position(follower, pose, now_ns, state.stamp_ns))
        for arm, guide in self._guides.items():
            for received in inputs.received(self._motion_of(arm)):
                if isinstance(received.message, (PoseInput, TwistInput)):
                    guide.take(received.message)
        if tick:
            outputs += self._let_go(LIMP, now_ns)
            outputs += [self.write.position(a, self.goals[a], now_ns) for a in self._alone]
            outputs += self._guided(now_ns)
        return outputs

    def running_health(self, now_ns: int) -> NodeHealth:
        """``following``; names the leaders and inputs that do not come."""
        silent = [arm for arm in self._leaders if self.heard.fresh(arm, now_ns) is None]
        words = [f"no fresh reading of {', '.join(silent)}; followers hold"] if silent else []
        words += [
            f"{self._input_of[arm]} is lost; {arm} holds"
            for arm, guide in self._guides.items()
            if guide.state == "lost"
        ]
        return NodeHealth(
            ok=not words,
            state="following",
            detail="; ".join(words),
            values={
                "late_leader_readings": float(self._late_readings),
                **{f"{arm}_latches": float(g.latches) for arm, g in self._guides.items()},
            },
        )

    def _guide(self, arm: str) -> CartesianGuide:
        return CartesianGuide(
            arm,
            self.rig.arm_model(arm),
            "twist" if arm in self._pucks else "pose",
            self.rig.cartesian,
            self.rig.arms[arm].operator_yaw_rad or 0.0,
            1 / self.rig.rates.arm_hz,
        )

    def _guided(self, now_ns: int) -> Outputs:
        """Where inputs want their followers, and what arms guided by hand do with the gripper."""
        outputs: Outputs = []
        for arm, guide in self._guides.items():
            pose = guide.pose(now_ns)
            outputs.append(self.write.position(arm, pose, now_ns, guide.origin_ns))
            outputs += self._cue(self._input_of[arm], guide.state, guide.pulse(), now_ns)
        for arm, opening in self._hand_gripper.items():
            pose = Pose(self.goals[arm].position_rad, opening)
            outputs.append(self.write.let_go(arm, pose, GUIDE, now_ns))
        return outputs

    def _press(self, inputs: Inputs) -> None:
        for name, arm in self._gripper_of.items():
            for asked in inputs.all(topics.input_action(name), OperatorAction):
                if asked.action != "gripper":
                    continue
                if arm in self._guides:
                    self._guides[arm].toggle_gripper()
                elif arm in self._hand_gripper:
                    self._hand_gripper[arm] = 1.0 - round(self._hand_gripper[arm])

    def _cues(self, state: str, now_ns: int) -> Outputs:
        return [cue for name in self.rig.inputs for cue in self._cue(name, state, 0.0, now_ns)]

    def _cue(self, name: str, state: str, pulse: float, now_ns: int) -> Outputs:
        """A cue when there is something new to see or feel."""
        if self._shown.get(name) == state and pulse == 0.0:
            return []
        self._shown[name] = state
        topic = topics.input_cue(name)
        return [(topic, InputCue(now_ns, self._seq.next(topic), state, pulse))]

    def _motion_of(self, arm: str) -> str:
        """The topic on which the device that guides an arm tells its motion."""
        name = self._input_of[arm]
        return topics.input_twist(name) if arm in self._pucks else topics.input_pose(name)

    def _let_go(self, mode: str, now_ns: int) -> Outputs:
        return [self.write.let_go(arm, self.goals[arm], mode, now_ns) for arm in self._leaders]

    def _mapped(self, follower: str, state: ArmState) -> Pose:
        gripper = state.gripper
        if gripper is None:
            last = self.write.last.get(follower)
            gripper = self.goals[follower].gripper if last is None else last.gripper
        return Pose(state.position_rad[self._order[follower]], gripper)


def _grippers(rig: Rig) -> dict[str, str]:
    """Which arm's gripper the button of each input works."""
    guided = {arm.input: name for name, arm in rig.followers.items() if arm.input is not None}
    pilots = {n: c.arm for n, c in rig.inputs.items() if isinstance(c, FrankaPilot)}
    return guided | pilots


def build(name: str, context: NodeContext) -> TeleopNode:
    """Make the node; option ``lease`` identifies this run."""
    return TeleopNode(name, context.rig, str(context.options["lease"]))
