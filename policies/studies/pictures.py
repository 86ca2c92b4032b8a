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
"""Runs drawn per panel of the fork."""
ROADS = 10
"""Runs drawn per road."""
AFTERWARDS = 60
"""Rows drawn after a run left the road."""
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
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, panel in zip(grid, panels, strict=False):
        _fork_panel(axes, panel, obstacle, goal)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Two ways round an obstacle: passed on the left (blue), on the right (orange), "
        "failed (red)",
        fontsize=11,
    )
    figure.savefig(path, dpi=DPI)


def _fork_panel(axes: Any, panel: ForkPanel, obstacle: Circle, goal: Circle) -> None:
    from matplotlib.patches import Circle as Disc

    for (middle, radius), colour in ((obstacle, GROUND), (goal, GOOD)):
        axes.add_patch(Disc((middle[0], middle[1]), radius, color=colour, alpha=0.6))
    for run in range(min(SHOWN, len(panel.paths))):
        x, y = panel.paths[run].T
        good = panel.succeeded[run]
        colour = (LEFT if panel.went_left[run] else RIGHT) if good else FAILED
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.7)
        if not good:
            axes.plot(x[-1], y[-1], "x", color=FAILED, markersize=4)
    axes.set(title=panel.title, xlim=(-0.45, 0.45), ylim=(-0.08, 1.12), aspect="equal")
    axes.set(xticks=[], yticks=[])


class DriftRuns(NamedTuple):
    """Some runs of one policy on the road."""

    title: str
    paths: FloatArray
    """Shape (N, T + 1, 2)."""
    beside: FloatArray
    """Shape (N, T), 1 on rows beside the road."""


class DriftCurve(NamedTuple):
    """One learner's cost."""

    label: str
    cost: FloatArray
    """By horizon, shape (H,); rows."""
    fit: tuple[float, float] | None
    """Factor and power of the fitted line."""


def draw_drift(
    path: Path,
    edges: tuple[FloatArray, FloatArray],
    runs: Sequence[DriftRuns],
    curves: Sequence[DriftCurve],
    horizons: Sequence[int],
) -> None:
    """Roads with the first runs of each learner, and cost over horizon with fitted slopes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(4.2 * len(runs) + 5.4, 4.6)
    parts = figure.subplots(1, len(runs) + 1, width_ratios=[1.0] * len(runs) + [1.25])
    colours = (FAILED, LEFT, GOOD, RIGHT)
    for axes, run, colour in zip(parts, runs, colours, strict=False):
        _road_panel(axes, edges, run, colour)
    _slope_panel(parts[-1], curves, np.asarray(horizons, float), colours)
    figure.savefig(path, dpi=DPI)


def _road_panel(
    axes: Any, edges: tuple[FloatArray, FloatArray], run: DriftRuns, colour: str
) -> None:
    """Each run up to 60 rows after it first left the road, which a cross marks."""
    ring = np.concatenate([edges[0], edges[1][::-1]])
    axes.fill(ring[:, 0], ring[:, 1], color=GROUND, alpha=0.6, linewidth=0)
    left = 0
    for path, beside in zip(run.paths[:ROADS], run.beside[:ROADS], strict=True):
        first = int(beside.argmax()) if beside.any() else len(beside)
        shown = path[: first + AFTERWARDS]
        axes.plot(shown[:, 0], shown[:, 1], color=colour, linewidth=0.6, alpha=0.7)
        if beside.any():
            left += 1
            axes.plot(*path[first + 1], "x", color="black", markersize=6, zorder=3)
    axes.set(title=f"{run.title}\n{left} of {min(ROADS, len(run.paths))} runs left the road")
    axes.set(xlim=(-1.7, 1.9), ylim=(-1.8, 1.8), aspect="equal", xticks=[], yticks=[])


def _slope_panel(
    axes: Any, curves: Sequence[DriftCurve], horizons: FloatArray, colours: Sequence[str]
) -> None:
    for curve, colour in zip(curves, colours, strict=False):
        costs = np.where(curve.cost > 0, curve.cost, np.nan)
        label = curve.label if curve.fit is None else f"{curve.label}: p = {curve.fit[1]:.2f}"
        axes.loglog(horizons, costs, "o", color=colour, label=label)
        if curve.fit is not None:
            axes.loglog(horizons, curve.fit[0] * horizons ** curve.fit[1], "-", color=colour)
    first = next((curve.cost for curve in curves if curve.cost.any()), horizons)
    anchor = first[-1] / 3
    for power, style in ((1, ":"), (2, "--")):
        reference = anchor * (horizons / horizons[-1]) ** power
        axes.loglog(horizons, reference, style, color="grey", label=f"slope {power}")
    axes.set(xlabel="horizon T, rows", ylabel="rows beside the road, mean of a run")
    axes.set(title="cost ~ T^p", xticks=horizons, xticklabels=[f"{h:g}" for h in horizons])
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)


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
