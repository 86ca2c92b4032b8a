"""Delays between signals that are known to be so far apart."""

import math

import numpy as np
import pytest

from calibration.latency import delay_of, excitation
from teleop.errors import DeviceError
from teleop.messages import FloatArray

START_NS = 5_000_000_000
S = 1_000_000_000


def stamps(seconds: float, hz: float, jitter_s: float = 0.0, seed: int = 0) -> FloatArray:
    """Sample times, ns."""
    even = np.arange(0.0, seconds, 1 / hz)
    noise = np.random.default_rng(seed).uniform(0, jitter_s, len(even))
    return START_NS + np.rint((even + noise) * S)


def motion(stamp_ns: FloatArray, late_s: float = 0.0) -> FloatArray:
    """The motion, ``late_s`` ago."""
    return excitation((stamp_ns - START_NS) / S - late_s)


@pytest.mark.parametrize("late_s", [0.0, 0.003, 0.0175, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_delays_are_found_within_five_milliseconds(late_s: float, noise: float) -> None:
    """100 Hz against 30 fps with jitter, and noise on both of a twentieth of the swing."""
    rng = np.random.default_rng(1)
    fast, slow = stamps(10, 100, 0.002), stamps(10, 30, 0.004, seed=2)
    earlier = motion(fast) + rng.normal(0, noise, len(fast))
    later = motion(slow, late_s) + rng.normal(0, noise, len(slow))
    found = delay_of(slow, later, fast, earlier, "camera")
    assert found.delay_s == pytest.approx(late_s, abs=0.005 if noise else 0.001)
    assert abs(found.delay_s - late_s) < 4 * found.sigma_s + 0.001


def test_a_picture_needs_no_feature_that_is_proportional() -> None:
    """Pixels that brighten and darken with the motion, in many mixtures."""
    rng = np.random.default_rng(3)
    fast, slow = stamps(10, 100), stamps(10, 30)
    seen = motion(slow, 0.08)
    pixels = np.stack(
        [rng.normal() * seen + rng.normal() * seen**2 + rng.normal() for _ in range(300)], axis=1
    )
    pixels += rng.normal(0, 0.3, pixels.shape)
    found = delay_of(slow, pixels, fast, motion(fast), "camera")
    assert found.delay_s == pytest.approx(0.08, abs=0.003)


def test_a_stamp_before_its_cause_shows_as_a_negative_delay() -> None:
    """Two clocks that disagree are told, not hidden."""
    fast = stamps(10, 100)
    found = delay_of(fast, motion(fast, -0.03), fast, motion(fast), "camera")
    assert found.delay_s == pytest.approx(-0.03, abs=0.002)


def test_signals_that_do_not_belong_together_are_refused() -> None:
    """Noise has no delay."""
    fast = stamps(10, 100)
    noise = np.random.default_rng(0).normal(size=len(fast))
    with pytest.raises(DeviceError, match=r"agree by 0.* is the motion in view"):
        delay_of(fast, noise, fast, motion(fast), "camera")


def test_pictures_of_noise_do_not_agree_with_anything() -> None:
    """However many pixels there are."""
    rng = np.random.default_rng(0)
    fast, slow = stamps(10, 100), stamps(10, 30)
    with pytest.raises(DeviceError, match="is the motion in view"):
        delay_of(slow, rng.normal(size=(len(slow), 500)), fast, motion(fast), "camera")


def test_a_motion_that_repeats_is_refused() -> None:
    """A 5 Hz sine fits at every 0.1 s (pictures have no sign)."""
    fast = stamps(10, 100)
    sine = np.sin(2 * math.pi * 5 * (fast - START_NS) / S)
    with pytest.raises(DeviceError, match="too slow or repeats"):
        delay_of(fast, sine, fast, sine, "camera")


def test_nothing_moving_and_too_short_are_refused() -> None:
    """Each with what to do."""
    fast = stamps(10, 100)
    with pytest.raises(DeviceError, match="nothing moves"):
        delay_of(fast, np.zeros(len(fast)), fast, motion(fast), "camera")
    short = stamps(1, 100)
    with pytest.raises(DeviceError, match=r"record 3\.4 s or more"):
        delay_of(short, motion(short), short, motion(short), "camera")


def test_a_delay_beyond_the_search_is_refused() -> None:
    """Half a second is not a latency, it is another clock."""
    fast = stamps(10, 100)
    with pytest.raises(DeviceError, match="same clock"):
        delay_of(fast, motion(fast, 0.5), fast, motion(fast), "camera")


def test_the_motion_is_gentle_and_starts_at_rest() -> None:
    """Within +-1, from 0, no faster than it says."""
    t = np.linspace(0, 30, 30_001)
    path = excitation(t)
    assert np.abs(path).max() <= 1.0
    speed = np.gradient(path, t)
    assert abs(path[0]) + abs(speed[0]) < 0.01
    assert np.abs(speed).max() < 4.3
