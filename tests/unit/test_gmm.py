"""The mixture head and the gmm network."""

import math
from typing import Literal

import pytest
import torch
from family_checks import fit, fork, made_up_batch, ways_taken

from policies.family import Batch, Inputs, Shapes
from policies.gmm import GmmConfig, GmmNet
from policies.mixture import Mixture, MixtureHead

SHAPES = Shapes(state=6, action=4, chunk_rows=5, history=2, cameras=1, height=24, width=32, text=3)
SMALL = GmmConfig(hidden=64, layers=2, features=8)


def test_it_plans_from_state_images_and_text_with_a_history() -> None:
    """Shapes, and a gradient in every part."""
    torch.manual_seed(0)
    network = GmmNet(SHAPES, SMALL)
    batch = made_up_batch(SHAPES)
    assert network.plan(batch.inputs).shape == (4, 5, 4)
    network.loss(batch)["loss"].sum().backward()  # type: ignore[no-untyped-call]
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in dead if "encoders" not in name] == []


@pytest.mark.parametrize("rows", [1, 100])
def test_drawn_chunks_follow_one_way_of_a_fork(rows: int) -> None:
    """Both ways about equally often, and never the mean of them."""
    torch.manual_seed(0)
    shapes = Shapes(state=2, action=14 if rows > 1 else 2, chunk_rows=rows)
    network = GmmNet(shapes, SMALL)
    fit(network, fork(shapes, 32, learn_seed=1), steps=100)
    valid, right = ways_taken(network, shapes)
    assert valid >= 0.95
    assert 0.35 < right < 0.65


def test_a_batch_is_learned_by_heart() -> None:
    """Near-zero error of the heaviest component."""
    torch.manual_seed(0)
    shapes = Shapes(state=6, action=4, chunk_rows=5)
    network = GmmNet(shapes, GmmConfig(hidden=128, layers=2, choice="likeliest"))
    batch = made_up_batch(shapes, 8)
    fit(network, batch, steps=250)
    assert (network.plan(batch.inputs) - batch.actions).abs().mean() < 0.03


def test_padding_changes_neither_loss_nor_gradient() -> None:
    """Whatever stands in rows that do not count."""
    network = GmmNet(SHAPES, SMALL).eval()
    batch = made_up_batch(SHAPES)
    mask = batch.mask.clone()
    mask[:, 3:] = 0
    wild = batch.actions.clone()
    wild[:, 3:] = 1e3
    wild.requires_grad_()
    loss = network.loss(Batch(batch.inputs, wild, mask))["loss"]
    assert torch.equal(loss, network.loss(Batch(batch.inputs, batch.actions, mask))["loss"])
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert wild.grad is not None
    assert not wild.grad[:, 3:].any()
    assert wild.grad[:, :3].any()


def test_the_same_noise_gives_the_same_chunk() -> None:
    """And other noise another one."""
    network = GmmNet(SHAPES, SMALL).eval()
    inputs = made_up_batch(SHAPES).inputs
    first, again, other = (
        network.plan(inputs, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_far_targets_and_tiny_scales_leave_numbers() -> None:
    """Loss and gradients stay finite where densities underflow."""
    network = GmmNet(SHAPES, SMALL)
    torch.nn.init.constant_(network.head.spread, -50.0)
    batch = made_up_batch(SHAPES)
    loss = network.loss(batch._replace(actions=batch.actions * 1e4))["loss"]
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_bf16_gives_nearly_the_same_loss() -> None:
    """Densities are computed in float32 under autocast."""
    network = GmmNet(SHAPES, SMALL).eval()
    torch.nn.init.constant_(network.head.spread, -0.4)  # a trained one: std 0.03
    batch = made_up_batch(SHAPES)
    mixture = network.mixture(batch.inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = network.loss(batch)["loss"]
        same = network.head.loss(mixture, batch)["surprise"]
    assert half.dtype == torch.float32
    assert torch.allclose(half, network.loss(batch)["loss"], rtol=0.02)
    assert torch.equal(same, network.head.loss(mixture, batch)["surprise"])


@pytest.mark.parametrize("shape", ["gaussian", "laplace"])
def test_a_short_chunk_has_the_exact_likelihood(shape: Literal["gaussian", "laplace"]) -> None:
    """Without tempering and floor: the mixture's log-density, per column."""
    shapes = Shapes(state=2, action=3, chunk_rows=1)
    network = GmmNet(shapes, GmmConfig(hidden=8, layers=1, floor=0.0, shape=shape))
    batch = made_up_batch(shapes)
    mixture = network.mixture(batch.inputs)
    mean, std = mixture.mean.flatten(2), network.head.std().flatten()
    each = (
        torch.distributions.Normal(mean, std)
        if shape == "gaussian"
        else torch.distributions.Laplace(mean, std / math.sqrt(2))
    )
    parts = torch.distributions.Independent(each, 1)
    weights = torch.distributions.Categorical(logits=mixture.log_weight)
    exact = torch.distributions.MixtureSameFamily(weights, parts)
    assert torch.allclose(
        network.loss(batch)["surprise"], -exact.log_prob(batch.actions.flatten(1)) / 3, atol=1e-5
    )


def test_precise_columns_do_not_drown_the_others() -> None:
    """A column that hardly moves gets a small scale, and the moving one is learned as well."""
    torch.manual_seed(0)
    shapes = Shapes(state=1, action=2, chunk_rows=1)
    network = GmmNet(shapes, GmmConfig(hidden=64, layers=2, components=1))
    state = torch.linspace(-2, 2, 64)[:, None]
    moving = (3 * state).sin() + 0.3 * torch.randn(64, 1)
    actions = torch.cat([1e-3 * torch.randn(64, 1), moving], -1)[:, None]
    batch = Batch(Inputs(state[:, None]), actions, torch.ones(64, 1))
    fit(network, batch, steps=200)
    still, noisy = network.head.std().detach().flatten().tolist()
    assert still < 0.03 < 0.15 < noisy
    wrong = network.plan(batch.inputs)[:, 0, 1:] - (3 * state).sin()
    assert wrong.abs().mean() < 0.2


def test_light_components_are_never_drawn() -> None:
    """A tenth of the heaviest one's weight is the least; the heaviest can be asked for."""
    shapes = Shapes(state=2, action=1, chunk_rows=1)
    weight = torch.tensor([0.5, 0.46, 0.04]).log().expand(500, -1)
    mean = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(500, -1, -1, -1)
    mixture = Mixture(weight, mean)
    noise = torch.Generator().manual_seed(0)
    config = GmmConfig(components=3, evaluation_std=0.0)
    drawn = MixtureHead(4, shapes, config).draw(mixture, noise)
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    assert 0.4 < drawn.mean() < 0.56
    likeliest = GmmConfig(components=3, evaluation_std=0.0, choice="likeliest")
    assert not MixtureHead(4, shapes, likeliest).draw(mixture, noise).any()


def test_every_component_can_be_asked_for() -> None:
    """A least share of 0 leaves none out."""
    torch.manual_seed(0)
    network = GmmNet(Shapes(state=2, action=2, chunk_rows=1), GmmConfig(hidden=8, least_share=0.0))
    inputs = made_up_batch(network.shapes).inputs
    assert network.plan(inputs, torch.Generator().manual_seed(0)).isfinite().all()
