"""The commander that plays a policy's chunks on the follower arms.

Phases, homing, leases and the emergency stop are those of every commander. While running,
each tick at the arms' rate asks the scheduler which action is due now, within the range of the
training data, and sends it; the arms' own limits come after that. When no chunk covers
the instant (the policy stalled or died, a stream went silent) the last pose is kept: motion
stops, the arms hold, and the next plan is blended in.

``origin_ns`` of a command is ``t0_ns`` of the newest plan in it, 0 while holding: so the
recorded commands tell from which chunk and observation they came (``policies.provenance``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from policies.chunks import JOINT_BLEND_PER_S, SEAM_TOLERANCE, ChunkScheduler
from policies.deploy_settings import settings_of
from policies.deployment import DeployOptions
from policies.latency import COMMANDER_STAGES, Latencies
from policies.policy import ObservationContract, StartCheck
from teleop import topics
from teleop.clock import NS_PER_S
from teleop.commander import Commander, Pose
from teleop.messages import ActionChunk, FloatArray, Health
from teleop.node import Inputs, NodeContext, NodeHealth, Outputs
from teleop.rig import Rig
from teleop.teleop_node import start_pose
from teleop.topics import Queue

PLANS_STALE_S = 1.0
"""A policy that has not planned for so long, or for three of its periods, is not ready."""
POLICY_SILENT_S = 1.5
"""Its health comes several times a second (``rates.health_hz``); a slow inference may delay
some."""


class DeployNode(Commander):
    """The commander of a session in which a policy acts.

    Args:
        name: The node's name.
        rig: As the job runs it.
        lease: Identity of this run.
        contract: Of the policy.
        deploy: How plans are played; None takes the default for the contract's chunk length.
        calibration: The live rig's, compared with that of the training data.
        task: What is to be done.
        allow_start: Begin even far from the start poses of the training data.

    Raises:
        PolicyError: the rig is not the one that the policy was trained for.
        UnknownNameError: the rig lacks a camera.
    """

    def __init__(
        self,
        name: str,
        rig: Rig,
        lease: str,
        contract: ObservationContract,
        deploy: DeployOptions | None = None,
        *,
        calibration: Mapping[str, Any] | None = None,
        task: str = "",
        allow_start: bool = False,
    ) -> None:
        goals = {arm: _start(contract, rig, arm) for arm in sorted(rig.followers)}
        heard = {topics.POLICY_CHUNK: Queue.ALL, topics.node_health("policy"): Queue.LATEST}
        super().__init__(name, rig, "policy", lease, goals, heard)
        self._warnings = contract.check_rig(rig, calibration, task)
        deploy = deploy or DeployOptions.for_chunk(contract.chunk_rows)
        self.scheduler = ChunkScheduler(
            contract.joint_names,
            deploy,
            contract.action_low,
            contract.action_high,
            # However slow the arms' ticks are, a seam adds no more than this to one of them.
            min(JOINT_BLEND_PER_S, SEAM_TOLERANCE * rig.rates.arm_hz),
        )
        self._contract = contract
        self._allow_start = allow_start
        self._plans_stale_ns = max(
            PLANS_STALE_S * NS_PER_S, 3 * deploy.replan_rows * contract.dt_ns
        )
        self._latencies = Latencies(COMMANDER_STAGES)
        self._has_gripper = {arm: rig.arm_model(arm).gripper is not None for arm in goals}
        self._action = self._columns(goals)
        self._policy: Health | None = None
        self._policy_heard_ns: int | None = None
        self._planned_ns: int | None = None
        """When the last plan came that can be played; nothing else counts as planning."""
        self._refusal = ""
        """Why the last plan cannot be played; empty when it can."""
        self._held_since_ns: int | None = None
        self._start: StartCheck | None = None

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Take new plans, then follow the session's phase."""
        for got in inputs.received(topics.node_health("policy")):
            assert isinstance(got.message, Health)
            # Its stamp may be of another machine's clock.
            self._policy, self._policy_heard_ns = got.message, got.arrival_ns
        for got in inputs.received(topics.POLICY_CHUNK):
            assert isinstance(got.message, ActionChunk)
            self._take_plan(got.message, got.arrival_ns, now_ns)
        return super().step(inputs, now_ns)

    def ready(self, now_ns: int) -> Outputs:
        """Hold the start pose while the policy makes its first plans."""
        self._start = self._check_start()
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
            self._action = due
            self._held_since_ns = None
        elif self._held_since_ns is None:
            self._held_since_ns = now_ns
        newest = self.scheduler.newest
        origin_ns = newest.t0_ns if newest is not None else 0
        poses = self._poses(self._action)
        return [self.write.position(arm, pose, now_ns, origin_ns) for arm, pose in poses.items()]

    def health(self, now_ns: int) -> NodeHealth:
        """``ready`` only once the policy plans and the arms stand where it learned to begin."""
        said = super().health(now_ns)
        if said.state != "ready":
            return replace(said, values={**self._latencies.values(), **said.values})
        if self._planned_ns is None or now_ns - self._planned_ns > self._plans_stale_ns:
            parts = [self._policy_trouble(now_ns), self._refusal]
            why = "; ".join(part for part in parts if part)
            detail = f"waiting for a plan of the policy{f': {why}' if why else ''}"
            return NodeHealth(state="waiting", detail=detail)
        start = self._start
        if start is None:
            return NodeHealth(state="waiting", detail="waiting for a reading of every arm")
        if start.refusals and not self._allow_start:
            words = "; ".join(start.refusals)
            detail = f"too far from where training began: {words} (allow_start overrides)"
            return NodeHealth(False, "blocked", detail)
        words = "; ".join([*self._warnings, *start.refusals, *start.warnings])
        return NodeHealth(state="ready", detail=words, values=self._latencies.values())

    def running_health(self, now_ns: int) -> NodeHealth:
        """``following``, or ``holding`` with the time for which no plan has covered."""
        counts = self.scheduler.counts
        values = {
            "chunks": float(counts.accepted),
            "late_chunks": float(counts.late),
            "late_rows": float(counts.late_rows),
            "out_of_order_chunks": float(counts.out_of_order),
            "refused_chunks": float(counts.refused),
            "held_ticks": float(counts.held),
            "seams": float(counts.seams),
            "largest_seam": counts.largest_seam,
            **self._latencies.values(),
        }
        if self._held_since_ns is None:
            return NodeHealth(True, "following", self.scheduler.last_fault, values)
        seconds = (now_ns - self._held_since_ns) / NS_PER_S
        parts = [f"holding for {seconds:.1f} s: no plan covers now"]
        parts += [self._policy_trouble(now_ns), self.scheduler.last_fault]
        return NodeHealth(False, "holding", "; ".join(part for part in parts if part), values)

    def _take_plan(self, chunk: ActionChunk, arrival_ns: int, now_ns: int) -> None:
        until_ns = self.scheduler.covered_until_ns()
        held_ns = self._held_since_ns
        # Before an episode too: the start forgets the plan, but its faults are known by then.
        if not self.scheduler.add(chunk, now_ns):
            self._refusal = self.scheduler.last_fault
            return
        self._planned_ns, self._refusal = now_ns, ""
        self._latencies.add("transport", arrival_ns - chunk.stamp_ns)
        self._latencies.add("plan", arrival_ns - chunk.t0_ns)
        run_out_ns = until_ns if until_ns is not None else held_ns
        if run_out_ns is not None:
            self._latencies.add("overdue", now_ns - run_out_ns)

    def _policy_trouble(self, now_ns: int) -> str:
        """What is wrong with the policy's node, in words; empty when nothing is known."""
        if self._policy is None or self._policy_heard_ns is None:
            return "nothing has been heard of the policy's node"
        silent_s = (now_ns - self._policy_heard_ns) / NS_PER_S
        if silent_s > POLICY_SILENT_S:
            return f"the policy's node has been silent for {silent_s:.1f} s"
        return "" if self._policy.ok else self._policy.detail

    def _check_start(self) -> StartCheck | None:
        measured: dict[str, Pose] = {}
        for arm, goal in self.goals.items():
            state = self.heard.states.get(arm)
            if state is None:
                return None
            opening = goal.gripper if state.gripper is None else state.gripper
            measured[arm] = Pose(state.position_rad, opening)
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


def _start(contract: ObservationContract, rig: Rig, arm: str) -> Pose:
    """The rig's start pose, the gripper as in training: who taught decides whether it is open."""
    pose = start_pose(rig, arm)
    column = f"{arm}/gripper"
    if column not in contract.joint_names:
        return pose
    i = contract.joint_names.index(column)
    middle = (contract.start_low[i] + contract.start_high[i]) / 2
    return Pose(pose.position_rad, float(np.clip(middle, 0.0, 1.0)))


def build(name: str, context: NodeContext) -> DeployNode:
    """Make the node; options: see ``policies.deploy_settings``, and ``lease``.

    Raises:
        PolicyError: no usable checkpoint, or one of another rig.
    """
    settings = settings_of(context)
    return DeployNode(
        name,
        context.rig,
        str(context.options["lease"]),
        settings.card.contract,
        settings.deploy,
        calibration=settings.calibration,
        task=settings.task,
        allow_start=settings.allow_start,
    )
