"""Non-linear least squares for the few unknowns of a calibration (Levenberg-Marquardt)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from teleop.messages import FloatArray

_STEP = 1e-6
"""Of the numerical derivative: unknowns are rad, m and unit-free numbers near 1."""
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e-12, 1e8
_ENOUGH = 1e-10
"""Relative gain of a step below which it has converged."""


@dataclass(frozen=True, slots=True, eq=False)
class Minimum:
    """Where the sum of squares is least."""

    x: FloatArray
    """Shape (P,)."""
    residuals: FloatArray
    """Shape (M,), there."""
    sigma: FloatArray
    """Shape (P,): standard deviation of each unknown, from the residuals' own scatter."""


def minimise(
    residuals_of: Callable[[FloatArray], FloatArray], start: FloatArray, rounds: int = 60
) -> Minimum:
    """Find the nearest minimum.

    Args:
        residuals_of: Takes the unknowns (P,), gives residuals (M,), M > P.
        start: Shape (P,), near enough.
        rounds: Most steps.
    """
    x = np.array(start, np.float64)
    residuals = residuals_of(x)
    cost, damping = float(residuals @ residuals), _FIRST_DAMPING
    for _ in range(rounds):
        slope = _jacobian(residuals_of, x, residuals)
        normal, downhill = slope.T @ slope, slope.T @ residuals
        gained = 0.0
        while damping < _MOST_DAMPING:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), downhill)
            tried = residuals_of(x - step)
            if (new := float(tried @ tried)) < cost:
                gained, x, residuals, cost = cost - new, x - step, tried, new
                damping = max(damping / 10, _LEAST_DAMPING)
                break
            damping *= 10
        if gained <= _ENOUGH * cost:
            break
    slope = _jacobian(residuals_of, x, residuals)
    freedom = max(1, len(residuals) - len(x))
    variance = np.diag(np.linalg.pinv(slope.T @ slope)) * (cost / freedom)
    return Minimum(x, residuals, np.sqrt(np.maximum(variance, 0.0)))


def _jacobian(
    residuals_of: Callable[[FloatArray], FloatArray], x: FloatArray, at_x: FloatArray
) -> FloatArray:
    slope = np.empty((len(at_x), len(x)))
    for k in range(len(x)):
        moved = x.copy()
        moved[k] += _STEP
        ahead = residuals_of(moved)
        moved[k] -= 2 * _STEP
        slope[:, k] = (ahead - residuals_of(moved)) / (2 * _STEP)
    return slope
