"""Training in two CPU processes that exchange gradients by gloo, started by torchrun."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policies.card import read_card
from policies.checkpoint import load_policy
from teleop.addresses import free_base_port
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


def test_two_processes_stop_together_when_one_is_asked_to(tmp_path: Path) -> None:
    """Both end as one process does on Ctrl-C: saved, exit code 130, no traceback.

    The family is ACT on a ResNet-18: processes wait for the gradient of every weight, so that a
    weight which gets none ends the run at its second step.
    """
    for number in range(2):
        write_episode(tmp_path / "episodes", number)
    out = tmp_path / "run"
    argv = [
        *(sys.executable, "-m", "policies.train", "act", "--data", str(tmp_path / "episodes")),
        *("--out", str(out), "--image-size", "24", "32", "--chunk-rows", "4", "--holdout", "0"),
        *("--width", "16", "--heads", "2", "--feedforward", "16", "--encoder", "resnet18"),
        *("--batch-size", "4", "--steps", "100000", "--save-every", "2", "--no-ema", "--track"),
    ]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_base_port(1)), "WORLD_SIZE": "2"}
    pair = [
        subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 60
        while not (out / "run" / "state.json").exists() and time.monotonic() < deadline:
            if any(process.poll() is not None for process in pair):
                break
            time.sleep(0.05)
        pair[1].send_signal(signal.SIGINT)
        said = [process.communicate(timeout=40) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [130, 130], said
    assert "Traceback" not in said[0][1] + said[1][1]
    assert "go on with --resume" in said[0][0]
    assert read_card(out).training["steps_done"] >= 2
