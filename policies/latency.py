"""How long each stage takes from what the rig saw to what it does about it.

| stage | node | from | to |
|---|---|---|---|
| ``observation`` | policy | stamp of the oldest sample used | the observation is complete |
| ``decode`` | policy | | images decoded and shrunk, one observation |
| ``inference`` | policy | observation | plan |
| ``transport`` | commander | the policy node sends a plan | the commander has it |
| ``plan`` | commander | the observation that the plan begins with | the commander has the plan |
| ``overdue`` | commander | the plans in play run out | the next one comes; 0 when in time |

The figures stand in the nodes' health, so every recorded episode has them. They count from the
start of the run. On a virtual clock a computation takes no time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from policies.tables import markdown
from recorder.episode import Episode
from teleop import topics

POLICY_STAGES = ("observation", "decode", "inference")
COMMANDER_STAGES = ("transport", "plan", "overdue")
STAGES = (*POLICY_STAGES, *COMMANDER_STAGES)
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

SMALLEST_MS = 0.01
"""Upper edge of the first bin."""
GROWTH = 1.05
"""Each bin is wider by this factor, so a quantile is at most 5 % too large."""
BINS = 400
"""They reach to 53 minutes."""


class Histogram:
    """Times in bins of equal ratio; its size does not grow."""

    def __init__(self) -> None:
        self.count = 0
        self.max_ms = 0.0
        self._bins = [0] * BINS

    def add(self, elapsed_ns: float) -> None:
        """Count one time; a negative one counts as zero."""
        ms = max(0.0, elapsed_ns / 1e6)
        index = 0 if ms <= SMALLEST_MS else math.ceil(math.log(ms / SMALLEST_MS, GROWTH))
        self._bins[min(index, BINS - 1)] += 1
        self.count += 1
        self.max_ms = max(self.max_ms, ms)

    def quantile_ms(self, share: float) -> float:
        """The time that this share of all times does not exceed; 0 before the first."""
        wanted = share * self.count
        seen = 0
        for index, in_bin in enumerate(self._bins):
            seen += in_bin
            if in_bin and seen >= wanted:
                edge_ms = 0.0 if index == 0 else SMALLEST_MS * GROWTH**index
                return min(edge_ms, self.max_ms)
        return self.max_ms


class Latencies:
    """A histogram per stage of one node."""

    def __init__(self, stages: Iterable[str]) -> None:
        self._stages = {stage: Histogram() for stage in stages}

    def add(self, stage: str, elapsed_ns: float) -> None:
        """Count one time of a stage."""
        self._stages[stage].add(elapsed_ns)

    def values(self) -> dict[str, float]:
        """For the node's health: ``inference_ms.p50`` ... ``inference_ms.max`` and ``.count``."""
        found = {}
        for stage, times in self._stages.items():
            for name, share in QUANTILES.items():
                found[f"{stage}_ms.{name}"] = times.quantile_ms(share)
            found[f"{stage}_ms.max"] = times.max_ms
            found[f"{stage}_ms.count"] = float(times.count)
        return found


def table(values: Mapping[str, float]) -> str:
    """The stages in Markdown, ms; empty when nothing was measured.

    Args:
        values: The health values of the policy's node and of the commander, together.
    """
    columns = (*QUANTILES, "max")
    rows = []
    for stage in STAGES:
        if count := values.get(f"{stage}_ms.count", 0.0):
            times = (f"{values[f'{stage}_ms.{column}']:.1f}" for column in columns)
            rows.append([stage, *times, f"{count:.0f}"])
    return markdown(["stage, ms", *columns, "times"], rows) if rows else ""


def of_episode(episode: Episode) -> dict[str, float]:
    """What the two nodes said last in a recorded episode; empty when no policy acted in it."""
    found: dict[str, float] = {}
    for node in ("policy", "commander"):
        name = topics.node_health(node)
        if name in episode.streams and len(episode.stream(name)["values"]):
            found |= json.loads(episode.stream(name)["values"][-1])
    return {name: value for name, value in found.items() if "_ms." in name}
