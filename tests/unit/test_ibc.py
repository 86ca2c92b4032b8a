"""The ibc network."""

import pytest
import torch

from policies.family import Batch, Inputs, Shapes
from policies.ibc import IbcConfig, IbcNet

SHAPES = Shapes(state=4, action=2, chunk_rows=3)
SMALL = IbcConfig(hidden=32, negatives=16, candidates=64)


def batch(shapes: Shapes, size: int = 4) -> Batch:
    """Random observations and chunks in [-1, 1] that all count."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(*shape, generator=generator) - 1

    frames = (size, shapes.history, shapes.cameras, 3, shapes.height, shapes.width)
    inputs = Inputs(
        noise(size, shapes.history, shapes.state),
        noise(*frames) if shapes.cameras else None,
        noise(size, shapes.text) if shapes.text else None,
    )
    actions = noise(size, shapes.chunk_rows, shapes.action)
    return Batch(inputs, actions, torch.ones(size, shapes.chunk_rows))


def net(shapes: Shapes = SHAPES, config: IbcConfig = SMALL) -> IbcNet:
    torch.manual_seed(0)
    return IbcNet(shapes, config)


def trained(example: Batch, shapes: Shapes, steps: int = 300) -> IbcNet:
    """A network that has seen one batch many times."""
    network = net(shapes, IbcConfig(hidden=64, negatives=64, candidates=256, iterations=5))
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        network.loss(example)["loss"].mean().backward()
        optimiser.step()
    return network.eval()


@pytest.mark.parametrize("chunk_rows", [1, 3])
@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("cameras", [0, 2])
@pytest.mark.parametrize("text", [0, 6])
def test_a_plan_lies_in_the_range_of_the_data(
    chunk_rows: int, history: int, cameras: int, text: int
) -> None:
    """Whatever the inputs, the plan is (B, K, A) within [-1, 1], and losses are per sample."""
    shapes = Shapes(4, 2, chunk_rows, history, cameras, 24, 32, text)
    network, example = net(shapes), batch(shapes)
    plan = network.plan(example.inputs)
    assert plan.shape == (4, chunk_rows, 2)
    assert plan.abs().max() <= 1.0
    assert network.loss(example)["loss"].shape == (4,)


def test_the_search_repeats_with_the_same_noise() -> None:
    """One seed gives one plan, another seed another."""
    network, inputs = net().eval(), batch(SHAPES).inputs
    plans = [network.plan(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[0], plans[2])


def test_padding_does_not_change_the_loss() -> None:
    """Actions beyond the end of the episode may hold anything."""
    network, example = net().eval(), batch(SHAPES)
    example.mask[:, 1:] = 0
    other = example._replace(actions=example.actions.clone())
    other.actions[:, 1:] = 100.0
    torch.manual_seed(3)
    one = network.loss(example)["loss"]
    torch.manual_seed(3)
    torch.testing.assert_close(network.loss(other)["loss"], one)


def test_an_indifferent_energy_is_a_guess_among_all_choices() -> None:
    """With equal energies InfoNCE is the logarithm of the number of choices."""
    network, example = net(), batch(SHAPES)
    torch.nn.init.zeros_(network.rate[1][-1].weight)  # type: ignore[index,arg-type]
    expected = torch.full((4,), 17.0).log()
    torch.testing.assert_close(network.loss(example)["loss"], expected)


def test_a_batch_is_learnt_by_heart() -> None:
    """The search finds eight demonstrated actions again."""
    shapes = Shapes(state=4, action=2, chunk_rows=1)
    example = batch(shapes, 8)
    network = trained(example, shapes)
    wrong = network.plan(example.inputs, torch.Generator().manual_seed(0)) - example.actions
    assert wrong.abs().mean() < 0.1


def test_of_two_ways_one_is_taken_not_their_mean() -> None:
    """Where demonstrations go both left and right, plans are near -0.6 or 0.6, never between."""
    shapes = Shapes(state=1, action=1, chunk_rows=1)
    inputs = Inputs(torch.zeros(16, 1, 1))
    actions = 0.6 * torch.tensor([-1.0, 1.0]).repeat(8)[:, None, None]
    network = trained(Batch(inputs, actions, torch.ones(16, 1)), shapes, 200)
    plan = network.plan(inputs, torch.Generator().manual_seed(0))
    assert (plan.abs() - 0.6).abs().max() < 0.2


def test_losses_are_float32_under_autocast() -> None:
    """The cross-entropy is not taken in half precision."""
    network, example = net(), batch(SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.loss(example)["loss"].dtype == torch.float32
        assert network.plan(example.inputs).dtype == torch.float32
