"""What every registered policy family must do: train, come back, learn, resume and deploy.

A new family is in here as soon as it is in ``policies.registry``.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.batches import shares
from policies.checkpoint import load_policy
from policies.dataset import TrainingData, load
from policies.family import Family
from policies.learned import shapes_of
from policies.loop import fit
from policies.preprocess import Preprocessor
from policies.registry import FAMILIES, load_family
from policies.run_state import RunState
from policies.train import train
from policies.train_args import TrainArgs, recipe_args
from policies.warm_up import rehearsal
from teleop.errors import PolicyError
from tests.unit.policy_episodes import write_episode

ROOT = Path(__file__).parents[2]

SMALL: dict[str, dict[str, Any]] = {
    "bc": {"hidden": 64},
    "gmm": {"hidden": 64, "components": 2, "evidence": 8.0, "choice": "likeliest"},
    "bc-rnn-gmm": {"hidden": 48, "layers": 1, "components": 2, "history": 2},
    "bins": {
        **{"bins": 64, "hidden": 64, "row_hidden": 64, "token_hidden": 16},
        **{"train_rows": 2, "chunk_rows": 4, "choice": "likeliest"},
    },
    "act": {"width": 32, "feedforward": 64, "latent": 8, "dropout": 0.0},
    "diffusion": {"width": 64, "layers": 2, "hidden": 128, "rows_per_token": 4},
    "flow": {"width": 64, "layers": 2, "hidden": 128, "rows_per_token": 4},
    "ibc": {"hidden": 64, "negatives": 64, "candidates": 256, "chunk_rows": 1},
}
"""Options that make a family small; one that is not named here is tried as it is."""

STEPS = {"gmm": 900, "ibc": 900}
"""Steps to overfit two episodes; 500 unless named here."""

BOUND_RAD = {"ibc": 0.12}
"""Mean error of the two joints that move, after that; 0.02 unless named here. An energy model
learns from uniform draws over all 14 joints, most of which are told from the demonstration by
the 12 joints that never move, so it is slow to tell where in its range a waist should be."""

MOVING = [0, 7]
"""Columns of the waists: the other joints stand still in the episodes."""


def small(family: str, episodes: Path, out: Path, **options: Any) -> TrainArgs[Any]:
    """The family's recipe, made small."""
    merged = {"chunk_rows": 8, "image_size": (24, 32), **SMALL.get(family, {}), **options}
    return recipe_args(family, (str(episodes),), out, **merged)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short episodes."""
    folder = tmp_path_factory.mktemp("episodes")
    for number in (0, 1):
        write_episode(folder, number)
    return folder


def data_of(args: TrainArgs[Any]) -> TrainingData:
    return load(args.data, args.rows, 0)


def network_of(family: str, args: TrainArgs[Any], data: TrainingData) -> Family:
    torch.manual_seed(0)
    return load_family(family)(shapes_of(data.contract), args.model)


# -- trained on images, loaded and deployed in another process ------------------------------


@pytest.fixture(scope="module")
def runs(episodes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family after four steps on state and images; the episodes it saw are gone."""
    home = tmp_path_factory.mktemp("runs")
    copy = Path(shutil.copytree(episodes, home / "episodes"))
    folders = {}
    for family in FAMILIES:
        args = small(family, copy, home / family, steps=4, batch_size=8, log_every=2)
        args = replace(args, model=replace(args.model, features=4), track=())
        curve = train(family, args, show=False)
        assert [metric.step for metric in curve] == [2, 4]
        assert all(np.isfinite(metric.train_loss) for metric in curve)
        folders[family] = args.out
    shutil.rmtree(copy)
    return folders


@pytest.fixture(scope="module")
def deployed(runs: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What each policy did on the lockstep rig, in one fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.deploy_runs", *map(str, runs.values())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(runs, lines, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_drives_the_rig_from_its_folder_alone(
    family: str, deployed: dict[str, dict[str, Any]]
) -> None:
    """Half a second of finite commands, recorded, although nothing was learned yet."""
    done = deployed[family]
    assert done["outcome"] == "failure"
    assert done["rows"] >= 20
    assert done["finite"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_plans_in_another_process_what_it_plans_here(
    family: str, runs: dict[str, Path], deployed: dict[str, dict[str, Any]]
) -> None:
    """To the last digit that a different way through the arithmetic leaves."""
    policy = load_policy(runs[family])
    here = policy.infer(rehearsal(policy.contract)).actions
    np.testing.assert_allclose(here, deployed[family]["plan"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_refuses_a_rig_without_its_camera(
    family: str, deployed: dict[str, dict[str, Any]]
) -> None:
    """In one sentence that names the camera."""
    refusal = deployed[family]["refusal"]
    assert "cam_high" in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize("family", FAMILIES)
def test_it_refuses_to_go_on_with_other_data(
    family: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    """In one sentence; the run is left as it was."""
    write_episode(tmp_path / "other", 5)
    before = (runs[family] / "policy.json").read_bytes()
    args = small(family, tmp_path / "other", runs[family], steps=4, batch_size=8, log_every=2)
    args = replace(args, model=replace(args.model, features=4), track=(), resume=True)
    with pytest.raises(PolicyError, match=r"was begun with data [^\n]*$"):
        train(family, args, show=False)
    assert (runs[family] / "policy.json").read_bytes() == before


# -- learning, from state and object poses ---------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_it_overfits_two_episodes(family: str, episodes: Path, tmp_path: Path) -> None:
    """Its plans for what it was shown are what was done then."""
    steps = STEPS.get(family, 500)
    args = small(
        family,
        episodes,
        tmp_path,
        **{"object_pose": True, "holdout": 0.0, "window_stride": 1, "state_noise": 0.0},
        **{"steps": steps, "batch_size": 32, "learning_rate": 5e-3, "log_every": steps},
    )
    data = data_of(args)
    network = network_of(family, args, data)
    fit(network, data.train, None, data.statistics, args.loop)
    shown = data.train.windows(np.arange(len(data.train)))
    batch, _ = Preprocessor(data.statistics, torch.device("cpu")).batch(shown)
    with torch.inference_mode():
        plan = network.plan(batch.inputs, torch.Generator().manual_seed(0))
    wrong = np.abs(data.statistics.action.restore(plan.double().numpy()) - shown.actions)
    error = np.average(wrong[..., MOVING].mean(-1), weights=shown.mask)
    assert error < BOUND_RAD.get(family, 0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_resumes_exactly(family: str, episodes: Path, tmp_path: Path) -> None:
    """Stopped after 3 of 6 steps: the same curve and weights to the bit."""
    args = small(family, episodes, tmp_path, object_pose=True, steps=6, log_every=1)
    args = replace(args, loop=replace(args.loop, batch_size=8))
    data = data_of(args)
    state = RunState(tmp_path / "run", {})

    def trained(**more: Any) -> tuple[Family, list[Any]]:
        network = network_of(family, args, data)
        return network, fit(
            network, data.train, data.validation, data.statistics, args.loop, **more
        )

    whole, curve = trained()
    asked = iter([False, False, True])
    trained(state=state, asked_to_stop=lambda: next(asked))
    assert state.last_step() == 3
    again, repeated = trained(state=state, resume=True)
    assert repeated == curve
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_learns(family: str, episodes: Path, tmp_path: Path) -> None:
    """A weight without a gradient is dead, and stops training in several processes."""
    args = small(family, episodes, tmp_path, batch_size=8)
    args = replace(args, model=replace(args.model, features=4))
    data = data_of(args)
    network = network_of(family, args, data).train()
    (share,) = shares(data.train, range(1, 2), 0, 8)
    batch, _ = Preprocessor(data.statistics, torch.device("cpu")).batch(share.windows)
    network.loss(batch)["loss"].mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
