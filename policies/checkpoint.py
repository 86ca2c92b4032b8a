"""A trained policy on disk: ``policy.json`` and ``model.safetensors`` in one folder.

The JSON holds all that is needed to use the weights rightly: the observation contract, the
statistics, the family with its options, how to play its chunks, and where it came from.
Weights are tensors only; loading a checkpoint runs no code from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from policies.card import CARD, VERSION, Card, read_card
from policies.deployment import DeployOptions, NoiseMode, Precision
from policies.device import check_device
from policies.family import Family
from policies.file_hash import content_sha256
from policies.learned import LearnedPolicy, shapes_of
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
    deployment: DeployOptions | None = None,
) -> None:
    """Write a checkpoint; each file appears whole or not at all.

    Args:
        folder: Made when it is missing.
        family: Name in ``policies.registry``.
        network: With the weights to deploy.
        contract: What the policy sees and what its actions mean.
        statistics: Of the training data.
        training: The trainer's options and results, for the reader.
        deployment: How to play its chunks; None takes the default for their length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / (WEIGHTS + ".partial")
    save_file(_weights_of(network), weights)
    card = Card(
        format="tandem-policy",
        version=VERSION,
        family=family,
        config=asdict(network.config),
        contract=contract,
        statistics=statistics,
        weights_sha256=content_sha256(weights),
        software=software_version(),
        training=training,
        deployment=deployment or DeployOptions.for_chunk(contract.chunk_rows),
    )
    text = folder / (CARD + ".partial")
    text.write_text(json.dumps(asdict(card), indent=1, default=str) + "\n")
    weights.replace(folder / WEIGHTS)
    text.replace(folder / CARD)


def check_saveable(family: str, network: Family) -> None:
    """Refuse a network whose weights the file format cannot hold.

    Args:
        family: As errors call it.
        network: With its first weights.

    Raises:
        PolicyError: two of its weights are the same memory.
    """
    weights = _weights_of(network)
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes, n) for n, t in weights.items())
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start < end:
            raise PolicyError(
                f"{family}: the weights {one} and {other} share memory, which {WEIGHTS} cannot "
                "hold; give the network one of them and use it in both places"
            )


def load_network(folder: Path, card: Card) -> Family:
    """The network with its weights.

    Raises:
        PolicyError: weights missing, changed, or of another network.
        UnknownNameError: a family that this Tandem does not have.
    """
    family = load_family(card.family)
    path = folder / WEIGHTS
    try:
        config = TypeAdapter(family.config_type).validate_python(card.config)
        network = family(shapes_of(card.contract), config)
        if content_sha256(path) != card.weights_sha256:
            raise PolicyError(f"{path} is not the file that {CARD} was written for; train again")
        network.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise PolicyError(f"{path} is missing; copy the whole folder of the policy") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise PolicyError(
            f"{folder / CARD} holds no options of {card.family}: {place}: {fault['msg']}"
        ) from error
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise PolicyError(f"{path} does not fit its {CARD}: {first}") from error
    return network


def _weights_of(network: Family) -> dict[str, Tensor]:
    """Its tensors in the order of memory that the file has."""
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def load_policy(
    folder: Path,
    device: str = "cpu",
    noise: NoiseMode | None = None,
    precision: Precision | None = None,
    seed: int = 0,
) -> LearnedPolicy:
    """A checkpoint as a policy; its first inference is slow, see ``policies.warm_up``.

    Args:
        folder: Of the checkpoint.
        device: ``cpu`` or ``cuda``.
        noise: Families that sample; None does as the card says.
        precision: See ``LearnedPolicy``; None does as the card says.
        seed: Of the noise of families that sample.

    Raises:
        PolicyError: see ``read_card``, ``load_network`` and ``check_device``.
    """
    check_device(device)
    card = read_card(folder)
    return LearnedPolicy(
        card.family,
        load_network(folder, card),
        card.statistics,
        card.contract,
        device,
        noise or card.deployment.noise,
        precision or card.deployment.infer_precision,
        seed,
    )
