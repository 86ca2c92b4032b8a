"""Plays action chunks by time: which action is due at this instant.

Row i of a chunk is meant for ``t0_ns + i * dt_ns``. Rows whose time has passed are simply
past: a plan that arrives late begins in its middle. Between rows the action is interpolated
linearly, so the arms may run faster than the policy's rows. A plan lasts as long as its rows,
and at least until the next plan is due with ``GRACE_ROWS`` to spare: the one row of a
single-step policy stays in force until the next one comes, without a hold between.

``ensemble`` averages all plans that cover the instant, as ACT does (Zhao et al. 2023): the
weight of a plan is ``exp(-decay_per_row * n)`` where n is how many rows later it was made than
the oldest one that still covers the instant. Counting rows of time instead of chunks makes the
weights independent of how often the policy is asked. Both conventions of the sign exist:

- decay positive: the OLDEST plan weighs most. ACT's published code, with 0.01;
- decay negative: the NEWEST plan weighs most. What other projects mean by the same formula
  with their plans numbered from the newest.

``newest`` follows the latest plan alone.

A gripper is not averaged between open and closed, which would be a grip that no plan asked
for: where plans disagree by more than ``GRIPPER_SPREAD``, the weighted median decides, which
is the opening of one of them. A joint is a place on a limited range and not a direction:
between 3.1 and -3.1 rad lies 0, and nothing is wrapped.

Seams are blended: where the plans in play change and the action with them, each column's
difference fades at a limited rate. So neither a new plan nor the end of an old one adds a step
to the command. With ``blend_s`` 0 one plan follows another unblended. The first plan after a
start or a hold is always blended, from the pose that was held.

``start`` forgets everything: it is called when an episode begins or another commander hands
over. A hold of ``STALE_HOLD_S`` does the same to plans made before it began: the arms have
stopped, and what was planned for them in motion is no longer true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.deployment import DeployOptions
from policies.seams import Seams
from teleop.clock import NS_PER_S, ns_from_s
from teleop.messages import ActionChunk, FloatArray

SEAM_TOLERANCE = 0.02
"""A column whose plan changes by no more (rad, or gripper opening) is not blended: so much a
seam may add to a command, and ensembled plans stay as prompt as they are."""
JOINT_BLEND_PER_S = 0.5
"""Fastest fading of a seam, rad/s: 0.01 rad per tick of a 50 Hz arm, which leaves room for what
the arm's own limits add to one when it catches up."""
GRIPPER_BLEND_PER_S = 4.0
"""The same for openings: the grippers' own limit in ``hardware.yaml``."""
GRIPPER_SPREAD = 0.3
"""Plans that differ by more in a gripper's opening mean different things by it."""
GRACE_ROWS = 2
"""How late the next plan may be before the one in force ends: one row for the inference, one
for a plan that was lost."""
STALE_HOLD_S = 0.16
"""After this long on hold the arms stand (from 3.14 rad/s at 20 rad/s^2, the limits of
``hardware.yaml``), and plans from before are stale. Shorter gaps are bridged."""


@dataclass(slots=True)
class ChunkCounts:
    """What has happened since the scheduler was made."""

    accepted: int = 0
    late: int = 0
    """Chunks that were wholly past when they came."""
    late_rows: int = 0
    """Rows of accepted chunks that were past when the chunk came."""
    out_of_order: int = 0
    """Chunks planned before one that is already being played, before the start or a hold."""
    refused: int = 0
    """Chunks with a wrong shape, NaN, or no time step, and those of the future."""
    held: int = 0
    """Instants for which no chunk had an action."""
    seams: int = 0
    """Blends begun."""
    largest_seam: float = 0.0
    """Largest difference bridged by a blend, rad or gripper opening."""


class ChunkScheduler:
    """Holds the chunks in play and answers which action is due.

    Args:
        columns: Names of the A columns; those that end with ``gripper`` are openings.
        options: How plans are mixed and blended.
        low: Shape (A,): no action below this is ever played. None: no bound.
        high: Shape (A,), the upper bound.
        joint_blend_per_s: Fastest fading of a joint's seam, rad/s.
    """

    def __init__(
        self,
        columns: Sequence[str],
        options: DeployOptions | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        joint_blend_per_s: float = JOINT_BLEND_PER_S,
    ) -> None:
        self.options = options or DeployOptions()
        self.counts = ChunkCounts()
        self.last_fault = ""
        self._size = len(columns)
        self._low = np.full(self._size, -np.inf) if low is None else np.asarray(low)
        self._high = np.full(self._size, np.inf) if high is None else np.asarray(high)
        grippers = np.array([name.endswith("gripper") for name in columns], dtype=bool)
        self._grippers = np.flatnonzero(grippers)
        fastest = np.where(grippers, GRIPPER_BLEND_PER_S, joint_blend_per_s)
        self._seams = Seams(self.options.blend_s, fastest)
        self._not_before_ns = 0
        self._chunks: list[ActionChunk] = []
        self._playing: list[ActionChunk] = []
        self._last: FloatArray | None = None
        self._held_since_ns: int | None = None

    def start(self, held: FloatArray, now_ns: int) -> None:
        """Forget all chunks and begin from the pose that is being held.

        Args:
            held: Shape (A,): the command in force, from which the first plan is blended.
            now_ns: Plans made before this instant belong to the past and are refused.
        """
        self._chunks.clear()
        self._playing = []
        self.last_fault = ""
        self._not_before_ns = now_ns
        self._last = np.array(held, dtype=np.float64)
        self._held_since_ns = None
        self._seams.clear()

    def add(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Take a plan into play; False when it is useless, counted and told in ``last_fault``."""
        if fault := self._fault_of(chunk, now_ns):
            self.counts.refused += 1
            return self._tell(chunk, fault)
        self._drop_past(now_ns)
        chunk = self._playable(chunk)
        if self._end_ns(chunk) <= now_ns:
            self.counts.late += 1
            ago_s = (now_ns - chunk.t0_ns) / NS_PER_S
            return self._tell(chunk, f"began {ago_s:.1f} s ago and was past when it came")
        self._forget_before_hold(now_ns)
        if chunk.t0_ns < self._not_before_ns:
            self.counts.out_of_order += 1
            return self._tell(chunk, "is older than a plan in play, the start or a hold")
        self._not_before_ns = chunk.t0_ns + 1
        self.counts.accepted += 1
        past = max(0, now_ns - chunk.t0_ns) // chunk.dt_ns
        self.counts.late_rows += min(past, len(chunk.actions))
        self._chunks.append(chunk)
        return True

    def action_at(self, now_ns: int) -> FloatArray | None:
        """The action due now, shape (A,); None when every chunk has run out."""
        self._drop_past(now_ns)
        covering = [chunk for chunk in self._chunks if chunk.t0_ns <= now_ns]
        if self.options.chunk_mode == "newest":
            covering = covering[-1:]
        if not covering:
            self._hold(now_ns)
            return None
        self._held_since_ns = None
        plan = self._mixed(covering, now_ns)
        if covering != self._playing:
            self._bridge(plan, now_ns)
            self._playing = covering
        self._last = self._bounded(plan + self._seams.left(now_ns))
        return self._last

    @property
    def newest(self) -> ActionChunk | None:
        """The newest of the plans that made the last action; None while none did."""
        return self._playing[-1] if self._playing else None

    def covered_until_ns(self) -> int | None:
        """When the plans in play run out; None when there are none."""
        return max((self._end_ns(chunk) for chunk in self._chunks), default=None)

    def _tell(self, chunk: ActionChunk, fault: str) -> bool:
        """Keep in words why a chunk is not played; False, as it is not."""
        self.last_fault = f"chunk {chunk.chunk_id} {fault}"
        return False

    def _drop_past(self, now_ns: int) -> None:
        self._chunks = [chunk for chunk in self._chunks if self._end_ns(chunk) > now_ns]

    def _hold(self, now_ns: int) -> None:
        self.counts.held += 1
        self._playing = []
        if self._held_since_ns is None:
            self._held_since_ns = now_ns
        self._forget_before_hold(now_ns)

    def _forget_before_hold(self, now_ns: int) -> None:
        since_ns = self._held_since_ns
        if since_ns is not None and now_ns - since_ns >= ns_from_s(STALE_HOLD_S):
            self._not_before_ns = max(self._not_before_ns, since_ns)
            self._chunks = [chunk for chunk in self._chunks if chunk.t0_ns >= since_ns]

    def _playable(self, chunk: ActionChunk) -> ActionChunk:
        """The rows that may be played, within the bounds."""
        rows = chunk.actions[: self.options.execute_rows]
        return replace(chunk, actions=np.clip(rows, self._low, self._high))

    def _bounded(self, action: FloatArray) -> FloatArray:
        """A fading offset must not lead out of the bounds, nor jump into them from outside."""
        if self._last is None:
            return np.clip(action, self._low, self._high)
        low, high = np.minimum(self._low, self._last), np.maximum(self._high, self._last)
        return np.clip(action, low, high)

    def _end_ns(self, chunk: ActionChunk) -> int:
        rows = max(len(chunk.actions), self.options.replan_rows + GRACE_ROWS)
        return chunk.t0_ns + rows * chunk.dt_ns

    def _mixed(self, chunks: list[ActionChunk], now_ns: int) -> FloatArray:
        """One action out of the plans in play, oldest first; shape (A,)."""
        rows = np.stack([_row_at(chunk, now_ns) for chunk in chunks])  # (N, A)
        later_rows = np.array([(c.t0_ns - chunks[0].t0_ns) / c.dt_ns for c in chunks])
        exponents = -self.options.decay_per_row * later_rows
        weights = np.exp(exponents - exponents.max())
        mixed: FloatArray = weights @ rows / weights.sum()
        for column in self._grippers:
            if np.ptp(rows[:, column]) > GRIPPER_SPREAD:
                mixed[column] = _weighted_median(rows[:, column], weights)
        return mixed

    def _bridge(self, plan: FloatArray, now_ns: int) -> None:
        """Blend over to ``plan`` from what would be due now had no chunk come or gone."""
        if self._playing:
            if self.options.blend_s == 0:
                return
            before = self._mixed(self._playing, now_ns)
            wide = np.abs(before - plan) > SEAM_TOLERANCE
            before = before + self._seams.left(now_ns)
        elif self._last is not None:
            before, wide = self._last, np.ones(self._size, dtype=bool)
        else:
            return
        if not wide.any():
            return
        self._seams.begin(before - plan, wide, now_ns)
        self.counts.seams += 1
        self.counts.largest_seam = max(
            self.counts.largest_seam, float(np.abs(before - plan)[wide].max())
        )

    def _fault_of(self, chunk: ActionChunk, now_ns: int) -> str:
        shape = np.shape(chunk.actions)
        if len(shape) != 2 or shape[0] == 0 or shape[1] != self._size:
            return f"has shape {shape}, expected (rows, {self._size})"
        if not np.isfinite(chunk.actions).all():
            return "contains NaN or infinite actions"
        if chunk.dt_ns <= 0:
            return f"has a row time of {chunk.dt_ns} ns"
        # An observation is never of the future; a row is left for clocks that are read apart.
        if chunk.t0_ns > now_ns + chunk.dt_ns:
            ahead_s = (chunk.t0_ns - now_ns) / NS_PER_S
            return f"begins {ahead_s:.2f} s from now, more than a row ahead"
        return ""


def _row_at(chunk: ActionChunk, now_ns: int) -> FloatArray:
    """The chunk's action at an instant it covers, interpolated between rows; shape (A,)."""
    position = (now_ns - chunk.t0_ns) / chunk.dt_ns
    row = min(int(position), len(chunk.actions) - 1)
    after = min(row + 1, len(chunk.actions) - 1)
    share = min(position - row, 1.0)
    value: FloatArray = (1.0 - share) * chunk.actions[row] + share * chunk.actions[after]
    return value


def _weighted_median(values: FloatArray, weights: NDArray[np.float64]) -> float:
    """One of the values: half of the weight lies at or below it; all shapes (N,)."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, 0.5 * below[-1])])
