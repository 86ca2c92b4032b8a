"""E7, images on a GPU: learned from one top camera, from scratch, each policy in ten minutes.

Two tasks, 50 scripted demonstrations each, one camera of 320x240; joints and images only, no
pretrained weights. Sizes are chosen for one data-centre GPU (H200 class), with frames mapped from
the cache as bytes and arithmetic in bf16.

It has not been run at full size. ``--smoke`` runs all of it on a CPU with a few steps.
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

TASKS = ("transfer_cube", "insertion")
DEMO_SEED, EPISODE_SEED = 0, 1000
REFERENCE = "act"

BASE: dict[str, Any] = {
    "cameras": ("cam_high",),
    "image_size": (240, 320),
    "window_stride": 1,
    "encoder": "resnet18",
    "batch_size": 64,
    "steps": 12_000,
    "precision": "bf16",
    "chunk_rows": 100,
}

PLANS: dict[str, Plan] = {
    # The published ACT's network, at a batch and learning rate for a 10-minute run.
    "act": Plan(
        "act",
        {
            **BASE,
            "width": 512,
            "heads": 8,
            "rows_per_token": 1,
            "dropout": 0.1,
            "feedforward": 3200,
            "latent_layers": 4,
            "encoder_layers": 4,
            "decoder_layers": 7,
            "learning_rate": 1e-4,
        },
    ),
    "diffusion": Plan("diffusion", {**BASE, "width": 512, "layers": 8, "heads": 8}),
    "flow": Plan("flow", {**BASE, "width": 512, "layers": 8, "heads": 8}),
}

SMOKE: dict[str, Any] = {
    "steps": 100,
    "batch_size": 2,
    "image_size": (60, 80),
    "encoder": "small",
    "precision": "float32",
    "width": 64,
    "heads": 4,
    "log_every": 20,
}
"""Replaces options so that a CPU gets through."""


@dataclass(frozen=True)
class ImagesArgs:
    """Compare policies that see one camera, on a GPU."""

    out: Path
    """Folder for demonstrations, policies, results and results.md; goes on where it was left."""
    hardware: Path = Path("docs/rigs/images.yaml")
    """Rig file; its emulation is run."""
    device: str = "cuda"
    """Where policies are trained and asked."""
    tasks: tuple[str, ...] = TASKS
    """Tasks of the rig to compare them on, one after the other."""
    only: tuple[str, ...] = ()
    """Policies to train and try, out of act, diffusion and flow; all when not given."""
    seeds: tuple[int, ...] = (0,)
    """Of training."""
    episodes: int = 200
    """Held-out scenes per task, policy and seed."""
    demos: int = 50
    """Demonstrations per task."""
    jobs: int | None = None
    """Processes that run scenes at once; one per core when not given. Trainings take turns."""
    smoke: bool = False
    """100 steps of small networks on the CPU, three demonstrations, two scenes."""


def study_of(args: ImagesArgs, task: str) -> Study:
    """One task's study with its sizes."""
    device = "cpu" if args.smoke else args.device
    return Study(
        rig=load_rig(args.hardware),
        task=task,
        folder=args.out / task,
        plans=PLANS,
        train_everywhere={**(SMOKE if args.smoke else {}), "device": device},
        demos=3 if args.smoke else args.demos,
        demo_seed=DEMO_SEED,
        episodes=2 if args.smoke else args.episodes,
        episode_seed=EPISODE_SEED,
        jobs=args.jobs or len(os.sched_getaffinity(0)),
        show=sys.stderr.isatty(),
        trainings=1,
        deploy_everywhere={"device": device},
    )


def main(argv: Sequence[str]) -> int:
    """``tandem study images``; returns the exit code.

    Raises:
        UnknownNameError: no such policy in the list.
        PolicyError: a part of the study failed.
    """
    args = tyro.cli(
        ImagesArgs,
        args=argv,
        prog="tandem study images",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    parts = []
    for task in args.tasks:
        results = conduct(study_of(args, task), args.only, args.seeds)
        parts.append(f"## {task}\n\n{table(results, REFERENCE)}")
    text = "\n\n".join(parts)
    (args.out / "results.md").write_text(text + "\n")
    tqdm.write(text)
    return 0
