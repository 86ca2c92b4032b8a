"""The denoisers, and what both families that use them promise."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from family_checks import made_up_batch

from policies.denoiser import DenoiserConfig, make_denoiser
from policies.diffusion import DiffusionConfig, DiffusionNet
from policies.family import Batch, Family, Inputs, Shapes
from policies.flow import FlowConfig, FlowNet
from policies.unet import RowConvolution
from teleop.errors import PolicyError

TINY: dict[str, Any] = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "hidden": 16,
    "unet_sizes": (8, 16),
    "features": 4,
}
FAMILIES: list[tuple[type[Family], type[DenoiserConfig]]] = [
    (DiffusionNet, DiffusionConfig),
    (FlowNet, FlowConfig),
]
SHAPES = Shapes(state=3, action=2, chunk_rows=7)

every_family = pytest.mark.parametrize(("family", "config_type"), FAMILIES)
every_denoiser = pytest.mark.parametrize("denoiser", ["transformer", "unet"])


@every_denoiser
@every_family
@pytest.mark.parametrize("chunk_rows", [1, 7, 100])
def test_a_chunk_may_have_any_length(
    family: type[Family], config_type: type[DenoiserConfig], denoiser: str, chunk_rows: int
) -> None:
    """One row, a length that divides by nothing, and a long one; every weight is trained."""
    shapes = replace(SHAPES, chunk_rows=chunk_rows)
    network = family(shapes, config_type(**TINY, denoiser=denoiser))
    sample = made_up_batch(shapes)
    assert network.plan(sample.inputs).shape == (4, chunk_rows, 2)
    losses = network.loss(sample)["loss"]
    assert losses.shape == (4,)
    losses.sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@every_denoiser
@every_family
def test_history_images_and_text_all_reach_the_denoiser(
    family: type[Family], config_type: type[DenoiserConfig], denoiser: str
) -> None:
    """Changing any one of them changes the plan."""
    shapes = Shapes(3, 2, 7, history=2, cameras=1, height=16, width=24, text=5)
    network = family(shapes, config_type(**TINY, denoiser=denoiser))
    inputs = made_up_batch(shapes).inputs
    assert inputs.images is not None
    assert inputs.text is not None

    def plan(changed: Inputs) -> torch.Tensor:
        return network.plan(changed, torch.Generator().manual_seed(0))

    oldest = inputs.state.clone()
    oldest[:, 0] += 1
    for other in (
        inputs._replace(state=oldest),
        inputs._replace(images=inputs.images.flip(-1)),
        inputs._replace(text=inputs.text + 1),
    ):
        assert not torch.equal(plan(inputs), plan(other))


@every_denoiser
@every_family
def test_padding_rows_change_neither_loss_nor_gradient(
    family: type[Family], config_type: type[DenoiserConfig], denoiser: str
) -> None:
    """Whatever actions stand in rows with mask 0."""
    network = family(SHAPES, config_type(**TINY, denoiser=denoiser))
    sample = made_up_batch(SHAPES)
    mask = sample.mask.clone()
    mask[:, 4:] = 0
    wild = sample.actions.clone()
    wild[:, 4:] = 1e3
    results = []
    for actions in (sample.actions, wild):
        torch.manual_seed(1)
        network.zero_grad()
        losses = network.loss(Batch(sample.inputs, actions, mask))["loss"]
        losses.sum().backward()
        results.append((losses.detach(), [p.grad for p in network.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for left, right in zip(results[0][1], results[1][1], strict=True):
        assert left is not None
        assert right is not None
        assert torch.equal(left, right)


@every_family
def test_the_generator_decides_the_plan(
    family: type[Family], config_type: type[DenoiserConfig]
) -> None:
    """Same seed, same chunk, whatever torch's own generator does; another seed, another chunk."""
    network = family(SHAPES, config_type(**TINY))
    inputs = made_up_batch(SHAPES).inputs

    def plan(seed: int) -> torch.Tensor:
        torch.manual_seed(100 + torch.randint(1000, ()).item())
        return network.plan(inputs, torch.Generator().manual_seed(seed))

    assert torch.equal(plan(0), plan(0))
    assert not torch.equal(plan(0), plan(1))


@every_denoiser
@every_family
def test_bf16_trains_close_to_float32_and_samples(
    family: type[Family], config_type: type[DenoiserConfig], denoiser: str
) -> None:
    """Under autocast the loss is nearly the same; a plan in bf16 arithmetic is float32 too."""
    config = config_type(**TINY, denoiser=denoiser)
    network = family(SHAPES, config)
    sample = made_up_batch(SHAPES)
    losses, plans = [], []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(network.loss(sample)["loss"])
            plans.append(network.plan(sample.inputs, torch.Generator().manual_seed(0)))
        losses[-1].sum().backward()
    assert losses[1].dtype == plans[1].dtype == torch.float32
    assert torch.allclose(losses[0], losses[1], rtol=0.05)
    assert plans[1].isfinite().all()
    assert not torch.equal(plans[0], plans[1])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_row_convolution_is_a_convolution(stride: int, rows: int) -> None:
    """The matrix product over windows equals torch's own convolution."""
    ours = RowConvolution(3, 6, 5, stride)
    x = torch.randn(2, 3, rows)
    weight = ours.weight.view(6, 3, 5)
    theirs = torch.nn.functional.conv1d(x, weight, ours.bias, stride, padding=2)
    assert torch.allclose(ours(x), theirs, atol=1e-5)


def test_the_published_push_t_network_has_its_published_size() -> None:
    """Levels 512, 1024, 2048 over 2 observations of 66 columns: 263 M weights, within 2 %."""
    config = DenoiserConfig(denoiser="unet", unet_sizes=(512, 1024, 2048))
    with torch.device("meta"):
        network = make_denoiser(Shapes(66, 2, 16, history=2), config, 132)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(262.7e6, rel=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 30, "heads": 4}, "width 30 does not divide into 4 heads"),
        ({"rows_per_token": 0}, "rows_per_token is 0; give 1 or more"),
        ({"denoiser": "unet", "unet_sizes": (64, 100)}, "multiple of 8 channels"),
        ({"denoiser": "unet", "unet_sizes": ()}, "multiple of 8 channels"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    """In one sentence that says what to give instead."""
    with pytest.raises(PolicyError, match=said):
        make_denoiser(SHAPES, DenoiserConfig(**options), 3)
