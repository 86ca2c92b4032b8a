"""Plays action chunks by time: which action is due at this instant.

Row i of a chunk is meant for ``t0_ns + i * dt_ns``. Rows whose time has passed are simply
past: a plan that arrives late begins in its middle. Between rows the action is interpolated
linearly, so the arms may run faster than the policy's rows; the last row lasts one ``dt_ns``.

``ensemble`` averages all chunks that cover the instant, as ACT does (Zhao et al. 2023): the
weight of a chunk is ``exp(-decay_per_row * n)`` where n is how many rows later it was planned
than the oldest one that still covers the instant. A positive decay therefore favours the
OLDEST plan, as in ACT's published code with 0.01; a negative one favours the newest.
Counting rows of time instead of chunks makes the weights independent of how often the policy
is asked.

``newest`` follows the latest chunk alone. In both modes a seam is blended: where the chunks
in play change and the plan with them, each column's difference fades at a limited rate. So
neither a new plan nor the end of an old one nor the first one after a hold adds a step to the
command.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from teleop.clock import NS_PER_S
from teleop.errors import UnknownNameError
from teleop.messages import ActionChunk, FloatArray

MODES = ("ensemble", "newest")
SEAM_TOLERANCE = 0.02
"""A column whose plan changes by no more (rad, or gripper opening) is not blended: so much a
seam may add to a command, and ensembled plans stay as prompt as they are."""


@dataclass(slots=True)
class ChunkCounts:
    """What has happened since the scheduler was made."""

    accepted: int = 0
    late: int = 0
    """Chunks that were wholly past when they came."""
    out_of_order: int = 0
    """Chunks planned before one that is already being played."""
    refused: int = 0
    """Chunks with a wrong shape, NaN, or no time step."""
    held: int = 0
    """Instants for which no chunk had an action."""
    seams: int = 0
    """Blends begun."""
    largest_seam: float = 0.0
    """Largest difference bridged by a blend, rad or gripper opening."""


class ChunkScheduler:
    """Holds the chunks in play and answers which action is due."""

    def __init__(
        self,
        action_size: int,
        mode: str = "ensemble",
        decay_per_row: float = 0.01,
        blend_s: float = 0.1,
        blend_per_s: float = 1.0,
    ) -> None:
        """Play chunks of A columns.

        Args:
            action_size: A.
            mode: ``ensemble`` or ``newest``.
            decay_per_row: Signed weight decay of the ensemble, see the module.
            blend_s: Shortest time over which a seam fades.
            blend_per_s: Fastest fading, rad/s or opening per second: a wide seam takes longer.
        """
        if mode not in MODES:
            raise UnknownNameError("chunk mode", mode, MODES)
        self.counts = ChunkCounts()
        self.last_fault = ""
        self._size = action_size
        self._ensemble = mode == "ensemble"
        self._decay_per_row = decay_per_row
        self._blend_ns = blend_s * NS_PER_S
        self._blend_per_ns = blend_per_s / NS_PER_S
        self._not_before_ns = 0
        self._chunks: list[ActionChunk] = []
        self._playing: list[ActionChunk] = []
        self._last: FloatArray | None = None
        self._offset = np.zeros(action_size)
        self._seam_ns = np.zeros(action_size)
        self._fade_ns = np.zeros(action_size)

    def start(self, held: FloatArray, now_ns: int) -> None:
        """Forget all chunks and begin from the pose that is being held.

        Args:
            held: Shape (A,): the command in force, from which the first plan is blended.
            now_ns: Plans made before this instant belong to the past and are refused.
        """
        self._chunks.clear()
        self._not_before_ns = now_ns
        self._last = np.array(held, dtype=np.float64)
        self._offset = np.zeros(self._size)
        self._playing = []

    def add(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Take a plan into play; False when it is useless, counted and told in ``last_fault``."""
        self._drop_past(now_ns)
        if fault := self._fault_of(chunk, now_ns):
            self.counts.refused += 1
            self.last_fault = f"chunk {chunk.chunk_id} {fault}"
            return False
        if _end_ns(chunk) <= now_ns:
            self.counts.late += 1
            return False
        if chunk.t0_ns < self._not_before_ns:
            self.counts.out_of_order += 1
            return False
        self._not_before_ns = chunk.t0_ns + 1
        self.counts.accepted += 1
        self._chunks.append(chunk)
        return True

    def action_at(self, now_ns: int) -> FloatArray | None:
        """The action due now, shape (A,); None when every chunk has run out."""
        self._drop_past(now_ns)
        covering = [chunk for chunk in self._chunks if chunk.t0_ns <= now_ns]
        if not self._ensemble:
            covering = covering[-1:]
        if not covering:
            self.counts.held += 1
            self._playing = []
            return None
        plan = self._mean(covering, now_ns)
        if covering != self._playing:
            self._bridge(plan, now_ns)
            self._playing = covering
        self._last = plan + self._fading(now_ns)
        return self._last

    def _drop_past(self, now_ns: int) -> None:
        self._chunks = [chunk for chunk in self._chunks if _end_ns(chunk) > now_ns]

    def _mean(self, chunks: list[ActionChunk], now_ns: int) -> FloatArray:
        rows = np.stack([_row_at(chunk, now_ns) for chunk in chunks])  # (N, A)
        later_rows = np.array([(c.t0_ns - chunks[0].t0_ns) / c.dt_ns for c in chunks])
        weights = np.exp(-self._decay_per_row * later_rows)
        mean: FloatArray = weights @ rows / weights.sum()
        return mean

    def _bridge(self, plan: FloatArray, now_ns: int) -> None:
        """Blend over to ``plan`` from what would be due now had no chunk come or gone."""
        if self._playing:
            before = self._mean(self._playing, now_ns)
            wide = np.abs(before - plan) > SEAM_TOLERANCE
            before = before + self._fading(now_ns)
        elif self._last is not None:
            before, wide = self._last, np.ones(self._size, dtype=bool)
        else:
            return
        if not wide.any():
            return
        self._offset = np.where(wide, before - plan, self._offset)
        self._seam_ns = np.where(wide, now_ns, self._seam_ns)
        fade_ns = np.maximum(self._blend_ns, np.abs(self._offset) / self._blend_per_ns)
        self._fade_ns = np.where(wide, fade_ns, self._fade_ns)
        self.counts.seams += 1
        self.counts.largest_seam = max(
            self.counts.largest_seam, float(np.abs(self._offset[wide]).max())
        )

    def _fading(self, now_ns: int) -> FloatArray:
        left_ns = np.maximum(self._seam_ns + self._fade_ns - now_ns, 0.0)
        offset: FloatArray = self._offset * left_ns / np.maximum(self._fade_ns, 1.0)
        return offset

    def _fault_of(self, chunk: ActionChunk, now_ns: int) -> str:
        shape = np.shape(chunk.actions)
        if len(shape) != 2 or shape[0] == 0 or shape[1] != self._size:
            return f"has shape {shape}, expected (rows, {self._size})"
        if not np.isfinite(chunk.actions).all():
            return "contains NaN or infinite actions"
        if chunk.dt_ns <= 0:
            return f"has a row time of {chunk.dt_ns} ns"
        if chunk.t0_ns > now_ns + shape[0] * chunk.dt_ns:
            return f"begins {(chunk.t0_ns - now_ns) / NS_PER_S:.1f} s from now, beyond its length"
        return ""


def _end_ns(chunk: ActionChunk) -> int:
    return chunk.t0_ns + len(chunk.actions) * chunk.dt_ns


def _row_at(chunk: ActionChunk, now_ns: int) -> FloatArray:
    """The chunk's action at an instant it covers, interpolated between rows; shape (A,)."""
    position = (now_ns - chunk.t0_ns) / chunk.dt_ns
    row = min(int(position), len(chunk.actions) - 1)
    after = min(row + 1, len(chunk.actions) - 1)
    share = min(position - row, 1.0)
    value: FloatArray = (1.0 - share) * chunk.actions[row] + share * chunk.actions[after]
    return value
