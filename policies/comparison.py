"""What subjects achieved on the same scenes, how sure that is, and tables of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from policies.motion_metrics import Smoothness, smoothness
from policies.rollouts import Rollout
from policies.statistics import mcnemar, wilson
from policies.tables import markdown


@dataclass(frozen=True)
class Score:
    """What a subject achieved."""

    subject: str
    """``expert`` or the folder of a policy."""
    sees: str
    """What its actions were decided on."""
    rollouts: tuple[Rollout, ...]
    """By scene."""
    warnings: tuple[str, ...] = ()
    """What was otherwise than in its training data."""

    @property
    def trials(self) -> int:
        return len(self.rollouts)

    @property
    def successes(self) -> int:
        return sum(rollout.success for rollout in self.rollouts)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson(self.successes, self.trials)

    @property
    def max_stage(self) -> int:
        """The task's last reward stage."""
        return max((rollout.result.max_stage for rollout in self.rollouts), default=0)

    @property
    def mean_stage(self) -> float:
        """Mean over scenes of the furthest reward stage reached."""
        return sum(rollout.result.stage for rollout in self.rollouts) / max(1, self.trials)

    @property
    def reached(self) -> tuple[int, ...]:
        """By stage from 1: in how many scenes it was reached."""
        stages = [rollout.result.stage for rollout in self.rollouts]
        return tuple(sum(s >= stage for s in stages) for stage in range(1, self.max_stage + 1))

    @property
    def mean_seconds(self) -> float:
        """Mean duration of the successful scenes; NaN without one."""
        times = [rollout.result.seconds for rollout in self.rollouts if rollout.success]
        return sum(times) / len(times) if times else float("nan")

    @cached_property
    def smoothness(self) -> Smoothness:
        """Jerk and steps, over all scenes."""
        return smoothness([rollout.motion for rollout in self.rollouts])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two subjects on the same scenes."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def p(self) -> float:
        """Exact McNemar test: how likely so uneven a split is if neither is better."""
        return mcnemar(self.only_first, self.only_second)


def pair(first: Sequence[bool], second: Sequence[bool]) -> Pair:
    """Compare successes scene by scene; both in the same order of scenes."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scenes cannot be paired with {len(second)}")
    met = list(zip(first, second, strict=True))
    return Pair(
        met.count((True, True)),
        met.count((True, False)),
        met.count((False, True)),
        met.count((False, False)),
    )


def paired(first: Score, second: Score) -> Pair:
    """Compare two subjects on the scenes that both have met."""
    theirs = {rollout.scene: rollout.success for rollout in second.rollouts}
    shared = [rollout for rollout in first.rollouts if rollout.scene in theirs]
    return pair([r.success for r in shared], [theirs[r.scene] for r in shared])


def report(scores: Sequence[Score]) -> str:
    """All tables, in Markdown."""
    parts = [table(scores), stages(scores), motions(scores)]
    if len(scores) > 1:
        parts.append(compare(scores))
    warnings = [f"- {score.subject}: {text}" for score in scores for text in score.warnings]
    if warnings:
        parts.append("\n".join(["Otherwise than in training:", *warnings]))
    return "\n\n".join(parts)


def table(scores: Sequence[Score]) -> str:
    """Successes in Markdown."""
    head = ["subject", "sees", "successes", "rate", "95 % interval", "mean stage", "mean time"]
    return markdown(head, [_row(score) for score in scores])


def _row(score: Score) -> list[str]:
    low, high = score.interval
    rate = score.successes / max(1, score.trials)
    return [
        score.subject,
        score.sees,
        f"{score.successes}/{score.trials}",
        f"{rate:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{score.mean_stage:.1f}/{score.max_stage}",
        f"{score.mean_seconds:.1f} s" if score.successes else "-",
    ]


def stages(scores: Sequence[Score]) -> str:
    """In how many scenes each reward stage was reached: where a subject fails."""
    last = max((score.max_stage for score in scores), default=0)
    head = ["reached", *(f"stage {stage}" for stage in range(1, last + 1))]
    rows = [[score.subject, *(f"{n}/{score.trials}" for n in score.reached)] for score in scores]
    return markdown(head, rows)


def motions(scores: Sequence[Score]) -> str:
    """Jerk, and steps at seams and inside plans: 99th percentile and largest."""
    head = ["motion", "jerk, rad/row³", "seam step p99 / max, rad", "inside p99 / max, rad"]
    return markdown(head, [[score.subject, *motion_cells(score.smoothness)] for score in scores])


def motion_cells(motion: Smoothness) -> list[str]:
    """Jerk, seams and inside as cells of a table; a dash where nothing was measured."""
    pairs = [(motion.seam_p99, motion.seam_largest), (motion.inside_p99, motion.inside_largest)]
    return [
        "-" if math.isnan(motion.jerk) else f"{motion.jerk:.5f}",
        *("-" if math.isnan(p99) else f"{p99:.3f} / {most:.3f}" for p99, most in pairs),
    ]


def compare(scores: Sequence[Score]) -> str:
    """Every pair of subjects on the scenes both have met, with the exact McNemar test."""
    head = ["pair", "both", "only the first", "only the second", "neither", "p"]
    rows = []
    for first, second in combinations(scores, 2):
        met = paired(first, second)
        counts = [str(n) for n in (met.both, met.only_first, met.only_second, met.neither)]
        rows.append([f"{first.subject} - {second.subject}", *counts, f"{met.p:.3g}"])
    return markdown(head, rows)
