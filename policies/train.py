"""``tandem train FAMILY --data DIR --out RUN``: from episodes to a policy.

RUN holds the policy (``policy.json``, ``model.safetensors``), the curve (``metrics.csv``,
``curve.png``, ``tensorboard/``) and the state that ``--resume`` goes on from (``run/``). The
loop itself is ``policies.loop``. With several processes, started by
``torchrun --nproc-per-node N -m policies.train FAMILY ...`` or by ``accelerate launch -m``, the
first one writes.

CPU threads: a process uses one unless ``--threads`` says otherwise. Threads beyond the idle
cores make training slower, because OpenMP's waiting threads spin and take the core from those
that work: on busy cores 2 to 8 times slower was measured. They are therefore told to sleep
while they wait, which OpenMP reads once, when torch is loaded.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from tqdm import tqdm

from policies import checkpoint
from policies.augment import Augmenter, AugmentOptions
from policies.dataset import TrainingData, check_data_options, load
from policies.deploy_settings import changed, check_replanning
from policies.device import check_training_device
from policies.divergence import BadBatchError
from policies.encoders import load_pretrained
from policies.family import Family, check_config
from policies.learned import parameters_of, shapes_of
from policies.loop import check_options, fit
from policies.metrics import Metric, draw_curve, write_metrics
from policies.preprocess import Preprocessor
from policies.registry import load_family
from policies.run_folder import (
    BAD_BATCH,
    CURVE,
    METRICS,
    STATE_FOLDER,
    check_folder,
    clear_folder,
    make_folder,
    undo_folder,
)
from policies.run_state import RunState
from policies.tracking import Trackers, check_names
from policies.train_args import PARTS, TrainArgs, family_list, parse
from teleop.errors import MissingExtraError, PolicyError

UNBUILT = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AssertionError)
"""What torch and the families' arithmetic raise at sizes that do not work out."""

MAY_CHANGE = {
    *("data", "out", "device", "encoder_weights", "track", "overwrite", "resume", "dry_run"),
    *("threads", "workers", "save_every", "cache", "verify_cache"),
}
"""Options that a resumed run may have otherwise; of the data, content, order and weights of the
episodes are compared, not where they lie."""


def main(argv: Sequence[str]) -> int:
    """``tandem train``; returns the exit code."""
    if not argv or argv[0].startswith("-"):
        tqdm.write(family_list())
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    family, *options = argv
    args = parse(family, options)
    done = RunState(args.out / STATE_FOLDER, {}).last_step() if args.resume else None
    screen = sys.stderr.isatty()
    metrics = train(family, args, show=screen, lines=not screen)
    if args.dry_run:
        return 0
    if done == args.loop.steps:
        _say(f"{args.out}: already finished after {done} steps; nothing was trained")
        return 0
    last = metrics[-1]
    held_back = (
        "no held-back episodes"
        if last.validation_loss is None
        else f"held-back loss {last.validation_loss:.4f}"
    )
    _say(
        f"{args.out}: {family} after {last.step} steps, training loss {last.train_loss:.4f}, "
        f"{held_back}; curve: {args.out / CURVE}"
    )
    return 0


def train(
    family: str, args: TrainArgs[Any], show: bool = True, lines: bool = False
) -> list[Metric]:
    """Train, and leave the policy with its curve in ``args.out``.

    Args:
        family: A name of ``policies.registry``.
        args: All options; ``policies.train_args.recipe_args`` makes them from code.
        show: Draw progress bars on standard error.
        lines: Write a line there for each row of the curve.

    Returns:
        The curve; empty after a dry run.

    Raises:
        PolicyError: unusable data or options, something in the way in ``args.out``, or a loss
            that is no longer a number (the batch is left in ``bad_batch.npz``).
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; state, policy and curve are saved.
    """
    check_names(args.track)
    check_training_device(args.device)
    if args.resume and args.overwrite:
        raise PolicyError("--resume and --overwrite exclude each other; give one of them")
    if not args.dry_run:
        check_folder(args.out, in_use=args.resume or args.overwrite)
    accelerator = Accelerator(cpu=args.device == "cpu")
    check_options(args.loop, accelerator.num_processes)
    check_data_options(args.rows)
    _check_augment(args.augment, args.rows.image_size)
    check_config(family, args.model)
    check_replanning(changed(args.deployment, {}), args.rows.chunk_rows)
    torch.set_num_threads(args.loop.threads)
    with accelerator.main_process_first():  # the first one fills the frame cache
        track = _bar("reading episodes", show and accelerator.is_main_process)
        data = load(args.data, args.rows, args.loop.seed, track)
    _tell(data, whole=args.dry_run)
    if args.encoder_weights is not None:
        args = replace(args, model=replace(args.model, norm="frozen_batch"))
    network = _network(family, args, data)
    if args.dry_run:
        return []
    if accelerator.is_main_process and not args.resume:
        if args.overwrite:
            clear_folder(args.out)
        make_folder(args.out)
    accelerator.wait_for_everyone()
    state = RunState(args.out / STATE_FOLDER, identity_of(family, args, data))
    asked = threading.Event()
    with _stop_signals(asked):
        metrics = _fit(network, family, args, data, state, show, lines, asked)
    if accelerator.is_main_process:
        _finish(family, network, args, data, state, metrics, accelerator.num_processes)
    accelerator.wait_for_everyone()
    if not metrics or metrics[-1].step != args.loop.steps:  # the same in every process
        raise KeyboardInterrupt
    return metrics


def _tell(data: TrainingData, whole: bool) -> None:
    """Say what is learned from: all of it, or what is left out and what is odd."""
    if whole:
        _say(str(data.report))
        return
    if data.left_out:
        _say(data.left_out)
    for warning in data.report.warnings if data.report else ():
        _say(f"warning: {warning}")


def _finish(
    family: str,
    network: Family,
    args: TrainArgs[Any],
    data: TrainingData,
    state: RunState,
    metrics: list[Metric],
    processes: int,
) -> None:
    """Write the policy, also that of a run that was stopped."""
    steps = state.last_step()
    training = {
        **_flat(args),
        "steps_done": steps,
        "episodes": data.episodes,
        "windows": len(data.train),
        "parameters": parameters_of(network),
        "processes": processes,
        "final": asdict(metrics[-1]) if metrics else None,
    }
    checkpoint.save(
        args.out, family, network, data.contract, data.statistics, training, args.deployment
    )
    if steps != args.loop.steps:
        _say(f"{args.out}: stopped after {steps} steps; go on with --resume")


def identity_of(family: str, args: TrainArgs[Any], data: TrainingData) -> dict[str, Any]:
    """What must be equal for a run to go on exactly; plain JSON values."""
    options = {**_flat(args), **asdict(args.deployment)}
    same = {name: value for name, value in options.items() if name not in MAY_CHANGE}
    return {"family": family, "data": data.contract.data_hash, "mixture": [*data.mixture], **same}


def _fit(
    network: Family,
    family: str,
    args: TrainArgs[Any],
    data: TrainingData,
    state: RunState,
    show: bool,
    lines: bool,
    asked: threading.Event,
) -> list[Metric]:
    """The loop; its curve is written whatever ends it.

    A start that fails before anything was logged or saved leaves nothing in ``args.out``, so
    that the corrected command is not refused.
    """
    metrics = state.metrics() if args.resume else []
    after = state.last_step() or 0 if args.resume else 0
    trackers = Trackers(args.track, args.out, args.device, after)
    began = time.monotonic()
    useless = False

    def on_log(metric: Metric) -> None:
        metrics.append(metric)
        trackers.log(metric)
        if lines:
            tqdm.write(_line(metric, args.loop.steps, after, began), file=sys.stderr)

    try:
        return fit(
            network,
            data.train,
            data.validation,
            data.statistics,
            args.loop,
            args.device,
            show,
            on_log,
            augment=Augmenter(args.augment),
            state=state,
            resume=args.resume,
            asked_to_stop=asked.is_set,
        )
    except BadBatchError as error:
        place = args.out / BAD_BATCH
        if trackers.writes:
            error.save(place)
        step = state.last_step()
        good = (
            "no state was saved before it" if step is None else f"the state of step {step} is kept"
        )
        raise PolicyError(f"{error}; the batch is in {place}, {good}") from error
    except BaseException:
        useless = not metrics and not args.resume and state.last_step() is None
        raise
    finally:
        trackers.close()
        if trackers.writes and useless:
            undo_folder(args.out)
        elif trackers.writes:
            _write_curve(args.out, metrics, f"{family}, {', '.join(data.contract.tasks)}")


def _network(family: str, args: TrainArgs[Any], data: TrainingData) -> Family:
    """The network with its first weights.

    Raises:
        PolicyError: options that do not go together, or unusable pretrained weights.
    """
    torch.manual_seed(args.loop.seed)
    kind = load_family(family)
    try:
        network = kind(shapes_of(data.contract), args.model)
        checkpoint.check_saveable(family, network)
        _try(network, data, args.augment)
    except PolicyError:
        raise
    except UNBUILT as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PolicyError(f"{family} with these options cannot be built: {first}") from error
    if network.bounded and args.rows.normalise == "standard":
        raise PolicyError(
            f"{family} needs actions in [-1, 1], where --normalise standard does not put them; "
            "give --normalise range or quantile"
        )
    if args.encoder_weights is not None and not args.resume:
        load_pretrained(network, args.encoder_weights)
    return network


def _try(network: Family, data: TrainingData, augment: AugmentOptions) -> None:
    """Take one sample through the network: some options fail there only."""
    network.eval()  # as it is deployed
    prepare = Preprocessor(data.statistics, torch.device("cpu"), Augmenter(augment))
    with torch.no_grad():
        batch, _ = prepare.batch(data.train.windows(np.zeros(1, np.int64)))
        network.loss(batch)
        network.plan(batch.inputs)


def _check_augment(options: AugmentOptions, image_size: tuple[int, int]) -> None:
    for name, value in asdict(options).items():
        if not 0 <= value < math.inf:
            raise PolicyError(f"{name} is {value}; give 0 or more")
    if options.colour > 1:
        raise PolicyError(f"colour is {options.colour:g}; give a share from 0 to 1")
    if 2 * options.shift_px >= min(image_size):
        height, width = image_size
        raise PolicyError(
            f"shift_px is {options.shift_px}, half of the {height}x{width} image or more; give "
            f"{(min(image_size) - 1) // 2} or less"
        )


def _line(metric: Metric, steps: int, after: int, began: float) -> str:
    """A row of the curve for those who see no bar; ``after`` steps were done at ``began``."""
    per_step_s = (time.monotonic() - began) / (metric.step - after)
    held_back = metric.validation_loss
    told = "" if held_back is None else f", held-back loss {held_back:.4f}"
    left_min = per_step_s * (steps - metric.step) / 60
    return (
        f"step {metric.step} of {steps}: loss {metric.train_loss:.4f}{told}, "
        f"{left_min:.1f} min left"
    )


def _write_curve(out: Path, metrics: Sequence[Metric], title: str) -> None:
    write_metrics(out / METRICS, metrics)
    try:
        draw_curve(out / CURVE, metrics, title)
    except MissingExtraError as error:
        _say(str(error))


def _flat(args: TrainArgs[Any]) -> dict[str, Any]:
    """All options but those of deployment by their flat names, as plain JSON values."""
    values = asdict(args)
    del values["deployment"]
    parts = {name: values.pop(name) for name in PARTS if name in values}
    for part in parts.values():
        values |= part
    return dict(json.loads(json.dumps(values, default=str)))


@contextmanager
def _stop_signals(asked: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end training after the step; the next one ends it now."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for name in before:
        signal.signal(name, ask)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _bar(what: str, show: bool) -> Callable[[Sequence[Path]], Iterable[Path]]:
    return lambda paths: tqdm(paths, desc=what, unit="file", disable=not show)


def _say(text: str) -> None:
    """One line to the user, from the first process only."""
    if PartialState().is_main_process:
        tqdm.write(text)


if __name__ == "__main__":
    from teleop import cli

    sys.exit(cli.main(["train", *sys.argv[1:]]))
