"""The trainer: one loop for every family, readable from top to bottom.

``tandem train FAMILY --data DIR --out RUN`` reads episodes, trains, and leaves a checkpoint,
``metrics.csv`` and ``curve.png`` in RUN.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import tyro
from tqdm import tqdm

from policies import checkpoint
from policies.card import CARD
from policies.dataset import (
    LEARNED_OUTCOMES,
    LEARNED_VERDICTS,
    DataOptions,
    Outcome,
    TrainingData,
    WindowSet,
    load,
)
from policies.family import Batch, Family
from policies.learned import Preprocessor, parameters_of, shapes_of
from policies.registry import load_family
from recorder.quality import Level
from teleop.errors import MissingExtraError, PolicyError

C = TypeVar("C")


@dataclass(frozen=True)
class TrainArgs(Generic[C]):
    """Train a policy on recorded episodes."""

    data: Path
    """Folder of episode files."""
    out: Path
    """Folder for the trained policy."""
    model: tyro.conf.OmitArgPrefixes[C]
    overwrite: bool = False
    """Replace the policy that the folder already holds."""
    outcomes: tuple[Outcome, ...] = LEARNED_OUTCOMES
    """Episodes to learn from, by what the operator said of them."""
    verdicts: tuple[Level, ...] = LEARNED_VERDICTS
    """Episodes to learn from, by what the recorder said of their quality."""
    steps: int = 2400
    """Optimiser steps."""
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 1e-4
    seed: int = 0
    cameras: tuple[str, ...] | None = None
    """Cameras to see; all that were recorded when not given."""
    image_size: tuple[int, int] = (96, 128)
    """Height and width of the images at training, pixels."""
    blind: bool = False
    """See joint positions only: the baseline that shows what the cameras are worth."""
    object_pose: bool = False
    """See object poses instead of cameras (privileged: emulated rig only)."""
    chunk_rows: int = 50
    """Rows of one action chunk."""
    row_stride: int = 3
    """Every how many rows a training window begins."""
    holdout: float = 0.1
    """Share of the episodes held back for the validation loss."""
    threads: int = 1
    """CPU threads; more than there are idle cores makes training slower, not faster."""
    device: str = "cpu"
    log_every: int = 100
    """Steps between rows of metrics.csv."""

    def data_options(self) -> DataOptions:
        """The part of the arguments that selects data."""
        return DataOptions(
            cameras=() if self.blind or self.object_pose else self.cameras,
            image_size=self.image_size,
            object_pose=self.object_pose,
            chunk_rows=self.chunk_rows,
            row_stride=self.row_stride,
            holdout=self.holdout,
            outcomes=self.outcomes,
            verdicts=self.verdicts,
        )


@dataclass(frozen=True)
class Metric:
    """One row of ``metrics.csv``; losses are means over normalised action columns."""

    step: int
    train_loss: float
    """Mean since the last row."""
    validation_loss: float | None
    """None, an empty cell, when no episode is held back."""
    learning_rate: float


def main(argv: Sequence[str]) -> int:
    """``tandem train``; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        argv = ["bc", "--help"]
    family, *options = argv
    config_type: Any = load_family(family).config_type
    args = tyro.cli(
        TrainArgs[config_type],
        args=options,
        prog=f"tandem train {family}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    last = train(family, args, show=sys.stderr.isatty())[-1]
    held_back = (
        "no held-back episodes"
        if last.validation_loss is None
        else f"held-back loss {last.validation_loss:.4f}"
    )
    tqdm.write(
        f"{args.out}: {family} after {last.step} steps, training loss {last.train_loss:.4f}, "
        f"{held_back}; curve: {args.out / 'curve.png'}"
    )
    return 0


def train(family: str, args: TrainArgs[Any], show: bool = True) -> list[Metric]:
    """Train, and save the policy with its curve; prints which episodes were left out.

    Args:
        family: A name of ``policies.registry``.
        args: All options.
        show: Draw progress bars on standard error.

    Raises:
        PolicyError: unusable data or options, a policy in the way, or a loss that is no longer
            a number.
    """
    if args.blind and args.object_pose:
        raise PolicyError("--blind and --object-pose exclude each other; give one of them")
    if (args.out / CARD).exists() and not args.overwrite:
        raise PolicyError(
            f"{args.out} holds a policy already; name another folder with --out, "
            "or replace it with --overwrite"
        )
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    track = _bar("reading episodes", show)
    data = load(args.data, args.data_options(), args.seed, track)
    if data.left_out:
        tqdm.write(data.left_out)
    network = load_family(family)(shapes_of(data.contract), args.model)
    metrics = fit(network, data, args, show)
    training = {
        **{name: value for name, value in asdict(args).items() if name != "model"},
        "episodes": data.episodes,
        "windows": len(data.train),
        "parameters": parameters_of(network),
        "final": asdict(metrics[-1]),
    }
    checkpoint.save(args.out, family, network, data.contract, data.statistics, training)
    write_metrics(args.out / "metrics.csv", metrics)
    draw_curve(args.out / "curve.png", metrics, f"{family}, {data.contract.task}")
    return metrics


def fit(network: Family, data: TrainingData, args: TrainArgs[Any], show: bool) -> list[Metric]:
    """The loop.

    Raises:
        PolicyError: the loss is NaN or infinite; names the step and the windows of the batch.
    """
    device = torch.device(args.device)
    network.to(device).train()
    prepare = Preprocessor(data.statistics, device)
    rng = np.random.default_rng(args.seed)
    optimiser = torch.optim.AdamW(
        network.parameters(), args.learning_rate, weight_decay=args.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, args.learning_rate, total_steps=args.steps
    )
    metrics: list[Metric] = []
    recent: list[float] = []
    with tqdm(total=args.steps, desc="training", unit="step", disable=not show) as bar:
        for step in range(1, args.steps + 1):
            chosen = rng.integers(len(data.train), size=args.batch_size)
            loss = network.loss(batch_of(data.train, chosen, prepare))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise PolicyError(
                    f"the loss became {value} at step {step} (windows {chosen.tolist()}); "
                    "lower --learning-rate or look at this data with 'tandem inspect'"
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            recent.append(value)
            bar.update()
            if step % args.log_every == 0 or step == args.steps:
                held_back = None
                if data.validation is not None:
                    held_back = validation_loss(network, data.validation, prepare)
                metrics.append(Metric(step, float(np.mean(recent)), held_back, rate))
                shown = "none" if held_back is None else f"{held_back:.4f}"
                bar.set_postfix(loss=f"{np.mean(recent):.4f}", validation=shown)
                recent.clear()
    network.eval()
    return metrics


def batch_of(windows: WindowSet, chosen: np.ndarray, prepare: Preprocessor) -> Batch:
    """Normalised tensors of the chosen windows."""
    part = windows.windows(chosen)
    images = part.images if part.images.shape[1] else None
    return Batch(
        prepare.inputs(part.state, images),
        prepare.actions(part.actions),
        torch.from_numpy(part.mask).to(prepare.device),
    )


def validation_loss(
    network: Family, windows: WindowSet, prepare: Preprocessor, most: int = 256
) -> float:
    """Loss over at most ``most`` windows of held-back episodes.

    It tells over-fitting, not success: policies are compared by ``tandem evaluate``.
    """
    spread = np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(np.int64)
    network.eval()
    with torch.inference_mode():
        losses = [
            float(network.loss(batch_of(windows, part, prepare))) * len(part)
            for part in np.array_split(spread, math.ceil(len(spread) / 64))
        ]
    network.train()
    return sum(losses) / len(spread)


def write_metrics(path: Path, metrics: Sequence[Metric]) -> None:
    """The curve as a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(metrics[0])))
        writer.writeheader()
        writer.writerows(asdict(metric) for metric in metrics)


def draw_curve(path: Path, metrics: Sequence[Metric], title: str) -> None:
    """The curve as a picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plot", "the picture of the curve") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [metric.step for metric in metrics]
    axes.plot(steps, [metric.train_loss for metric in metrics], label="training")
    held_back = [m.validation_loss for m in metrics if m.validation_loss is not None]
    if held_back:
        axes.plot(steps, held_back, label="held-back episodes")
    axes.set(xlabel="step", ylabel="L1 of normalised actions", yscale="log", title=title)
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _bar(what: str, show: bool) -> Callable[[Sequence[Path]], Iterable[Path]]:
    return lambda paths: tqdm(paths, desc=what, unit="file", disable=not show)
