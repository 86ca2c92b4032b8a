"""The bc network."""

import pytest
import torch
from family_checks import fit, made_up_batch

from policies.bc import BcConfig, BcNet
from policies.family import Batch, Inputs, Shapes

SHAPES = Shapes(state=6, action=4, chunk_rows=5, history=2, cameras=1, height=24, width=32, text=3)
SMALL = BcConfig(hidden=64, layers=2, features=8)


def test_it_plans_from_state_images_and_text_with_a_history() -> None:
    """Shapes, and a gradient in every layer of the head."""
    network = BcNet(SHAPES, SMALL)
    batch = made_up_batch(SHAPES)
    assert network.plan(batch.inputs).shape == (4, 5, 4)
    network.loss(batch)["loss"].sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.any() for p in network.head.parameters())


@pytest.mark.parametrize("error", ["l1", "mse"])
def test_padding_changes_neither_loss_nor_gradient(error: str) -> None:
    """Whatever stands in rows that do not count; the mean is over those that do."""
    network = BcNet(SHAPES, BcConfig(hidden=16, features=4, error=error)).eval()  # type: ignore[arg-type]
    batch = made_up_batch(SHAPES)
    mask = batch.mask.clone()
    mask[:, 3:] = 0
    wild = batch.actions.clone()
    wild[:, 3:] = 1e6
    wild.requires_grad_()
    loss = network.loss(Batch(batch.inputs, wild, mask))["loss"]
    away = (network.plan(batch.inputs) - batch.actions)[:, :3]
    expected = away.abs() if error == "l1" else away.square()
    assert torch.allclose(loss, expected.mean((1, 2)), atol=1e-6)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert wild.grad is not None
    assert not wild.grad[:, 3:].any()


def test_a_batch_is_learned_by_heart() -> None:
    """Near-zero error."""
    torch.manual_seed(0)
    shapes = Shapes(state=6, action=4, chunk_rows=5)
    network = BcNet(shapes, BcConfig(hidden=128, layers=2))
    batch = made_up_batch(shapes, 8)
    fit(network, batch, steps=200)
    assert (network.plan(batch.inputs) - batch.actions).abs().mean() < 0.03


def test_a_squared_error_answers_with_the_mean_of_two_ways() -> None:
    """What the mixture, bins and denoising families exist for."""
    torch.manual_seed(0)
    shapes = Shapes(state=2, action=1, chunk_rows=1)
    network = BcNet(shapes, BcConfig(hidden=32, layers=1, error="mse"))
    side = (1.0 - 2.0 * (torch.arange(16) % 2)).view(16, 1, 1)
    batch = Batch(Inputs(torch.zeros(16, 1, 2)), side, torch.ones(16, 1))
    fit(network, batch, steps=50)
    assert network.plan(batch.inputs).abs().max() < 0.05
