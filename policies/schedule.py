"""The learning rate over the steps of a run."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

ScheduleName = Literal["cosine", "constant", "onecycle"]

WARMUP_SHARE = 0.1
"""A warm-up never takes more of a run than this, so that short runs reach their rate."""


def make_schedule(
    name: ScheduleName, optimiser: Optimizer, peak: float, steps: int, warmup_steps: int
) -> LRScheduler:
    """A schedule whose peak is ``peak``.

    Args:
        name: ``cosine`` (warm-up, then half a cosine to 0), ``constant`` (warm-up, then the
            peak) or ``onecycle`` (Smith 2018 as in torch: up for 30 %, then down to almost 0,
            with its own warm-up).
        optimiser: Its rate is set to ``peak``.
        peak: Highest rate.
        steps: Of the whole run.
        warmup_steps: Steps of linear growth; at most ``WARMUP_SHARE`` of the run is used.
    """
    if name == "onecycle":
        return OneCycleLR(optimiser, peak, total_steps=max(4, steps))
    warmup = min(warmup_steps, int(WARMUP_SHARE * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if name == "constant":
            return 1.0
        done = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimiser, factor)
