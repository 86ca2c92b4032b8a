"""A run of ``tandem train`` as a user has it: files, interruptions, and what it refuses."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policies.bc import BcConfig, BcNet
from policies.card import read_card
from policies.checkpoint import load_policy
from policies.family import Batch, Losses, Shapes
from policies.train import main, train
from policies.train_args import TrainArgs, recipe_args
from teleop.errors import PolicyError, UnknownNameError
from tests.unit.policy_episodes import write_episode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short episodes."""
    folder = tmp_path_factory.mktemp("episodes")
    for number in range(4):
        write_episode(folder, number)
    return folder


def args_for(episodes: Path, out: Path, **options: Any) -> TrainArgs[Any]:
    """A run of a second."""
    small = {"hidden": 32, "features": 4, "image_size": (24, 32), "chunk_rows": 5}
    quick = {"steps": 12, "batch_size": 8, "log_every": 4, "holdout": 0.25}
    return recipe_args("bc", (str(episodes),), out, **{**small, **quick, **options})


def command(args: TrainArgs[Any], *more: str) -> list[str]:
    """The same run as a command."""
    return [
        *(sys.executable, "-m", "policies.train", "bc", "--data", *args.data),
        *("--out", str(args.out), "--hidden", "32", "--features", "4", "--chunk-rows", "5"),
        *("--image-size", "24", "32", "--batch-size", "8", "--holdout", "0.25"),
        *("--steps", str(args.loop.steps), "--log-every", str(args.loop.log_every)),
        *("--save-every", str(args.loop.save_every), *more),
    ]


def wait_for(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Poll until something has happened in a run."""
    deadline = time.monotonic() + 60
    while not done():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def saved_step(out: Path) -> int:
    path = out / "run" / "state.json"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


def test_a_run_leaves_policy_curve_and_scalars(episodes: Path, tmp_path: Path) -> None:
    """All that the folder should hold, and how the policy came about in its card."""
    out = tmp_path / "run"
    curve = train("bc", args_for(episodes, out), show=False)
    assert {path.name for path in out.iterdir()} == {
        *("policy.json", "model.safetensors", "metrics.csv", "curve.png", "run", "tensorboard")
    }
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8, 12]
    assert float(rows[-1]["validation_loss"]) == curve[-1].validation_loss
    events = EventAccumulator(str(next((out / "tensorboard").iterdir()))).Reload()
    told = [(event.step, event.value) for event in events.Scalars("loss/training")]
    assert told == [(m.step, pytest.approx(m.train_loss)) for m in curve]
    card = read_card(out)
    assert card.training["learning_rate"] == 1.5e-3
    assert card.training["steps_done"] == 12
    assert card.training["episodes"] == 3
    assert load_policy(out).contract.chunk_rows == 5


def test_a_killed_run_goes_on_exactly(episodes: Path, tmp_path: Path) -> None:
    """SIGKILL at some step; the resumed curve and weights equal those of an unbroken run."""
    options: dict[str, Any] = {"steps": 120, "save_every": 5, "log_every": 15}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train("bc", args_for(episodes, whole, **options), show=False)
    args = args_for(episodes, broken, **options)
    process = subprocess.Popen(command(args), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: saved_step(broken) >= 20, process)
    process.kill()
    process.communicate()
    assert 20 <= saved_step(broken) < 120
    assert not (broken / "policy.json").exists()
    train("bc", replace(args, resume=True), show=False)
    assert (broken / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert read_card(broken).weights_sha256 == read_card(whole).weights_sha256


def test_only_the_same_mixture_can_be_resumed(episodes: Path, tmp_path: Path) -> None:
    """Moved episodes go on; other weights, or another order of folders, are refused."""
    one, other, out = (tmp_path / name for name in ("one", "other", "run"))
    for place, numbers in ((one, (0, 1)), (other, (2, 3))):
        place.mkdir()
        for number in numbers:
            shutil.copy2(episodes / f"episode_{number:06d}.hdf5", place)
    args = args_for(episodes, out, steps=4, blind=True, track=())
    args = replace(args, data=(str(one), f"{other}=2"))
    train("bc", args, show=False)
    moved = shutil.move(one, tmp_path / "moved")
    again = replace(args, resume=True)
    train("bc", replace(again, data=(str(moved), f"{other}=2")), show=False)
    for data in ((f"{other}=2", str(moved)), (str(moved), f"{other}=3"), (str(moved), str(other))):
        with pytest.raises(PolicyError, match=r"begun with mixture .*2 of weight"):
            train("bc", replace(again, data=data), show=False)


def test_a_run_is_resumed_with_the_deployment_that_it_was_begun_with(
    episodes: Path, tmp_path: Path
) -> None:
    """Another way to deploy is refused as any other option is, and the card stays."""
    options: dict[str, Any] = {"steps": 2, "blind": True, "track": (), "chunk_mode": "newest"}
    args = args_for(episodes, tmp_path / "run", **options)
    train("bc", args, show=False)
    for changed, words in (
        ({"chunk_mode": "ensemble"}, 'begun with chunk_mode "newest", not "ensemble"'),
        ({"replan_rows": 2}, "begun with replan_rows 5, not 2"),
    ):
        other = args_for(episodes, args.out, **{**options, **changed})
        with pytest.raises(PolicyError, match=words):
            train("bc", replace(other, resume=True), show=False)
    train("bc", replace(args, resume=True), show=False)
    assert read_card(args.out).deployment == args.deployment


def test_ctrl_c_leaves_a_policy_and_a_way_on(episodes: Path, tmp_path: Path) -> None:
    """The step is finished, everything is saved, and the command says how to go on."""
    args = args_for(episodes, tmp_path / "run", steps=100_000, save_every=10)
    process = subprocess.Popen(
        command(args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: saved_step(args.out) >= 10, process)
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    steps = saved_step(args.out)
    assert f"stopped after {steps} steps; go on with --resume" in said
    assert read_card(args.out).training["steps_done"] == steps
    assert load_policy(args.out).contract.chunk_rows == 5
    assert (args.out / "curve.png").exists()
    assert len((args.out / "metrics.csv").read_text().splitlines()) == 1 + steps // 4


class Poisoned(BcNet):
    """A network whose seventh loss is no number."""

    seen = 0

    def loss(self, batch: Batch) -> Losses:
        if self.training:
            self.seen += 1
        losses = super().loss(batch)["loss"]
        return {"loss": losses * torch.where(torch.arange(len(losses)) == 3, self.fate(), 1.0)}

    def fate(self) -> float:
        return float("nan") if self.seen == 7 else 1.0


def test_a_bad_batch_is_left_for_inspection(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the curve so far and the last good state."""
    out = tmp_path / "run"
    monkeypatch.setattr("policies.train.load_family", lambda name: Poisoned)
    with pytest.raises(PolicyError, match=r"nan at step 7, .*bad_batch.npz, the state of step 5"):
        train("bc", args_for(episodes, out, save_every=5), show=False)
    with np.load(out / "bad_batch.npz") as batch:
        assert np.flatnonzero(np.isnan(batch["loss"])).tolist() == [3]
        assert batch["images"].shape == (8, 1, 1, 24, 32, 3)
    assert len((out / "metrics.csv").read_text().splitlines()) == 2
    assert not (out / "policy.json").exists()


def test_a_bad_batch_of_the_first_steps_is_left_too(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing else has made the folder yet."""
    out = tmp_path / "deep" / "run"
    monkeypatch.setattr("policies.train.load_family", lambda name: Poisoned)
    with pytest.raises(PolicyError, match=r"bad_batch.npz, no state was saved before it"):
        train("bc", args_for(episodes, out, track=()), show=False)
    assert (out / "bad_batch.npz").exists()


def test_a_folder_in_use_is_not_written_into(episodes: Path, tmp_path: Path) -> None:
    """Unless it may be overwritten; what training did not make stays."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    args = args_for(episodes, out, steps=2, track=())
    with pytest.raises(PolicyError, match="is not empty; name another folder"):
        train("bc", args, show=False)
    train("bc", replace(args, overwrite=True), show=False)
    first = read_card(out).weights_sha256
    args = args_for(episodes, out, steps=3, track=())
    train("bc", replace(args, overwrite=True), show=False)
    assert read_card(out).weights_sha256 != first
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(PolicyError, match="begun with steps 3, not 4"):
        train("bc", replace(args, resume=True, loop=replace(args.loop, steps=4)), show=False)
    with pytest.raises(PolicyError, match=r"holds no saved state to resume .*with --overwrite"):
        train("bc", replace(args, out=tmp_path / "new", resume=True), show=False)
    with pytest.raises(PolicyError, match="exclude each other"):
        train("bc", replace(args, resume=True, overwrite=True), show=False)


def test_a_dry_run_tells_and_writes_nothing(
    episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would be trained on."""
    out = tmp_path / "run"
    assert main(["bc", "--data", str(episodes), "--out", str(out), "--dry-run"]) == 0
    assert "cam_high" in capsys.readouterr().out
    assert not out.exists()


def test_a_dry_run_refuses_what_the_run_would(episodes: Path, tmp_path: Path) -> None:
    """The network is built and tried, and its weights are looked for."""
    args = args_for(episodes, tmp_path / "run", image_size=(3, 3), shift_px=0)
    with pytest.raises(PolicyError, match="cannot be built"):
        train("bc", replace(args, dry_run=True), show=False)
    args = args_for(episodes, tmp_path / "run", encoder_weights=tmp_path / "nofile.pth")
    with pytest.raises(PolicyError, match=r"nofile\.pth: no such file of encoder weights"):
        train("bc", replace(args, dry_run=True), show=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": (3, 3), "shift_px": 0}, "bc with these options cannot be built: "),
        ({"hidden": -3}, "bc --hidden -3: must be 1 or more"),
        ({"dropout": 2.0}, "bc --dropout 2: must be 0 or more and below 1"),
        ({"replan_rows": 500}, "played for 5 rows but .* after 500.* give replan_rows 5 or less"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"shift_px": -1}, "shift_px is -1"),
        ({"shift_px": 12}, "shift_px is 12, half of the 24x32 image or more; give 11 or less"),
        ({"colour": 1.5}, "colour is 1.5; give a share from 0 to 1"),
        ({"chunk_rows": 0}, "--chunk-rows is 0; at least 1"),
    ],
)
def test_a_refused_start_leaves_nothing(
    episodes: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """So that the corrected command is not told that the folder is in use."""
    out = tmp_path / "run"
    with pytest.raises(PolicyError, match=words):
        train("bc", args_for(episodes, out, **options), show=False)
    assert not out.exists()


class Tied(BcNet):
    """A network that uses some of its weights under two names."""

    def __init__(self, shapes: Shapes, config: Any) -> None:
        super().__init__(shapes, config)
        self.other = next(iter(self.children()))


def test_a_network_that_could_not_be_saved_is_not_trained(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that share memory are named."""
    monkeypatch.setattr("policies.train.load_family", lambda name: Tied)
    args = args_for(episodes, tmp_path / "run")
    with pytest.raises(PolicyError, match=r"bc: the weights \S+ and other\S+ share memory"):
        train("bc", args, show=False)
    assert not args.out.exists()


class Unready(BcNet):
    """A network that fails at its first training step."""

    def loss(self, batch: Batch) -> Losses:
        if self.training:
            raise RuntimeError("out of memory")
        return super().loss(batch)


def test_a_training_that_fails_at_once_leaves_only_what_was_there(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After files had been begun."""
    monkeypatch.setattr("policies.train.load_family", lambda name: Unready)
    args = replace(args_for(episodes, tmp_path / "run"), overwrite=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        train("bc", args, show=False)
    assert not args.out.exists()
    args.out.mkdir()
    (args.out / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="out of memory"):
        train("bc", args, show=False)
    assert [path.name for path in args.out.iterdir()] == ["notes.txt"]


def test_a_file_in_the_way_is_named(episodes: Path, tmp_path: Path) -> None:
    """Itself, or above the folder."""
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "deep" / "run"):
        with pytest.raises(PolicyError, match=f"--out {out}: {file} is a file"):
            train("bc", args_for(episodes, out), show=False)


def test_without_a_screen_each_row_of_the_curve_is_a_line(episodes: Path, tmp_path: Path) -> None:
    """With what is left; and a run that is finished says so when resumed."""
    call = command(args_for(episodes, tmp_path / "run", steps=8))
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("step ")]
    assert len(lines) == 2
    assert re.match(r"step 4 of 8: loss [\d.]+, held-back loss [\d.]+, [\d.]+ min left", lines[0])
    assert "warning: a chunk of 5 rows lasts 0.10 s" in done.stdout
    call.append("--resume")
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "already finished after 8 steps" in done.stdout


def test_trackers_that_are_not_there_are_named_before_training(
    episodes: Path, tmp_path: Path
) -> None:
    """In one sentence, with the command that installs one."""
    out = tmp_path / "run"
    with pytest.raises(UnknownNameError, match="did you mean tensorboard"):
        train("bc", args_for(episodes, out, track=("tensorbord",)), show=False)
    with pytest.raises(PolicyError, match="run: pip install aim"):
        train("bc", args_for(episodes, out, track=("aim",)), show=False)
    assert not out.exists()


def test_pretrained_encoders_keep_their_norms(episodes: Path, tmp_path: Path) -> None:
    """The weights of a local file are where training begins; the card says so."""
    torch.manual_seed(9)
    shapes = Shapes(state=14, action=14, chunk_rows=5, cameras=1, height=24, width=32)
    donor = BcNet(shapes, BcConfig(encoder="resnet18", norm="frozen_batch"))
    trunk = donor.observe.cameras.of(0).trunk.net.state_dict()
    file = tmp_path / "resnet18.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in trunk.items()}, file)
    args = args_for(episodes, tmp_path / "run", encoder="resnet18", steps=1, batch_size=2)
    args = replace(args, encoder_weights=file, track=(), loop=replace(args.loop, learning_rate=0))
    train("bc", args, show=False)
    card = read_card(args.out)
    assert card.config["norm"] == "frozen_batch"
    weights = load_file(args.out / "model.safetensors")
    name = "layer1.0.conv1.weight"
    (trained,) = [tensor for key, tensor in weights.items() if key.endswith(name)]
    assert torch.equal(trained, trunk[name])
