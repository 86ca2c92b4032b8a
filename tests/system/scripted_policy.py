"""A policy without a network that swings the waists, and what can go wrong with one.

``make`` is a policy loader (job option ``loader``); the job's option ``fault`` says what goes
wrong, between ``FAULT_S`` and ``MEND_S`` of each episode; a death comes at ``DEATH_S``.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from policies.card import CARD, VERSION, Card
from policies.deploy_settings import DeploySettings
from policies.deployment import DeployOptions
from policies.normalisation import Statistics, column_statistics
from policies.policy import Observation, ObservationContract, chunk_of
from recorder.rows import column_names
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.messages import ActionChunk, FloatArray
from teleop.node import NodeContext
from teleop.rig import Rig
from teleop.teleop_node import start_pose

LOADER = "tests.system.scripted_policy:make"
FAULT_S, MEND_S, DEATH_S = 1.5, 2.5, 3.5
SWING_RAD, SWING_RAD_S = 0.4, 1.5
FASTEST_RAD_S = SWING_RAD * SWING_RAD_S
"""Of the wanted motion."""


def start_of(rig: Rig) -> FloatArray:
    """The start pose as an action, (A,)."""
    poses = [start_pose(rig, arm) for arm in sorted(rig.followers)]
    return np.concatenate([[*pose.position_rad, pose.gripper] for pose in poses])


def write_card(folder: Path, rig: Rig, chunk_rows: int, deployment: DeployOptions) -> None:
    """What the commander must know of the policy."""
    start = start_of(rig)
    contract = ObservationContract(
        tasks=("transfer_cube",),
        joint_names=column_names(rig),
        cameras=(),
        extras=(),
        row_hz=50.0,
        chunk_rows=chunk_rows,
        qpos_low=tuple(start - 1),
        qpos_high=tuple(start + 1),
        action_low=tuple(start - 1),
        action_high=tuple(start + 1),
        start_low=tuple(start - 0.1),
        start_high=tuple(start + 0.1),
        calibration_sha256="",
        data_hash="",
    )
    columns = column_statistics(np.stack([start - 1, start + 1]))
    card = Card(
        format="tandem-policy",
        version=VERSION,
        family="scripted",
        config={},
        contract=contract,
        statistics=Statistics(columns, columns, ()),
        weights_sha256="",
        software="",
        training={},
        deployment=deployment,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(json.dumps(asdict(card)))


def wanted(start: FloatArray, seconds: float) -> FloatArray:
    """The action a time after the episode's first observation: all waists swing; (A,)."""
    action = start.copy()
    action[[0, 7]] += SWING_RAD * np.sin(SWING_RAD_S * seconds)
    return action


class SwingingPolicy:
    """Plans ``wanted``, with a fault for a second."""

    def __init__(
        self, contract: ObservationContract, start: FloatArray, fault: str, clock: Clock
    ) -> None:
        self.contract = contract
        self._start = start
        self._fault = fault
        self._clock = clock
        self._begun_ns: int | None = None
        self._first: ActionChunk | None = None
        self._stalled = False

    def reset(self) -> None:
        self._begun_ns = None
        self._first = None
        self._stalled = False

    def infer(self, history: Sequence[Observation]) -> ActionChunk:
        present = history[-1]
        if self._begun_ns is None:
            self._begun_ns = present.stamp_ns
        seconds = (present.stamp_ns - self._begun_ns) / NS_PER_S
        rows_s = seconds + np.arange(self.contract.chunk_rows) / self.contract.row_hz
        actions = np.stack([wanted(self._start, row_s) for row_s in rows_s])
        chunk = chunk_of(self.contract, present, actions, "scripted")
        self._first = self._first or chunk
        if seconds >= DEATH_S and self._fault.endswith("death"):
            os._exit(7)
        return self._spoilt(chunk, self._first) if FAULT_S <= seconds < MEND_S else chunk

    def _spoilt(self, chunk: ActionChunk, first: ActionChunk) -> ActionChunk:
        match self._fault:
            case "stall" | "stall and death":
                if not self._stalled:
                    self._stalled = True
                    self._clock.sleep_until_ns(self._clock.now_ns() + ns_from_s(MEND_S - FAULT_S))
            case "old":
                return first
            case "nan":
                return replace(chunk, actions=np.full_like(chunk.actions, np.nan))
            case "shape":
                return replace(chunk, actions=chunk.actions[:, :7])
            case "far away":
                return replace(chunk, actions=chunk.actions + 50.0)
        return chunk


def make(settings: DeploySettings, context: NodeContext) -> SwingingPolicy:
    """The loader."""
    fault = str(context.options.get("fault", ""))
    return SwingingPolicy(settings.card.contract, start_of(context.rig), fault, context.clock)
