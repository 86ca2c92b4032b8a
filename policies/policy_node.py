"""The node that runs a policy: observations in, action chunks out, off the control thread.

It never commands an arm. When a stream is missing or too old it plans nothing and says why;
the commander then plays its last plan to the end and holds. It may run on another machine than
the arms: it is reached over the bus like any node, and thinks in the rig's time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from policies.deploy_settings import DeploySettings, settings_of
from policies.deployment import DeployOptions
from policies.latency import POLICY_STAGES, Latencies
from policies.observing import Observer
from policies.plugin import load_plugin
from policies.policy import Policy
from policies.rig_time import RigTime
from policies.warm_up import WarmUp, warm_up
from teleop import messages as m
from teleop import topics
from teleop.clock import Clock
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs
from teleop.rig import Rig
from teleop.topics import Queue

log = logging.getLogger(__name__)

PLANNING_PHASES = ("ready", "running")


class PolicyNode:
    """Asks a policy for plans at a steady rate.

    Args:
        name: The node's name.
        policy: Warmed up, see ``policies.warm_up``.
        rig: As the job runs it.
        clock: Times inferences.
        deploy: How often to plan; None takes the default for the contract's chunk length.
        task: What is to be done; its instruction is part of every observation.
        calibration: The live rig's, compared with that of the training data.
        remote: The rig runs on another machine and has another clock.
        warmed: What the first inferences took.

    Raises:
        PolicyError: the rig is not the one that the policy was trained for.
        UnknownNameError: the rig lacks a camera.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        rig: Rig,
        clock: Clock,
        deploy: DeployOptions | None = None,
        *,
        task: str = "",
        calibration: Mapping[str, Any] | None = None,
        remote: bool = False,
        warmed: WarmUp | None = None,
    ) -> None:
        self.name = name
        self._policy = policy
        self._clock = clock
        contract = policy.contract
        self.warnings = contract.check_rig(rig, calibration, task)
        self._warmed = warmed
        self._latencies = Latencies(POLICY_STAGES)
        self._rig_time = RigTime(remote)
        # As in training: a task without an instruction is told by its name.
        instruction = (rig.tasks[task].instruction if task in rig.tasks else "") or task
        self._observer = Observer(
            rig, contract, self._rig_time, instruction, clock, self._latencies
        )
        self._phase = ("", -1)
        self._since_ns = 0
        self._planned = 0
        self._blocked = ""
        self._blocked_count = 0
        deploy = deploy or DeployOptions.for_chunk(contract.chunk_rows)
        self.plan = NodePlan(
            period_ns=deploy.replan_rows * contract.dt_ns,
            subscriptions={**self._observer.subscriptions, topics.SESSION_PHASE: Queue.LATEST},
            publications=(topics.POLICY_CHUNK,),
        )

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Plan from the newest samples, while an episode is about to run or running."""
        self._observer.take(inputs)
        phase = inputs.latest(topics.SESSION_PHASE, m.SessionPhase)
        # With the episode: phases that pass during a slow inference are never heard.
        if phase is not None and (phase.phase, phase.episode) != self._phase:
            if phase.phase == "running":
                self._policy.reset()
                self._since_ns = phase.stamp_ns
            self._phase = (phase.phase, phase.episode)
        if self._phase[0] not in PLANNING_PHASES:
            self._blocked = ""
            return []
        begun_ns = self._clock.now_ns()
        history = self._observer.observe(now_ns, self._planned, self._since_ns)
        if not history:
            self._blocked = self._observer.missing(now_ns)
            self._blocked_count += 1
            return []
        self._blocked = ""
        seen_ns = self._clock.now_ns()
        chunk = self._policy.infer(history)
        ended_ns = self._clock.now_ns()
        self._latencies.add("inference", ended_ns - seen_ns)
        self._planned += 1
        sent_ns = self._rig_time.of(now_ns + ended_ns - begun_ns)
        return [(topics.POLICY_CHUNK, replace(chunk, stamp_ns=sent_ns, seq=self._planned - 1))]

    def health(self, now_ns: int) -> NodeHealth:
        """``ready`` from the start: the policy was warmed up before the node was made."""
        values = {
            "chunks": float(self._planned),
            "blocked": float(self._blocked_count),
            "damaged_frames": float(self._observer.damaged_frames),
            **self._latencies.values(),
        }
        if self._warmed is not None:
            values["first_infer_ms"] = self._warmed.first_ms
            values["warm_infer_ms"] = self._warmed.last_ms
        detail = self._blocked or "; ".join(self.warnings)
        state = "blocked" if self._blocked else "ready"
        return NodeHealth(not self._blocked, state, detail, values)

    def close(self) -> None:
        """Nothing to release."""


def build(name: str, context: NodeContext) -> PolicyNode:
    """The node of a checkpoint, loaded and warmed up.

    Options: see ``policies.deploy_settings``.

    Raises:
        PolicyError: no usable checkpoint, or one of another rig.
    """
    settings = settings_of(context)
    policy = _load(settings, context)
    warmed = warm_up(policy, context.clock)
    log.info("%s: %s", name, warmed)
    return PolicyNode(
        name,
        policy,
        context.rig,
        context.clock,
        settings.deploy,
        task=settings.task,
        calibration=settings.calibration,
        remote=settings.remote,
        warmed=warmed,
    )


def _load(settings: DeploySettings, context: NodeContext) -> Policy:
    """The policy, by the loader that the options name or as a checkpoint of Tandem's trainer."""
    if not settings.loader:
        from policies.checkpoint import load_policy

        deploy = settings.deploy
        return load_policy(
            settings.folder,
            settings.device,
            deploy.noise,
            deploy.infer_precision,
            settings.noise_seed,
        )
    make = load_plugin("policy loader", settings.loader)
    return cast(Callable[[DeploySettings, NodeContext], Policy], make)(settings, context)
