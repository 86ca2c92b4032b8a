"""Where hands that can only reach bring a tool."""

from __future__ import annotations

import numpy as np

from drivers.emulated.plant import Plant
from drivers.emulated.tasks import TARGETS
from teleop.messages import FloatArray


def aim_m(plant: Plant, arm: str, episode: int) -> FloatArray:
    """The tool's target, or in a task without one any place in reach, another in each episode.

    Args:
        plant: The scene.
        arm: A key of ``TARGETS``.
        episode: Its number.

    Returns:
        Shape (3,), world frame.
    """
    target = f"target_{arm}"
    if target in plant.task.objects:
        return np.array(plant.data.body(target).xpos)
    low, high = TARGETS[arm]
    drawn = np.random.default_rng([episode, list(TARGETS).index(arm)])
    return np.asarray(drawn.uniform(low, high))
