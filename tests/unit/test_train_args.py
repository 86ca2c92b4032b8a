"""The options of ``tandem train``: recipes, flat names, and complaints in one sentence."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from policies import train
from policies.bc import BcConfig, BcNet
from policies.deployment import DeployOptions
from policies.registry import FAMILIES, load_family
from policies.train_args import family_list, option_names, parse, recipe_args
from teleop.errors import PolicyError, UnknownNameError

WHERE = ["--data", "a", "b=2", "--out", "run"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_recipe_that_is_understood(family: str) -> None:
    """Each of its values arrives, and no two options bear one name."""
    args = parse(family, WHERE)
    assert args == recipe_args(family, ("a", "b=2"), Path("run"))
    for name, value in load_family(family).recipe.items():
        if name != "deployment":
            holder = next(
                part for part in (args, args.loop, args.rows, args.augment) if hasattr(part, name)
            )
            assert getattr(holder, name) == value, name
    twice = [name for name, count in Counter(option_names(args)).items() if count > 1]
    assert twice == []


def test_options_change_the_recipe() -> None:
    """Wherever they belong: the family, the data, the loop, augmentation, deployment."""
    told = "--hidden=7 --history=3 --betas 0.8 0.9 --no-ema --state-noise=0 --execute-rows=4"
    args = parse("bc", [*WHERE, *told.split(), "--device", "cuda"])
    assert (args.model.hidden, args.rows.history, args.loop.betas) == (7, 3, (0.8, 0.9))
    assert (args.loop.ema, args.augment.state_noise, args.device) == (False, 0.0, "cuda")
    assert args.deployment.execute_rows == 4


def test_cameras_are_named_with_spaces_or_commas() -> None:
    """As in every other command; from code they are a tuple."""
    for told in (["cam_high,overview"], ["cam_high", "overview"], ["cam_high,overview", "third"]):
        cameras = parse("bc", [*WHERE, "--cameras", *told]).rows.cameras
        assert cameras == ("cam_high", "overview", "third")[: len(",".join(told).split(","))]


def test_an_option_of_a_family_with_the_name_of_another_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the trainer, of deployment, or of the run itself: with the class that it stands in."""
    for field in ("steps", "noise", "device"):

        @dataclass(frozen=True)
        class Config(BcConfig):
            __annotations__ = {field: int}
            locals()[field] = 3

        family = type("Twice", (BcNet,), {"config_type": Config})
        monkeypatch.setattr("policies.train_args.load_family", lambda name, found=family: found)
        with pytest.raises(PolicyError, match=f"field '{field}'.*call it otherwise in Config"):
            parse("bc", WHERE)


def test_deployment_fits_the_chunk_unless_told_otherwise() -> None:
    """A single-step policy is asked at every row."""
    assert parse("bc", [*WHERE, "--chunk-rows", "1"]).deployment == DeployOptions.for_chunk(1)
    assert parse("bc", [*WHERE, "--chunk-rows", "3"]).deployment.replan_rows == 3
    told = parse("bc", [*WHERE, "--chunk-rows", "3", "--replan-rows", "2"])
    assert told.deployment.replan_rows == 2
    assert recipe_args("bc", ("a",), Path("b"), chunk_rows=1) == parse(
        "bc", ["--data", "a", "--out", "b", "--chunk-rows", "1"]
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--out", "run"], "needs --data; add --data DIR.*see tandem train bc --help"),
        (["--data", "a"], "needs --out; add --out DIR.*see tandem train bc --help"),
        (["--data", "a", *WHERE], "--data is given more than once"),
        ([*WHERE, "--steps", "many"], "^--steps 'many': not a whole number; see tandem train bc"),
        ([*WHERE, "--clip-norm", "x"], "^--clip-norm 'x': not a number; see tandem train bc"),
        ([*WHERE, "--rate-hz", "x"], "^--rate-hz 'x': not of the kind that it takes; see"),
        ([*WHERE, "--betas", "1"], "^--betas needs 2 values; see tandem train bc --help"),
        ([*WHERE, "--schedule", "cosin"], "--schedule.*see tandem train bc --help"),
        ([*WHERE, "--learning-rte", "1"], "'--learning-rte'; did you mean --learning-rate"),
    ],
)
def test_wrong_options_are_told_in_one_line(argv: list[str], words: str) -> None:
    """No frames, no usage page."""
    with pytest.raises((PolicyError, UnknownNameError), match=words) as caught:
        parse("bc", argv)
    assert "\n" not in str(caught.value)


def test_unknown_families_and_options_from_code_are_named() -> None:
    """With the nearest name."""
    with pytest.raises(UnknownNameError, match="did you mean diffusion"):
        train.main(["difusion", *WHERE])
    with pytest.raises(UnknownNameError, match="did you mean batch_size"):
        recipe_args("bc", ("a",), Path("b"), batchsize=3)


def test_help_without_a_family_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, and how to go on."""
    assert train.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == family_list()
    lines = shown.splitlines()
    for family in FAMILIES:
        (line,) = [line for line in lines if line.split()[:1] == [family]]
        assert len(line.split()) > 4
    assert "tandem train FAMILY --help" in lines[-1]


def test_help_of_a_family_shows_its_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option with its default."""
    with pytest.raises(SystemExit) as stop:
        parse("bc", ["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "tandem train bc" in shown
    assert "--learning-rate FLOAT Its peak. (default: 0.0015)" in shown
    assert "--ema, --no-ema Deploy a moving average" in shown


@pytest.mark.parametrize("family", FAMILIES)
def test_every_option_has_help(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence before its default."""
    with pytest.raises(SystemExit):
        parse(family, ["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for option in option_names(recipe_args(family, ("a",), Path("b"))):
        flag = f"--{option.replace('_', '-')}"
        told = re.split(rf" {flag}(?:, --no-{option.replace('_', '-')})? ", shown)[-1]
        words = re.split(r"\((?:default|required)", told)[0].split()
        told = [word for word in words if re.search("[a-z]", word) and not set("{}[]") & set(word)]
        assert told, option
