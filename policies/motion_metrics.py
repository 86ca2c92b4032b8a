"""How smoothly a rollout moved: jerk, and steps where one plan gave way to another.

Both are read from a recorded episode, from the commands that the arms' limits let through
(``/action``). Only joints count: a gripper that snaps shut does so on purpose, and its unit
is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.provenance import plan_of_rows
from recorder.episode import Episode
from teleop.messages import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """One rollout. The step of a row is the largest over the joints, from the row before it."""

    jerk: float
    """Mean |third difference| of the action from row to row, rad; NaN under four rows."""
    seam_steps: FloatArray
    """Shape (N,), rad: steps onto rows at which a new plan came into force."""
    inside_steps: FloatArray
    """Shape (M,), rad: all other steps."""


@dataclass(frozen=True, slots=True)
class Smoothness:
    """Several rollouts together; NaN where there was nothing to measure."""

    jerk: float
    """Mean over rollouts, rad per row cubed."""
    seam_p99: float
    """99th percentile of the steps at seams, rad."""
    seam_largest: float
    inside_p99: float
    inside_largest: float


def smoothness(motions: Sequence[Motion]) -> Smoothness:
    """Pool the steps of several rollouts."""
    seams = np.concatenate([motion.seam_steps for motion in motions] or [np.empty(0)])
    inside = np.concatenate([motion.inside_steps for motion in motions] or [np.empty(0)])
    jerks = [motion.jerk for motion in motions if np.isfinite(motion.jerk)]
    return Smoothness(
        float(np.mean(jerks)) if jerks else float("nan"), *_extremes(seams), *_extremes(inside)
    )


def _extremes(steps: FloatArray) -> tuple[float, float]:
    if not steps.size:
        return float("nan"), float("nan")
    return float(np.percentile(steps, 99)), float(steps.max())


def motion_of(path: Path | str) -> Motion:
    """Measure a recorded episode.

    Raises:
        EpisodeError: the file is missing or damaged.
    """
    with Episode(path) as episode:
        joints = [i for i, name in enumerate(episode.joint_names) if not name.endswith("/gripper")]
        return motion_from(episode.action[:, joints], _seam_rows(episode))


def motion_from(action: FloatArray, seams: NDArray[np.int64]) -> Motion:
    """Measure a sequence of commands.

    Args:
        action: Shape (T, A), rad.
        seams: Shape (N,): rows that were the first to obey a new plan.
    """
    at_seam = np.zeros(len(action), dtype=bool)
    at_seam[seams] = True
    steps = np.abs(np.diff(action, axis=0)).max(axis=1)
    jerk = float(np.abs(np.diff(action, n=3, axis=0)).mean()) if len(action) > 3 else float("nan")
    return Motion(jerk, steps[at_seam[1:]], steps[~at_seam[1:]])


def _seam_rows(episode: Episode) -> NDArray[np.int64]:
    """Rows at which an arm's command came from another plan than the one before; shape (N,).

    A row without a plan (holding, or nobody obeyed) counts as one of the plan before it: going
    on with the same plan afterwards is no seam, beginning with a new one is. The first plan
    counts as a seam too.
    """
    changed = np.zeros(len(episode), dtype=bool)
    for arm in episode.arms:
        chunk_id = plan_of_rows(episode, arm).chunk_id
        named = np.flatnonzero(chunk_id >= 0)
        of_new = np.diff(chunk_id[named], prepend=-1) != 0
        changed[named[of_new]] = True
    return np.flatnonzero(changed)
