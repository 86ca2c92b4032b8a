"""Which plan, and which observation, each row of a recorded episode came from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recorder.episode import Episode
from teleop import topics

Ids = NDArray[np.int64]


class PlanOfRows(NamedTuple):
    """Per row of an episode, of the command in force; -1 where no policy commanded."""

    chunk_id: Ids
    """Shape (T,): the newest plan of those that were mixed. The others are the earlier ones
    whose rows cover the instant."""
    observation_id: Ids
    """Shape (T,)."""


def plan_of_rows(episode: Episode, arm: str = "") -> PlanOfRows:
    """The plan behind the command that an arm had in force at each row.

    Args:
        episode: Recorded while a policy was deployed.
        arm: A follower; the first one when not named (all followers obey the same plan).
    """
    nothing = np.full(len(episode), -1, np.int64)
    applied = topics.arm_applied(arm or episode.arms[0])
    if topics.POLICY_CHUNK not in episode.streams or not episode.on_rows(applied):
        return PlanOfRows(nothing, nothing.copy())
    chunks = episode.stream(topics.POLICY_CHUNK)
    if len(chunks) == 0:
        return PlanOfRows(nothing, nothing.copy())
    # Commands echo t0_ns of their newest plan; a plan that was sent twice counts once.
    t0_ns, first = np.unique(chunks["t0_ns"], return_index=True)
    sample = episode.index(applied)
    origin_ns = episode.stream(applied)["origin_ns"][np.maximum(sample, 0)]
    place = np.minimum(np.searchsorted(t0_ns, origin_ns), len(t0_ns) - 1)
    known = (sample >= 0) & (origin_ns > 0) & (t0_ns[place] == origin_ns)
    return PlanOfRows(
        np.where(known, chunks["chunk_id"][first[place]], -1),
        np.where(known, chunks["observation_id"][first[place]], -1),
    )
