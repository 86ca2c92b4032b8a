"""Image encoders and the weights that they can be given."""

from pathlib import Path

import pytest
import torch
from family_checks import made_up_batch
from safetensors.torch import save_file
from torch import nn

from policies.bc import BcConfig, BcNet
from policies.encoders import (
    FrozenBatchNorm,
    ImageEncoder,
    ObservationEncoder,
    SpatialSoftmax,
    load_pretrained,
)
from policies.family import FamilyConfig, Shapes
from teleop.errors import PolicyError

SHAPES = Shapes(state=6, action=2, chunk_rows=2, history=2, cameras=2, height=32, width=48, text=3)
PRETRAINED = FamilyConfig(encoder="resnet18", norm="frozen_batch", features=4)


def torchvision_names() -> dict[str, torch.Size]:
    """Names and shapes of torchvision's ResNet-18, written down from its published layout."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    seen = 64
    for layer, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (channels, seen, 3, 3)
            norm(f"{name}.bn1", channels)
            shapes[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            norm(f"{name}.bn2", channels)
            if seen != channels:
                shapes[f"{name}.downsample.0.weight"] = (channels, seen, 1, 1)
                norm(f"{name}.downsample.1", channels)
            seen = channels
    shapes |= {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    return {name: torch.Size(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A state dict as torchvision would give it; variances are positive."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator) * 0.1 + 0.01
        for name, shape in torchvision_names().items()
    }


@pytest.mark.parametrize("features", [8, 24, 32])
def test_the_small_encoder_takes_group_norms(features: int) -> None:
    """With any number of features; then the brightness of all of a picture hardly matters."""
    torch.manual_seed(0)
    plain, normed = (
        ImageEncoder(FamilyConfig(features=features, small_norm=norm)) for norm in (False, True)
    )
    dim = torch.rand(2, 3, 32, 32)
    changes = [
        float(((encoder(5 * dim) - encoder(dim)).norm() / encoder(dim).norm()).detach())
        for encoder in (plain, normed)
    ]
    assert changes[1] < 0.5 < changes[0]


def test_spatial_softmax_tells_where_a_feature_is() -> None:
    """A single bright pixel gives its own coordinates, x first; a flat map gives the middle."""
    features = torch.zeros(1, 2, 5, 9)
    features[0, 0, 1, 6] = 50.0
    assert SpatialSoftmax()(features)[0].tolist() == pytest.approx([0.5, -0.5, 0, 0], abs=1e-4)


@pytest.mark.parametrize("share", [False, True])
def test_one_vector_per_observation_from_state_images_and_text(share: bool) -> None:
    """Each camera moves its own part; the gradient reaches every encoder."""
    torch.manual_seed(0)
    encoder = ObservationEncoder(SHAPES, FamilyConfig(features=4, share_encoder=share))
    inputs = made_up_batch(SHAPES).inputs
    seen = encoder(inputs)
    assert seen.shape == (4, 2, encoder.size) == (4, 2, 6 + 2 * 8 + 3)
    assert inputs.images is not None
    images = inputs.images.clone()
    images[:, 0, 1] += torch.randn(3, 32, 48)  # the second camera in the oldest observation
    moved = (encoder(inputs._replace(images=images)) != seen).any(0)
    assert not moved[1].any()
    assert not moved[0, :14].any()
    assert moved[0, 14:22].any()
    seen.square().sum().backward()
    assert len(encoder.cameras.encoders) == (1 if share else 2)
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_with_torchvisions_names_load_from_a_file(
    suffix: str, tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    """Every encoder gets them, statistics of the norms included."""
    path = tmp_path / f"resnet18{suffix}"
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    network = ObservationEncoder(SHAPES, PRETRAINED)
    load_pretrained(network, path)
    for camera in range(2):
        loaded = dict(network.cameras.of(camera).trunk.net.state_dict())  # type: ignore[union-attr, operator]
        kept = [n for n in weights if not n.startswith("fc.") and not n.endswith("tracked")]
        assert sorted(loaded) == sorted(kept)
        assert all(torch.equal(loaded[name], weights[name]) for name in kept)


def test_a_frozen_norm_is_a_batch_norm_in_evaluation() -> None:
    """Also while training: its statistics stay."""
    frozen, norm = FrozenBatchNorm(4), nn.BatchNorm2d(4)
    state = {name: torch.rand(4) + 0.1 for name in frozen.state_dict()}
    frozen.load_state_dict(state)
    norm.load_state_dict(state, strict=False)
    images = torch.randn(2, 4, 5, 6)
    assert torch.allclose(frozen.train()(images), norm.eval()(images), atol=1e-6)
    assert torch.equal(frozen.running_mean, state["running_mean"])


@pytest.mark.parametrize("content", ["text", "other", "none"])
def test_a_wrong_file_of_weights_is_refused_in_a_sentence(content: str, tmp_path: Path) -> None:
    """Not there, not weights, or the weights of something else."""
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("not weights")
    if content == "other":
        torch.save({"conv1.weight": torch.zeros(1)}, path)
    network = ObservationEncoder(SHAPES, PRETRAINED)
    with pytest.raises(PolicyError, match=r"weights\.pth"):
        load_pretrained(network, path)


def test_weights_need_an_encoder_that_has_them(tmp_path: Path) -> None:
    """The small encoder is not a ResNet; a file that is not there is told first."""
    path = tmp_path / "resnet18.pth"
    with pytest.raises(PolicyError, match="no such file of encoder weights"):
        load_pretrained(BcNet(SHAPES, BcConfig()), path)
    path.touch()
    with pytest.raises(PolicyError, match="add --encoder resnet18"):
        load_pretrained(BcNet(SHAPES, BcConfig()), path)


def test_group_norms_do_not_take_pretrained_weights(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    """They would be used with statistics that they were not trained with."""
    path = tmp_path / "resnet18.pth"
    torch.save(weights, path)
    network = ObservationEncoder(SHAPES, FamilyConfig(encoder="resnet18", features=4))
    with pytest.raises(PolicyError, match=r"resnet18\.pth"):
        load_pretrained(network, path)
