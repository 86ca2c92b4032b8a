"""A trained network as a policy: arrays in, action chunk out."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.family import Family, Inputs, Shapes
from policies.normalisation import Statistics
from policies.policy import Observation, ObservationContract, chunk_of
from teleop.errors import PolicyError
from teleop.messages import ActionChunk


class Preprocessor:
    """Turns states and uint8 images into normalised tensors; one path for training and use."""

    def __init__(self, statistics: Statistics, device: torch.device) -> None:
        self._statistics = statistics
        self.device = device
        mean = torch.tensor([image.mean for image in statistics.images]) * 255.0
        std = torch.tensor([image.std for image in statistics.images]) * 255.0
        self._image_mean = mean.reshape(1, -1, 3, 1, 1).to(device)
        self._image_std = std.reshape(1, -1, 3, 1, 1).to(device)

    def inputs(self, state: NDArray[np.floating], images: NDArray[np.uint8] | None) -> Inputs:
        """Normalise a batch.

        Args:
            state: Shape (B, S).
            images: Shape (B, C, H, W, 3); None without cameras.
        """
        normalised = self._statistics.state.normalise(state.astype(np.float64))
        if images is None:
            return Inputs(self._tensor(normalised), None)
        pixels = torch.from_numpy(images).to(self.device).permute(0, 1, 4, 2, 3).float()
        return Inputs(self._tensor(normalised), (pixels - self._image_mean) / self._image_std)

    def actions(self, actions: NDArray[np.floating]) -> Tensor:
        """Normalise actions, shape (B, K, A)."""
        return self._tensor(self._statistics.action.normalise(actions.astype(np.float64)))

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device)


class LearnedPolicy:
    """A policy made of a network, its statistics and its contract."""

    def __init__(
        self,
        name: str,
        network: Family,
        statistics: Statistics,
        contract: ObservationContract,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self._contract = contract
        self._statistics = statistics
        self._network = network.to(torch.device(device)).eval()
        self._prepare = Preprocessor(statistics, torch.device(device))

    @property
    def contract(self) -> ObservationContract:
        return self._contract

    def reset(self) -> None:
        """Nothing to forget: the plan depends on the present observation alone."""

    def infer(self, observation: Observation) -> ActionChunk:
        """Plan from the observation.

        Raises:
            PolicyError: the observation does not fit the contract.
        """
        state, images = arrays_of(observation, self._contract)
        with torch.inference_mode():
            plan = self._network.plan(self._prepare.inputs(state, images))[0]
        actions = self._statistics.action.restore(plan.cpu().numpy().astype(np.float64))
        return chunk_of(self._contract, observation, actions, self.name)


def arrays_of(
    observation: Observation, contract: ObservationContract
) -> tuple[NDArray[np.float64], NDArray[np.uint8] | None]:
    """State (1, S) and images (1, C, H, W, 3) in the contract's order.

    Raises:
        PolicyError: something of the contract is missing or has another shape.
    """
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
    state = np.concatenate([vector for _, vector, _ in wanted])[None]
    if not contract.cameras:
        return state, None
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
    return state, np.stack(images)[None]


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
        cameras=len(contract.cameras),
        height=height,
        width=width,
        chunk_rows=contract.chunk_rows,
        action=len(contract.joint_names),
    )


def rehearsal(contract: ObservationContract) -> Observation:
    """An observation of the right shapes, made up, for warming a network up."""
    middle = (np.asarray(contract.qpos_low) + np.asarray(contract.qpos_high)) / 2
    return Observation(
        stamp_ns=0,
        observation_id=0,
        qpos=middle,
        images={v.name: np.zeros((v.height, v.width, 3), np.uint8) for v in contract.cameras},
        extra={extra.name: np.zeros(extra.size) for extra in contract.extras},
    )


def parameters_of(network: Family) -> int:
    """How many numbers the network learns."""
    return sum(cast(Tensor, parameter).numel() for parameter in network.parameters())
