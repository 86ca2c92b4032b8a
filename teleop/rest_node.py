"""The end of the day: all arms go to their sleep pose, and their torque goes off.

Each arm node decides whether its arm may let go where it is measured; this node asks until all
have, and names those that have not.
"""

from __future__ import annotations

import numpy as np

from teleop.commander import Commander, Pose
from teleop.messages import LIMP
from teleop.node import Inputs, NodeContext, NodeHealth, Outputs
from teleop.rig import Rig

REST_GRIPPER = 0.0
"""Closed, so that nothing is left between the fingers and they need no force to stay."""


def sleep_pose(rig: Rig, arm: str) -> Pose:
    """Where an arm rests without torque."""
    return Pose(np.array(rig.arm_model(arm).sleep_rad), REST_GRIPPER)


class RestNode(Commander):
    """The commander of a session that puts the arms to rest."""

    def __init__(self, name: str, rig: Rig, lease: str) -> None:
        goals = {arm: sleep_pose(rig, arm) for arm in sorted(rig.arms)}
        super().__init__(name, rig, "rest", lease, goals, goal_name="sleep pose")

    def ready(self, now_ns: int) -> Outputs:
        """All arms hold their sleep pose."""
        return self.holding(now_ns)

    def begin(self, now_ns: int) -> None:
        """Nothing to prepare."""

    def run(self, inputs: Inputs, now_ns: int, tick: bool) -> Outputs:
        """Ask every arm to let go."""
        if not tick:
            return []
        return [self.write.let_go(arm, pose, LIMP, now_ns) for arm, pose in self.goals.items()]

    def running_health(self, now_ns: int) -> NodeHealth:
        """``finished`` once every arm says that it is limp; names those that do not."""
        held = [arm for arm in self.goals if not self._is_limp(arm)]
        if not held:
            return NodeHealth(state="finished", detail=f"torque off: {', '.join(self.goals)}")
        return NodeHealth(state="letting_go", detail="; ".join(map(self._told, held)))

    def poses_to_keep(self, now_ns: int) -> dict[str, Pose]:
        """None: what is limp stays so, and an arm that does not let go holds by itself."""
        return {}

    def _is_limp(self, arm: str) -> bool:
        health = self.heard.arm_health(arm)
        return health is not None and health.state == "limp"

    def _told(self, arm: str) -> str:
        health = self.heard.arm_health(arm)
        words = f" ({health.detail})" if health is not None and health.detail else ""
        return f"{arm} has not let go{words}"


def build(name: str, context: NodeContext) -> RestNode:
    """Make the node; option ``lease`` identifies this run."""
    return RestNode(name, context.rig, str(context.options["lease"]))
