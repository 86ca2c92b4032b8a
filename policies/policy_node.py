"""The node that runs a policy: observations in, action chunks out, off the control thread.

It never commands an arm. It sees what the recorder's rows hold: per stream the newest sample
that has arrived. When a stream is missing or too old it plans nothing and says why; the
commander then plays its last plan to the end and holds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from policies.images import decode, shrink
from policies.policy import OBJECT_POSE, Observation, Policy
from teleop import messages as m
from teleop import topics
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import PolicyError
from teleop.messages import FloatArray
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs, Received
from teleop.rig import Rig
from teleop.topics import Queue

INFER_EVERY_ROWS = 5
"""Rows between inferences: 0.1 s at 50 Hz, the rate at which ensembling was measured."""
PERIODS_STALE = 3
"""A camera that misses this many frames is too old to act on, beyond ``warn_late_s``."""
PLANNING_PHASES = ("ready", "running")


class PolicyNode:
    """Asks a policy for plans at a steady rate."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        rig: Rig,
        clock: Clock,
        infer_every_rows: int = INFER_EVERY_ROWS,
    ) -> None:
        """Connect a policy to a rig.

        Raises:
            PolicyError: the rig is not the one that the policy was trained for.
            UnknownNameError: the rig lacks a camera.
        """
        self.name = name
        self._policy = policy
        self._clock = clock
        self._contract = policy.contract
        self._warnings = self._contract.check_rig(rig)
        self._arms = sorted(rig.followers)
        self._newest: dict[str, Received] = {}
        self._oldest_ns = {
            topics.arm_state(arm): ns_from_s(rig.safety.stale_command_s) for arm in self._arms
        }
        for view in self._contract.cameras:
            periods_s = PERIODS_STALE / rig.cameras[view.name].fps
            self._oldest_ns[topics.camera_frame(view.name)] = ns_from_s(
                periods_s + rig.recording.warn_late_s
            )
        if any(extra.name == OBJECT_POSE for extra in self._contract.extras):
            self._oldest_ns[topics.TASK_STATE] = ns_from_s(PERIODS_STALE / rig.rates.task_hz)
        self._phase = ""
        self._planned = 0
        self._blocked = ""
        self._blocked_count = 0
        self._infer_s = 0.0
        self.plan = NodePlan(
            period_ns=infer_every_rows * self._contract.dt_ns,
            subscriptions={
                **dict.fromkeys(self._oldest_ns, Queue.LATEST),
                topics.SESSION_PHASE: Queue.LATEST,
            },
            publications=(topics.POLICY_CHUNK,),
        )

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Plan from the newest samples, while an episode is about to run or running."""
        for topic in self._oldest_ns:
            if got := inputs.received(topic):
                self._newest[topic] = got[-1]
        phase = inputs.latest(topics.SESSION_PHASE, m.SessionPhase)
        if phase is not None and phase.phase != self._phase:
            if phase.phase == "running":
                self._policy.reset()
            self._phase = phase.phase
        if self._phase not in PLANNING_PHASES:
            return []
        self._blocked = self._missing(now_ns)
        if self._blocked:
            self._blocked_count += 1
            return []
        observation = self._observe()
        begun_ns = self._clock.now_ns()
        chunk = self._policy.infer(observation)
        ended_ns = self._clock.now_ns()
        self._infer_s = (ended_ns - begun_ns) / NS_PER_S
        self._planned += 1
        stamped = replace(chunk, stamp_ns=now_ns + ended_ns - begun_ns, seq=self._planned - 1)
        return [(topics.POLICY_CHUNK, stamped)]

    def health(self, now_ns: int) -> NodeHealth:
        """``ready`` from the start: the policy was warmed up when it was loaded."""
        values = {
            "chunks": float(self._planned),
            "blocked": float(self._blocked_count),
            "infer_ms": 1e3 * self._infer_s,
        }
        detail = self._blocked or "; ".join(self._warnings)
        state = "blocked" if self._blocked else "ready"
        return NodeHealth(not self._blocked, state, detail, values)

    def close(self) -> None:
        """Nothing to release."""

    def _missing(self, now_ns: int) -> str:
        """Why there is no complete observation now; empty when there is one."""
        for topic, oldest_ns in self._oldest_ns.items():
            got = self._newest.get(topic)
            if got is None:
                return f"nothing has come on {topic} yet"
            age_ns = now_ns - got.message.stamp_ns
            if age_ns > oldest_ns:
                return f"{topic} is {age_ns / NS_PER_S:.2f} s old"
        return ""

    def _observe(self) -> Observation:
        """The newest sample of every stream.

        The observation stands for the instant its newest arm reading arrived: at a row of the
        recorder's grid the same samples would stand side by side.
        """
        states = [self._newest[topics.arm_state(arm)] for arm in self._arms]
        images = {}
        for view in self._contract.cameras:
            frame = self._newest[topics.camera_frame(view.name)].message
            assert isinstance(frame, m.Frame)
            images[view.name] = shrink(decode(frame), view.height, view.width)
        extra = {}
        if topics.TASK_STATE in self._oldest_ns:
            task = self._newest[topics.TASK_STATE].message
            assert isinstance(task, m.TaskState)
            extra[OBJECT_POSE] = task.object_pose.reshape(-1)
        return Observation(
            stamp_ns=max(state.arrival_ns for state in states),
            observation_id=self._planned,
            qpos=np.concatenate([_columns(state.message) for state in states]),
            images=images,
            extra=extra,
        )


def _columns(state: m.Message) -> FloatArray:
    """The arm's part of qpos: joints, then the gripper where there is one."""
    assert isinstance(state, m.ArmState)
    if state.gripper is None:
        return state.position_rad
    return np.append(state.position_rad, state.gripper)


def build(name: str, context: NodeContext) -> PolicyNode:
    """The node of a checkpoint, loaded and warmed up.

    Options: ``checkpoint`` (folder of a trained policy), ``device``, ``infer_every_rows``.

    Raises:
        PolicyError: no usable checkpoint, or one of another rig.
    """
    from policies.checkpoint import load_policy

    options = context.options
    if "checkpoint" not in options:
        raise PolicyError("no policy was named; give the folder of 'tandem train --out'")
    return PolicyNode(
        name,
        load_policy(Path(str(options["checkpoint"])), str(options.get("device", "cpu"))),
        context.rig,
        context.clock,
        int(str(options.get("infer_every_rows", INFER_EVERY_ROWS))),
    )
