"""What a deployment was asked for, read from the options of its job.

Both nodes of a deployment are given the same options, so both come to the same settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from policies.card import Card, read_card
from policies.deployment import DeployOptions
from teleop.errors import PolicyError
from teleop.node import NodeContext


@dataclass(frozen=True, slots=True)
class DeploySettings:
    """See ``docs/deployment.md`` for what each option does."""

    folder: Path
    """Of the trained policy."""
    card: Card
    deploy: DeployOptions
    """The card's own, changed by the job's options of the same names."""
    task: str
    calibration: Mapping[str, Any]
    """Of the live rig."""
    device: str
    noise_seed: int
    """Of the noise of families that sample."""
    remote: bool
    """The policy runs on another machine than the arms."""
    allow_start: bool
    """Begin even far from the start poses of the training data."""
    loader: str
    """``module:function`` that makes the policy; empty for Tandem's own."""


def settings_of(context: NodeContext) -> DeploySettings:
    """The settings of a deployment's node.

    Raises:
        PolicyError: no usable checkpoint, or an option with an impossible value.
    """
    options = context.options
    if "checkpoint" not in options:
        raise PolicyError("no policy was named; give the folder of 'tandem train --out'")
    folder = Path(str(options["checkpoint"]))
    card = read_card(folder)
    task = str(options.get("task", ""))
    deploy = changed(card.deployment, options)
    check_replanning(deploy, card.contract.chunk_rows)
    return DeploySettings(
        folder=folder,
        card=card,
        deploy=deploy,
        task=task,
        calibration=cast(Mapping[str, Any], options.get("calibration", {})),
        device=str(options.get("device", "cpu")),
        noise_seed=int(str(options.get("noise_seed", 0))),
        remote=bool(options.get("remote_policy", False)),
        allow_start=bool(options.get("allow_start", False)),
        loader=str(options.get("loader", "")),
    )


def check_replanning(deploy: DeployOptions, chunk_rows: int) -> None:
    """Refuse plans that end before the next one comes.

    Raises:
        PolicyError: says what to give.
    """
    rows = min(chunk_rows, deploy.execute_rows or chunk_rows)
    if deploy.replan_rows > rows:
        raise PolicyError(
            f"a plan is played for {rows} rows but the next comes after {deploy.replan_rows}: the "
            f"arms would hold in between; give replan_rows {rows} or less"
        )


def changed(deploy: DeployOptions, options: Mapping[str, object]) -> DeployOptions:
    """The options with those changed that are named among others.

    Raises:
        PolicyError: a value that does not fit.
    """
    names = {field.name for field in fields(DeployOptions)}
    given = {name: value for name, value in options.items() if name in names}
    try:
        new = TypeAdapter(DeployOptions).validate_python({**asdict(deploy), **given})
    except ValidationError as error:
        fault = error.errors()[0]
        raise PolicyError(
            f"deployment option {fault['loc'][0]}: {fault['msg']}, not {fault['input']!r}"
        ) from error
    for name, value, least in (
        ("replan_rows", new.replan_rows, 1),
        ("execute_rows", 1 if new.execute_rows is None else new.execute_rows, 1),
        ("blend_s", new.blend_s, 0),
        ("decay_per_row", new.decay_per_row, -math.inf),
    ):
        if not least <= value < math.inf:
            bound = "" if least == -math.inf else f", {least} or more"
            raise PolicyError(f"deployment option {name} is {value}; it must be finite{bound}")
    return new
