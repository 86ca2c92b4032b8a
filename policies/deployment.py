"""How a policy's chunks are asked for and played; travels in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

ChunkMode = Literal["ensemble", "newest"]
NoiseMode = Literal["episode", "fresh"]
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class DeployOptions:
    """Measured defaults; every one can be changed at deployment."""

    chunk_mode: ChunkMode = "ensemble"
    """Average all plans that cover an instant, or follow the newest alone."""
    decay_per_row: float = 0.01
    """Ensemble weights are ``exp(-decay * rows of age difference)``: positive favours the
    OLDEST plan, as in ACT's published code; negative the newest."""
    replan_rows: int = 5
    """Rows from one inference to the next: the execution horizon of ``newest``."""
    execute_rows: int | None = None
    """Rows of a chunk that may be played at all; None plays a late policy's chunk to its end."""
    blend_s: float = 0.1
    """Shortest time over which a seam between plans fades."""
    noise: NoiseMode = "episode"
    """Families that sample: the same noise for every plan of an episode, so that successive
    plans agree on a way to do it, or fresh noise for each."""
    infer_precision: Precision = "float32"
    """Of inference: bf16 computes most layers in 16 bits; pays for image networks on devices
    that have them."""

    @classmethod
    def for_chunk(cls, chunk_rows: int) -> Self:
        """The default for a chunk length: a single-step policy is asked at every row."""
        if chunk_rows == 1:
            return cls(chunk_mode="newest", replan_rows=1, blend_s=0.0)
        return cls(replan_rows=min(cls.replan_rows, chunk_rows))
