"""What studies of several policies on one task share: record, train, evaluate, one table.

Everything that is finished lies in the study's folder and is not done again: episodes one by
one, trainings and evaluations by the settings they were made with. Change a plan's options and
its part is made anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from policies.card import read_card
from policies.comparison import Score, motion_cells, pair
from policies.dataset import data_hash
from policies.evaluate import record, run
from policies.motion_metrics import Smoothness
from policies.rollouts import THREADS
from policies.statistics import wilson
from policies.tables import markdown
from recorder.episode import find_episodes
from teleop.errors import PolicyError, UnknownNameError
from teleop.rig import Rig

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One line of a study: how a policy is trained and how it acts."""

    family: str
    train: Options
    """Options of ``tandem train`` by name."""
    deploy: Options = field(default_factory=dict)
    """Fields of ``DeployOptions`` that replace those of the checkpoint."""
    trained_as: str = ""
    """Another plan of the study whose trained policy it uses; its own when empty."""


@dataclass(frozen=True)
class Study:
    """A task, its demonstrations, and the policies that learn from them."""

    rig: Rig
    task: str
    folder: Path
    """Everything the study makes goes there."""
    plans: Mapping[str, Plan]
    train_everywhere: Options
    """Options that every training gets; they replace the plans' own."""
    demos: int
    demo_seed: int
    episodes: int
    episode_seed: int
    """Held out: another one than ``demo_seed``."""
    jobs: int
    """Processes that run scenes at once."""
    trainings: int | None = None
    """Trainings at once, each of one thread; as many as ``jobs`` when None."""
    data: Path | None = None
    """Demonstrations; recorded into ``folder`` when None."""
    deploy_everywhere: Options = field(default_factory=dict)
    """Options that every deployment gets."""
    show: bool = True
    """Draw progress bars on standard error."""

    @property
    def demo_folder(self) -> Path:
        """Where the demonstrations lie."""
        return self.data or self.folder / "demos"

    def run_folder(self, name: str, seed: int) -> Path:
        """The trained policy of a plan."""
        return self.folder / (self.plans[name].trained_as or name) / f"seed_{seed}"

    def training_file(self, name: str, seed: int) -> Path:
        """What that training was and took."""
        folder = self.run_folder(name, seed)
        return folder.with_name(f"{folder.name}_training.json")

    @cached_property
    def data_sha256(self) -> str:
        """Of the demonstrations, once they are recorded."""
        return data_hash(find_episodes(self.demo_folder))

    def train_settings(self, name: str, seed: int) -> dict[str, Any]:
        """All that decides what a training makes."""
        plan = self.plans[self.plans[name].trained_as or name]
        options = {**plan.train, **self.train_everywhere, "seed": seed}
        return {"family": plan.family, "data": self.data_sha256, "options": _plain(options)}

    def settings(self, name: str, seed: int) -> dict[str, Any]:
        """All that decides what an evaluation finds."""
        return {
            "train": self.train_settings(name, seed),
            "deploy": _plain({**self.plans[name].deploy, **self.deploy_everywhere}),
            "task": self.task,
            "rig": hashlib.sha256(self.rig.model_dump_json().encode()).hexdigest(),
            "episodes": self.episodes,
            "episode_seed": self.episode_seed,
        }


def conduct(study: Study, only: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Record, train and evaluate what is not there yet; returns all results.

    Args:
        study: What to compare.
        only: Plans by name; all when empty.
        seeds: Of training.

    Raises:
        UnknownNameError: no such plan.
        PolicyError: a training failed, or a scene could not be run.
    """
    for name in only:
        if name not in study.plans:
            raise UnknownNameError("policy of the study", name, study.plans)
    names = only or tuple(study.plans)
    if study.data is None:
        record(
            study.rig,
            study.task,
            study.demos,
            study.demo_seed,
            study.demo_folder,
            study.jobs,
            study.show,
        )
    wanted = dict.fromkeys((study.plans[n].trained_as or n, s) for s in seeds for n in names)
    with ThreadPoolExecutor(study.trainings or study.jobs) as threads:
        for _ in threads.map(lambda one: train(study, *one), wanted):
            pass
    return [evaluated(study, name, seed) for name in names for seed in seeds]


def train(study: Study, name: str, seed: int) -> None:
    """Train a plan in a process of its own, with one thread, unless that has been done.

    A file beside the policy's folder holds the settings and the processor time of the process.

    Raises:
        PolicyError: it failed; names the log.
    """
    folder = study.run_folder(name, seed)
    settings = study.train_settings(name, seed)
    done = study.training_file(name, seed)
    if _read(done).get("settings") == settings:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = done.with_suffix(".log")
    call = [sys.executable, "-m", "teleop.cli", "train", settings["family"]]
    call += ["--data", str(study.demo_folder), "--out", str(folder), *flags_of(settings["options"])]
    with open(log, "wb") as said:
        process = subprocess.Popen(
            call, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **THREADS}
        )
        # Popen's own wait does not tell what the process has used.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        raise PolicyError(f"training {name} with seed {seed} failed, see {log}: {last[-1]}")
    _write(done, {"settings": settings, "cpu_s": used.ru_utime + used.ru_stime})


def evaluated(study: Study, name: str, seed: int) -> dict[str, Any]:
    """The result of a plan and seed, from its file or by evaluating now."""
    folder = study.run_folder(name, seed)
    path = study.folder / name / f"seed_{seed}_result.json"
    settings = study.settings(name, seed)
    known = _read(path)
    if known.get("settings") == settings:
        return known
    [score] = run(
        [folder],
        study.rig,
        study.task,
        study.episodes,
        study.episode_seed,
        study.jobs,
        options=settings["deploy"],
        show=study.show,
    )
    result = {
        "policy": name,
        "seed": seed,
        "settings": settings,
        "parameters": read_card(folder).training.get("parameters"),
        "train_cpu_s": _read(study.training_file(name, seed))["cpu_s"],
        **facts_of(score),
    }
    _write(path, result)
    return result


def facts_of(score: Score) -> dict[str, Any]:
    """A score as plain data, scene by scene."""
    rollouts = score.rollouts
    motion = score.smoothness
    return {
        "successes": [rollout.success for rollout in rollouts],
        "stages": [rollout.result.stage for rollout in rollouts],
        "seconds": [rollout.result.seconds for rollout in rollouts],
        "motion": {
            name: None if math.isnan(value) else value
            for name, value in ((n, getattr(motion, n)) for n in Smoothness.__slots__)
        },
    }


def flags_of(options: Options) -> list[str]:
    """Options as ``tandem train`` takes them on its command line."""
    flags: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (list, tuple)):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def table(results: Sequence[Mapping[str, Any]], reference: str) -> str:
    """One line per policy, in Markdown.

    The pooled interval treats all scenes of all training seeds as independent trials. They
    share scenes and networks, so it is a little too narrow; the seeds beside it show by how
    much. The test pairs scenes of equal training seed with those of the reference and is too
    sure of itself for the same reason; nothing is corrected for the number of comparisons.
    """
    head = ["policy", "parameters", "training, CPU min", "successes by seed", "rate"]
    head += ["95 % interval", f"p against {reference}", "jerk, rad/row³"]
    head += ["seam step p99 / max, rad", "inside p99 / max, rad"]
    names = dict.fromkeys(result["policy"] for result in results)
    by_name = {n: [r for r in results if r["policy"] == n] for n in names}
    return markdown(
        head, [_row(name, mine, by_name.get(reference, [])) for name, mine in by_name.items()]
    )


def _row(
    name: str, mine: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> list[str]:
    successes = [win for result in mine for win in result["successes"]]
    low, high = wilson(sum(successes), len(successes))
    theirs = {result["seed"]: result["successes"] for result in reference}
    shared = [result for result in mine if result["seed"] in theirs]
    p = "-"
    if shared and name != reference[0]["policy"]:
        met = pair(
            [win for result in shared for win in result["successes"]],
            [win for result in shared for win in theirs[result["seed"]]],
        )
        p = f"{met.p:.2g}"
    minutes = sum(result["train_cpu_s"] for result in mine) / len(mine) / 60
    parameters = mine[0]["parameters"]
    return [
        name,
        f"{parameters / 1e6:.2f} M" if parameters else "-",
        f"{minutes:.1f}",
        ", ".join(f"{sum(r['successes'])}/{len(r['successes'])}" for r in mine),
        f"{sum(successes) / len(successes):.1%}",
        f"{low:.1%} to {high:.1%}",
        p,
        *motion_cells(_mean_motion(mine)),
    ]


def _mean_motion(results: Sequence[Mapping[str, Any]]) -> Smoothness:
    """Means over training seeds; the largest steps are the largest of all."""
    parts: dict[str, float] = {}
    for name in Smoothness.__slots__:
        known = [r["motion"][name] for r in results if r["motion"][name] is not None]
        pooled = max(known, default=0.0) if name.endswith("largest") else sum(known)
        count = 1 if name.endswith("largest") else len(known)
        parts[name] = pooled / count if known else float("nan")
    return Smoothness(**parts)


def _plain(options: Options) -> dict[str, Any]:
    """As JSON would give it back, so that settings can be compared with stored ones."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(options)))
    return plain


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)
