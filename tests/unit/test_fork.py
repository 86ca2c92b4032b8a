"""The fork study: a world with two ways, and heads that choose or average."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.studies import fork
from policies.studies.fork import Args, Result, Runs
from policies.studies.toy import Head
from teleop.errors import PolicyError, UnknownNameError

QUICK = Args(rollouts=40, steps=500, batch_size=32)
NARROW = {"hidden": 256}


def test_a_step_across_the_obstacle_ends_in_it() -> None:
    """A step whose ends are both outside still touches what lies between them."""
    before = np.array([[-0.05, 0.305]])
    after = fork.move(before, np.array([[0.05, 0.305]]))
    runs = Runs(np.stack([before, after], 1))
    assert runs.touched.all()
    assert not runs.succeeded.any()


def test_who_has_touched_or_arrived_stays() -> None:
    """Neither the goal nor the obstacle is left again."""
    ended = np.array([fork.GOAL, fork.OBSTACLE])
    assert np.array_equal(fork.move(ended, ended + 1.0), ended)


def test_no_step_is_longer_than_allowed() -> None:
    """A far command moves the point by the longest step, in its direction."""
    after = fork.move(np.array([[0.0, 0.0]]), np.array([[-5.0, 0.0]]))
    assert after[0] == pytest.approx([-fork.MAX_STEP, 0.0])


def test_the_demonstrator_always_succeeds_on_both_sides() -> None:
    """Every demonstration arrives, about half of them on each side."""
    runs = Runs(fork.demonstrations(Args(demonstrations=400))[0])
    assert runs.succeeded.all()
    assert 0.4 < runs.went_left.mean() < 0.6


def test_the_side_cannot_be_told_from_the_start() -> None:
    """Starts of the two sides have the same place on average."""
    runs = Runs(fork.demonstrations(Args(demonstrations=2000))[0])
    start, left = runs.paths[:, 0, 0], runs.went_left
    assert start[left].mean() == pytest.approx(start[~left].mean(), abs=0.01)


def test_an_average_runs_into_the_obstacle() -> None:
    """Squared error fails on what the demonstrator always does."""
    result, _ = fork.trial(
        ("bc-mse", Head("bc", fork.CHUNK_ROWS, {"error": "mse", **NARROW})), QUICK
    )
    assert result.successes <= 0.1 * result.rollouts
    assert result.touched > 0.5 * result.rollouts


def test_a_mixture_chooses_a_side() -> None:
    """Five components succeed nearly always, and on both sides."""
    result, _ = fork.trial(("gmm", Head("gmm", fork.CHUNK_ROWS, NARROW)), replace(QUICK, steps=300))
    assert result.successes >= 0.9 * result.rollouts
    assert 0.2 * result.successes < result.left < 0.8 * result.successes


def test_the_study_leaves_a_table_a_picture_and_numbers(tmp_path: Path) -> None:
    """One short head is enough for all three files."""
    args = [f"--out={tmp_path}", "--heads", "bc-l1", "--steps=2", "--rollouts=5"]
    assert fork.main([*args, "--demonstrations=5"]) == 0
    assert "| bc-l1 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "fork.png").stat().st_size > 10_000
    assert '"successes"' in (tmp_path / "results.json").read_text()


def test_an_unknown_head_is_named() -> None:
    """The message lists what there is."""
    with pytest.raises(UnknownNameError, match="gmn"):
        fork.study(Args(heads=("gmn",)))


def test_the_table_has_sides_and_intervals() -> None:
    """A row for each head; without a success there are no sides."""
    text = fork.table([Result("a", 200, 190, 10, 95, 1.0, 1.0), Result("b", 200, 0, 200, 0, 1, 1)])
    assert "| a | 190/200 | 91.0% to 97.3% | 50 : 50 | 10 | 1 |" in text
    assert "| b | 0/200 | 0.0% to 1.9% | none |" in text


@pytest.mark.parametrize("name", ["demonstrations", "rollouts", "batch_size"])
def test_sizes_below_one_are_refused(name: str) -> None:
    """In one sentence with the option."""
    with pytest.raises(PolicyError, match=f"--{name.replace('_', '-')} is 0; at least 1"):
        fork.study(Args(**{name: 0}))
