"""A trained policy on disk: ``policy.json`` and ``model.safetensors`` in one folder.

The JSON holds all that is needed to use the weights rightly: the observation contract, the
statistics, the family with its options, and where it came from. Weights are tensors only;
loading a checkpoint runs no code from it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from policies.card import CARD, Card, read_card
from policies.family import Family
from policies.learned import LearnedPolicy, rehearsal, shapes_of
from policies.normalisation import Statistics
from policies.policy import ObservationContract
from policies.registry import load_family
from recorder.meta import software_version
from teleop.errors import PolicyError

WEIGHTS = "model.safetensors"


def save(
    folder: Path,
    family: str,
    network: Family,
    contract: ObservationContract,
    statistics: Statistics,
    training: dict[str, Any],
) -> None:
    """Write a checkpoint; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / (WEIGHTS + ".partial")
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, weights)
    card = Card(
        format="tandem-policy",
        version=1,
        family=family,
        config=asdict(network.config),
        contract=contract,
        statistics=statistics,
        weights_sha256=_sha256(weights),
        software=software_version(),
        training=training,
    )
    text = folder / (CARD + ".partial")
    text.write_text(json.dumps(asdict(card), indent=1, default=str) + "\n")
    weights.replace(folder / WEIGHTS)
    text.replace(folder / CARD)


def load_network(folder: Path, card: Card) -> Family:
    """The network with its weights.

    Raises:
        PolicyError: weights missing, changed, or of another network.
        UnknownNameError: a family that this Tandem does not have.
    """
    family = load_family(card.family)
    config = TypeAdapter(family.config_type).validate_python(card.config)
    network = family(shapes_of(card.contract), config)
    path = folder / WEIGHTS
    try:
        if _sha256(path) != card.weights_sha256:
            raise PolicyError(f"{path} is not the file that {CARD} was written for; train again")
        network.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise PolicyError(f"{path} is missing; copy the whole folder of the policy") from error
    except (SafetensorError, RuntimeError) as error:
        raise PolicyError(f"{path} does not fit its {CARD}: {error}") from error
    return network


def load_policy(folder: Path, device: str = "cpu") -> LearnedPolicy:
    """A checkpoint ready for inference, warmed up by one rehearsal.

    Raises:
        PolicyError: see ``read_card`` and ``load_network``.
    """
    card = read_card(folder)
    policy = LearnedPolicy(
        card.family, load_network(folder, card), card.statistics, card.contract, device
    )
    policy.infer(rehearsal(card.contract))
    return policy


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
