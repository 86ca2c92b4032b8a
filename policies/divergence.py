"""When training must stop: a loss that is no number, or that has left for good."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.windows import WindowSet
from teleop.errors import PolicyError

MEMORY_STEPS = 200
"""Losses that the running median is taken over."""
FACTOR = 20.0
"""A loss is far off when it lies this many scales above the median; the scale is the median's
size or the median deviation, whichever is larger, for likelihood losses pass through 0."""
PATIENCE_STEPS = 20
"""Steps in a row that are far off: single ones happen with hard samples."""


class Divergence:
    """Watches the loss."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=MEMORY_STEPS)
        self._far = 0

    def add(self, loss: float) -> bool:
        """Take a step's loss in; True when training has diverged."""
        known = np.asarray(self._losses)
        if len(known) >= PATIENCE_STEPS:
            median = float(np.median(known))
            scale = max(abs(median), float(np.median(np.abs(known - median))))
            if loss > median + FACTOR * scale:
                self._far += 1
                return self._far >= PATIENCE_STEPS
        self._far = 0
        self._losses.append(loss)
        return False


class BadBatchError(PolicyError):
    """Training stopped at a batch, which comes with the error."""

    def __init__(
        self,
        what: str,
        step: int,
        chosen: NDArray[np.int64],
        windows: WindowSet,
        losses: NDArray[np.floating],
    ) -> None:
        self.step = step
        self.chosen = chosen
        """Numbers of the windows, shape (B,)."""
        self.losses = losses
        """Loss of each sample, shape (B,)."""
        self.places = windows.where(chosen)
        """Episode and row of each window, in words."""
        self.windows = windows.windows(chosen)
        worst = int(np.argmax(np.where(np.isfinite(losses), losses, np.inf)))
        super().__init__(
            f"{what} at step {step}, worst in the window at {self.places[worst]}; "
            "lower --learning-rate or look at this data with 'tandem inspect'"
        )

    def save(self, path: Path) -> None:
        """Write the batch as an ``.npz`` of arrays: windows, their places and losses."""
        with path.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                chosen=self.chosen,
                loss=self.losses,
                place=np.asarray(self.places),
                **self.windows._asdict(),
            )


def finite(*values: float) -> bool:
    """Whether all are numbers."""
    return all(math.isfinite(value) for value in values)
