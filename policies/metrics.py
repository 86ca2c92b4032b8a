"""The training curve: its rows, as a table and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from teleop.errors import MissingExtraError


@dataclass(frozen=True)
class Metric:
    """One row of ``metrics.csv``. Losses are those of the family, over normalised actions."""

    step: int
    train_loss: float
    """Mean since the last row."""
    validation_loss: float | None
    """None, an empty cell, when no episode is held back."""
    learning_rate: float
    gradient_norm: float
    """Mean since the last row, before clipping."""
    parts: dict[str, float] = field(default_factory=dict)
    """The family's other losses by name, means since the last row."""

    def cells(self) -> dict[str, float | None]:
        """The row by column."""
        values = asdict(self)
        return {**{name: v for name, v in values.items() if name != "parts"}, **self.parts}


def write_metrics(path: Path, metrics: Sequence[Metric]) -> None:
    """The curve as a table; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        names = metrics[0].cells() if metrics else Metric(0, 0, 0, 0, 0).cells()
        writer = csv.DictWriter(file, list(names))
        writer.writeheader()
        writer.writerows(metric.cells() for metric in metrics)
    partial.replace(path)


def draw_curve(path: Path, metrics: Sequence[Metric], title: str) -> None:
    """The curve as a picture; on a log axis unless a loss is negative, as likelihoods can be.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plot", "the picture of the curve") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    training = [(metric.step, metric.train_loss) for metric in metrics]
    held_back = [(m.step, m.validation_loss) for m in metrics if m.validation_loss is not None]
    for label, curve in (("training", training), ("held-back episodes", held_back)):
        if curve:
            axes.plot(*zip(*curve, strict=True), label=label, marker="." if len(curve) < 3 else "")
    positive = all(loss > 0 for _, loss in training + held_back)
    axes.set(xlabel="step", ylabel="loss", yscale="log" if positive else "linear", title=title)
    axes.grid(True, alpha=0.3)
    if training:
        axes.legend()
    figure.savefig(path, dpi=120)
