"""What the toy studies share: learning from arrays in memory, and playing a policy many times.

The families, their recipes and the training loop are those of ``tandem train``; only the world
is small enough that hundreds of runs are one array.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from policies.family import Family, Shapes
from policies.loop import LoopOptions, fit
from policies.normalisation import Statistics
from policies.preprocess import Preprocessor
from policies.registry import load_family
from policies.windows import Rows, WindowSet
from teleop.errors import PolicyError, UnknownNameError
from teleop.messages import FloatArray

Decide = Callable[[FloatArray], FloatArray]
"""From the states so far, (N, t, S), to plans from now on, (N, K, A)."""
Step = Callable[[FloatArray, FloatArray, int], FloatArray]
"""From states (N, S), actions (N, A) and the number of the row to the next states."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Head:
    """A family with some of its options."""

    family: str
    """A name of ``policies.registry``."""
    chunk_rows: int
    """Rows of its plans, K."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Options of the family that are not at their default."""


@dataclass(frozen=True, eq=False)
class Learner:
    """A trained network on arrays in the world's units."""

    network: Family
    statistics: Statistics

    def plan(self, past: FloatArray, noise: torch.Generator) -> FloatArray:
        """Plans for N runs: (N, K, A).

        Args:
            past: What was observed up to now, shape (N, t, S).
            noise: Randomness of families that sample.
        """
        history = self.network.shapes.history
        seen = np.maximum(past.shape[1] - 1 - np.arange(history)[::-1], 0)
        with torch.inference_mode():
            inputs = Preprocessor(self.statistics, torch.device("cpu")).inputs(past[:, seen])
            plan = self.network.plan(inputs, noise)
        return self.statistics.action.restore(plan.numpy().astype(np.float64))


def learn(states: FloatArray, actions: FloatArray, head: Head, options: LoopOptions) -> Learner:
    """Train by the family's recipe.

    Args:
        states: What was observed in N demonstrations, shape (N, T, S).
        actions: What was done there, shape (N, T, A).
        head: The family.
        options: The loop's, as far as the recipe has none of its own.
    """
    family = load_family(head.family)
    recipe = {"history": 1, "normalise": "standard", "padding": "repeat", **family.recipe}
    own = {f.name: recipe[f.name] for f in fields(options) if f.name in recipe}
    rows = [
        Rows(state, action, np.arange(len(action)))
        for state, action in zip(states, actions, strict=True)
    ]
    windows = WindowSet(rows, head.chunk_rows, history=recipe["history"], padding=recipe["padding"])
    statistics = windows.statistics(recipe["normalise"])
    shapes = Shapes(
        state=states.shape[-1],
        action=actions.shape[-1],
        chunk_rows=head.chunk_rows,
        history=recipe["history"],
    )
    torch.manual_seed(options.seed)
    network = family(shapes, family.config_type(**head.config))
    fit(network, windows, None, statistics, replace(options, **own))
    return Learner(network, statistics)


def play(
    start: FloatArray, step: Step, decide: Decide, rows: int, execute_rows: int
) -> tuple[FloatArray, FloatArray]:
    """N runs side by side; plans are made every ``execute_rows`` rows and followed blindly.

    Args:
        start: Shape (N, S).
        step: The world.
        decide: The policy.
        rows: How long to play, T.
        execute_rows: Rows of a plan that are carried out.

    Returns:
        States (N, T + 1, S) and actions (N, T, A).
    """
    states = np.empty((len(start), rows + 1, start.shape[1]))
    states[:, 0] = start
    taken: list[FloatArray] = []
    plan = np.empty(0)
    for row in range(rows):
        if row % execute_rows == 0:
            plan = decide(states[:, : row + 1])
        taken.append(plan[:, row % execute_rows])
        states[:, row + 1] = step(states[:, row], taken[-1], row)
    return states, np.stack(taken, 1)


def in_processes(work: Callable[[T], R], items: Sequence[T], jobs: int) -> list[R]:
    """The work on each item, in order, on up to ``jobs`` cores."""
    if min(jobs, len(items)) <= 1:
        return [work(item) for item in items]
    with ProcessPoolExecutor(min(jobs, len(items)), get_context("spawn")) as pool:
        return list(pool.map(work, items))


def write_report(out: Path, table: str, results: Mapping[str, Any]) -> None:
    """``table.md`` and ``results.json`` of a study."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    text = json.dumps(results, indent=2, default=_plain)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def check_sizes(args: object, names: Sequence[str]) -> None:
    """Raises PolicyError for sizes that leave nothing to measure."""
    for name in names:
        if getattr(args, name) < 1:
            raise PolicyError(f"--{name.replace('_', '-')} is {getattr(args, name)}; at least 1")
    if (seed := getattr(args, "seed", 0)) < 0:
        raise PolicyError(f"--seed is {seed}; give 0 or more")


def check_names(option: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raises PolicyError for nothing to compare, UnknownNameError for a name not known."""
    if not names:
        raise PolicyError(f"--{option} names nothing to compare; leave it out for the usual ones")
    for name in names:
        if name not in known:
            raise UnknownNameError(option.removesuffix("s"), name, known)
