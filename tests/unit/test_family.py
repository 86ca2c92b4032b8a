"""What is refused of the options of the families."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from policies.family import LIMITS, check_config
from policies.registry import FAMILIES, load_family
from teleop.errors import PolicyError


@pytest.mark.parametrize(
    ("family", "option", "value", "words"),
    [
        ("gmm", "floor", 2.0, "gmm --floor 2: must be 0 or more and below 1"),
        ("gmm", "floor", -1.0, "gmm --floor -1: must be 0 or more and below 1"),
        ("gmm", "least_share", 2.0, "gmm --least-share 2: must be between 0 and 1"),
        ("gmm", "evaluation_std", -1.0, "gmm --evaluation-std -1: must be 0 or more"),
        ("gmm", "evidence", 0.0, "gmm --evidence 0: must be 1 or more"),
        ("gmm", "min_std", 0.0, "gmm --min-std 0: must be above 0"),
        ("bc-rnn-gmm", "components", 0, "bc-rnn-gmm --components 0: must be 1 or more"),
        ("act", "kl_weight", -1.0, "act --kl-weight -1: must be 0 or more"),
        ("act", "kl_weight", math.nan, "act --kl-weight nan: must be 0 or more, and finite"),
        ("act", "kl_weight", math.inf, "act --kl-weight inf: must be 0 or more, and finite"),
        ("act", "width", 0, "act --width 0: must be 1 or more"),
        ("act", "dropout", 1.0, "act --dropout 1: must be 0 or more and below 1"),
        ("ibc", "negatives", 0, "ibc --negatives 0: must be 1 or more"),
        ("bins", "bins", 1, "bins --bins 1: must be 2 or more"),
        ("bins", "refine", -1, "bins --refine -1: must be 0 or more"),
        ("bins", "train_rows", 0, "bins --train-rows 0: must be 1 or more"),
        ("flow", "clip", -1.0, "flow --clip -1: must be 0 or more"),
        ("flow", "inference_steps", 0, "flow --inference-steps 0: must be 1 or more"),
        ("diffusion", "hidden", 0, "diffusion --hidden 0: must be 1 or more"),
        ("bc", "layers", -1, "bc --layers -1: must be 1 or more"),
    ],
)
def test_a_number_out_of_range_is_named(family: str, option: str, value: float, words: str) -> None:
    """With the range."""
    changed: dict[str, Any] = {option: value}
    config = replace(load_family(family).config_type(), **changed)
    with pytest.raises(PolicyError) as caught:
        check_config(family, config)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_of_a_family_has_a_range(family: str) -> None:
    """And its default lies inside."""
    config = load_family(family).config_type()
    check_config(family, config)
    numbers = {option.name for option in fields(config) if option.type in ("int", "float")}
    assert numbers <= LIMITS.keys()
