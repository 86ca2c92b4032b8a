"""Teleoperation: what the leaders' hands do, the followers are asked to do.

Joint to joint and gripper opening to gripper opening; the arm node of each follower keeps
the limits. Each leader reading becomes a command the moment it arrives.
"""

from __future__ import annotations

import numpy as np

from teleop import topics
from teleop.clock import ns_from_s
from teleop.commander import Commander, Pose
from teleop.messages import LIMP, LIMP_GRIPPER, ArmState
from teleop.node import Inputs, NodeContext, NodeHealth, Outputs
from teleop.rig import Rig

FOLLOWER_START_GRIPPER = 0.0
"""Followers start closed, as in ALOHA: the leaders are closed when the episode begins, so the
follower's gripper does not snap shut first, and a policy need not learn that it does."""

LEADER_START_GRIPPER = 0.5
"""Leaders' triggers start half way, so that closing them is a deliberate sign to start."""


def start_pose(rig: Rig, arm: str) -> Pose:
    """Where teleoperation begins."""
    leads = rig.arms[arm].role == "leader"
    return Pose(
        np.array(rig.arm_model(arm).start_rad),
        LEADER_START_GRIPPER if leads else FOLLOWER_START_GRIPPER,
    )


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
    """The commander of a session in which people guide the leaders."""

    def __init__(self, name: str, rig: Rig, lease: str) -> None:
        goals = {arm: start_pose(rig, arm) for arm in sorted(rig.arms)}
        super().__init__(name, rig, "teleop", lease, goals)
        self._leaders = sorted(rig.leaders)
        self._leader_of = {
            follower: arm.leader
            for follower, arm in sorted(rig.followers.items())
            if arm.leader is not None
        }
        self._alone = [arm for arm in sorted(rig.followers) if arm not in self._leader_of]
        self._order = {
            follower: joint_order(rig, leader, follower)
            for follower, leader in self._leader_of.items()
        }
        self._stale_ns = ns_from_s(rig.safety.stale_command_s)
        self._late_readings = 0

    def ready(self, now_ns: int) -> Outputs:
        """Followers hold their start pose; leaders hold too, with the gripper free to close."""
        return self._let_go(LIMP_GRIPPER, now_ns) + [
            self.write.position(arm, self.goals[arm], now_ns) for arm in sorted(self.rig.followers)
        ]

    def begin(self, now_ns: int) -> None:
        """Nothing to prepare: the first leader reading is the first command."""

    def run(self, inputs: Inputs, now_ns: int, tick: bool) -> Outputs:
        """A command for each new leader reading; leaders are kept limp at the arms' rate."""
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
        if tick:
            outputs += self._let_go(LIMP, now_ns)
            outputs += [self.write.position(a, self.goals[a], now_ns) for a in self._alone]
        return outputs

    def running_health(self, now_ns: int) -> NodeHealth:
        """``following``; names the leaders whose readings do not come."""
        silent = [arm for arm in self._leaders if self.heard.fresh(arm, now_ns) is None]
        return NodeHealth(
            ok=not silent,
            state="following",
            detail=f"no fresh reading of {', '.join(silent)}; followers hold" if silent else "",
            values={"late_leader_readings": float(self._late_readings)},
        )

    def _let_go(self, mode: str, now_ns: int) -> Outputs:
        return [self.write.let_go(arm, self.goals[arm], mode, now_ns) for arm in self._leaders]

    def _mapped(self, follower: str, state: ArmState) -> Pose:
        gripper = state.gripper
        if gripper is None:
            last = self.write.last.get(follower)
            gripper = self.goals[follower].gripper if last is None else last.gripper
        return Pose(state.position_rad[self._order[follower]], gripper)


def build(name: str, context: NodeContext) -> TeleopNode:
    """Make the node; option ``lease`` identifies this run."""
    return TeleopNode(name, context.rig, str(context.options["lease"]))
