"""The flow family: its way from noise to data, and what it learns."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies.family import Batch, Inputs, Shapes
from policies.flow import FlowConfig, FlowNet

SHAPES = Shapes(state=1, action=2, chunk_rows=3)
SMALL: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "hidden": 32}
POINT = torch.tensor([[0.5, -0.9], [0.1, 0.0], [-0.3, 1.0]])


class Oracle(nn.Module):
    """The exact answer where the data is one chunk."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, chunk: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        if self.prediction == "sample":
            return POINT.expand_as(chunk)
        return (POINT - chunk) / (1 - time)[:, None, None]


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
@pytest.mark.parametrize("steps", [1, 2, 10, 33])
def test_a_perfect_network_gives_the_recorded_chunk(prediction: Any, steps: int) -> None:
    """With any number of Euler steps, because the way is straight."""
    config = FlowConfig(**SMALL, prediction=prediction, inference_steps=steps)
    network = FlowNet(SHAPES, config)
    network.denoise = Oracle(prediction)
    plan = network.plan(Inputs(torch.zeros(20, 1, 1)), torch.Generator().manual_seed(0))
    assert torch.allclose(plan, POINT.expand_as(plan), atol=1e-5)


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
@pytest.mark.parametrize("times", ["uniform", "beta", "logit_normal"])
def test_a_perfect_network_has_no_loss(prediction: Any, times: Any) -> None:
    """Training asks for exactly what sampling uses, wherever it looks."""
    torch.manual_seed(0)
    network = FlowNet(SHAPES, FlowConfig(**SMALL, prediction=prediction, times=times))
    network.denoise = Oracle(prediction)
    batch = Batch(Inputs(torch.zeros(50, 1, 1)), POINT.expand(50, -1, -1), torch.ones(50, 3))
    assert network.loss(batch)["loss"].max() < 1e-4


@pytest.mark.parametrize(
    ("times", "mean", "early"),
    [("uniform", 0.5, 0.1), ("beta", 0.4, 0.146), ("logit_normal", 0.5, 0.014)],
)
def test_training_times_follow_their_law(times: Any, mean: float, early: float) -> None:
    """Mean time, and the share of samples in the noisiest tenth of the way."""
    torch.manual_seed(0)
    drawn = FlowNet(SHAPES, FlowConfig(**SMALL, times=times)).training_times(
        100_000, torch.device("cpu")
    )
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert drawn.mean().item() == pytest.approx(mean, abs=0.01)
    assert (drawn < 0.1).float().mean().item() == pytest.approx(early, abs=0.005)


@pytest.fixture(scope="module")
def forked() -> FlowNet:
    """Trained where half the chunks stand at +0.8 and half at -0.8."""
    torch.manual_seed(0)
    network = FlowNet(SHAPES, FlowConfig(**SMALL))
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    sides = torch.tensor([0.8, -0.8]).repeat(16)[:, None, None].expand(-1, 3, 2)
    batch = Batch(Inputs(torch.zeros(32, 1, 1)), sides, torch.ones(32, 3))
    for _ in range(300):
        optimiser.zero_grad()
        network.loss(batch)["loss"].mean().backward()
        optimiser.step()
    return network


def plan(network: FlowNet, steps: int) -> Tensor:
    """400 plans with these Euler steps, always from the same noise."""
    sampler = FlowNet(SHAPES, FlowConfig(**SMALL, inference_steps=steps))
    sampler.load_state_dict(network.state_dict())
    with torch.no_grad():
        return sampler.plan(Inputs(torch.zeros(400, 1, 1)), torch.Generator().manual_seed(0))


def test_a_fork_is_taken_to_both_sides_alike(forked: FlowNet) -> None:
    """Every plan goes one way, not between; each way about half the time."""
    plans = plan(forked, 10)
    near = ((plans.abs() - 0.8).abs() < 0.3).all((1, 2))
    whole = (plans.sign() == plans[:, :1, :1].sign()).all((1, 2))
    assert (near & whole).float().mean() > 0.9
    assert 0.35 < (plans[:, 0, 0] > 0).float().mean() < 0.65


def test_more_euler_steps_only_refine_the_plan(forked: FlowNet) -> None:
    """From the same noise, steps bring the plan nearer to that of very many."""
    exact = plan(forked, 100)
    errors = [(plan(forked, steps) - exact).abs().mean().item() for steps in (1, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05


def test_plans_stay_inside_the_clip() -> None:
    """A finished chunk is clamped to it; without clip it is not."""
    for clip, inside in ((0.01, True), (0.0, False)):
        network = FlowNet(SHAPES, FlowConfig(**SMALL, clip=clip))
        chunk = network.plan(Inputs(torch.zeros(50, 1, 1)), torch.Generator().manual_seed(0))
        assert bool((chunk.abs() <= 0.01).all()) is inside
