"""The bins network."""

import pytest
import torch
from family_checks import fit, fork, made_up_batch, ways_taken

from policies.bins import NONE, BinsConfig, BinsNet, coarse_to_fine
from policies.family import Batch, Shapes

SHAPES = Shapes(state=6, action=4, chunk_rows=5, history=2, cameras=1, height=24, width=32, text=3)
SMALL = BinsConfig(hidden=64, row_hidden=64, token_hidden=32, features=8)


def test_it_plans_from_state_images_and_text_with_a_history() -> None:
    """Shapes, actions within the bins, and a gradient in every part of the head."""
    torch.manual_seed(0)
    network = BinsNet(SHAPES, SMALL)
    batch = made_up_batch(SHAPES)
    chunk = network.plan(batch.inputs)
    assert chunk.shape == (4, 5, 4)
    assert chunk.abs().max() <= 1
    network.loss(batch)["loss"].sum().backward()  # type: ignore[no-untyped-call]
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in dead if "encoders" not in name] == []


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 100])
def test_every_row_is_decoded_once_between_known_rows(rows: int) -> None:
    """From coarse to fine."""
    order = coarse_to_fine(rows)
    known: set[int] = set()
    for together in order.rounds:
        for row in together:
            sides = {order.before[row], order.after[row]} - {NONE}
            assert sides <= known
        known |= set(together)
    assert sorted(row for together in order.rounds for row in together) == list(range(rows))
    assert len(order.rounds) <= 9


@pytest.mark.parametrize("rows", [1, 16])
def test_drawn_chunks_follow_one_way_of_a_fork(rows: int) -> None:
    """Both ways about equally often, and no column or row of the other way among them."""
    torch.manual_seed(0)
    shapes = Shapes(state=2, action=3, chunk_rows=rows)
    network = BinsNet(shapes, SMALL)
    fit(network, fork(shapes, 32, learn_seed=1), steps=150, learning_rate=5e-3)
    valid, right = ways_taken(network, shapes)
    assert valid >= 0.95
    assert 0.35 < right < 0.65


def test_a_batch_is_learned_by_heart() -> None:
    """Near-zero error."""
    torch.manual_seed(0)
    shapes = Shapes(state=6, action=4, chunk_rows=5)
    network = BinsNet(shapes, SMALL)
    batch = made_up_batch(shapes, 8)
    fit(network, batch, steps=250, learning_rate=5e-3)
    noise = torch.Generator().manual_seed(0)
    assert (network.plan(batch.inputs, noise) - batch.actions).abs().mean() < 0.03


@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_neither_loss_nor_gradient(training: bool) -> None:
    """Whatever stands in rows that do not count, even as a neighbour of rows that do."""
    network = BinsNet(SHAPES, SMALL).train(training)
    batch = made_up_batch(SHAPES)
    mask = batch.mask.clone()
    mask[:, 3:] = 0
    losses = []
    for padding in (0.5, -0.9):
        actions = batch.actions.clone()
        actions[:, 3:] = padding
        actions.requires_grad_()
        torch.manual_seed(0)
        losses.append(network.loss(Batch(batch.inputs, actions, mask))["loss"])
        losses[-1].sum().backward()  # type: ignore[no-untyped-call]
        assert actions.grad is not None
        assert not actions.grad[:, 3:].any()
    assert torch.equal(*losses)


def test_the_same_noise_gives_the_same_chunk() -> None:
    """And the likeliest bins need none."""
    network = BinsNet(SHAPES, SMALL).eval()
    inputs = made_up_batch(SHAPES).inputs
    first, again, other = (
        network.plan(inputs, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    likeliest = BinsNet(SHAPES, BinsConfig(choice="likeliest")).eval()
    assert torch.equal(likeliest.plan(inputs), likeliest.plan(inputs))


def test_without_refining_actions_are_centres_of_bins() -> None:
    """256 of them over [-1, 1]."""
    network = BinsNet(SHAPES, BinsConfig(refine=0)).eval()
    place = (network.plan(made_up_batch(SHAPES).inputs) + 1) / 2 * 256 - 0.5
    assert torch.allclose(place, place.round(), atol=1e-3)


def test_bf16_and_targets_beyond_the_bins_leave_numbers() -> None:
    """Values outside the quantiles belong to the outermost bins."""
    network = BinsNet(SHAPES, SMALL)
    batch = made_up_batch(SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network.loss(batch._replace(actions=batch.actions * 1e6))["loss"]
        chunk = network.plan(batch.inputs)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert chunk.isfinite().all()
