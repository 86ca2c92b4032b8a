"""The bc network and the trainer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from policy_episodes import CAMERA, action_of, image_of, place_of, write_episode

from policies.bc import BcConfig, BcNet, SpatialSoftmax
from policies.checkpoint import load_policy
from policies.family import Batch, Inputs, Shapes
from policies.policy import Observation
from policies.registry import FAMILIES, load_family
from policies.train import TrainArgs, main, train
from teleop.errors import PolicyError, UnknownNameError

SHAPES = Shapes(state=14, cameras=1, height=24, width=32, chunk_rows=5, action=14)


def args(data: Path, out: Path, **changes: object) -> TrainArgs[BcConfig]:
    model = BcConfig(hidden=128, features=16)
    options = {
        "steps": 400,
        "image_size": (24, 32),
        "chunk_rows": 20,
        "holdout": 0.0,
        "log_every": 200,
        **changes,
    }
    return TrainArgs(data, out, model, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes, each with its square elsewhere."""
    folder = tmp_path_factory.mktemp("episodes")
    for episode in range(6):
        write_episode(folder, episode)
    return folder


def batch(shapes: Shapes, size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    images = noise(size, shapes.cameras, 3, shapes.height, shapes.width)
    inputs = Inputs(noise(size, shapes.state), images if shapes.cameras else None)
    mask = torch.ones(size, shapes.chunk_rows)
    return Batch(inputs, noise(size, shapes.chunk_rows, shapes.action), mask)


def test_spatial_softmax_tells_where_a_feature_is() -> None:
    """A single bright pixel gives its own coordinates."""
    features = torch.zeros(1, 1, 5, 9)
    features[0, 0, 1, 6] = 50.0
    assert SpatialSoftmax(5, 9)(features)[0].tolist() == pytest.approx([0.5, -0.5], abs=1e-4)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("cameras", [0, 2])
def test_a_family_plans_the_right_shape_and_can_be_trained(name: str, cameras: int) -> None:
    """Every registered family, with and without cameras: shapes, and a gradient everywhere."""
    family = load_family(name)
    shapes = Shapes(21, cameras, 24, 32, 5, 14)
    network = family(shapes, family.config_type())
    sample = batch(shapes)
    assert network.plan(sample.inputs).shape == (4, 5, 14)
    network.loss(sample).backward()  # type: ignore[no-untyped-call]
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in dead if not name.endswith("4.bias")] == []


def test_masked_rows_do_not_count_when_asked() -> None:
    """With ``mask_padding`` the loss ignores what stands in padded rows."""
    network = BcNet(SHAPES, BcConfig(hidden=16, features=4, mask_padding=True)).eval()
    sample = batch(SHAPES)
    mask = sample.mask.clone()
    mask[:, 3:] = 0
    wild = sample.actions.clone()
    wild[:, 3:] = 1e6
    losses = [network.loss(Batch(sample.inputs, a, mask)) for a in (sample.actions, wild)]
    assert losses[0] == losses[1]


def test_a_trained_policy_reads_the_goal_from_the_image(folder: Path, tmp_path: Path) -> None:
    """At the start pose, only the image tells where the waists will go."""
    train("bc", args(folder, tmp_path / "run"), show=False)
    policy = load_policy(tmp_path / "run")
    for episode in range(6):
        place = place_of(episode)
        observation = Observation(
            stamp_ns=7,
            observation_id=3,
            qpos=action_of(place, 0, 40),
            images={CAMERA: image_of(place)},
        )
        chunk = policy.infer(observation)
        assert (chunk.t0_ns, chunk.dt_ns, chunk.observation_id) == (7, 20_000_000, 3)
        assert chunk.actions.shape == (20, 14)
        expected = np.stack([action_of(place, row, 40) for row in range(20)])
        assert np.abs(chunk.actions - expected).max() < 0.1


def test_the_same_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    """Two runs, one file."""
    for run in ("a", "b"):
        train("bc", args(folder, tmp_path / run, steps=5, log_every=5), show=False)
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("a", "b")]
    assert weights[0] == weights[1]


def test_the_command_line_leaves_a_policy_with_its_curve(folder: Path, tmp_path: Path) -> None:
    """``tandem train bc`` writes weights, card, table and picture."""
    out = tmp_path / "run"
    options = ["--data", str(folder), "--out", str(out), "--steps", "4", "--log-every", "2"]
    assert main(["bc", *options, "--image-size", "24", "32", "--hidden", "16", "--blind"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "curve.png",
        "metrics.csv",
        "model.safetensors",
        "policy.json",
    ]
    lines = (out / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,train_loss,validation_loss,learning_rate"
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4"]
    assert load_policy(out).contract.cameras == ()


def test_the_command_line_tells_what_was_left_out_and_held_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once each, in words; without held-back episodes the loss is no number anywhere."""
    for episode, outcome in enumerate(("success", "success", "unknown")):
        write_episode(tmp_path, episode, outcome=outcome)
    options = ["--data", str(tmp_path), "--steps", "4", "--image-size", "24", "32", "--blind"]

    def said(run: str, *more: str) -> str:
        assert main(["bc", *options, "--out", str(tmp_path / run), *more]) == 0
        return capsys.readouterr().out

    first = said("a", "--holdout", "0")
    assert first.count("left out 1 of 3 episodes: 1 unknown outcome") == 1
    assert "no held-back episodes" in first
    assert "nan" not in first.lower()
    assert "NaN" not in (tmp_path / "a" / "policy.json").read_text()
    second = said("b", "--holdout", "0.4", "--outcomes", "success", "unknown")
    assert "left out" not in second
    assert "held-back loss 0." in second


def test_a_policy_is_not_overwritten_unasked(folder: Path, tmp_path: Path) -> None:
    """Refused before anything is read or written; ``--overwrite`` replaces it."""
    brief = {"steps": 2, "log_every": 2}
    train("bc", args(folder, tmp_path, **brief), show=False)
    before = (tmp_path / "policy.json").read_bytes()
    with pytest.raises(PolicyError, match=r"holds a policy already.*--overwrite"):
        train("bc", args(tmp_path / "none", tmp_path, **brief), show=False)
    assert (tmp_path / "policy.json").read_bytes() == before
    train("bc", args(folder, tmp_path, seed=1, overwrite=True, **brief), show=False)
    assert (tmp_path / "policy.json").read_bytes() != before


def test_a_loss_that_is_no_number_stops_training(folder: Path, tmp_path: Path) -> None:
    """The error names the step; no checkpoint is written."""
    diverging = args(folder, tmp_path / "run", learning_rate=float("inf"))
    with pytest.raises(PolicyError, match="the loss became nan at step 2"):
        train("bc", diverging, show=False)
    assert not (tmp_path / "run").exists()


def test_an_unknown_family_is_named() -> None:
    """With the nearest known name."""
    with pytest.raises(UnknownNameError, match="unknown policy family 'bcc'; did you mean bc"):
        main(["bcc"])


def test_blind_and_object_pose_exclude_each_other(folder: Path, tmp_path: Path) -> None:
    """Asking for both is refused before any file is read."""
    with pytest.raises(PolicyError, match="exclude each other"):
        train("bc", args(folder, tmp_path, blind=True, object_pose=True), show=False)
