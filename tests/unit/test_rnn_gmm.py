"""The bc-rnn-gmm network."""

import torch
from family_checks import fit, fork, made_up_batch, ways_taken

from policies.family import Batch, Inputs, Shapes
from policies.rnn_gmm import RnnGmmConfig, RnnGmmNet

SHAPES = Shapes(state=6, action=4, chunk_rows=3, history=4, cameras=1, height=24, width=32, text=3)
SMALL = RnnGmmConfig(hidden=48, features=8)


def test_it_plans_from_state_images_and_text_with_a_history() -> None:
    """Shapes, and a gradient in the recurrent weights of both layers."""
    network = RnnGmmNet(SHAPES, SMALL)
    batch = made_up_batch(SHAPES)
    assert network.plan(batch.inputs).shape == (4, 3, 4)
    network.loss(batch)["loss"].sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.any() for p in network.lstm.parameters())


def test_what_happened_first_changes_the_plan() -> None:
    """The oldest observation of the window reaches the mixture."""
    network = RnnGmmNet(SHAPES, SMALL).eval()
    inputs = made_up_batch(SHAPES).inputs
    state = inputs.state.clone()
    state[:, 0] += 1
    assert (network.mixture(inputs).mean != network.mixture(Inputs(state, *inputs[1:])).mean).any()


def test_drawn_chunks_follow_one_way_of_a_fork() -> None:
    """Both ways about equally often, and never the mean of them."""
    torch.manual_seed(0)
    shapes = Shapes(state=2, action=2, chunk_rows=8, history=3)
    network = RnnGmmNet(shapes, SMALL)
    fit(network, fork(shapes, 64, learn_seed=1), steps=120, learning_rate=5e-3)
    valid, right = ways_taken(network, shapes)
    assert valid >= 0.95
    assert 0.35 < right < 0.65


def test_padding_does_not_change_the_loss() -> None:
    """Whatever stands in rows that do not count."""
    network = RnnGmmNet(SHAPES, SMALL).eval()
    batch = made_up_batch(SHAPES)
    mask = batch.mask.clone()
    mask[:, 1:] = 0
    wild = batch.actions.clone()
    wild[:, 1:] = 1e3
    losses = [network.loss(Batch(batch.inputs, a, mask))["loss"] for a in (batch.actions, wild)]
    assert torch.equal(*losses)


def test_the_recipe_looks_back_ten_rows() -> None:
    """robomimic's sequence length, which it does not work without."""
    assert RnnGmmNet.recipe["history"] == 10
