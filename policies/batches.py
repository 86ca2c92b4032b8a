"""The samples of each step, loaded ahead of the loop or in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from policies.windows import Windows, WindowSet


class Share(NamedTuple):
    """What one process works on in one step."""

    chosen: NDArray[np.int64]
    """Numbers of the windows, shape (B,)."""
    windows: Windows

    def parts(self, count: int) -> list[Windows]:
        """The windows in ``count`` almost equal parts, not copied."""
        bounds = np.linspace(0, len(self.chosen), count + 1).round().astype(int)
        columns: list[Any] = list(self.windows)
        return [Windows(*(v[a:b] for v in columns)) for a, b in pairwise(bounds.tolist())]


def chosen_at(windows: WindowSet, seed: int, step: int, size: int) -> NDArray[np.int64]:
    """The samples of a step, of all processes together; shape (size,)."""
    return windows.sample(np.random.default_rng([seed, step]), size)


class _Steps(Dataset[Share]):
    """Item i is the process's share of step i."""

    def __init__(self, windows: WindowSet, seed: int, size: int, rank: int, processes: int) -> None:
        self._windows = windows
        self._seed, self._size = seed, size
        self._own = slice(rank, None, processes)

    def __getitem__(self, step: int) -> Share:
        chosen = chosen_at(self._windows, self._seed, step, self._size)[self._own]
        return Share(chosen, self._windows.windows(chosen))


def shares(
    windows: WindowSet,
    steps: range,
    seed: int,
    size: int,
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Iterator[Share]:
    """A process's share of each of these steps.

    Args:
        windows: To draw from.
        steps: Numbers of the steps.
        seed: With the step's number, all that the draw depends on.
        size: Samples of a step over all processes.
        rank: Of this process.
        processes: How many there are.
        workers: Processes that load ahead; 0 loads in the loop.
    """
    loader = DataLoader(
        _Steps(windows, seed, size, rank, processes),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
    )
    for chosen, tensors in loader:  # torch's loader makes tensors that share the arrays' memory
        yield Share(chosen.numpy(), Windows(*(_array(tensor) for tensor in tensors)))


def _array(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array
