"""How much later one signal shows the same motion as another.

The correlation of the later signal with the earlier one, moved by a trial delay, peaks at the
true delay. The earlier one is interpolated at each trial, so that rates need not match and the
answer is finer than a sample. A signal of several features (a picture) is correlated through the
combination of them that fits best at each trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from teleop.clock import NS_PER_S
from teleop.errors import DeviceError
from teleop.messages import FloatArray

MAX_DELAY_S = 0.4
"""Longest delay looked for; devices of a rig stay below 0.2 s."""
EARLIEST_S = -0.1
"""Stamps may claim a cause before its effect when two clocks or drivers disagree."""
STEP_S = 0.001
SMOOTH_S = 0.015
"""Much shorter than the motion's fastest part (0.73 s)."""
PEAK_STEPS = 20
"""To either side of the highest trial: the peak is a parabola there, and noise averages out."""
LEAST_CORRELATION = 0.7
LEAST_PEAK_GAIN = 0.002
"""By how much the peak must beat a delay ``PEAK_AWAY_S`` from it: else the motion repeats or is
too slow to tell."""
PEAK_AWAY_S = 0.06
MOST_FEATURES = 6
"""Of a picture: its strongest patterns of change. With as many features as samples anything
correlates with anything."""
FEWEST_SAMPLES = 40
SHORTEST_S = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Delay:
    """A measured delay."""

    delay_s: float
    correlation: float
    """At the peak, 0 ... 1."""
    sigma_s: float
    """One standard deviation, from what the signals do not share."""
    trials_s: FloatArray
    """Shape (K,), trial delays."""
    curve: FloatArray
    """Shape (K,), correlation at each."""


def delay_of(
    later_ns: FloatArray,
    later: FloatArray,
    earlier_ns: FloatArray,
    earlier: FloatArray,
    what: str,
) -> Delay:
    """The delay of one signal behind another.

    Args:
        later_ns: Shape (N,), stamps.
        later: Shape (N,) or (N, F), the effect.
        earlier_ns: Shape (M,), stamps of the same clock.
        earlier: Shape (M,), the cause.
        what: What is measured, for messages.

    Raises:
        DeviceError: too short, or no clear peak.
    """
    origin = float(earlier_ns[0])
    t_later = (np.asarray(later_ns, np.float64) - origin) / NS_PER_S
    t_earlier = (np.asarray(earlier_ns, np.float64) - origin) / NS_PER_S
    # The same samples at every trial, or their choice would shape the curve.
    inside = (t_later - MAX_DELAY_S >= t_earlier[0]) & (t_later - EARLIEST_S <= t_earlier[-1])
    t_later, features = t_later[inside], np.asarray(later, np.float64)[inside]
    if len(t_later) < FEWEST_SAMPLES or t_later[-1] - t_later[0] < SHORTEST_S:
        raise DeviceError(
            f"{what}: {len(t_later)} common samples; record {SHORTEST_S + MAX_DELAY_S:g} s or more"
        )
    basis = _basis(features.reshape(len(t_later), -1))
    if basis.shape[1] == 0 or np.ptp(earlier) == 0:
        raise DeviceError(f"{what}: nothing moves in one of the two signals; move it further")
    grid, smooth = _smoothed(t_earlier, np.asarray(earlier, np.float64))
    trials = np.arange(EARLIEST_S, MAX_DELAY_S + STEP_S / 2, STEP_S)
    curve = np.empty(len(trials))
    for k, trial in enumerate(trials):
        curve[k] = _correlation(basis, np.interp(t_later - trial, grid, smooth))
    return _peak(trials, curve, t_later, grid, smooth, what)


def _smoothed(t: FloatArray, signal: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The signal on a fine grid, its noise averaged over ``SMOOTH_S``, with no shift in time.

    Noise interpolated between samples is weaker than at them, which would make the correlation
    rise and fall with the sampling.
    """
    grid = np.arange(t[0], t[-1], STEP_S)
    reach = round(3 * SMOOTH_S / STEP_S)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP_S / SMOOTH_S) ** 2)
    padded = np.pad(np.interp(grid, t, signal), reach, mode="edge")
    return grid, np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _basis(features: FloatArray) -> FloatArray:
    """Orthonormal columns that span most of what varies in the features, (N, R)."""
    u, size, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    strong = (size > 1e-3 * size[0]) & (size > 0)
    return np.asarray(u[:, strong][:, :MOST_FEATURES])


def _correlation(basis: FloatArray, moved: FloatArray) -> float:
    """Multiple correlation of a signal with the span of a basis; with its sign lost."""
    centred = moved - moved.mean()
    length = float(np.linalg.norm(centred))
    return float(np.linalg.norm(basis.T @ centred)) / length if length > 0 else 0.0


def _peak(
    trials: FloatArray,
    curve: FloatArray,
    t_later: FloatArray,
    t_earlier: FloatArray,
    earlier: FloatArray,
    what: str,
) -> Delay:
    top = int(np.argmax(curve))
    if curve[top] < LEAST_CORRELATION:
        raise DeviceError(
            f"{what}: the two signals agree by {curve[top]:.2f} at best, "
            f"{LEAST_CORRELATION:g} is needed; is the motion in view, and nothing else moving?"
        )
    if top in (0, len(trials) - 1):
        raise DeviceError(
            f"{what}: the delay is beyond {EARLIEST_S:g} ... {MAX_DELAY_S:g} s; "
            "are both stamped by the same clock?"
        )
    away = np.abs(trials - trials[top]) >= PEAK_AWAY_S
    gain = float(curve[top] - curve[away].max())
    if gain < LEAST_PEAK_GAIN:
        raise DeviceError(
            f"{what}: delays {PEAK_AWAY_S:g} s apart fit alike; the motion is too slow or repeats"
        )
    near = slice(max(0, top - PEAK_STEPS), top + PEAK_STEPS + 1)
    away_s = trials[near] - trials[top]
    bend, lean, _ = np.polyfit(away_s, curve[near], 2)
    shift = float(np.clip(-lean / (2 * bend), away_s[0], away_s[-1])) if bend < 0 else 0.0
    delay = float(trials[top]) + shift
    # Cramer-Rao: noise left over the energy of the signal's slope.
    moved = np.interp(t_later - delay, t_earlier, earlier)
    slope = np.interp(t_later - delay, t_earlier, np.gradient(earlier, t_earlier))
    noise = (
        (1 - min(float(curve[top]), 1.0) ** 2)
        * float(((moved - moved.mean()) ** 2).sum())
        / len(moved)
    )
    sigma = math.sqrt(noise / max(float((slope**2).sum()), 1e-300))
    return Delay(delay, float(curve[top]), sigma, trials, curve)


def excitation(t_s: FloatArray | float) -> FloatArray:
    """A motion to measure delays by, -1 ... 1: never repeats within seconds, starts at rest at 0.

    Sines of 0.31, 0.83 and 1.37 Hz have no common period below 100 s; the speed stays below 4.3
    per second.
    """
    t = np.asarray(t_s, np.float64)
    ease = np.clip(t / 1.0, 0.0, 1.0) ** 2 * (3 - 2 * np.clip(t / 1.0, 0.0, 1.0))
    parts = ((0.5, 0.31), (0.3, 0.83), (0.2, 1.37))
    total = sum(a * np.sin(2 * math.pi * f * t) for a, f in parts)
    return np.asarray(ease * total)
