"""Deploys trained policies on the lockstep rig: ``python -m tests.system.deploy_runs RUN...``.

Prints one JSON object per policy: what became of the episode, what the policy plans, and what
is said of a rig without its camera. A process of its own, as an operator
has: nothing of training is left in it.
"""

import json
import sys
from pathlib import Path

import numpy as np

from policies.card import read_card
from policies.checkpoint import load_policy
from policies.warm_up import rehearsal
from recorder.episode import Episode
from teleop.assembly import Job
from teleop.errors import TandemError
from teleop.rig import Rig
from teleop.runs import run_lockstep
from tests.unit.policy_episodes import small_rig


def short_rig() -> Rig:
    """Its episodes end after half a second."""
    rig = small_rig()
    tasks = {name: task.model_dump() | {"max_seconds": 0.5} for name, task in rig.tasks.items()}
    return rig.replaced(tasks=tasks)


def deploy(run: Path) -> dict[str, object]:
    """One short episode."""
    options = {"checkpoint": str(run), "allow_start": True}
    job = Job("deploy", "transfer_cube", 1, run / "episodes", 0, options=options)
    (result,) = run_lockstep(short_rig(), job, lambda result: None).results
    with Episode(result.path) as episode:
        action = np.asarray(episode.action[:])
    contract = read_card(run).contract
    plan = load_policy(run).infer(rehearsal(contract))
    return {
        "outcome": result.outcome,
        "rows": len(action),
        "finite": bool(np.isfinite(action).all()),
        "plan": plan.actions.tolist(),
        "refusal": refusal_of_a_blind_rig(run),
    }


def refusal_of_a_blind_rig(run: Path) -> str:
    """What is said when the rig lacks the camera."""
    blind = small_rig().replaced(cameras={}, tasks={"transfer_cube": {"instruction": "test"}})
    try:
        read_card(run).contract.check_rig(blind)
    except TandemError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(json.dumps(deploy(Path(folder))), flush=True)
