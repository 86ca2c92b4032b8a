"""Training in two CPU processes that exchange gradients by gloo, started by torchrun."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from policies.card import read_card
from policies.checkpoint import load_policy
from tests.unit.policy_episodes import write_episode

ROOT = Path(__file__).parents[2]
OPTIONS = (
    *("--hidden", "32", "--features", "4", "--chunk-rows", "5", "--image-size", "24", "32"),
    *("--steps", "12", "--batch-size", "8", "--log-every", "4", "--holdout", "0.25"),
    *("--state-noise", "0", "--shift-px", "0"),
)
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def curve_of(out: Path) -> list[list[float]]:
    with (out / "metrics.csv").open() as file:
        return [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]


def run(episodes: Path, out: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, *launcher, "-m", "policies.train", "bc"),
            *("--data", str(episodes), "--out", str(out), *OPTIONS),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """The same samples per step, shared: the same curve up to rounding, written once."""
    for number in range(4):
        write_episode(tmp_path / "episodes", number)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert run(tmp_path / "episodes", alone).returncode == 0
    done = run(tmp_path / "episodes", shared, *TWO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after 12 steps") == 1
    for one, two in zip(curve_of(alone), curve_of(shared), strict=True):
        assert two == pytest.approx(one, rel=2e-3)
    assert read_card(shared).training["processes"] == 2
    assert len(list((shared / "tensorboard" / "tandem").iterdir())) == 1
    assert {path.name for path in shared.iterdir()} == {path.name for path in alone.iterdir()}
    load_policy(shared)
