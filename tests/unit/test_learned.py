"""A network as a policy: history, noise, instruction, and observations that do not fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from policy_episodes import CAMERA
from torch import Tensor
from toy_windows import CONTRACT, STATISTICS

from policies.deployment import NoiseMode
from policies.family import Family, FamilyConfig, Inputs
from policies.learned import LearnedPolicy, shapes_of
from policies.policy import Observation, ObservationContract, TextInput
from policies.warm_up import rehearsal
from teleop.errors import PolicyError

THREE = replace(CONTRACT, history=3)
WORDS = replace(CONTRACT, text=TextInput("words", 64))


@dataclass(frozen=True)
class EchoConfig(FamilyConfig):
    """No options of its own."""


class EchoNet(Family):
    """Its plan is noise, and it remembers what it was shown."""

    config_type = EchoConfig

    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        self.seen = inputs
        return torch.randn(1, self.shapes.chunk_rows, self.shapes.action, generator=noise)


def echo(
    contract: ObservationContract = CONTRACT, noise: NoiseMode = "episode"
) -> tuple[LearnedPolicy, EchoNet]:
    network = EchoNet(shapes_of(contract), EchoConfig())
    return LearnedPolicy("echo", network, STATISTICS, contract, noise_mode=noise), network


def seen_at(*qpos: float, instruction: str = "") -> list[Observation]:
    """Observations with all joints at these angles, oldest first."""
    at = rehearsal(CONTRACT)[-1]
    return [
        replace(at, qpos=np.full(14, angle), observation_id=number, instruction=instruction)
        for number, angle in enumerate(qpos)
    ]


def angles(network: EchoNet) -> Sequence[float]:
    """The first joint of each observation that the network saw, rad."""
    return [round(float(value), 5) for value in network.seen.state[0, :, 0] * 0.5]


def test_the_oldest_observation_stands_for_those_before_it() -> None:
    """A short history is filled up, a long one is cut to the newest."""
    policy, network = echo(THREE)
    for history, expected in (
        (seen_at(0.1), [0.1, 0.1, 0.1]),
        (seen_at(0.1, 0.2), [0.1, 0.1, 0.2]),
        (seen_at(0.1, 0.2, 0.3, 0.4), [0.2, 0.3, 0.4]),
    ):
        chunk = policy.infer(history)
        assert angles(network) == expected
        assert network.seen.images is not None
        assert network.seen.images.shape == (1, 3, 1, 3, 24, 32)
        assert chunk.observation_id == history[-1].observation_id
    with pytest.raises(PolicyError, match="no observation to plan from"):
        policy.infer([])


def test_plans_of_an_episode_agree_and_those_of_the_next_differ() -> None:
    """The same noise for every plan until reset; the same again in another run."""
    policy, _ = echo(noise="episode")
    again, _ = echo(noise="episode")
    plans = []
    for _ in range(2):
        policy.reset()
        again.reset()
        first, second = (policy.infer(seen_at(0.0)).actions for _ in range(2))
        assert (first == second).all()
        assert (first == again.infer(seen_at(0.0)).actions).all()
        plans.append(first)
    assert (plans[0] != plans[1]).any()


def test_fresh_noise_differs_from_plan_to_plan() -> None:
    """And an episode still repeats when it is run again."""
    policy, _ = echo(noise="fresh")
    again, _ = echo(noise="fresh")
    first, second = (policy.infer(seen_at(0.0)).actions for _ in range(2))
    assert (first != second).any()
    repeated = [again.infer(seen_at(0.0)).actions for _ in range(2)]
    assert (np.stack([first, second]) == np.stack(repeated)).all()


def test_the_instruction_reaches_the_network() -> None:
    """Embedded by the encoder of the training data; other words give another vector."""
    policy, network = echo(WORDS)
    vectors = []
    for words in ("open the drawer", "close the drawer", "open the drawer"):
        policy.infer(seen_at(0.0, instruction=words))
        assert network.seen.text is not None
        vectors.append(network.seen.text)
    assert vectors[0].shape == (1, 64)
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])


def test_a_text_encoder_of_another_size_is_refused() -> None:
    """It is not the one the policy was trained with."""
    with pytest.raises(PolicyError, match="gives 64 numbers, the policy was trained on 32"):
        echo(replace(CONTRACT, text=TextInput("words", 32)))


def test_an_observation_that_does_not_fit_is_refused() -> None:
    """Missing camera, wrong image size, wrong number of joints; also in the past."""
    policy, _ = echo(replace(CONTRACT, history=2))
    good = rehearsal(CONTRACT)[-1]
    small = {CAMERA: np.zeros((10, 10, 3), np.uint8)}
    cases: list[tuple[Observation, str]] = [
        (replace(good, images={}), "no image of cam_high"),
        (replace(good, images=small), r"shape \(10, 10, 3\) of cam_high"),
        (replace(good, qpos=np.zeros(3)), r"qpos has shape \(3,\)"),
    ]
    for bad, words in cases:
        for history in ([bad], [bad, good]):
            with pytest.raises(PolicyError, match=words):
                policy.infer(history)
