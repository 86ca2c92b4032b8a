"""Windows over rows: what could be seen at one row, and the actions from there on.

Everything here is numpy, in raw units (rad, m, gripper opening) and recorded pixels;
``policies.preprocess`` makes normalised tensors of it. Toy studies build a ``WindowSet`` from
arrays, ``policies.dataset`` builds one from episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.normalisation import (
    ColumnStatistics,
    MapName,
    Statistics,
    column_statistics,
    fault,
    image_statistics,
)
from teleop.errors import PolicyError

Padding = Literal["repeat", "mask"]
"""Beyond the end of an episode the last action is repeated. ``repeat``: those rows count like
any other and teach the policy to stay; ``mask``: they do not count."""

STATISTICS_IMAGES = 200
"""Images that a camera's statistics are taken from: enough for two digits."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Windows(NamedTuple):
    """B windows."""

    state: Floats
    """Shape (B, n, S): the history, oldest first; qpos, then extra inputs."""
    images: Pixels
    """Shape (B, n, C, H, W, 3), RGB; C is 0 without cameras."""
    actions: Floats
    """Shape (B, K, A)."""
    mask: Floats
    """Shape (B, K), 0 where a row is padding that does not count."""
    weight: Floats
    """Shape (B,). What the sample's loss counts; 1 on average over all windows of the set."""
    text: Floats
    """Shape (B, E): the embedded instruction; E is 0 without."""


class FrameSource(Protocol):
    """Frames by number: an array (F, H, W, 3), or something that reads them when asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, H, W, 3)."""

    def __getitem__(self, frame: int, /) -> Pixels:
        """One frame, (H, W, 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """What one camera saw during one episode."""

    source: FrameSource
    index: Ints
    """Shape (T,): the newest frame at each row; -1 where none had arrived."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One episode, or one toy trajectory, of T rows."""

    state: NDArray[np.floating]
    """Shape (T, S)."""
    actions: NDArray[np.floating]
    """Shape (T, A)."""
    starts: Ints
    """Shape (N,): rows at which windows begin."""
    weight: NDArray[np.floating] | None = None
    """Shape (T,), what the loss of a window that begins at a row counts; None for all alike."""
    frames: tuple[Frames, ...] = ()
    """Per camera."""
    text: Floats | None = None
    """Shape (E,): the embedded instruction."""
    folder_weight: float = 1.0
    """How often a window is drawn, next to the windows of other folders."""
    first: int = 0
    """The first row with a whole observation: it stands for those before it."""
    name: str = "the data"
    """What errors call it."""


class WindowSet:
    """All windows of some episodes.

    Args:
        parts: The episodes; at least one window in all.
        chunk_rows: Rows of an action chunk, K.
        history: Observations of a window, n.
        history_stride: Rows from one of them to the next.
        padding: What rows beyond an episode's end count.

    Raises:
        PolicyError: no window, or weights that are negative, not finite or all zero.
    """

    def __init__(
        self,
        parts: Sequence[Rows],
        chunk_rows: int,
        history: int = 1,
        history_stride: int = 1,
        padding: Padding = "repeat",
    ) -> None:
        if not sum(len(part.starts) for part in parts):
            raise PolicyError("no row is left at which a window could begin; admit more data")
        counts = [len(part.starts) for part in parts]
        lengths = [len(part.actions) for part in parts]
        offsets = np.cumsum([0, *lengths])[:-1]
        self._parts = tuple(parts)
        self._offsets = offsets
        self._padding = padding
        self._chunk = np.arange(chunk_rows)
        self._past = history_stride * np.arange(history - 1, -1, -1)  # (n,), oldest first
        self._state = np.concatenate([p.state for p in parts]).astype(np.float32)  # (R, S)
        self._actions = np.concatenate([p.actions for p in parts]).astype(np.float32)  # (R, A)
        self._part = np.repeat(np.arange(len(parts)), counts)  # (N,), as all below
        self._start = np.concatenate([o + p.starts for o, p in zip(offsets, parts, strict=True)])
        self._first = np.repeat(offsets + [part.first for part in parts], counts)
        self._last = np.repeat(offsets + lengths, counts) - 1
        self._weight = _weights(parts)
        self._text = np.stack([_text(part) for part in parts])  # (P, E)
        self._draw = _draw_table(np.repeat([part.folder_weight for part in parts], counts))

    def __len__(self) -> int:
        return len(self._start)

    def where(self, chosen: Ints) -> list[str]:
        """Row and episode of each chosen window, in words."""
        parts, rows = self._part[chosen], self._start[chosen]
        return [
            f"row {row - self._offsets[part]} of {self._parts[part].name}"
            for part, row in zip(parts, rows, strict=True)
        ]

    @property
    def cameras(self) -> int:
        """C."""
        return len(self._parts[0].frames)

    def windows(self, chosen: Ints) -> Windows:
        """The windows with these numbers, each in 0 ... len - 1; shape (B,)."""
        seen, ahead = self._seen(chosen), self._ahead(chosen)
        last = self._last[chosen, None]
        counted = (ahead <= last) | (self._padding == "repeat")
        return Windows(
            self._state[seen],
            self._images(self._part[chosen], seen),
            self._actions[np.minimum(ahead, last)],
            counted.astype(np.float32),
            self._weight[chosen],
            self._text[self._part[chosen]],
        )

    def sample(self, rng: np.random.Generator, size: int) -> Ints:
        """Numbers of windows, drawn with replacement by the weights of their folders."""
        if self._draw is None:
            return rng.integers(len(self), size=size)
        return np.searchsorted(self._draw, rng.random(size), side="right").astype(np.int64)

    def bytes(self) -> tuple[int, int]:
        """Size of the rows and of the frames, which may lie in files."""
        frames = {id(f.source): f.source for part in self._parts for f in part.frames}
        sizes = [int(np.prod(source.shape)) for source in frames.values()]
        return self._state.nbytes + self._actions.nbytes, sum(sizes)

    def statistics(self, map: MapName = "standard", names: Sequence[str] = ()) -> Statistics:
        """Of the states and actions that occur in windows, each once, and of images.

        Args:
            map: How values will be normalised.
            names: Of the columns of the state, for errors; those of actions come first.

        Raises:
            PolicyError: a value is not finite or lies far outside the others.
        """
        everything = np.arange(len(self))
        seen, ahead = self._seen(everything), self._ahead(everything)
        ahead = np.minimum(ahead, self._last[:, None])
        cameras = range(self.cameras)
        some = np.linspace(0, len(self) - 1, min(len(self), STATISTICS_IMAGES)).astype(np.int64)
        return Statistics(
            state=self._columns(self._state, seen, "state", map, names),
            action=self._columns(self._actions, ahead, "action", map, names),
            images=tuple(
                image_statistics(
                    [self._frame(int(self._part[i]), int(seen[i, -1]), c) for i in some]
                )
                for c in cameras
            ),
        )

    def _seen(self, chosen: Ints) -> Ints:
        """Rows of the history, (B, n)."""
        rows: Ints = np.maximum(self._start[chosen, None] - self._past, self._first[chosen, None])
        return rows

    def _ahead(self, chosen: Ints) -> Ints:
        """Rows of the chunk, (B, K); beyond the end of the episode they go on."""
        rows: Ints = self._start[chosen, None] + self._chunk
        return rows

    def _columns(
        self, values: Floats, rows: Ints, what: str, map: MapName, names: Sequence[str]
    ) -> ColumnStatistics:
        """Statistics of the rows that occur."""
        occurs = np.zeros(len(values), bool)
        occurs[rows] = True
        table = values[occurs].astype(np.float64)
        if (found := fault(table)) is not None:
            row, column, words = found
            part = np.searchsorted(self._offsets, np.flatnonzero(occurs)[row], side="right") - 1
            column_name = names[column] if names else f"column {column}"
            raise PolicyError(f"{self._parts[part].name}: {what} of {column_name} {words}")
        return column_statistics(table, map)

    def _images(self, parts: Ints, seen: Ints) -> Pixels:
        """Frames at rows (B, n) of parts (B,): (B, n, C, H, W, 3)."""
        frames = self._parts[0].frames
        size = frames[0].source.shape[1:] if frames else (0, 0, 3)
        images = np.empty((*seen.shape, len(frames), *size), np.uint8)
        if frames:
            for window, past, camera in np.ndindex(images.shape[:3]):
                images[window, past, camera] = self._frame(
                    int(parts[window]), int(seen[window, past]), camera
                )
        return images

    def _frame(self, part: int, row: int, camera: int) -> Pixels:
        frames = self._parts[part].frames[camera]
        return frames.source[int(frames.index[row - self._offsets[part]])]


def _weights(parts: Sequence[Rows]) -> Floats:
    """Weight of each window, 1 on average; (N,)."""
    weights = np.concatenate(
        [np.ones(len(p.starts)) if p.weight is None else p.weight[p.starts] for p in parts]
    )
    for part in parts:
        if part.weight is not None and not (np.isfinite(part.weight) & (part.weight >= 0)).all():
            raise PolicyError(f"{part.name}: sample weights must be finite and not negative")
    if not weights.any():
        raise PolicyError("all sample weights are 0; nothing would be learned")
    relative: Floats = (weights / weights.mean()).astype(np.float32)
    return relative


def _text(part: Rows) -> Floats:
    return np.zeros(0, np.float32) if part.text is None else part.text.astype(np.float32)


def _draw_table(weights: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Upper end of each window's share of 0..1, (N,); None when all are drawn alike."""
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise PolicyError("weights of folders must be finite, not negative, and not all 0")
    if (weights == weights[0]).all():
        return None
    ends: NDArray[np.float64] = np.cumsum(weights) / weights.sum()
    ends[-1] = 1.0
    return ends
