"""How sure a success rate is, and whether two of them differ."""

from __future__ import annotations

import math


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927).

    Args:
        successes: How many trials succeeded.
        trials: How many were made.
        z: Quantile of the normal distribution; 1.96 gives 95 %.

    Returns:
        Lower and upper end, each in [0, 1]; (0, 1) without trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is not a proportion")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    middle = rate + z * z / (2 * trials)
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test on paired trials (McNemar 1947, binomial form).

    Trials in which both succeed or both fail say nothing about who is better. If neither is,
    each of the others falls to either side like a fair coin.

    Args:
        only_first: Trials in which only the first subject succeeded.
        only_second: Trials in which only the second did.

    Returns:
        Probability of a split at least this uneven if both were equally good; 1 without one.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts cannot be negative: {only_first} and {only_second}")
    trials = only_first + only_second
    tail = sum(math.comb(trials, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / float(2**trials))
