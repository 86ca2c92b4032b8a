"""The training loop: one for every family, readable from top to bottom.

It runs on Accelerate: one process by default, several by ``accelerate launch`` or ``torchrun``.
``batch_size`` counts the samples of one optimiser step over all processes, and each process
works on its share of the same samples. More processes are faster and see the same samples; the
noise of augmentation, dropout and the family is drawn by each for itself, so it is other noise
of the same kind, and the weights come out a little different.

All randomness of a step comes from (seed, step) for the samples and from (seed, step, process)
for that noise. A resumed run therefore repeats a run of as many processes that never stopped.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from policies.augment import Augmenter
from policies.batches import Share, chosen_at, shares
from policies.device import check_training_device
from policies.divergence import BadBatchError, Divergence, finite
from policies.ema import Average
from policies.family import Batch, Family, Losses
from policies.metrics import Metric
from policies.normalisation import Statistics
from policies.preprocess import Preprocessor
from policies.run_state import RunState, Training
from policies.schedule import ScheduleName, make_schedule
from policies.windows import WindowSet
from teleop.errors import PolicyError

VALIDATION_WINDOWS = 256
VALIDATION_BATCH = 64

LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "batch_size", "accumulate", "threads"), (1, math.inf)),
    **dict.fromkeys(("log_every", "save_every"), (1, math.inf)),
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_steps"), (0, math.inf)),
    **dict.fromkeys(("clip_norm", "ema_power", "ema_after", "workers"), (0, math.inf)),
    **dict.fromkeys(("ema_min", "ema_max"), (0, 1)),
    "seed": (0, 2**63 - 1),
}
"""Least and largest value of options, both included."""


@dataclass(frozen=True)
class LoopOptions:
    """How a network is trained."""

    steps: int = 2400
    """Optimiser steps."""
    batch_size: int = 32
    """Samples of one step, over all processes."""
    learning_rate: float = 1e-4
    """Its peak."""
    weight_decay: float = 1e-4
    """Of AdamW: how strongly weights are pulled to zero."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW: how much of the gradient's mean and of its mean square a step keeps."""
    schedule: ScheduleName = "cosine"
    """Of the learning rate: warm-up and half a cosine, warm-up and constant, or one cycle."""
    warmup_steps: int = 500
    """Steps of linear growth at the start, at most a tenth of all; ``onecycle`` has its own."""
    clip_norm: float = 1.0
    """Longest gradient; longer ones are shortened. 0 does not clip."""
    accumulate: int = 1
    """Parts that a batch is worked through in, one after another: less memory, same step."""
    ema: bool = True
    """Deploy a moving average of the weights instead of the last ones."""
    ema_power: float = 0.75
    """After t steps the average keeps ``1 - (1 + t)^-power`` of itself."""
    ema_after: int = 0
    """Steps before averaging begins."""
    ema_min: float = 0.0
    """Smallest share that the average keeps."""
    ema_max: float = 0.9999
    """Largest share that the average keeps."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 computes most layers in 16 bits: about twice as fast where the device has them."""
    compile: bool = False
    """Compile the network first; pays for long runs on a GPU, needs a C++ compiler on a CPU."""
    channels_last: bool = True
    """Memory order of image networks that convolutions are faster in."""
    threads: int = 1
    """CPU threads of a process; more than there are idle cores makes training slower."""
    workers: int = 0
    """Processes that load samples ahead; 0 loads them in the loop."""
    log_every: int = 100
    """Steps between rows of metrics.csv."""
    save_every: int = 1000
    """Steps between saves of the state that --resume goes on from."""
    seed: int = 0
    """Of first weights, order of samples, noise, and the choice of held-back episodes."""


def fit(
    network: Family,
    train: WindowSet,
    validation: WindowSet | None,
    statistics: Statistics,
    options: LoopOptions,
    device: str = "cpu",
    show: bool = False,
    on_log: Callable[[Metric], None] | None = None,
    *,
    augment: Augmenter | None = None,
    state: RunState | None = None,
    resume: bool = False,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> list[Metric]:
    """Train a network in place; afterwards it holds the weights to deploy.

    Args:
        network: Left in evaluation mode, on the device it was trained on.
        train: Windows to learn from.
        validation: Windows of other episodes, for the validation loss.
        statistics: Of ``train``.
        options: See there.
        device: ``cpu`` or ``cuda``; several processes take a GPU each.
        show: Draw a progress bar on standard error.
        on_log: Told each new row of the curve, in the first process only.
        augment: Varies training samples.
        state: Where to save the state now and then, and at the end; None saves nothing.
        resume: Go on from ``state``.
        asked_to_stop: Asked at each step; after one it says True to, training ends early.

    Returns:
        The curve, from the first step of the run on.

    Raises:
        BadBatchError: the loss or the gradient is no number, or the loss has diverged.
        PolicyError: options that cannot be met, or a state that does not fit.
    """
    run = _begin(network, statistics, options, device, augment)
    accelerator, training = run.accelerator, run.training
    if resume and state is not None:
        state.restore(training)
    plain = Preprocessor(statistics, accelerator.device)
    divergence = Divergence()
    batches = shares(
        train,
        range(training.step + 1, options.steps + 1),
        options.seed,
        options.batch_size,
        accelerator.process_index,
        accelerator.num_processes,
        options.workers,
    )
    bar = tqdm(
        total=options.steps,
        initial=training.step,
        desc="training",
        unit="step",
        disable=not (show and accelerator.is_main_process),
    )
    with bar:
        for share in batches:
            losses, norm, stop = run.step(share, asked_to_stop())
            if not finite(norm, *losses.values()) or divergence.add(losses["loss"]):
                raise run.bad_batch(train, losses["loss"], norm)
            rate = run.update()
            training.recent.append({**losses, "gradient_norm": norm})
            bar.update()
            last = training.step == options.steps
            if training.step % options.log_every == 0 or last:
                held_back = None
                if validation is not None and accelerator.is_main_process:
                    held_back = validation_loss(run.deployed, validation, plain, options.seed)
                metric = _metric(training, held_back, rate)
                if on_log is not None and accelerator.is_main_process:
                    on_log(metric)
                shown = "none" if held_back is None else f"{held_back:.4f}"
                bar.set_postfix(loss=f"{metric.train_loss:.4f}", validation=shown)
            due = training.step % options.save_every == 0 or last or stop
            if due and state is not None and accelerator.is_main_process:
                state.save(training)
            if stop:
                break
    accelerator.wait_for_everyone()
    network.load_state_dict(run.deployed.state_dict())
    network.eval()
    return training.metrics


def check_options(options: LoopOptions, processes: int) -> None:
    """Refuse what cannot be trained.

    Raises:
        PolicyError: names the option.
    """
    for name, (low, high) in LIMITS.items():
        value = getattr(options, name)
        if not (math.isfinite(value) and low <= value <= high):
            wanted = f"{low} or more" if math.isinf(high) else f"{low} to {high}"
            raise PolicyError(f"{name} is {value}; give {wanted}")
    if options.ema_min > options.ema_max:
        raise PolicyError(
            f"ema_min {options.ema_min} is above ema_max {options.ema_max}; give the smaller share "
            "to ema_min"
        )
    if not all(0 <= beta < 1 for beta in options.betas):
        raise PolicyError(f"betas are {options.betas}; give two numbers from 0 to below 1")
    if options.batch_size % processes or options.batch_size // processes < options.accumulate:
        raise PolicyError(
            f"batch_size {options.batch_size} cannot be shared by {processes} process(es) in "
            f"{options.accumulate} part(s) each; choose a multiple of "
            f"{processes * options.accumulate}"
        )


def validation_loss(
    network: Family, windows: WindowSet, prepare: Preprocessor, seed: int = 0
) -> float:
    """Loss over at most ``VALIDATION_WINDOWS`` windows of held-back episodes, evenly spread.

    Families that sample draw the same noise each time, so that rows of a curve compare. It
    tells over-fitting, not success: policies are compared by ``tandem evaluate``.
    """
    count = min(VALIDATION_WINDOWS, len(windows))
    spread = np.linspace(0, len(windows) - 1, count).astype(np.int64)
    was_training = network.training
    network.eval()
    total = 0.0
    torch.manual_seed(seed)
    with torch.inference_mode():
        for first in range(0, count, VALIDATION_BATCH):
            part = windows.windows(spread[first : first + VALIDATION_BATCH])
            total += float(network.loss(prepare.batch(part)[0])["loss"].sum())
    network.train(was_training)
    return total / count


class _Model(nn.Module):
    """The loss as a forward pass, which is what distributed wrappers and compilers take."""

    def __init__(self, network: Family, bf16: bool) -> None:
        super().__init__()
        self.network = network
        self._bf16 = bf16

    def forward(self, batch: Batch) -> Losses:
        with torch.autocast(batch.actions.device.type, torch.bfloat16, enabled=self._bf16):
            return self.network.loss(batch)


def _begin(
    network: Family,
    statistics: Statistics,
    options: LoopOptions,
    device: str,
    augment: Augmenter | None,
) -> _Run:
    check_training_device(device)
    accelerator = Accelerator(cpu=device == "cpu")
    check_options(options, accelerator.num_processes)
    torch.set_num_threads(options.threads)
    network.to(accelerator.device).train()
    if options.channels_last and network.shapes.cameras:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = _Model(network, options.precision == "bf16")
    if options.compile:
        model.compile()
    model = accelerator.prepare_model(model)  # gives every process the first one's weights
    optimiser = torch.optim.AdamW(
        network.parameters(),
        options.learning_rate,
        betas=options.betas,
        weight_decay=options.weight_decay,
        fused=True,
    )
    schedule = make_schedule(
        options.schedule, optimiser, options.learning_rate, options.steps, options.warmup_steps
    )
    average = None
    if options.ema:
        average = Average(
            network, options.ema_power, options.ema_after, options.ema_min, options.ema_max
        )
    prepare = Preprocessor(statistics, accelerator.device, augment)
    training = Training(network, optimiser, schedule, average)
    return _Run(accelerator, model, training, prepare, options)


@dataclass
class _Run:
    """One process's side of a run."""

    accelerator: Accelerator
    model: nn.Module
    training: Training
    prepare: Preprocessor
    options: LoopOptions
    samples: list[Tensor] = field(default_factory=list)
    """Losses of this process's samples in the present step."""

    @property
    def deployed(self) -> Family:
        """The network that would be deployed now."""
        average = self.training.average
        return cast(Family, average.network if average else self.training.network)

    def step(self, share: Share, stop: bool) -> tuple[dict[str, float], float, bool]:
        """Losses and gradient of one batch; the weights stay as they are.

        Args:
            share: This process's samples.
            stop: Whether this process was asked to stop.

        Returns:
            Losses by name and the gradient's norm, over all processes, and whether any of
            them was asked to stop.
        """
        accelerator, training = self.accelerator, self.training
        training.step += 1
        _seed(self.options.seed, training.step, accelerator.process_index)
        weight, stop = _agree(accelerator, float(share.windows.weight.sum()), stop)
        training.optimiser.zero_grad()
        self.samples = []
        totals: dict[str, Tensor] = {}
        parts = share.parts(self.options.accumulate)
        for number, part in enumerate(parts, 1):
            batch, weights = self.prepare.batch(part)
            whole = number == len(parts)  # until then, processes need not exchange gradients
            with contextlib.nullcontext() if whole else accelerator.no_sync(self.model):
                losses = self.model(batch)
                means = {name: (x.float() * weights).sum() / weight for name, x in losses.items()}
                accelerator.backward(means["loss"] * accelerator.num_processes)
            for name, mean in means.items():
                totals[name] = totals.get(name, 0.0) + mean.detach()
            self.samples.append(losses["loss"].detach().float())
        norm = accelerator.clip_grad_norm_(
            training.network.parameters(), self.options.clip_norm or math.inf
        )
        sums = accelerator.reduce(torch.stack(list(totals.values())), "sum")
        numbers = torch.cat([sums, norm.detach()[None]]).tolist()  # waits for the device, once
        return dict(zip(totals, numbers, strict=False)), numbers[-1], stop

    def update(self) -> float:
        """Move the weights by the gradient of the last ``step``; returns the learning rate."""
        training = self.training
        rate = float(training.schedule.get_last_lr()[0])
        training.optimiser.step()
        training.schedule.step()
        if training.average is not None:
            training.average.update(training.network)
        return rate

    def bad_batch(self, windows: WindowSet, loss: float, norm: float) -> BadBatchError:
        """The error that stops training, with the samples of all processes."""
        step, count = self.training.step, self.accelerator.num_processes
        losses = self.accelerator.gather(torch.cat(self.samples)).cpu().numpy()
        drawn = chosen_at(windows, self.options.seed, step, self.options.batch_size)
        chosen = np.concatenate([drawn[rank::count] for rank in range(count)])
        if not finite(loss):
            what = f"the loss became {loss}"
        elif not finite(norm):
            what = f"the gradient became {norm}"
        else:
            what = f"the loss has grown to {loss:.3g} and stayed there"
        return BadBatchError(what, step, chosen, windows, losses)


def _agree(accelerator: Accelerator, weight: float, stop: bool) -> tuple[float, bool]:
    """The weight of all processes' samples, and whether any process was asked to stop."""
    if accelerator.num_processes > 1:
        told = torch.tensor([weight, float(stop)], device=accelerator.device)
        weight, stop = accelerator.reduce(told, "sum").tolist()
    return max(weight, 1e-6), bool(stop)


def _seed(seed: int, step: int, rank: int) -> None:
    """Give torch the randomness of one step in one process."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def _metric(training: Training, held_back: float | None, rate: float) -> Metric:
    """A row of the curve out of the steps since the last one."""
    means = {
        name: float(np.mean([step[name] for step in training.recent]))
        for name in training.recent[0]
    }
    loss, norm = means.pop("loss"), means.pop("gradient_norm")
    metric = Metric(training.step, loss, held_back, rate, norm, means)
    training.metrics.append(metric)
    training.recent.clear()
    return metric
