"""Scores, pairs of them, and their tables."""

from collections.abc import Sequence

import numpy as np
import pytest

from policies.comparison import Score, compare, motions, pair, paired, report, stages, table
from policies.motion_metrics import Motion, motion_from
from policies.rollouts import Rollout
from teleop.session_plan import EpisodeResult

STILL = motion_from(np.zeros((8, 1)), np.array([4]))


def score(
    name: str, stages_reached: Sequence[int], scenes: Sequence[int] = (), motion: Motion = STILL
) -> Score:
    """A subject that reached these stages of 4; the last is success."""
    rollouts = [
        Rollout(
            scene,
            EpisodeResult(scene, "success" if stage == 4 else "failure", 6.0 + scene, stage, 4),
            motion,
        )
        for scene, stage in zip(scenes or range(len(stages_reached)), stages_reached, strict=True)
    ]
    return Score(name, "joints", tuple(rollouts))


def test_the_table_shows_counts_and_interval() -> None:
    """15 of 20, with the Wilson interval 53 % to 89 %."""
    rows = table([score("a", [4] * 15 + [1] * 5)]).splitlines()
    assert rows[2] == "| a | joints | 15/20 | 75% | 53% to 89% | 3.2/4 | 13.0 s |"


def test_no_success_has_no_mean_time() -> None:
    """A dash, not a number."""
    assert table([score("a", [1, 1, 1])]).endswith("| 0/3 | 0% | 0% to 56% | 1.0/4 | - |")


def test_stages_say_where_a_subject_fails() -> None:
    """Who reached stage 3 reached 1 and 2 before."""
    rows = stages([score("a", [4, 3, 1, 0])]).splitlines()
    assert rows[2] == "| a | 3/4 | 2/4 | 2/4 | 1/4 |"


def test_motion_without_plans_has_a_dash_for_seams() -> None:
    """The expert plans nothing."""
    steady = motion_from(0.02 * np.arange(8.0)[:, None], np.empty(0, np.int64))
    rows = motions([score("expert", [4], motion=steady)]).splitlines()
    assert rows[2] == "| expert | 0.00000 | - | 0.020 / 0.020 |"


def test_pairs_count_scene_by_scene() -> None:
    """Order matters only between the subjects."""
    met = pair([True, True, False, False], [True, False, True, False])
    assert (met.both, met.only_first, met.only_second, met.neither) == (1, 1, 1, 1)
    assert met.p == 1.0


def test_only_scenes_that_both_have_met_are_compared() -> None:
    """Scenes are matched by number, not by place."""
    first = score("a", [4, 1, 4], scenes=[0, 1, 2])
    second = score("b", [1, 4], scenes=[2, 1])
    met = paired(first, second)
    assert (met.both, met.only_first, met.only_second, met.neither) == (0, 1, 1, 0)


def test_unequal_lists_cannot_be_paired() -> None:
    """A mistake of the caller."""
    with pytest.raises(ValueError, match="2 scenes cannot be paired with 1"):
        pair([True, False], [True])


def test_every_pair_is_compared() -> None:
    """Three subjects make three pairs; 0 against 10 gives p = 2 / 2^10."""
    text = compare([score("a", [4] * 10), score("b", [1] * 10), score("c", [4] * 10)])
    assert len(text.splitlines()) == 2 + 3
    assert "| a - b | 0 | 10 | 0 | 0 | 0.00195 |" in text


def test_a_report_of_one_subject_compares_nothing() -> None:
    """No table of pairs without a pair."""
    assert "pair" not in report([score("a", [4])])
    assert "pair" in report([score("a", [4]), score("b", [4])])
