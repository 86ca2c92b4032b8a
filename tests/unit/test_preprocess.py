"""Normalised tensors out of raw windows."""

import numpy as np
import pytest
import torch

from policies.augment import Augmenter, AugmentOptions
from policies.normalisation import ImageStatistics, Statistics, column_statistics
from policies.preprocess import Preprocessor
from policies.windows import Windows

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")
STATE = RNG.normal(1.0, 2.0, (300, 3))
ACTIONS = RNG.normal(-2.0, 0.5, (300, 2))
STATISTICS = Statistics(
    column_statistics(STATE),
    column_statistics(ACTIONS, "range"),
    (
        ImageStatistics((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
        ImageStatistics((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    ),
)


def some_windows(batch: int = 4, past: int = 2, cameras: int = 2) -> Windows:
    """Random ones."""
    return Windows(
        state=RNG.normal(size=(batch, past, 3)).astype(np.float32),
        images=RNG.integers(0, 256, (batch, past, cameras, 6, 8, 3)).astype(np.uint8),
        actions=ACTIONS[: batch * 5].reshape(batch, 5, 2).astype(np.float32),
        mask=np.ones((batch, 5), np.float32),
        weight=np.ones(batch, np.float32),
        text=np.ones((batch, 7), np.float32),
    )


def test_states_and_actions_go_through_their_maps() -> None:
    """The same numbers as the statistics give in float64."""
    windows = some_windows()
    batch, weight = Preprocessor(STATISTICS, CPU).batch(windows)
    state = STATISTICS.state.normalise(windows.state.astype(np.float64))
    assert batch.inputs.state.numpy() == pytest.approx(state, abs=1e-5)
    assert batch.actions.abs().max() <= 1 + 1e-6
    assert weight.shape == (4,)
    assert batch.mask.dtype == batch.actions.dtype == torch.float32


def test_pixels_are_normalised_by_camera_and_channel() -> None:
    """(B, n, C, H, W, 3) of 0..255 becomes (B, n, C, 3, H, W) of unit deviation."""
    windows = some_windows()
    images = Preprocessor(STATISTICS, CPU).batch(windows)[0].inputs.images
    assert images is not None
    assert images.shape == (4, 2, 2, 3, 6, 8)
    for camera, statistics in enumerate(STATISTICS.images):
        values = windows.images[:, :, camera] / 255
        expected = (values - np.array(statistics.mean)) / np.array(statistics.std)
        assert images[:, :, camera].movedim(2, -1).numpy() == pytest.approx(expected, abs=1e-5)


def test_a_batch_that_is_kept_is_not_overwritten_by_the_next() -> None:
    """Memory is used again only when nobody holds it, also not through a view."""
    prepare = Preprocessor(STATISTICS, CPU)
    kept = prepare.batch(some_windows())[0].inputs.images
    assert kept is not None
    view = kept[1, 0, 1]
    before = view.clone()
    del kept
    prepare.batch(some_windows())
    prepare.batch(some_windows())
    assert torch.equal(view, before)


def test_what_backward_needs_is_not_overwritten() -> None:
    """A gradient taken after the next batch was prepared is that of its own batch."""
    prepare = Preprocessor(STATISTICS, CPU)
    weight = torch.ones(3, 6, 8, requires_grad=True)
    images = prepare.batch(some_windows())[0].inputs.images
    assert images is not None
    expected = images.sum((0, 1, 2))
    loss = (images * weight).sum()
    del images
    prepare.batch(some_windows())
    loss.backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, expected, atol=1e-4)


def test_memory_that_nobody_holds_is_used_again() -> None:
    """Fresh memory of a large batch costs more than normalising it."""
    prepare = Preprocessor(STATISTICS, CPU)
    addresses = set()
    for _ in range(4):
        images = prepare.batch(some_windows())[0].inputs.images
        assert images is not None
        addresses.add(images.data_ptr())
        del images
    assert len(addresses) == 1


def test_what_the_policy_does_not_see_is_none() -> None:
    """Without cameras and text."""
    windows = some_windows(cameras=0)._replace(text=np.zeros((4, 0), np.float32))
    bare = Statistics(STATISTICS.state, STATISTICS.action, ())
    inputs = Preprocessor(bare, CPU).batch(windows)[0].inputs
    assert inputs.images is None
    assert inputs.text is None
    assert Preprocessor(bare, CPU).inputs(STATE[None, :2]).images is None


def test_only_with_an_augmenter_do_samples_vary() -> None:
    """Validation and deployment have none: twice the same."""
    windows = some_windows()
    plain = Preprocessor(STATISTICS, CPU)
    varied = Preprocessor(STATISTICS, CPU, Augmenter(AugmentOptions(shift_px=1)))
    once, again, other = (p.batch(windows)[0].inputs for p in (plain, plain, varied))
    assert once.images is not None
    assert again.images is not None
    assert other.images is not None
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.state, again.state)
    assert not torch.equal(once.state, other.state)
    assert not torch.equal(once.images, other.images)


def test_both_paths_of_pixels_agree_where_nothing_moves() -> None:
    """An even image stays what it is under any shift."""
    windows = some_windows()
    windows.images[:] = (10, 100, 200)
    plain = Preprocessor(STATISTICS, CPU).batch(windows)[0].inputs.images
    augment = Augmenter(AugmentOptions(shift_px=2))
    varied = Preprocessor(STATISTICS, CPU, augment).batch(windows)[0].inputs.images
    assert plain is not None
    assert varied is not None
    assert torch.allclose(plain, varied, atol=1e-5)
