"""The commander that plays a policy's chunks on the follower arms.

Phases, homing, leases and the emergency stop are those of every commander. While running,
each tick at the arms' rate asks the scheduler which action is due now, clamps it to the range
of the training data and sends it; the arms' own limits come after that. When no chunk covers
the instant (the policy stalled, a stream went silent) the last pose is kept: motion stops,
the arms hold, and the next plan is blended in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policies.card import read_card
from policies.chunks import ChunkScheduler
from policies.policy import ObservationContract
from teleop import topics
from teleop.clock import NS_PER_S
from teleop.commander import Commander, Pose
from teleop.errors import PolicyError
from teleop.messages import ActionChunk, FloatArray
from teleop.node import Inputs, NodeContext, NodeHealth, Outputs
from teleop.rig import Rig
from teleop.teleop_node import start_pose
from teleop.topics import Queue


class DeployNode(Commander):
    """The commander of a session in which a policy acts."""

    def __init__(
        self,
        name: str,
        rig: Rig,
        lease: str,
        contract: ObservationContract,
        scheduler: ChunkScheduler | None = None,
    ) -> None:
        """Connect a contract to a rig; the default scheduler ensembles.

        Raises:
            PolicyError: the rig is not the one that the policy was trained for.
            UnknownNameError: the rig lacks a camera.
        """
        goals = {arm: start_pose(rig, arm) for arm in sorted(rig.followers)}
        super().__init__(name, rig, "policy", lease, goals, {topics.POLICY_CHUNK: Queue.ALL})
        contract.check_rig(rig)
        self.scheduler = scheduler or ChunkScheduler(len(contract.joint_names))
        self._contract = contract
        self._has_gripper = {arm: rig.arm_model(arm).gripper is not None for arm in goals}
        self._action = self._columns(goals)
        self._planned_ns: int | None = None
        self._held_since_ns: int | None = None
        self._outside: list[str] = []

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Take new plans, then follow the session's phase."""
        for chunk in inputs.all(topics.POLICY_CHUNK, ActionChunk):
            self._planned_ns = now_ns
            self.scheduler.add(chunk, now_ns)
        return super().step(inputs, now_ns)

    def ready(self, now_ns: int) -> Outputs:
        """Hold the start pose while the policy makes its first plans."""
        self._outside = self._starts_outside()
        return self.holding(now_ns)

    def begin(self, now_ns: int) -> None:
        """Start from the held pose; plans made before this instant do not count."""
        self._action = self._columns(self.goals)
        self._held_since_ns = None
        self.scheduler.start(self._action, now_ns)

    def run(self, inputs: Inputs, now_ns: int, tick: bool) -> Outputs:
        """The action due now, at the arms' rate."""
        if not tick:
            return []
        due = self.scheduler.action_at(now_ns)
        if due is not None:
            self._action = self._contract.clamp(due)
            self._held_since_ns = None
        elif self._held_since_ns is None:
            self._held_since_ns = now_ns
        poses = self._poses(self._action)
        return [self.write.position(arm, pose, now_ns) for arm, pose in poses.items()]

    def health(self, now_ns: int) -> NodeHealth:
        """``ready`` only once the policy plans; else as every commander."""
        said = super().health(now_ns)
        if said.state != "ready":
            return said
        if self._planned_ns is None or now_ns - self._planned_ns > NS_PER_S:
            return NodeHealth(state="waiting", detail="waiting for a plan of the policy")
        return NodeHealth(state="ready", detail="; ".join(self._outside))

    def running_health(self, now_ns: int) -> NodeHealth:
        """``following``, or ``holding`` with the time for which no plan has covered."""
        counts = self.scheduler.counts
        values = {
            "chunks": float(counts.accepted),
            "late_chunks": float(counts.late),
            "out_of_order_chunks": float(counts.out_of_order),
            "refused_chunks": float(counts.refused),
            "held_ticks": float(counts.held),
            "largest_seam": counts.largest_seam,
        }
        if self._held_since_ns is not None:
            seconds = (now_ns - self._held_since_ns) / NS_PER_S
            detail = f"holding for {seconds:.1f} s: no plan covers now"
            fault = self.scheduler.last_fault
            return NodeHealth(False, "holding", f"{detail}; {fault}" if fault else detail, values)
        return NodeHealth(True, "following", self.scheduler.last_fault, values)

    def _starts_outside(self) -> list[str]:
        states = [self.heard.states.get(arm) for arm in self.goals]
        if any(state is None for state in states):
            return []
        measured = {
            arm: Pose(state.position_rad, self.goals[arm].gripper)
            for arm, state in zip(self.goals, states, strict=True)
            if state is not None
        }
        return self._contract.check_start(self._columns(measured))

    def _columns(self, poses: dict[str, Pose]) -> FloatArray:
        """Poses as one action, shape (A,)."""
        parts = []
        for arm, pose in poses.items():
            parts.append(pose.position_rad)
            if self._has_gripper[arm]:
                parts.append(np.array([pose.gripper]))
        return np.concatenate(parts)

    def _poses(self, action: FloatArray) -> dict[str, Pose]:
        """One action, shape (A,), as poses."""
        poses: dict[str, Pose] = {}
        first = 0
        for arm, goal in self.goals.items():
            after = first + len(goal.position_rad)
            joints = action[first:after]
            if self._has_gripper[arm]:
                poses[arm] = Pose(joints, float(action[after]))
                after += 1
            else:
                poses[arm] = Pose(joints, goal.gripper)
            first = after
        return poses


def build(name: str, context: NodeContext) -> DeployNode:
    """Make the node.

    Options: ``checkpoint`` (folder of a trained policy), ``lease``, and for the scheduler
    ``chunk_mode``, ``decay_per_row`` and ``blend_s``.

    Raises:
        PolicyError: no usable checkpoint, or one of another rig.
    """
    options = context.options
    if "checkpoint" not in options:
        raise PolicyError("no policy was named; give the folder of 'tandem train --out'")
    contract = read_card(Path(str(options["checkpoint"]))).contract
    scheduler = ChunkScheduler(
        len(contract.joint_names),
        mode=str(options.get("chunk_mode", "ensemble")),
        decay_per_row=float(str(options.get("decay_per_row", 0.01))),
        blend_s=float(str(options.get("blend_s", 0.1))),
    )
    return DeployNode(name, context.rig, str(options["lease"]), contract, scheduler)
