"""Pictures of the toy studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teleop.errors import MissingExtraError
from teleop.messages import FloatArray

LEFT, RIGHT, FAILED = "#0072B2", "#E69F00", "#CC3311"
"""Colours that the colour-blind tell apart (Okabe and Ito 2008; Tol 2021)."""
GROUND, GOOD = "#BBBBBB", "#009E73"

SHOWN = 50
"""Runs drawn per panel."""
DPI = 130


class ForkPanel(NamedTuple):
    """The runs of one head."""

    title: str
    paths: FloatArray
    """Shape (N, T, 2)."""
    succeeded: NDArray[np.bool_]
    """Shape (N,)."""
    went_left: NDArray[np.bool_]
    """Shape (N,)."""


Circle = tuple[FloatArray, float]
"""Middle (2,) and radius."""


def draw_fork(path: Path, panels: Sequence[ForkPanel], obstacle: Circle, goal: Circle) -> None:
    """One panel per head, each with its first runs coloured by where they went.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(2.6 * columns, 3.9 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for axes, panel in zip(grid, panels, strict=False):
        _fork_panel(axes, panel, obstacle, goal)
    for axes in list(grid)[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Two ways round an obstacle: passed on the left (blue), on the right (orange), "
        "failed (red)",
        fontsize=11,
    )
    figure.savefig(path, dpi=DPI)


def _fork_panel(axes: Any, panel: ForkPanel, obstacle: Circle, goal: Circle) -> None:
    from matplotlib.patches import Circle as Disc

    axes.add_patch(Disc(obstacle[0], obstacle[1], color=GROUND))
    axes.add_patch(Disc(goal[0], goal[1], color=GOOD, alpha=0.5))
    for run in range(min(SHOWN, len(panel.paths))):
        x, y = panel.paths[run].T
        good = panel.succeeded[run]
        colour = (LEFT if panel.went_left[run] else RIGHT) if good else FAILED
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.7)
        if not good:
            axes.plot(x[-1], y[-1], "x", color=FAILED, markersize=4)
    axes.set(title=panel.title, xlim=(-0.45, 0.45), ylim=(-0.08, 1.12), aspect="equal")
    axes.set(xticks=[], yticks=[])


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plot", "the picture of a study") from error
    return Figure(figsize=(width, height), layout="constrained")
