"""``policy.json``: what a trained policy is, without its weights.

Readable without torch, so that the process that moves the arms stays small.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from policies.deployment import DeployOptions
from policies.normalisation import Statistics
from policies.policy import ObservationContract
from teleop.errors import PolicyError

CARD = "policy.json"
VERSION: Final = 2


@dataclass(frozen=True)
class Card:
    """The content of ``policy.json``."""

    format: Literal["tandem-policy"]
    version: Literal[2]
    family: str
    config: dict[str, Any]
    """The family's options."""
    contract: ObservationContract
    statistics: Statistics
    weights_sha256: str
    software: str
    """Version of Tandem that trained it."""
    training: dict[str, Any]
    """The trainer's options and results."""
    deployment: DeployOptions
    """How its chunks are best played."""


def read_card(folder: Path) -> Card:
    """What a checkpoint is, without its weights.

    Raises:
        PolicyError: the folder holds no checkpoint, or one of another version.
    """
    path = folder / CARD
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise PolicyError(
            f"{folder} holds no policy ({CARD} is missing); name the --out folder of 'tandem train'"
        ) from error
    except (ValueError, OSError) as error:
        raise PolicyError(f"{path} cannot be read as JSON: {error}") from error
    if isinstance(raw, dict) and raw.get("version", VERSION) != VERSION:
        todo = "train it again" if str(raw["version"]) < str(VERSION) else "update Tandem"
        raise PolicyError(
            f"{path} has format version {raw['version']}, "
            f"this Tandem reads version {VERSION}; {todo}"
        )
    try:
        return TypeAdapter(Card).validate_python(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise PolicyError(f"{path} is not a policy card: {place}: {fault['msg']}") from error
