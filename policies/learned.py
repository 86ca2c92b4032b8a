"""A trained network as a policy: observations in, action chunk out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from policies.deployment import NoiseMode, Precision
from policies.family import Family, Shapes
from policies.normalisation import Statistics
from policies.policy import Observation, ObservationContract, chunk_of
from policies.preprocess import Preprocessor
from policies.text import embed, load_text_encoder
from teleop.errors import PolicyError
from teleop.messages import ActionChunk


class LearnedPolicy:
    """A policy made of a network, its statistics and its contract.

    Args:
        name: Of the family; goes into the chunks.
        network: Deployed weights.
        statistics: Of the training data.
        contract: What the policy sees.
        device: ``cpu`` or ``cuda``.
        noise_mode: Families that sample: the same noise for all plans of an episode, or fresh.
        precision: bf16 computes most layers in 16 bits; pays for image networks on devices
            that have them.
        seed: Of the first episode's noise.

    Raises:
        PolicyError: the text encoder of the training data is not to be had here.
    """

    def __init__(
        self,
        name: str,
        network: Family,
        statistics: Statistics,
        contract: ObservationContract,
        device: str = "cpu",
        noise_mode: NoiseMode = "episode",
        precision: Precision = "float32",
        seed: int = 0,
    ) -> None:
        self.name = name
        self._contract = contract
        self._statistics = statistics
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()
        self._prepare = Preprocessor(statistics, self._device)
        self._text = _Instruction(contract) if contract.text else None
        self._noise_mode = noise_mode
        self._bf16 = precision == "bf16"
        self._seed = seed
        self._noise = torch.Generator(self._device).manual_seed(seed)

    @property
    def contract(self) -> ObservationContract:
        return self._contract

    def reset(self) -> None:
        """Other noise for the next episode; plans depend on nothing else of the past."""
        self._seed += 1
        self._noise.manual_seed(self._seed)

    def infer(self, history: Sequence[Observation]) -> ActionChunk:
        """Plan from the last observation on; see ``policies.policy.Policy``.

        Raises:
            PolicyError: no observation, or one that does not fit the contract.
        """
        state, images = arrays_of(history, self._contract)
        words = self._text.vector(history[-1].instruction) if self._text else None
        if self._noise_mode == "episode":
            self._noise.manual_seed(self._seed)
        with (
            torch.no_grad(),  # inference mode would cast the weights anew at every sampling step
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16),
        ):
            plan = self._network.plan(self._prepare.inputs(state, images, words), self._noise)[0]
        actions = self._statistics.action.restore(plan.double().cpu().numpy())
        return chunk_of(self._contract, history[-1], actions, self.name)


class _Instruction:
    """Embeds the instruction; it is the same for a whole episode, so the last one is kept."""

    def __init__(self, contract: ObservationContract) -> None:
        assert contract.text is not None
        self._encoder = load_text_encoder(contract.text.encoder)
        if self._encoder.size != contract.text.size:
            raise PolicyError(
                f"text encoder {contract.text.encoder} gives {self._encoder.size} numbers, the "
                f"policy was trained on {contract.text.size}; use the version it was trained with"
            )
        self._words: str | None = None
        self._vector = np.zeros((1, contract.text.size), np.float32)

    def vector(self, words: str) -> NDArray[np.float32]:
        """Shape (1, E)."""
        if words != self._words:
            self._words, self._vector = words, embed(self._encoder, words)[None]
        return self._vector


def arrays_of(
    history: Sequence[Observation], contract: ObservationContract
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """States (1, n, S) and images (1, n, C, H, W, 3) in the contract's order, oldest first.

    The oldest observation stands for those before it.

    Raises:
        PolicyError: something of the contract is missing or has another shape.
    """
    if not history:
        raise PolicyError("the policy was given no observation to plan from")
    seen = [*history][-contract.history :]
    seen = [seen[0]] * (contract.history - len(seen)) + seen
    states = np.stack([_state_of(observation, contract) for observation in seen])[None]
    if not contract.cameras:
        return states, np.empty((1, len(seen), 0, 0, 0, 3), np.uint8)
    return states, np.stack([_images_of(observation, contract) for observation in seen])[None]


def _state_of(observation: Observation, contract: ObservationContract) -> NDArray[np.float64]:
    """qpos and the extra inputs, (S,)."""
    wanted = [("qpos", observation.qpos, len(contract.joint_names))]
    for extra in contract.extras:
        if extra.name not in observation.extra:
            raise PolicyError(
                f"the observation lacks {extra.name}, which the policy was trained on"
            )
        wanted.append((extra.name, observation.extra[extra.name], extra.size))
    for name, vector, size in wanted:
        if np.shape(vector) != (size,):
            raise PolicyError(
                f"the observation's {name} has shape {np.shape(vector)}, not ({size},)"
            )
    return np.concatenate([vector for _, vector, _ in wanted])


def _images_of(observation: Observation, contract: ObservationContract) -> NDArray[np.uint8]:
    """Images of all cameras, (C, H, W, 3)."""
    images = []
    for view in contract.cameras:
        image = observation.images.get(view.name)
        if image is None or image.shape != (view.height, view.width, 3):
            seen = "no image" if image is None else f"an image of shape {image.shape}"
            raise PolicyError(
                f"the observation has {seen} of {view.name}, the policy needs "
                f"({view.height}, {view.width}, 3)"
            )
        images.append(image)
    return np.stack(images)


def shapes_of(contract: ObservationContract) -> Shapes:
    """Sizes of the network that fits a contract.

    Raises:
        PolicyError: cameras with different training sizes.
    """
    sizes = {(view.height, view.width) for view in contract.cameras}
    if len(sizes) > 1:
        raise PolicyError(f"cameras have different training sizes {sorted(sizes)}; use one")
    height, width = next(iter(sizes), (0, 0))
    return Shapes(
        state=len(contract.joint_names) + sum(extra.size for extra in contract.extras),
        action=len(contract.joint_names),
        chunk_rows=contract.chunk_rows,
        history=contract.history,
        cameras=len(contract.cameras),
        height=height,
        width=width,
        text=contract.text.size if contract.text else 0,
    )


def parameters_of(network: Family) -> int:
    """How many numbers the network learns."""
    return sum(parameter.numel() for parameter in network.parameters())
