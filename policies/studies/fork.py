"""E1, the fork: why policies have heads that can choose.

A point sets out below a round obstacle and has to get above it. The demonstrator passes it on
the left or on the right, by the toss of a coin that nothing in the state tells of. The average
of the two ways leads into the obstacle, so a policy that answers with that average fails; one that
picks a way and sticks to it does what the demonstrator does.

The world was shaped until squared error fails in it: it is an illustration, not a measure of how
often regression fails. In an earlier shape (slower, narrower starts, a smaller obstacle, ways that
part at once) squared error reached 177 of 200; in this one, 55 to 70 % with a hidden width of 128
and 150 or 300 steps. So what a regression does at a fork depends on the world and on training. An
absolute error answers with a median: nearly one of the two ways, the same from the same start.

``tandem study fork`` trains each head on the same demonstrations, by the recipes and the loop
of ``tandem train``, and plays it from the same starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from policies.loop import LoopOptions
from policies.statistics import wilson
from policies.studies.pictures import ForkPanel, draw_fork
from policies.studies.toy import (
    Head,
    check_names,
    check_sizes,
    in_processes,
    learn,
    play,
    write_report,
)
from policies.tables import markdown
from teleop.messages import FloatArray

Flags = NDArray[np.bool_]

# -- the world: positions (x, y) in metres; an action is the next position -------------------

OBSTACLE = np.array([0.0, 0.5])
OBSTACLE_RADIUS = 0.22
GOAL = np.array([0.0, 1.0])
GOAL_RADIUS = 0.05
START_SPREAD = 0.1
"""Starts lie at y = 0, within so much of x = 0."""
MAX_STEP = 0.1
"""The point moves no further than this in one row: twice what the demonstrator asks for."""
LIMIT_ROWS = 40
"""A run that has not arrived by then has failed; a demonstration takes 24 rows."""

# -- the demonstrator ------------------------------------------------------------------------

DEMONSTRATION_ROWS = 24
SIDESTEP = 0.35
"""How far to the side it passes the middle of the obstacle."""
KEPT = 0.8
"""Share of a deviation from its path that is left a row later."""
TREMOR = 0.003
"""Standard deviation by which it misses each position it aims at."""

CHUNK_ROWS = 16
"""Rows of a plan: the prediction horizon of Diffusion Policy."""
EXECUTE_ROWS = 8
"""Rows of a plan that are carried out, as there. After eight rows the two ways lie 0.5 apart:
the choice has been made, and the next plan sees it."""

HEADS = {
    "bc-mse": Head("bc", CHUNK_ROWS, {"error": "mse"}),
    "bc-l1": Head("bc", CHUNK_ROWS, {"error": "l1"}),
    "gmm": Head("gmm", CHUNK_ROWS),
    "bc-rnn-gmm": Head("bc-rnn-gmm", CHUNK_ROWS),
    "bins": Head("bins", CHUNK_ROWS),
    "diffusion": Head("diffusion", CHUNK_ROWS),
    "flow": Head("flow", CHUNK_ROWS),
    "act": Head("act", CHUNK_ROWS),
    "ibc": Head("ibc", 1, {"candidates": 128}),
}
"""All at their family's defaults, but for IBC, which plans one row (see ``policies.ibc``) and
whose search carries fewer candidates, to save time."""
SLOW = ("ibc",)
"""Only compared when named."""


@dataclass(frozen=True)
class Args:
    """Train each head on a task with two ways to do it, and see which of them choose."""

    out: Path = Path("fork")
    """Folder for table.md, results.json and fork.png."""
    heads: tuple[str, ...] = tuple(name for name in HEADS if name not in SLOW)
    """What to compare; ``ibc`` can be added."""
    demonstrations: int = 200
    """Runs of the demonstrator to learn from."""
    rollouts: int = 200
    """Runs per head, from the same starts for all."""
    steps: int = 800
    """Optimiser steps of each head."""
    batch_size: int = 64
    """Samples of one optimiser step."""
    seed: int = 0
    """Of demonstrations, trainings and runs."""
    jobs: int = 2
    """Heads that are trained at the same time, each on one core."""


@dataclass(frozen=True, eq=False)
class Runs:
    """What became of N runs."""

    paths: FloatArray
    """Positions, shape (N, T + 1, 2)."""

    @property
    def succeeded(self) -> Flags:
        """Which runs reached the goal, shape (N,)."""
        return _distance(self.paths[:, -1], GOAL) <= GOAL_RADIUS

    @property
    def touched(self) -> Flags:
        """Which ran into the obstacle, shape (N,)."""
        return _distance(self.paths[:, -1], OBSTACLE) < OBSTACLE_RADIUS

    @property
    def went_left(self) -> Flags:
        """Which were left of the obstacle's middle when they came level with it, shape (N,)."""
        level = (self.paths[..., 1] >= OBSTACLE[1]).argmax(1)
        left: Flags = self.paths[np.arange(len(self.paths)), level, 0] < OBSTACLE[0]
        return left


@dataclass(frozen=True)
class Result:
    """What a head achieved."""

    head: str
    rollouts: int
    successes: int
    touched: int
    left: int
    """Successes that passed on the left."""
    train_cpu_s: float
    rollout_cpu_s: float

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson(self.successes, self.rollouts)


def main(argv: Sequence[str]) -> int:
    """``tandem study fork``; returns the exit code."""
    study(tyro.cli(Args, args=list(argv), prog="tandem study fork"))
    return 0


def study(args: Args) -> list[Result]:
    """Train, play, print the table and write it with its picture.

    Raises:
        UnknownNameError: no such head.
        PolicyError: nothing to compare, or a number below 1.
        MissingExtraError: matplotlib is not installed.
    """
    check_sizes(args, ("demonstrations", "rollouts", "steps", "batch_size", "jobs"))
    check_names("heads", args.heads, HEADS)
    chosen = [(name, HEADS[name]) for name in args.heads]
    outcomes = in_processes(partial(trial, args=args), chosen, args.jobs)
    results = [result for result, _ in outcomes]
    write_report(args.out, table(results), {"args": asdict(args), "heads": _plain(results)})
    panels = [
        ForkPanel(_title(result), runs.paths, runs.succeeded, runs.went_left)
        for result, runs in outcomes
    ]
    shown = Runs(demonstrations(args)[0])
    expert = ForkPanel("the demonstrator", shown.paths, shown.succeeded, shown.went_left)
    draw_fork(
        args.out / "fork.png",
        [expert, *panels],
        (OBSTACLE, OBSTACLE_RADIUS),
        (GOAL, GOAL_RADIUS),
    )
    tqdm.write(table(results))
    tqdm.write(f"picture: {args.out / 'fork.png'}")
    return results


def trial(item: tuple[str, Head], args: Args) -> tuple[Result, Runs]:
    """Train one head, given with its name, and play it: same demonstrations and starts for all."""
    name, head = item
    began = time.process_time()
    states, actions = demonstrations(args)
    options = LoopOptions(steps=args.steps, batch_size=args.batch_size, seed=args.seed)
    learner = learn(states[:, :-1], actions, head, options)
    trained = time.process_time()
    noise = torch.Generator().manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, 1])
    paths, _ = play(
        starts(rng, args.rollouts),
        move,
        lambda past: learner.plan(past, noise),
        LIMIT_ROWS,
        min(EXECUTE_ROWS, head.chunk_rows),
    )
    runs = Runs(paths)
    result = Result(
        head=name,
        rollouts=args.rollouts,
        successes=int(runs.succeeded.sum()),
        touched=int(runs.touched.sum()),
        left=int((runs.succeeded & runs.went_left).sum()),
        train_cpu_s=trained - began,
        rollout_cpu_s=time.process_time() - trained,
    )
    return result, runs


def starts(rng: np.random.Generator, count: int) -> FloatArray:
    """Random first positions, shape (N, 2)."""
    return np.stack([rng.uniform(-START_SPREAD, START_SPREAD, count), np.zeros(count)], 1)


def move(position: FloatArray, action: FloatArray, row: int = 0) -> FloatArray:
    """Go straight to the commanded position, no further than ``MAX_STEP``; shapes (N, 2).

    A run ends where it is: at the goal, or at the obstacle, where a step across any part of it
    stops at the point nearest to its middle.
    """
    way = action - position
    length = np.linalg.norm(way, axis=1, keepdims=True)
    way = way * np.minimum(1, MAX_STEP / np.maximum(length, 1e-12))
    squared = np.maximum((way**2).sum(1), 1e-24)
    nearest = np.clip(((OBSTACLE - position) * way).sum(1) / squared, 0, 1)
    closest = position + nearest[:, None] * way
    hits = _distance(closest, OBSTACLE) < OBSTACLE_RADIUS
    arrived = _distance(position, GOAL) <= GOAL_RADIUS
    stays = arrived | (_distance(position, OBSTACLE) < OBSTACLE_RADIUS)
    moved = np.where(hits[:, None], closest, position + way)
    return np.where(stays[:, None], position, moved)


def expert(position: FloatArray, side: FloatArray) -> FloatArray:
    """The demonstrator's next position, shape (N, 2).

    Args:
        position: Shape (N, 2).
        side: Shape (N,), -1 left or 1 right.
    """
    x, y = position[:, 0], position[:, 1]
    ahead = np.minimum(y + 1 / DEMONSTRATION_ROWS, GOAL[1])
    return np.stack([_path(ahead, side) + KEPT * (x - _path(y, side)), ahead], 1)


def demonstrations(args: Args) -> tuple[FloatArray, FloatArray]:
    """Positions (N, T + 1, 2), and the actions (N, T, 2) taken at all but the last."""
    rng = np.random.default_rng([args.seed, 0])
    side = rng.choice([-1.0, 1.0], args.demonstrations)
    tremor = rng.normal(0, TREMOR, (DEMONSTRATION_ROWS, args.demonstrations, 2))
    states, actions = play(
        starts(rng, args.demonstrations),
        lambda position, action, row: move(position, action + tremor[row]),
        lambda past: expert(past[:, -1], side)[:, None],
        DEMONSTRATION_ROWS,
        execute_rows=1,
    )
    return states, actions


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    head = ["head", "success", "95 % interval", "left : right", "ran into it", "training, CPU s"]
    rows = []
    for r in results:
        low, high = r.interval
        row = [r.head, f"{r.successes}/{r.rollouts}", f"{low:.1%} to {high:.1%}", _sides(r)]
        rows.append([*row, str(r.touched), f"{r.train_cpu_s:.0f}"])
    return markdown(head, rows)


def _distance(positions: FloatArray, point: FloatArray) -> FloatArray:
    """(N, 2), (2,) -> (N,)."""
    distance: FloatArray = np.hypot(*(positions - point).T)
    return distance


def _path(y: FloatArray, side: FloatArray) -> FloatArray:
    bend: FloatArray = side * SIDESTEP * np.sin(np.pi * np.clip(y, 0, 1)) ** 2
    return bend


def _sides(result: Result) -> str:
    """Left and right as percent of the successes."""
    if not result.successes:
        return "none"
    left = round(100 * result.left / result.successes)
    return f"{left} : {100 - left}"


def _title(result: Result) -> str:
    return f"{result.head}: {result.successes}/{result.rollouts}"


def _plain(results: Sequence[Result]) -> list[dict[str, object]]:
    return [{**asdict(result), "interval": result.interval} for result in results]
