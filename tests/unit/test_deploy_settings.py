"""What a deployment is asked for: the card's own way, changed by options of the job."""

from pathlib import Path

import numpy as np
import pytest
from policy_episodes import small_rig

from policies.deploy_settings import changed, settings_of
from policies.deployment import DeployOptions
from policies.policy import START_REFUSE, START_WARN
from teleop.clock import VirtualClock
from teleop.errors import PolicyError
from teleop.node import NodeContext
from tests.system.scripted_policy import start_of, write_card


def test_the_options_of_the_job_replace_those_of_the_card(tmp_path: Path) -> None:
    """What is not named stays as the policy was trained to be deployed."""
    rig = small_rig()
    write_card(tmp_path, rig, 25, DeployOptions(decay_per_row=0.5, replan_rows=7))
    options = {"checkpoint": str(tmp_path), "replan_rows": 3, "task": "transfer_cube"}
    settings = settings_of(NodeContext(rig, VirtualClock(), None, options))
    assert settings.deploy == DeployOptions(decay_per_row=0.5, replan_rows=3)
    assert (settings.device, settings.remote, settings.allow_start) == ("cpu", False, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk_mode": "newst"}, "chunk_mode"),
        ({"replan_rows": 0}, "replan_rows is 0; it must be finite, 1 or more"),
        ({"execute_rows": -1}, "execute_rows is -1"),
        ({"blend_s": float("nan")}, "blend_s is nan"),
        ({"decay_per_row": float("inf")}, "decay_per_row is inf"),
        ({"decay_per_row": float("nan")}, "decay_per_row is nan; it must be finite$"),
        ({"replan_rows": "often"}, "replan_rows: .* not 'often'"),
    ],
)
def test_an_impossible_option_is_refused_by_name(options: dict[str, object], words: str) -> None:
    """Before anything moves."""
    with pytest.raises(PolicyError, match=words):
        changed(DeployOptions(), options)


def test_plans_that_run_out_before_the_next_one_are_refused(tmp_path: Path) -> None:
    """The arms would stop between them."""
    rig = small_rig()
    write_card(tmp_path, rig, 25, DeployOptions())
    options = {"checkpoint": str(tmp_path), "execute_rows": 3}
    with pytest.raises(PolicyError, match="played for 3 rows but the next comes after 5"):
        settings_of(NodeContext(rig, VirtualClock(), options=options))


def test_without_a_checkpoint_there_is_nothing_to_deploy() -> None:
    """The error says what to name."""
    with pytest.raises(PolicyError, match="tandem train --out"):
        settings_of(NodeContext(small_rig(), VirtualClock()))


@pytest.mark.parametrize(
    ("beyond", "warned", "refused"),
    [
        (0.9 * START_WARN, False, False),
        (1.1 * START_WARN, True, False),
        (0.9 * START_REFUSE, True, False),
        (1.1 * START_REFUSE, False, True),
        (float("nan"), False, True),
    ],
)
def test_a_joint_is_judged_by_how_far_it_is_from_where_training_began(
    tmp_path: Path, beyond: float, warned: bool, refused: bool
) -> None:
    """On either side of the range of start poses; a joint that was not measured is refused."""
    rig = small_rig()
    write_card(tmp_path, rig, 25, DeployOptions())
    options = {"checkpoint": str(tmp_path)}
    contract = settings_of(NodeContext(rig, VirtualClock(), None, options)).card.contract
    assert contract.check_start(start_of(rig)) == ((), ())
    for side in (-1, 1):
        qpos = start_of(rig)
        edge = contract.start_low if side < 0 else contract.start_high
        qpos[3] = np.asarray(edge)[3] + side * beyond
        check = contract.check_start(qpos)
        assert (len(check.warnings), len(check.refusals)) == (int(warned), int(refused))
        assert all("left_follower/forearm_roll" in words for words in sum(check, ()))
