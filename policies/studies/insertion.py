"""E3, insertion from state: which head learns it from 50 demonstrations?

The peg is picked up by one arm, the socket by the other, and they are joined in the air. It
separates methods in minutes of CPU time, where handing over a cube is saturated. Every policy
sees joints and the poses of the two objects (privileged: no camera is involved), learns from
the same 50 scripted demonstrations, and is tried on the same 200 held-out scenes for each of
three training seeds.

Demonstrations in which the operator pauses at random are not part of it: the scripted operator
does not pause.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from policies.studies.suite import Plan, Study, conduct, table
from teleop.rig_files import load_rig

TASK = "insertion"
DEMO_SEED, EPISODE_SEED = 0, 1000
REFERENCE = "bc-100"
"""Chunks of 2 s, averaged: what the others are compared with."""

BASE: dict[str, Any] = {"object_pose": True, "window_stride": 1, "holdout": 0.0}
"""What all of them are trained with."""
# 12,000 and 16,000 steps do worse: with 50 demonstrations the held-back loss is least at 3,000.
BC: dict[str, Any] = {**BASE, "batch_size": 128, "learning_rate": 1e-3, "steps": 4_000}

PLANS: dict[str, Plan] = {
    "bc-1": Plan("bc", {**BC, "chunk_rows": 1}),
    REFERENCE: Plan("bc", {**BC, "chunk_rows": 100}),
    "bc-100 open loop": Plan(
        "bc", {}, {"chunk_mode": "newest", "replan_rows": 100}, trained_as=REFERENCE
    ),
    "bc-100 newest": Plan("bc", {}, {"chunk_mode": "newest"}, trained_as=REFERENCE),
    "gmm": Plan("gmm", {**BC, "chunk_rows": 100, "shape": "laplace"}),
    "act": Plan("act", {**BASE, "chunk_rows": 100, "steps": 3_000}),
    "diffusion": Plan("diffusion", {**BASE, "chunk_rows": 100, "steps": 2_200}),
    "flow": Plan("flow", {**BASE, "chunk_rows": 100, "steps": 2_200}),
}
"""By name. The first number is the chunk's length in rows of 20 ms."""


@dataclass(frozen=True)
class InsertionArgs:
    """Compare policies on insertion from state."""

    out: Path
    """Folder for demonstrations, policies, results and results.md; goes on where it was left."""
    hardware: Path = Path("docs/rigs/demo_state.yaml")
    """Rig file; its emulation is run."""
    data: Path | None = None
    """Folder of demonstrations; recorded when not given."""
    only: tuple[str, ...] = ()
    """Policies to train and try, out of bc-1, bc-100, "bc-100 open loop", "bc-100 newest", gmm,
    act, diffusion and flow; all when not given."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    episodes: int = 200
    """Held-out scenes per policy and seed."""
    demos: int = 50
    """Demonstrations to record."""
    jobs: int | None = None
    """Processes at once; one per core when not given."""
    quick: bool = False
    """A few steps, demonstrations and scenes, to see that all of it runs."""


def study_of(args: InsertionArgs) -> Study:
    """The study with its sizes."""
    return Study(
        rig=load_rig(args.hardware),
        task=TASK,
        folder=args.out,
        plans=PLANS,
        train_everywhere={"steps": 30, "log_every": 10} if args.quick else {},
        demos=4 if args.quick else args.demos,
        demo_seed=DEMO_SEED,
        episodes=2 if args.quick else args.episodes,
        episode_seed=EPISODE_SEED,
        jobs=args.jobs or len(os.sched_getaffinity(0)),
        show=sys.stderr.isatty(),
        data=args.data,
    )


def main(argv: Sequence[str]) -> int:
    """``tandem study insertion``; returns the exit code.

    Raises:
        UnknownNameError: no such policy in the list.
        PolicyError: a part of the study failed.
    """
    args = tyro.cli(
        InsertionArgs,
        args=argv,
        prog="tandem study insertion",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    seeds = args.seeds[:1] if args.quick else args.seeds
    results = conduct(study_of(args), args.only, seeds)
    text = table(results, REFERENCE)
    (args.out / "results.md").write_text(text + "\n")
    tqdm.write(text)
    return 0
