"""First inferences, which are slow, before anything depends on them.

A network's first call builds what later ones use again: memory, kernels, compiled code. It may
take seconds. A policy's node is ready only after this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.policy import Observation, ObservationContract, Policy
from teleop.clock import Clock
from teleop.errors import PolicyError

WARM_UP_INFERENCES = 3
"""The first one, one in which compilers look again, and one that shows the usual time."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What the first inferences took."""

    first_ms: float
    last_ms: float

    def __str__(self) -> str:
        return f"first inference {self.first_ms:.0f} ms, then {self.last_ms:.1f} ms"


def rehearsal(contract: ObservationContract) -> list[Observation]:
    """A history of observations of the right shapes, made up."""
    middle = (np.asarray(contract.qpos_low) + np.asarray(contract.qpos_high)) / 2
    seen = Observation(
        stamp_ns=0,
        observation_id=0,
        qpos=middle,
        images={v.name: np.zeros((v.height, v.width, 3), np.uint8) for v in contract.cameras},
        extra={extra.name: np.zeros(extra.size) for extra in contract.extras},
        instruction=contract.tasks[0] if contract.tasks else "",
    )
    return [seen] * contract.history


def warm_up(policy: Policy, clock: Clock, inferences: int = WARM_UP_INFERENCES) -> WarmUp:
    """Let a policy plan on made-up observations, then forget them.

    Raises:
        PolicyError: it cannot plan, plans something else than its contract says, or no numbers.
    """
    history = rehearsal(policy.contract)
    took_ms = []
    policy.reset()
    for _ in range(max(1, inferences)):
        begun_ns = clock.now_ns()
        chunk = policy.infer(history)
        took_ms.append((clock.now_ns() - begun_ns) / 1e6)
    policy.reset()
    wanted = (policy.contract.chunk_rows, len(policy.contract.joint_names))
    if np.shape(chunk.actions) != wanted:
        raise PolicyError(
            f"the policy plans actions of shape {np.shape(chunk.actions)}, "
            f"its contract says {wanted}; train it again"
        )
    if not np.isfinite(chunk.actions).all():
        raise PolicyError(
            "the policy plans NaN or infinite actions; take another checkpoint or train it again"
        )
    return WarmUp(took_ms[0], took_ms[-1])
