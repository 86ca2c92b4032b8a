"""The diffusion family: its noise, its samplers, and what it learns."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies.diffusion import DiffusionConfig, DiffusionNet
from policies.family import Batch, Inputs, Shapes
from teleop.errors import PolicyError

SHAPES = Shapes(state=1, action=2, chunk_rows=3)
SMALL: dict[str, Any] = {
    "width": 32,
    "layers": 2,
    "heads": 2,
    "hidden": 32,
    "unet_sizes": (16, 32),
}
INPUTS = Inputs(torch.zeros(50, 1, 1))
PREDICTIONS = ["epsilon", "sample", "v_prediction"]


class Oracle(nn.Module):
    """The best possible denoiser where the data is one chunk; keeps the levels it was asked."""

    def __init__(self, point: Tensor, prediction: str, kept: Tensor) -> None:
        super().__init__()
        self.point = point
        self.prediction = prediction
        self.kept = kept
        """Share of the clean chunk's variance at each noise level, (100,)."""
        self.asked: list[int] = []

    def forward(self, chunk: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        level = (time * len(self.kept)).round().long()
        self.asked.append(int(level[0]))
        kept = self.kept[level][:, None, None]
        noise = (chunk - kept.sqrt() * self.point) / (1 - kept).sqrt()
        return {
            "epsilon": noise,
            "sample": self.point.expand_as(chunk),
            "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * self.point,
        }[self.prediction]


def train(network: DiffusionNet, actions: Tensor, steps: int, seed: int = 0) -> None:
    """Steps of Adam on one batch of chunks, all seen from the same observation."""
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    batch = Batch(Inputs(torch.zeros(len(actions), 1, 1)), actions, torch.ones(actions.shape[:2]))
    for _ in range(steps):
        optimiser.zero_grad()
        network.loss(batch)["loss"].mean().backward()
        optimiser.step()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 1), ("ddim", 10), ("ddpm", 100)])
def test_a_perfect_denoiser_gives_the_recorded_chunk(
    prediction: Any, sampler: Any, steps: int
) -> None:
    """Whatever it predicts, by both samplers and any number of steps."""
    config = DiffusionConfig(**SMALL, prediction=prediction, sampler=sampler, inference_steps=steps)
    network = DiffusionNet(SHAPES, config)
    point = torch.tensor([[0.5, -0.9], [0.1, 0.0], [-0.3, 1.0]])
    oracle = Oracle(point, prediction, network.levels.alphas_cumprod)
    network.denoise = oracle
    plan = network.plan(INPUTS, torch.Generator().manual_seed(0))
    assert torch.allclose(plan, point.expand_as(plan), atol=1e-4)
    assert len(oracle.asked) == steps
    assert oracle.asked == sorted(oracle.asked, reverse=True)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_denoiser_has_no_loss(prediction: Any) -> None:
    """Training asks for exactly what sampling uses, for every prediction."""
    network = DiffusionNet(SHAPES, DiffusionConfig(**SMALL, prediction=prediction))
    point = torch.tensor([[0.5, -0.9], [0.1, 0.0], [-0.3, 1.0]])
    network.denoise = Oracle(point, prediction, network.levels.alphas_cumprod)
    batch = Batch(INPUTS, point.expand(50, -1, -1), torch.ones(50, 3))
    assert network.loss(batch)["loss"].max() < 1e-4


def test_the_noise_follows_the_published_cosine() -> None:
    """Kept variance falls as cos^2 of the level's share (Nichol and Dhariwal 2021)."""
    kept = DiffusionNet(SHAPES, DiffusionConfig(**SMALL)).levels.alphas_cumprod
    share = (torch.arange(100) + 1) / 100
    cosine = torch.cos((share + 0.008) / 1.008 * torch.pi / 2) ** 2
    assert torch.allclose(kept[:-1], (cosine / cosine.new_tensor(0.99984456))[:-1], atol=1e-4)


def test_both_denoisers_learn_two_ways_without_their_mean() -> None:
    """A fork: half the chunks at +0.8, half at -0.8; plans lie near one or the other."""
    sides = torch.tensor([0.8, -0.8]).repeat(16)[:, None, None].expand(-1, 3, 2)
    for denoiser in ("transformer", "unet"):
        network = DiffusionNet(SHAPES, DiffusionConfig(**SMALL, denoiser=denoiser))
        train(network, sides, 150)
        with torch.no_grad():
            plan = network.plan(Inputs(torch.zeros(400, 1, 1)), torch.Generator().manual_seed(0))
        near = ((plan.abs() - 0.8).abs() < 0.3).all((1, 2))
        whole = (plan.sign() == plan[:, :1, :1].sign()).all((1, 2))
        assert (near & whole).float().mean() > 0.9
        assert 0.3 < (plan[:, 0, 0] > 0).float().mean() < 0.7


def test_plans_stay_inside_the_clip() -> None:
    """An untrained network's chunk lies in the data's range; without clip it does not."""
    inputs = Inputs(torch.randn(50, 1, 1))
    for clip, inside in ((1.0, True), (0.0, False)):
        torch.manual_seed(0)
        network = DiffusionNet(SHAPES, DiffusionConfig(**SMALL, prediction="epsilon", clip=clip))
        plan = network.plan(inputs, torch.Generator().manual_seed(0))
        assert bool((plan.abs() <= 1 + 1e-5).all()) is inside


def test_more_steps_than_noise_levels_are_refused() -> None:
    """In one sentence that names both numbers."""
    with pytest.raises(PolicyError, match=r"inference_steps 101 must lie in 1 \.\.\. 100"):
        DiffusionNet(SHAPES, DiffusionConfig(**SMALL, inference_steps=101))
