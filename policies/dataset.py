"""Training data out of recorded episodes: chosen, checked, split, counted.

Rows come aligned from the recorder: row k holds per stream the newest sample that had
arrived, which is what a deployed policy sees.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from policies.data_report import Counted, DataReport, describe, state_columns
from policies.episode_rows import (
    EpisodeRows,
    Header,
    Pause,
    SampleWeights,
    read_rows,
    rows_per_step,
)
from policies.file_hash import content_sha256
from policies.frame_cache import Track, load_frames
from policies.normalisation import MapName, Statistics
from policies.plugin import plugin_faults
from policies.policy import CameraView, ExtraInput, ObservationContract, TextInput
from policies.selection import Choice, Folder, Selected, select
from policies.text import TextEncoder, embed, load_text_encoder
from policies.windows import Padding, Rows, WindowSet
from recorder.episode import Episode
from teleop.errors import PolicyError


@dataclass(frozen=True)
class DataOptions(Choice):
    """Which part of the episodes a policy is trained on."""

    cameras: tuple[str, ...] | None = None
    """Cameras to see, apart by spaces or commas; all that were recorded when not given."""
    image_size: tuple[int, int] = (96, 128)
    """Height and width of the images at training, pixels."""
    blind: bool = False
    """See joint positions only: the baseline that shows what the cameras are worth."""
    object_pose: bool = False
    """See the poses of objects (privileged: emulated rig only); no cameras unless named."""
    chunk_rows: int = 50
    """Rows of one action chunk."""
    history: int = 1
    """Observations that the policy sees at once, the present one included."""
    history_stride: int = 1
    """Rows from one of them to the next."""
    rate_hz: float | None = None
    """Rows per second of the policy; must divide that of the episodes, which is the default."""
    window_stride: int = 3
    """Every how many rows a window begins; neighbouring rows show almost the same."""
    padding: Padding = "repeat"
    """Beyond the end of an episode: repeat the last action as if shown, or mask it out."""
    normalise: MapName = "standard"
    """Map of states and actions: unit deviation, or to [-1, 1] by range or by quantiles."""
    holdout: float = 0.1
    """Share of the episodes kept out of training, for the validation loss."""
    drop_idle: float = 0.0
    """Leave out windows that begin in a pause of at least so many seconds; 0 keeps all."""
    idle_reach: float = 0.02
    """What a column of the action may move in a pause; rad or gripper opening."""
    sample_weights: str | None = None
    """``module:function`` that takes an Episode and returns the weight of each row, (T,)."""
    text: str | None = None
    """Condition on the task's instruction through this text encoder: ``words``, or
    ``module:attribute``."""
    cache: bool = True
    """Keep decoded frames in files beside the episodes; otherwise in memory."""
    verify_cache: bool = False
    """Check episodes and cached frames by the hash of all their bytes."""


@dataclass(frozen=True)
class TrainingData:
    """Windows for training and validation with what they stand for."""

    train: WindowSet
    validation: WindowSet | None
    """None when there are too few episodes to hold one back."""
    statistics: Statistics
    contract: ObservationContract
    episodes: int
    """How many episodes are trained on."""
    left_out: str = ""
    """How many episodes were left out and why, in words; empty when none was."""
    report: DataReport | None = field(default=None, repr=False)
    """What a dry run prints; None for data that did not come from episodes."""
    mixture: tuple[str, ...] = ()
    """The episodes in their order, with weights: what the split and the samples hang on."""


def load(
    folders: Sequence[str | Path],
    options: DataOptions,
    seed: int,
    track: Track = iter,
) -> TrainingData:
    """Read folders of episodes.

    Args:
        folders: Each ``DIR`` or ``DIR=WEIGHT``, searched for episode files.
        options: What to take from them.
        seed: Decides which episodes are held back for validation.
        track: Goes through the files, for example with a progress bar.

    Raises:
        PolicyError: no episode that the options admit, numbers that make no sense, or episodes
            that do not belong together.
        UnknownNameError: a camera that was not recorded.
        EpisodeError: a file that is no episode.
    """
    check_data_options(options)
    chosen = select([Folder.parse(str(folder)) for folder in folders], options)
    encoder = None if options.text is None else _text_encoder(options.text)
    episodes = _read(chosen, options, track)
    headers = [episode.header for episode in episodes]
    views = _shared_views(chosen.paths, headers)
    _check_together(chosen.paths, headers, options)
    loaded, notes = load_frames(
        [episode.frames for episode in episodes], options.cache, options.verify_cache, track
    )
    hashes = [frames.episode_sha256 for frames in loaded]
    _check_different(chosen.paths, hashes)
    parts: list[list[Rows]] = []
    for episode, frames, weight in zip(episodes, loaded, chosen.weights, strict=True):
        step = rows_per_step(episode.header, options.rate_hz)
        text = _embedded(encoder, options.text, episode.header)
        parts.append(episode.phases(step, options.window_stride, frames, text, weight))
    train, held = _split(len(episodes), options.holdout, seed)
    windows = _window_set([parts[i] for i in train], options)
    first = episodes[0].header
    columns = state_columns(first.joint_names, first.extras)
    statistics = windows.statistics(options.normalise, columns)
    contract = _contract(
        [episodes[i] for i in train],
        views,
        statistics,
        None if encoder is None else TextInput(cast(str, options.text), encoder.size),
        data_hash(chosen.paths, hashes),
        options,
    )
    # The held-back loss counts all windows alike; weights that are 0 there are no reason to stop.
    unweighted = [[replace(part, weight=None) for part in parts[i]] for i in held]
    validation = _window_set(unweighted, options) if held else None
    counted = _count(episodes, chosen, len(held), options.cache, notes)
    rows = [part for i in train for part in parts[i]]
    report = describe(contract, statistics, windows, validation, counted, rows, blind=options.blind)
    mixture = mixture_of(hashes, chosen.weights)
    return TrainingData(
        windows, validation, statistics, contract, len(train), chosen.left_out, report, mixture
    )


def _count(
    episodes: Sequence[EpisodeRows], chosen: Selected, held: int, cached: bool, notes: list[str]
) -> Counted:
    return Counted(
        found=chosen.found,
        trained=len(episodes) - held,
        held=held,
        left_out=chosen.left_out,
        unseen_rows=sum(int((~episode.whole).sum()) for episode in episodes),
        idle_rows=sum(int(episode.idle.sum()) for episode in episodes),
        seconds=sum(len(episode.actions) / episode.header.row_hz for episode in episodes),
        cached=cached,
        notes=tuple(notes),
    )


def data_hash(paths: Sequence[Path], hashes: Sequence[str] | None = None) -> str:
    """SHA-256 over the content of the files, in the order of their names.

    Args:
        paths: The files.
        hashes: Of each one's content, in hexadecimal, when they are known already.
    """
    known = [content_sha256(path) for path in paths] if hashes is None else hashes
    named = sorted((path.name, known_hash) for path, known_hash in zip(paths, known, strict=True))
    digest = hashlib.sha256()
    for _, content in named:
        digest.update(bytes.fromhex(content))
    return digest.hexdigest()


def mixture_of(hashes: Sequence[str], weights: Sequence[float]) -> tuple[str, ...]:
    """Episodes in the order of training, in words that are equal for equal training.

    Args:
        hashes: Of each one's content; where the files lie does not matter.
        weights: Of each one's folder.

    Returns:
        A phrase per run of episodes of one weight.
    """
    phrases = []
    for weight, run in groupby(zip(weights, hashes, strict=True), key=itemgetter(0)):
        contents = [content for _, content in run]
        digest = hashlib.sha256("".join(contents).encode()).hexdigest()[:12]
        phrases.append(f"{len(contents)} of weight {weight}, {digest}")
    return tuple(phrases)


def check_data_options(options: DataOptions) -> None:
    """Refuse options that exclude each other or make no sense.

    Raises:
        PolicyError: names the option.
    """
    if options.blind and (options.object_pose or options.cameras):
        other = "--object-pose" if options.object_pose else "--cameras"
        raise PolicyError(f"--blind and {other} exclude each other; give one of them")
    for name in options.cameras or ():
        if (options.cameras or ()).count(name) > 1:
            raise PolicyError(f"--cameras names {name} more than once; name each camera once")
    for name in ("chunk_rows", "history", "history_stride", "window_stride"):
        if getattr(options, name) < 1:
            raise PolicyError(f"--{name.replace('_', '-')} is {getattr(options, name)}; at least 1")
    if min(options.image_size) < 1:
        raise PolicyError(f"--image-size is {options.image_size}; give height and width in pixels")
    if not 0 <= options.drop_idle < math.inf:
        raise PolicyError(f"--drop-idle is {options.drop_idle:g}; give seconds, or 0 to keep all")
    if not 0 <= options.idle_reach < math.inf:
        raise PolicyError(f"--idle-reach is {options.idle_reach:g}; give 0 or more, and finite")
    if not 0 <= options.holdout < 1:
        raise PolicyError(f"--holdout is {options.holdout:g}; give a share from 0 to below 1")


def _read(chosen: Selected, options: DataOptions, track: Track) -> list[EpisodeRows]:
    cameras = options.cameras
    if options.blind or (options.object_pose and cameras is None):
        cameras = ()
    weights = None
    if options.sample_weights is not None:
        weights = SampleWeights.load(options.sample_weights)
    pause = Pause(options.drop_idle, options.idle_reach)
    size = options.image_size
    episodes = []
    for path in track(list(chosen.paths)):
        with Episode(path) as episode:
            rows = read_rows(episode, cameras, size, options.object_pose, pause, weights)
        rows_per_step(rows.header, options.rate_hz)
        episodes.append(rows)
    return episodes


def _check_different(paths: Sequence[Path], hashes: Sequence[str]) -> None:
    """Refuse an episode that is there twice: its copy could be held back from itself.

    Raises:
        PolicyError: names both files.
    """
    known: dict[str, Path] = {}
    for path, content in zip(paths, hashes, strict=True):
        other = known.setdefault(content, path)
        if other is not path:
            raise PolicyError(
                f"{path} and {other} are the same episode; name each folder once and take copies "
                "out (DIR=WEIGHT draws from a folder more often)"
            )


def _check_together(paths: Sequence[Path], headers: Sequence[Header], options: DataOptions) -> None:
    """Refuse episodes that mean different things.

    Raises:
        PolicyError: names the files and what differs.
    """
    first = headers[0]
    for path, other in zip(paths[1:], headers[1:], strict=True):
        if other.joint_names != first.joint_names:
            want, got = (", ".join(header.joint_names) for header in (first, other))
            what, advice = "the joints", "train on episodes of one rig"
        elif other.extras != first.extras:
            want, got = (_in_words(header.extras) for header in (first, other))
            what, advice = "the extra inputs", "train on episodes of the same objects"
        elif other.row_hz != first.row_hz and options.rate_hz is None:
            want, got = (f"{header.row_hz:g} per second" for header in (first, other))
            what, advice = "rows at", "give a --rate-hz that divides both"
        else:
            continue
        raise PolicyError(f"{path} has {what} {got}, {paths[0]} has {want}; {advice}")
    tasks = sorted({header.task for header in headers})
    if len(tasks) > 1 and options.text is None:
        raise PolicyError(
            f"the episodes show several tasks ({', '.join(tasks)}) and the policy could not tell "
            "which is wanted; add --text words, or choose the episodes of one"
        )


def _in_words(extras: Sequence[ExtraInput]) -> str:
    return ", ".join(f"{extra.name} ({extra.size} numbers)" for extra in extras)


def _shared_views(paths: Sequence[Path], headers: Sequence[Header]) -> tuple[CameraView, ...]:
    """What the cameras of all episodes have in common.

    The slowest rate is kept; a setting that differs becomes unknown and is not checked later.

    Raises:
        PolicyError: other cameras, or another shape of image.
    """
    first = headers[0]
    views = list(first.cameras)
    for path, other in zip(paths[1:], headers[1:], strict=True):
        names, got = ([view.name for view in h.cameras] for h in (first, other))
        if names != got:
            raise PolicyError(
                f"{path} has the cameras {', '.join(got) or 'none'}, {paths[0]} has "
                f"{', '.join(names) or 'none'}; choose common ones with --cameras"
            )
        for i, (view, seen) in enumerate(zip(views, other.cameras, strict=True)):
            if view.source_width * seen.source_height != seen.source_width * view.source_height:
                raise PolicyError(
                    f"{path} shows {view.name} in {seen.source_width}x{seen.source_height}, "
                    f"{paths[0]} in {view.source_width}x{view.source_height} pixels: another "
                    "shape of image; train on one of them"
                )
            common = {k: v for k, v in view.settings.items() if seen.settings.get(k) == v}
            views[i] = replace(view, fps=min(view.fps, seen.fps), settings=common)
    return tuple(views)


def _text_encoder(reference: str) -> TextEncoder:
    with plugin_faults("--text", reference):
        return load_text_encoder(reference)


def _embedded(
    encoder: TextEncoder | None, reference: str | None, header: Header
) -> NDArray[np.float32]:
    if encoder is None or reference is None:
        return np.zeros(0, np.float32)
    with plugin_faults("--text", reference, header.name):
        return embed(encoder, header.instruction or header.task)


def _split(episodes: int, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the episodes to train on, and of those held back."""
    order = np.random.default_rng(seed).permutation(episodes).tolist()
    held = min(round(holdout * episodes), episodes - 1)
    return order[held:], order[:held]


def _window_set(parts: Sequence[Sequence[Rows]], options: DataOptions) -> WindowSet:
    return WindowSet(
        [part for phases in parts for part in phases],
        options.chunk_rows,
        options.history,
        options.history_stride,
        options.padding,
    )


def _contract(
    episodes: Sequence[EpisodeRows],
    views: tuple[CameraView, ...],
    statistics: Statistics,
    text: TextInput | None,
    digest: str,
    options: DataOptions,
) -> ObservationContract:
    headers = [episode.header for episode in episodes]
    joints = len(headers[0].joint_names)
    starts = np.array([e.state[e.whole.argmax(), :joints] for e in episodes if e.whole.any()])
    calibrations = {header.calibration_sha256 for header in headers}
    return ObservationContract(
        tasks=tuple(sorted({header.task for header in headers})),
        joint_names=headers[0].joint_names,
        cameras=views,
        extras=headers[0].extras,
        row_hz=headers[0].row_hz if options.rate_hz is None else options.rate_hz,
        chunk_rows=options.chunk_rows,
        qpos_low=statistics.state.low[:joints],
        qpos_high=statistics.state.high[:joints],
        action_low=statistics.action.low,
        action_high=statistics.action.high,
        start_low=tuple(starts.min(0).tolist()),
        start_high=tuple(starts.max(0).tolist()),
        calibration_sha256=calibrations.pop() if len(calibrations) == 1 else "",
        data_hash=digest,
        history=options.history,
        history_stride=options.history_stride,
        text=text,
    )
