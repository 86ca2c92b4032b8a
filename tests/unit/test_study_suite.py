"""The studies' bookkeeping: options, resuming, tables. No training is done here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from policy_episodes import small_rig, write_episode

from policies.registry import FAMILIES
from policies.studies import images, insertion
from policies.studies.suite import Plan, Study, conduct, flags_of, table
from policies.train_args import recipe_args

MOTION = {
    "jerk": 0.001,
    "seam_p99": 0.01,
    "seam_largest": 0.02,
    "inside_p99": 0.03,
    "inside_largest": 0.04,
}


def result(policy: str, seed: int, successes: list[bool], largest: float = 0.02) -> dict[str, Any]:
    """What evaluating one trained policy came to."""
    return {
        "policy": policy,
        "seed": seed,
        "parameters": 1_260_000,
        "train_cpu_s": 90.0,
        "successes": successes,
        "motion": {**MOTION, "seam_largest": largest},
    }


def test_options_become_flags_of_the_trainer() -> None:
    """Switches, their negation, lists and plain values."""
    options = {"object_pose": True, "ema": False, "image_size": (60, 80), "steps": 5}
    assert flags_of(options) == [
        *("--object-pose", "--no-ema", "--image-size", "60", "80", "--steps", "5")
    ]


@pytest.mark.parametrize("plans", [insertion.PLANS, images.PLANS], ids=["insertion", "images"])
def test_every_plan_has_options_that_its_family_knows(plans: dict[str, Plan]) -> None:
    """A wrong name would otherwise show after hours."""
    for plan in plans.values():
        assert plan.family in FAMILIES
        recipe_args(plan.family, ("data",), Path("out"), **plan.train)
        assert not plan.trained_as or plan.trained_as in plans


def test_the_table_pools_seeds_and_pairs_with_the_reference() -> None:
    """6 of 8 against 1 of 8 on the same scenes: 5 to 0, p = 2 / 2^5."""
    good = [result("good", 0, [True] * 4), result("good", 1, [True, True, False, False], 0.5)]
    bad = [result("bad", 0, [True, False, False, False]), result("bad", 1, [False] * 4)]
    rows = table([*good, *bad], reference="good").splitlines()
    assert rows[2].startswith("| good | 1.26 M | 1.5 | 4/4, 2/4 | 75.0% | 40.9% to 92.9% | - |")
    assert "| 0.010 / 0.500 | 0.030 / 0.040 |" in rows[2]
    assert "| 1/4, 0/4 | 12.5% |" in rows[3]
    assert "| 0.062 | 0.00100 |" in rows[3]


def test_a_policy_without_a_reference_has_no_test() -> None:
    """As with --only."""
    assert "| - | 0.00100 |" in table([result("bad", 0, [True])], reference="good")


def finished_study(folder: Path, **changes: Any) -> Study:
    """A study whose one policy is trained and evaluated, as far as its files say."""
    plans = {"a": Plan("bc", {"steps": 10}), "b": Plan("bc", {}, {"replan_rows": 2}, "a")}
    sizes = {"demos": 0, "demo_seed": 0, "episodes": 2, "episode_seed": 9, "jobs": 1}
    study = Study(small_rig(), "transfer_cube", folder, plans, {}, **sizes)
    study.demo_folder.mkdir(parents=True, exist_ok=True)
    for name in plans:
        (folder / name).mkdir(parents=True, exist_ok=True)
        path = folder / name / "seed_0_result.json"
        known = {**result(name, 0, [True, False]), "settings": study.settings(name, 0)}
        path.write_text(json.dumps(known))
    training = {"settings": study.train_settings("a", 0), "cpu_s": 1.0}
    study.training_file("a", 0).write_text(json.dumps(training))
    return study


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    """Neither trained nor evaluated: there is no data that it could be done with."""
    results = conduct(finished_study(tmp_path), ["a", "b"], [0])
    assert [found["successes"] for found in results] == [[True, False]] * 2
    assert finished_study(tmp_path).run_folder("b", 0) == tmp_path / "a" / "seed_0"


def test_changed_options_are_other_settings(tmp_path: Path) -> None:
    """Of a policy that uses another's training too."""
    study = finished_study(tmp_path)
    changed = replace(study, train_everywhere={"steps": 20})
    assert changed.settings("b", 0) != study.settings("b", 0)
    assert changed.train_settings("b", 0)["options"] == {"steps": 20, "seed": 0}


def test_other_demonstrations_or_another_rig_are_other_settings(tmp_path: Path) -> None:
    """A result of ten demonstrations must not stand for one of fifty."""
    study = finished_study(tmp_path)
    other_rig = replace(study, rig=small_rig().replaced(name="other"))
    assert other_rig.settings("a", 0) != study.settings("a", 0)
    write_episode(study.demo_folder, 0)
    assert replace(study).train_settings("a", 0) != study.train_settings("a", 0)


@pytest.mark.parametrize("study", [insertion, images], ids=["insertion", "images"])
def test_the_help_names_every_plan(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """They are what --only takes."""
    with pytest.raises(SystemExit):
        study.main(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in study.PLANS:
        assert name in shown
