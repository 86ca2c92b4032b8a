"""The drift study: a road, a demonstrator that stays on it, and the growth of errors."""

from pathlib import Path

import numpy as np
import pytest

from policies.studies import drift
from policies.studies.toy import play
from teleop.errors import PolicyError, UnknownNameError

RNG_SEED = 3


def test_the_demonstrator_stays_on_the_road() -> None:
    """Five laps in gusts, never a row beside the road."""
    states, _ = drift.demonstrate(np.random.default_rng(RNG_SEED), 50, 800)
    assert not drift.beside_road(states).any()


@pytest.mark.parametrize("side", [-0.2, 0.2])
def test_the_demonstrator_comes_back_from_the_verge(side: float) -> None:
    """Set down beside the road, it is on it again within 150 rows and stays."""
    states, _ = drift.demonstrate(np.random.default_rng(RNG_SEED), 20, 0)
    start = states[:, -1].copy()
    start[:, :2] *= 1 + side / np.hypot(start[:, 0], start[:, 1])[:, None]
    back, _ = play(
        start,
        lambda state, turn, row: drift.drive(state, turn, np.zeros(len(state))),
        lambda past: drift.expert(past[:, -1])[:, None],
        200,
        execute_rows=1,
    )
    beside = drift.beside_road(back)
    assert beside[:, 0].all()
    assert not beside[:, 150:].any()


def test_the_verge_takes_grip() -> None:
    """The same turn changes the heading by a fifth there."""
    on = np.array([[drift.road(np.zeros(1))[0], 0.0, 0.0]])
    off = on + np.array([2 * drift.HALF_WIDTH, 0.0, 0.0])
    turn, calm = np.array([[0.2]]), np.zeros(1)
    assert drift.drive(on, turn, calm)[0, 2] == pytest.approx(0.2)
    assert drift.drive(off, turn, calm)[0, 2] == pytest.approx(0.2 * drift.VERGE_GRIP)


def test_the_fit_recovers_a_known_power() -> None:
    """Costs of 0.001 T^1.7 with 10 % of noise per seed give 1.7 inside the interval."""
    rng = np.random.default_rng(RNG_SEED)
    horizons = np.array(drift.HORIZONS)
    costs = 1e-3 * horizons**1.7 * rng.normal(1, 0.1, (8, len(horizons)))
    fit = drift.fit_power(costs, drift.HORIZONS, rng)
    assert fit is not None
    assert fit.power == pytest.approx(1.7, abs=0.05)
    assert fit.low < 1.7 < fit.high
    assert fit.high - fit.low < 0.2


def test_costs_too_rare_have_no_power() -> None:
    """Two horizons with a cost make no line."""
    costs = np.array([[0.0, 0.0, 0.0, 0.1, 0.4]])
    assert drift.fit_power(costs, drift.HORIZONS, np.random.default_rng(0)) is None


def test_a_cost_that_never_stops_is_counted_from_where_it_began() -> None:
    """Beside the road from row 90 on: 10 rows within 100, 710 within 800."""
    cost = np.zeros((1, 800))
    cost[:, 90:] = 1
    assert drift.within(cost).tolist() == [0, 10, 110, 310, 710]


def test_the_study_leaves_a_table_a_picture_and_numbers(tmp_path: Path) -> None:
    """A poor policy leaves the road, and its cost is reported."""
    short = ["--seeds=2", "--steps=30", "--rollouts=10", "--demonstrations=5", "--jobs=1"]
    assert drift.main([f"--out={tmp_path}", "--learners", "bc, single step", *short]) == 0
    assert "| bc, single step |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "drift.png").stat().st_size > 10_000
    assert '"beside_fit"' in (tmp_path / "results.json").read_text()


def test_an_unknown_learner_is_named() -> None:
    """The message lists what there is."""
    with pytest.raises(UnknownNameError, match="bd"):
        drift.study(drift.Args(learners=("bd",)))


@pytest.mark.parametrize("name", ["demonstrations", "rollouts", "batch_size"])
def test_sizes_below_one_are_refused(name: str) -> None:
    """In one sentence with the option."""
    with pytest.raises(PolicyError, match=f"--{name.replace('_', '-')} is 0; at least 1"):
        drift.study(drift.Args(**{name: 0}))
