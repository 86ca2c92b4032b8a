"""The act network."""

import itertools
from dataclasses import replace

import pytest
import torch
from family_checks import made_up_batch
from torch.distributions import Normal, kl_divergence

from policies.act import PUBLISHED, ActConfig, ActNet, divergence, places_in_image
from policies.family import Shapes
from teleop.errors import PolicyError

SHAPES = Shapes(state=5, action=3, chunk_rows=8)
SMALL = ActConfig(width=32, heads=4, feedforward=64, features=8, rows_per_token=3)


def net(shapes: Shapes = SHAPES, config: ActConfig = SMALL) -> ActNet:
    torch.manual_seed(0)
    return ActNet(shapes, config)


@pytest.mark.parametrize("chunk_rows", [1, 8])
@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("cameras", [0, 1, 2])
@pytest.mark.parametrize("text", [0, 6])
def test_a_plan_has_a_row_for_every_query(
    chunk_rows: int, history: int, cameras: int, text: int
) -> None:
    """Whatever the inputs, the plan is (B, K, A) and the losses are one per sample."""
    shapes = Shapes(5, 3, chunk_rows, history, cameras, 24, 40, text)
    network, example = net(shapes), made_up_batch(shapes)
    assert network.plan(example.inputs).shape == (4, chunk_rows, 3)
    losses = network.loss(example)
    assert {name: loss.shape for name, loss in losses.items()} == {
        "loss": (4,),
        "l1": (4,),
        "kl": (4,),
    }


@pytest.mark.parametrize("part", ["state", "images", "text"])
def test_every_input_matters(part: str) -> None:
    """A change of the oldest state, of the last camera, or of the instruction changes the plan."""
    shapes = Shapes(5, 3, 8, 2, 2, 32, 32, 6)
    network, inputs = net(shapes).eval(), made_up_batch(shapes).inputs
    before = network.plan(inputs)
    values = getattr(inputs, part).clone()
    changed = {"state": (slice(None), 0), "images": (slice(None), -1, 1), "text": slice(None)}
    values[changed[part]] += 1.0  # type: ignore[index]
    assert not torch.allclose(network.plan(inputs._replace(**{part: values})), before, atol=1e-4)


def test_cameras_with_one_encoder_are_told_apart() -> None:
    """With a shared encoder, exchanging two cameras' images still changes the plan."""
    shapes = Shapes(5, 3, 8, 1, 2, 32, 32)
    config = ActConfig(width=32, heads=4, feedforward=64, features=8, share_encoder=True)
    network, inputs = net(shapes, config).eval(), made_up_batch(shapes).inputs
    torch.nn.init.normal_(network.read_images.marks)  # type: ignore[union-attr]
    assert inputs.images is not None
    swapped = inputs._replace(images=inputs.images.flip(2))
    assert not torch.allclose(network.plan(inputs), network.plan(swapped), atol=1e-4)


def test_deployment_is_deterministic() -> None:
    """The latent is zero: two plans from different noise are equal, and so are two losses."""
    network, example = net().eval(), made_up_batch(SHAPES)
    first = network.plan(example.inputs, torch.Generator().manual_seed(1))
    second = network.plan(example.inputs, torch.Generator().manual_seed(2))
    assert torch.equal(first, second)
    assert torch.equal(network.loss(example)["loss"], network.loss(example)["loss"])
    assert torch.equal(network.loss(example)["l1"], (first - example.actions).abs().mean((1, 2)))


def test_every_decoder_layer_learns() -> None:
    """The loss reaches all parameters of all layers; the published code trains only the first."""
    network = net(config=ActConfig(width=32, heads=4, feedforward=64, decoder_layers=7))
    network.loss(made_up_batch(SHAPES))["loss"].sum().backward()
    untouched = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # The first layer's queries and keys attend to rows that are all zero: values alike.
    assert [name for name in untouched if "decoder.layers.0.self_attention" not in name] == []


def test_the_last_decoder_layer_decides() -> None:
    """A change of the last layer alone changes the plan."""
    network, inputs = net().eval(), made_up_batch(SHAPES).inputs
    before = network.plan(inputs)
    with torch.no_grad():
        network.decoder.layers[-1].feedforward[0].weight.mul_(2)  # type: ignore[index,union-attr]
    assert not torch.allclose(network.plan(inputs), before, atol=1e-4)


def test_padding_changes_neither_loss_nor_latent() -> None:
    """Actions beyond the end of the episode may hold anything."""
    network, example = net().eval(), made_up_batch(SHAPES)
    example.mask[:2, 3:] = 0
    other = example._replace(actions=example.actions.clone())
    other.actions[:2, 3:] = 100.0
    for one, two in zip(
        network.latent_encoder(example), network.latent_encoder(other), strict=True
    ):
        torch.testing.assert_close(one, two)
    for name, loss in network.loss(example).items():
        torch.testing.assert_close(loss, network.loss(other)[name])
    counted = (network.plan(example.inputs) - example.actions)[0, :3].abs().mean()
    torch.testing.assert_close(network.loss(example)["l1"][0], counted)


def test_the_latent_reads_the_chunk_in_order() -> None:
    """A chunk played backwards is another way of doing it."""
    network, example = net().eval(), made_up_batch(SHAPES)
    backwards = example._replace(actions=example.actions.flip(1))
    forward, back = network.latent_encoder(example)[0], network.latent_encoder(backwards)[0]
    assert not torch.allclose(forward, back, atol=1e-3)


def test_the_divergence_is_that_of_torch() -> None:
    """Summed over the latent, as torch.distributions computes it."""
    mean, log_variance = torch.randn(4, 32), torch.randn(4, 32)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_places_in_an_image_are_all_different() -> None:
    """Rows share the first half of their embedding, columns the second, no cell both."""
    places = places_in_image(3, 5, 16).view(3, 5, 16)
    assert torch.equal(places[1, 0, :8], places[1, 4, :8])
    assert torch.equal(places[0, 2, 8:], places[2, 2, 8:])
    cells = places.flatten(0, 1)
    apart = [(one - two).abs().max() for one, two in itertools.combinations(cells, 2)]
    assert min(apart) > 0.1


def test_the_published_configuration_has_the_published_size() -> None:
    """83.9 million parameters with seven decoder layers, 51.6 with LeRobot's one (its figure)."""
    for layers, published in ((7, 83.9e6), (1, 51.6e6)):
        config = replace(PUBLISHED, decoder_layers=layers)
        with torch.device("meta"):
            network = ActNet(Shapes(14, 14, 100, 1, 1, 480, 640), config)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_small_network_learns_a_batch_by_heart(pre_norm: bool) -> None:
    """Eight chunks are known by their states to within a few percent of their deviation."""
    config = ActConfig(
        width=32,
        heads=4,
        feedforward=64,
        latent_layers=1,
        encoder_layers=1,
        dropout=0.0,
        pre_norm=pre_norm,
    )
    network, example = net(config=config), made_up_batch(SHAPES, 8)
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, 200)
    for _ in range(200):
        optimiser.zero_grad()
        network.loss(example)["loss"].mean().backward()
        optimiser.step()
        schedule.step()
    network.eval()
    assert network.loss(example)["l1"].mean() < 0.05
    assert network.loss(example)["kl"].mean() < 0.05


def test_half_precision_gives_the_same_plan_roughly() -> None:
    """Under bf16 autocast losses and plans are float32 and near the full-precision ones."""
    shapes = Shapes(5, 3, 8, 1, 1, 32, 32)
    network, example = net(shapes).eval(), made_up_batch(shapes)
    with torch.autocast("cpu", torch.bfloat16):
        rough, losses = network.plan(example.inputs), network.loss(example)
    assert rough.dtype == losses["loss"].dtype == torch.float32
    torch.testing.assert_close(rough, network.plan(example.inputs), atol=0.1, rtol=0.1)


def test_a_width_that_does_not_divide_is_refused() -> None:
    """The message names the width and the heads."""
    with pytest.raises(PolicyError, match="width 36 with 8 heads"):
        ActNet(SHAPES, ActConfig(width=36, heads=8))
