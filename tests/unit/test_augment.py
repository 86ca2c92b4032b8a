"""Augmentation: what varies, what stays together, and that a seed repeats it."""

import pytest
import torch

from policies.augment import Augmenter, AugmentOptions

NOTHING = AugmentOptions(shift_px=0, colour=0.0, state_noise=0.0)


def dots(batch: int = 6, past: int = 2, cameras: int = 2) -> torch.Tensor:
    """Images with one bright pixel in the middle, (B, n, C, 3, 21, 21)."""
    images = torch.zeros(batch, past, cameras, 3, 21, 21)
    images[..., 10, 10] = 1.0
    return images


def place_of(image: torch.Tensor) -> tuple[int, int]:
    """Row and column of the bright pixel of (3, H, W)."""
    return divmod(int(image[0].argmax()), image.shape[-1])


def test_images_move_by_at_most_the_given_pixels_and_in_all_directions() -> None:
    """Over many samples."""
    torch.manual_seed(0)
    moved = Augmenter(AugmentOptions(shift_px=3)).images(dots(200, 1, 1))
    places = [place_of(moved[i, 0, 0]) for i in range(200)]
    assert {row for row, _ in places} == set(range(7, 14))
    assert {column for _, column in places} == set(range(7, 14))


def test_the_frames_of_one_samples_history_move_together_and_cameras_apart() -> None:
    """A history that jumps would look like motion."""
    torch.manual_seed(0)
    moved = Augmenter(AugmentOptions(shift_px=4)).images(dots())
    for sample in moved:
        for camera in range(2):
            assert place_of(sample[0, camera]) == place_of(sample[1, camera])
    assert any(place_of(sample[0, 0]) != place_of(sample[0, 1]) for sample in moved)


def test_the_border_is_repeated_where_the_image_has_moved_away() -> None:
    """A white image stays white."""
    torch.manual_seed(0)
    white = torch.ones(4, 1, 1, 3, 8, 8)
    assert torch.equal(Augmenter(AugmentOptions(shift_px=3)).images(white), white)


def test_colours_vary_alike_over_a_history_and_stay_in_range() -> None:
    """Two equal frames remain equal; samples differ."""
    torch.manual_seed(0)
    frame = torch.rand(5, 1, 1, 3, 8, 8).expand(5, 2, 1, 3, 8, 8)
    varied = Augmenter(AugmentOptions(shift_px=0, colour=0.3)).images(frame)
    assert torch.allclose(varied[:, 0], varied[:, 1])
    assert varied.min() >= 0
    assert varied.max() <= 1
    change = (varied - frame).abs().mean((1, 2, 3, 4, 5))
    assert (change > 0.005).all()
    assert change.std() > 0.001


def test_state_noise_has_the_given_deviation() -> None:
    """Zero mean."""
    torch.manual_seed(0)
    noise = Augmenter(AugmentOptions(state_noise=0.05)).state(torch.zeros(500, 2, 14))
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.005)


def test_the_same_seed_repeats_the_same_variation() -> None:
    """What exact resume rests on."""
    augment = Augmenter(AugmentOptions(shift_px=4, colour=0.2))
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append((augment.images(dots()), augment.state(torch.zeros(3, 1, 2))))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_zeros_leave_everything_as_it_is() -> None:
    """And say so, so that no time is spent."""
    augment = Augmenter(NOTHING)
    state = torch.rand(3, 1, 4)
    assert augment.state(state) is state
    assert not augment.varies_images
    assert torch.equal(augment.images(dots()), dots())
