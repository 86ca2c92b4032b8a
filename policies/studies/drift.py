"""E2, drift: how errors grow with the horizon.

A car follows a winding closed road. The demonstrator steers back whatever happens; its
demonstrations therefore show little else than the middle of the road. A learner that strays
sees what nobody showed it, errs more, and strays further. On the verge the wheels grip badly:
the demonstrator comes back from there, a cloned policy was never shown how.

The slippery verge was chosen so that errors compound. In a few trials with a verge that grips, p
was 1.6 to 1.7 (rows beside the road) for roughly trained single-step clones and 0.9 to 1.3
(distance from the middle) for ones trained longer.

If a policy errs with probability e per row and never recovers, its expected cost over T rows
grows as e T^2 (Ross and Bagnell 2010); one that recovers costs e T (DAgger; Ross, Gordon and
Bagnell 2011). Both are bounds, so p may be smaller; it falls to 1 once
every run is lost. It can also exceed 2, which a constant e cannot give: then e itself grows along
the run, which begins among the demonstrator's states. The study fits cost ~ T^p and reports p.

``tandem study drift`` trains each learner from several seeds on the same kind of demonstrations.
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
from tqdm import tqdm

from policies.loop import LoopOptions
from policies.studies.pictures import DriftCurve, DriftRuns, draw_drift
from policies.studies.toy import (
    Decide,
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

# -- the world: states (x, y, heading) in m and rad; an action is a turn, rad per row ---------

BEND = 0.3
"""The road is r(phi) = 1 + BEND cos(3 phi), in metres: three lobes, about 150 rows a lap."""
HALF_WIDTH = 0.1
"""Of the road, m."""
SPEED = 0.05
"""m per row."""
MAX_TURN = 0.3
"""rad per row."""
VERGE_GRIP = 0.2
"""What is left of a turn beside the road."""
GUST = 0.01
"""Standard deviation of the disturbance of the heading, rad per row."""

GAIN = 4.0
"""How hard the demonstrator steers back, rad of heading per m off the middle near it."""

DEMONSTRATION_ROWS = 200
SETTLE_ROWS = 50
"""Runs begin after the demonstrator has driven so long: where its data begin, too."""
CHUNK_ROWS = 8
HORIZONS = (50, 100, 200, 400, 800)
RESAMPLES = 2000
"""Of the bootstrap."""

_SMALL = {"hidden": 128}
LEARNERS = {
    "bc, single step": Head("bc", 1, _SMALL),
    "bc, chunks of 8": Head("bc", CHUNK_ROWS, _SMALL),
}
"""What is compared; a plan is carried out to its end before the next one."""


@dataclass(frozen=True)
class Args:
    """Measure how the cost of cloned policies grows with the horizon."""

    out: Path = Path("drift")
    """Folder for table.md, results.json and drift.png."""
    learners: tuple[str, ...] = tuple(LEARNERS)
    """What to compare."""
    demonstrations: int = 20
    """Of 200 rows each, other ones for each seed."""
    seeds: int = 8
    """How often each learner is trained; the interval of p is over them."""
    rollouts: int = 200
    """Runs per trained policy; the same starts and gusts for all."""
    steps: int = 1000
    """Optimiser steps of each training."""
    batch_size: int = 64
    """Samples of one optimiser step."""
    seed: int = 0
    """Of demonstrations, trainings and runs."""
    jobs: int = 2
    """Trainings at the same time, each on one core."""


@dataclass(frozen=True)
class Fit:
    """``cost = factor * T^power``."""

    power: float
    factor: float
    """Rows, at T = 1."""
    low: float
    """95 % interval of the power, over training seeds."""
    high: float


@dataclass(frozen=True, eq=False)
class Trial:
    """One trained policy."""

    beside: FloatArray
    """Mean rows beside the road within each horizon, shape (H,)."""
    away: FloatArray
    """Mean sum of how much further off the middle it was than the demonstrator, in the same
    gusts, within each horizon; in half widths of the road, a row counting 1 at most. (H,)."""
    states: FloatArray
    """The runs, shape (N, T + 1, 3)."""
    cpu_s: float


@dataclass(frozen=True, eq=False)
class Result:
    """What a learner's policies cost."""

    learner: str
    beside: FloatArray
    """Shape (seeds, H)."""
    away: FloatArray
    """Shape (seeds, H)."""
    beside_fit: Fit | None
    """None when too few horizons have a cost."""
    away_fit: Fit | None
    cpu_s: float
    """Training and rollouts of one policy, mean."""


def main(argv: Sequence[str]) -> int:
    """``tandem study drift``; returns the exit code."""
    study(tyro.cli(Args, args=list(argv), prog="tandem study drift"))
    return 0


def study(args: Args) -> list[Result]:
    """Train, play, fit, print the table and write it with its picture.

    Raises:
        UnknownNameError: no such learner.
        PolicyError: nothing to compare, or a number below 1.
        MissingExtraError: matplotlib is not installed.
    """
    check_sizes(args, ("demonstrations", "seeds", "rollouts", "steps", "batch_size", "jobs"))
    check_names("learners", args.learners, LEARNERS)
    work = [(name, seed) for name in args.learners for seed in range(args.seeds)]
    trials = in_processes(partial(trial, args=args), work, args.jobs)
    results, runs = [], []
    for number, name in enumerate(args.learners):
        own = trials[number * args.seeds : (number + 1) * args.seeds]
        results.append(summary(name, own, args.seed))
        runs.append(DriftRuns(name, own[0].states[..., :2], beside_road(own[0].states)))
    report = table(results)
    plain = {r.learner: {**asdict(r), "horizons": HORIZONS} for r in results}
    write_report(args.out, report, {"args": asdict(args), "learners": plain})
    curves = []
    for r in results:
        line = None if r.beside_fit is None else (r.beside_fit.factor, r.beside_fit.power)
        curves.append(DriftCurve(r.learner, r.beside.mean(0), line))
    draw_drift(args.out / "drift.png", road_edges(), runs, curves, HORIZONS)
    tqdm.write(report)
    tqdm.write(f"picture: {args.out / 'drift.png'}")
    return results


def trial(item: tuple[str, int], args: Args) -> Trial:
    """Train one policy and play it; starts and gusts are the same for all."""
    began = time.process_time()
    name, number = item
    seed = 1000 * args.seed + number
    head = LEARNERS[name]
    shown, turns = demonstrate(
        np.random.default_rng([seed, 0]), args.demonstrations, DEMONSTRATION_ROWS
    )
    options = LoopOptions(steps=args.steps, batch_size=args.batch_size, seed=seed)
    learner = learn(observe(shown[:, :-1]), turns, head, options)
    noise = torch.Generator().manual_seed(seed)

    rng = np.random.default_rng([args.seed, 1])
    start = demonstrate(rng, args.rollouts, 0)[0][:, -1]
    gusts = rng.normal(0, GUST, (HORIZONS[-1], args.rollouts))

    def run(decide: Decide, execute_rows: int) -> FloatArray:
        return play(
            start,
            lambda state, turn, row: drive(state, turn, gusts[row]),
            decide,
            HORIZONS[-1],
            execute_rows,
        )[0]

    states = run(lambda past: learner.plan(observe(past[:, -1:]), noise), head.chunk_rows)
    best = run(lambda past: expert(past[:, -1])[:, None], 1)
    return Trial(
        within(beside_road(states)),
        within(_halves(states) - _halves(best)),
        states,
        time.process_time() - began,
    )


def within(cost: FloatArray) -> FloatArray:
    """Mean cost of a run within each horizon; cost per row, (N, T) -> (H,)."""
    mean: FloatArray = np.cumsum(cost, axis=1)[:, np.array(HORIZONS) - 1].mean(0)
    return mean


def fit_power(costs: FloatArray, horizons: Sequence[int], rng: np.random.Generator) -> Fit | None:
    """The line through log cost over log T, with a bootstrap over seeds.

    Args:
        costs: Shape (seeds, H).
        horizons: Rows, H of them.
        rng: Draws the resamples.

    Returns:
        None when fewer than three horizons have a cost.
    """
    whole = _line(costs.mean(0), horizons)
    if whole is None:
        return None
    drawn = rng.integers(len(costs), size=(RESAMPLES, len(costs)))
    lines = [_line(costs[rows].mean(0), horizons) for rows in drawn]
    low, high = np.quantile([line[0] for line in lines if line], (0.025, 0.975))
    return Fit(whole[0], whole[1], float(low), float(high))


def summary(name: str, trials: Sequence[Trial], seed: int) -> Result:
    """All policies of a learner."""
    beside = np.stack([trial.beside for trial in trials])
    away = np.stack([trial.away for trial in trials])
    return Result(
        learner=name,
        beside=beside,
        away=away,
        beside_fit=fit_power(beside, HORIZONS, np.random.default_rng(seed)),
        away_fit=fit_power(away, HORIZONS, np.random.default_rng(seed)),
        cpu_s=float(np.mean([trial.cpu_s for trial in trials])),
    )


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    heads = ["learner", "p, rows beside the road", "p, distance from the middle"]
    heads += [f"rows beside, T = {rows}" for rows in HORIZONS] + ["CPU s per policy"]
    rows = []
    for r in results:
        cells = [r.learner, _power(r.beside_fit), _power(r.away_fit)]
        cells += [f"{cost:.2f}" for cost in r.beside.mean(0)] + [f"{r.cpu_s:.1f}"]
        rows.append(cells)
    return markdown(heads, rows)


def road(phi: FloatArray) -> FloatArray:
    """Distance of the road's middle from the origin at a polar angle; m."""
    return 1 + BEND * np.cos(3 * phi)


def road_heading(phi: FloatArray) -> FloatArray:
    """Direction of the road at a polar angle; rad."""
    slope = -3 * BEND * np.sin(3 * phi)
    return phi + np.pi / 2 - np.arctan2(slope, road(phi))


def offset(state: FloatArray) -> FloatArray:
    """How far outside the road's middle, along the ray from the origin; (..., 2 or 3) -> (...)."""
    x, y = state[..., 0], state[..., 1]
    outside: FloatArray = np.hypot(x, y) - road(np.arctan2(y, x))
    return outside


def observe(state: FloatArray) -> FloatArray:
    """What a learner sees: x, y, cosine and sine of the heading; (..., 3) -> (..., 4)."""
    heading = state[..., 2:]
    return np.concatenate([state[..., :2], np.cos(heading), np.sin(heading)], -1)


def drive(state: FloatArray, turn: FloatArray, gust: FloatArray) -> FloatArray:
    """One row; shapes (N, 3), (N, 1), (N,) -> (N, 3)."""
    grip = np.where(np.abs(offset(state)) > HALF_WIDTH, VERGE_GRIP, 1.0)
    heading = state[:, 2] + grip * np.clip(turn[:, 0], -MAX_TURN, MAX_TURN) + gust
    ahead = SPEED * np.stack([np.cos(heading), np.sin(heading)], 1)
    return np.column_stack([state[:, :2] + ahead, heading])


def expert(state: FloatArray) -> FloatArray:
    """The demonstrator's turn, (N, 3) -> (N, 1): towards a heading that leads to the middle."""
    phi = np.arctan2(state[:, 1], state[:, 0])
    slope = -3 * BEND * np.sin(3 * phi)
    away = offset(state) * road(phi) / np.hypot(road(phi), slope)  # across the road
    next_phi = phi + SPEED / np.hypot(road(phi), slope)
    wanted = road_heading(next_phi) + np.arctan(GAIN * away)
    turn = (wanted - state[:, 2] + np.pi) % (2 * np.pi) - np.pi
    clipped: FloatArray = np.clip(turn, -MAX_TURN, MAX_TURN)[:, None]
    return clipped


def demonstrate(rng: np.random.Generator, count: int, rows: int) -> tuple[FloatArray, FloatArray]:
    """States (N, T + 1, 3) and turns (N, T, 1) of the demonstrator, from anywhere on the road."""
    phi = rng.uniform(-np.pi, np.pi, count)
    middle = np.column_stack([road(phi) * np.cos(phi), road(phi) * np.sin(phi), road_heading(phi)])
    gusts = rng.normal(0, GUST, (rows + SETTLE_ROWS, count))
    states, turns = play(
        middle,
        lambda state, turn, row: drive(state, turn, gusts[row]),
        lambda past: expert(past[:, -1])[:, None],
        rows + SETTLE_ROWS,
        execute_rows=1,
    )
    return states[:, SETTLE_ROWS:], turns[:, SETTLE_ROWS:]


def beside_road(states: FloatArray) -> FloatArray:
    """1 on rows that end beside the road, else 0; (N, T + 1, 3) -> (N, T)."""
    return np.where(np.abs(offset(states[:, 1:])) > HALF_WIDTH, 1.0, 0.0)


def road_edges() -> tuple[FloatArray, FloatArray]:
    """Inner and outer edge of the road, each (M, 2)."""
    phi = np.linspace(-np.pi, np.pi, 400)
    ray = np.column_stack([np.cos(phi), np.sin(phi)])
    middle = road(phi)[:, None]
    return (middle - HALF_WIDTH) * ray, (middle + HALF_WIDTH) * ray


def _halves(states: FloatArray) -> FloatArray:
    """Distance from the middle in half widths, at most 1; (N, T + 1, 3) -> (N, T)."""
    halves: FloatArray = np.minimum(1, np.abs(offset(states[:, 1:])) / HALF_WIDTH)
    return halves


def _line(cost: FloatArray, horizons: Sequence[int]) -> tuple[float, float] | None:
    """Power and factor; horizons without a cost are left out."""
    positive = cost > 0
    if positive.sum() < 3:
        return None
    power, log_factor = np.polyfit(np.log(np.array(horizons)[positive]), np.log(cost[positive]), 1)
    return float(power), float(np.exp(log_factor))


def _power(fit: Fit | None) -> str:
    return "too rare" if fit is None else f"{fit.power:.2f} ({fit.low:.2f} to {fit.high:.2f})"
