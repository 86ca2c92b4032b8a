"""Diffusion Policy (Chi et al. 2023): a chunk is noise, cleaned step by step.

Training adds noise of a random level to the recorded chunk, and the network learns what was
added; inference starts from pure noise. It answers with ONE of the ways the demonstrations
show, where a regression answers with their mean. Noise schedule and samplers are those of
``diffusers``: cosine levels (Nichol and Dhariwal 2021), 100 training steps, DDPM (Ho et al.
2020) or DDIM (Song et al. 2021) at inference.

Deviations:

- The default denoiser is a transformer whose tokens hold several rows (``policies.denoiser``);
  ``--denoiser unet`` is the paper's.
- The network predicts the clean chunk (``--prediction epsilon`` is the paper's noise). Noise has
  as many values as the chunk and all must pass through the network, while a clean chunk is
  close to what the observation alone tells.
- DDIM with 10 steps by default; the published simulation results use DDPM with 100.
- The chunk's row 0 is the present action. The published horizon begins at the oldest
  observation of the history, so its first rows are never played.
- Actions of padding rows are replaced by zeros before noise is added, so that what stands
  there changes nothing. The recipe repeats the last action instead, as the published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from policies.denoiser import (
    RECIPE,
    DenoiserConfig,
    make_denoiser,
    starting_noise,
)
from policies.encoders import ObservationEncoder
from policies.family import Batch, Family, FamilyConfig, Inputs, Losses, Shapes, masked_mean
from teleop.errors import PolicyError


@dataclass(frozen=True)
class DiffusionConfig(DenoiserConfig):
    """Options of the diffusion family."""

    prediction: Literal["epsilon", "sample", "v_prediction"] = "sample"
    """What the network learns: the noise, the clean chunk, or the velocity between them. The
    clean chunk needs the least training: see ``policies.flow`` for figures."""
    train_steps: int = 100
    """Noise levels of training."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """DDIM adds no noise on the way and needs few steps; DDPM does and needs many."""
    inference_steps: int = 10
    """Denoising steps per chunk, at most ``train_steps``."""
    clip: float = 1.0
    """Clean chunks are clamped to this many normalised units on the way; 0 never clamps. 1 is
    the data's range with ``--normalise range``."""


class DiffusionNet(Family):
    """The network of the diffusion family."""

    config_type: ClassVar[type[FamilyConfig]] = DiffusionConfig
    recipe: ClassVar[Mapping[str, Any]] = RECIPE

    def __init__(self, shapes: Shapes, config: DiffusionConfig) -> None:
        super().__init__(shapes, config)
        if not 1 <= config.inference_steps <= config.train_steps:
            raise PolicyError(
                f"inference_steps {config.inference_steps} must lie in 1 ... "
                f"{config.train_steps}, the noise levels of training"
            )
        self.observe = ObservationEncoder(shapes, config)
        self.denoise = make_denoiser(shapes, config, shapes.history * self.observe.size)
        self.levels = _scheduler(DDPMScheduler, config)

    @property
    def bounded(self) -> bool:
        return bool(self.config.clip > 0)

    def loss(self, batch: Batch) -> Losses:
        actions = batch.actions * batch.mask[..., None]
        noise = torch.randn_like(actions)
        levels = self.config.train_steps
        level = torch.randint(levels, (len(actions),), device=actions.device)
        noisy = self.levels.add_noise(actions, noise, level)
        guess = self._network(noisy, level, self.observe(batch.inputs).flatten(1))
        target = self._target(actions, noise, level)
        return {"loss": masked_mean((guess.float() - target).square(), batch.mask)}

    @torch.no_grad()
    def plan(self, inputs: Inputs, noise: torch.Generator | None = None) -> Tensor:
        scheduler = _scheduler(
            DDIMScheduler if self.config.sampler == "ddim" else DDPMScheduler, self.config
        )
        device = inputs.state.device
        chunk = starting_noise(len(inputs.state), self.shapes, noise, device)
        scheduler.set_timesteps(self.config.inference_steps)
        seen = self.observe(inputs).flatten(1)
        for level in scheduler.timesteps.tolist():
            levels = torch.full((len(chunk),), level, device=device)
            guess = self._network(chunk, levels, seen).float()
            chunk = scheduler.step(guess, level, chunk, generator=noise).prev_sample
        return chunk

    def _target(self, actions: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the network should answer, (B, K, A)."""
        if self.config.prediction == "epsilon":
            return noise
        if self.config.prediction == "sample":
            return actions
        return cast(Tensor, self.levels.get_velocity(actions, noise, level))

    def _network(self, chunk: Tensor, level: Tensor, seen: Tensor) -> Tensor:
        """(B, K, A), (B,) noise levels, (B, F) -> (B, K, A)."""
        return cast(Tensor, self.denoise(chunk, level / self.config.train_steps, seen))


def _scheduler(kind: Any, config: DiffusionConfig) -> Any:
    """A scheduler of diffusers with the published settings."""
    return kind(
        num_train_timesteps=config.train_steps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=config.prediction,
        clip_sample=config.clip > 0,
        clip_sample_range=config.clip or 1.0,
    )
