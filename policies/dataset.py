"""Training windows over recorded episodes.

A window is what could be seen at one row and the actions of that row and the following ones.
Rows come aligned from the recorder: row k holds per stream the newest sample that had
arrived, which is what a deployed policy sees. Images are decoded once and kept as uint8 at
training resolution, so the loop reads plain memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.images import shrink
from policies.normalisation import Statistics, column_statistics, image_statistics
from policies.policy import (
    OBJECT_POSE,
    CameraView,
    ExtraInput,
    ObservationContract,
    camera_settings,
)
from recorder.episode import Episode, find_episodes
from recorder.quality import Level
from recorder.schema import stream_of
from teleop.errors import PolicyError, UnknownNameError
from teleop.messages import FloatArray
from teleop.topics import TASK_STATE, camera_frame

Outcome = Literal["success", "failure", "unknown"]

LEARNED_OUTCOMES: tuple[Outcome, ...] = ("success",)
"""A policy repeats what it is shown; nobody has said of an unlabelled episode that it is right."""
LEARNED_VERDICTS: tuple[Level, ...] = ("pass", "warn")
"""A failed verdict means samples that are missing, late or wrong."""


@dataclass(frozen=True)
class DataOptions:
    """Which part of the episodes a policy is trained on."""

    cameras: tuple[str, ...] | None = None
    """Cameras to see; all that were recorded when not given."""
    image_size: tuple[int, int] = (96, 128)
    """Height and width of the images at training, pixels."""
    object_pose: bool = False
    """See the poses of the task's objects (privileged: only the emulated rig knows them)."""
    chunk_rows: int = 50
    """Rows of one action chunk."""
    row_stride: int = 3
    """Every how many rows a window begins; neighbouring rows show almost the same."""
    holdout: float = 0.1
    """Share of the episodes kept out of training, for the validation loss."""
    outcomes: tuple[Outcome, ...] = LEARNED_OUTCOMES
    """Episodes to learn from, by what the operator said of them."""
    verdicts: tuple[Level, ...] = LEARNED_VERDICTS
    """Episodes to learn from, by what the recorder said of their quality."""


class Windows(NamedTuple):
    """B windows."""

    state: NDArray[np.float32]
    """Shape (B, S): qpos, then extra inputs; rad, m, gripper opening."""
    images: NDArray[np.uint8]
    """Shape (B, C, H, W, 3) over C cameras, RGB."""
    actions: NDArray[np.float32]
    """Shape (B, K, A)."""
    mask: NDArray[np.float32]
    """Shape (B, K), 0 where the last action is repeated beyond the end of the episode."""


class WindowSet:
    """All windows of some episodes, in memory."""

    def __init__(self, parts: Sequence[_EpisodeRows], chunk_rows: int) -> None:
        self._chunk_rows = chunk_rows
        self._actions = np.concatenate([part.actions for part in parts])  # (R, A)
        self._state = np.concatenate([part.state for part in parts])  # (N, S)
        self._images = np.concatenate([part.images for part in parts])  # (N, C, H, W, 3)
        firsts = np.cumsum([0] + [len(part.actions) for part in parts])
        self._start = np.concatenate(
            [first + part.starts for first, part in zip(firsts[:-1], parts, strict=True)]
        )
        self._end = np.concatenate(
            [np.full(len(p.starts), end) for end, p in zip(firsts[1:], parts, strict=True)]
        )

    def __len__(self) -> int:
        return len(self._start)

    def windows(self, chosen: NDArray[np.int64]) -> Windows:
        """The windows with these numbers, each in 0 ... len - 1."""
        rows = self._start[chosen, None] + np.arange(self._chunk_rows)  # (B, K)
        last = self._end[chosen, None] - 1
        return Windows(
            self._state[chosen],
            self._images[chosen],
            self._actions[np.minimum(rows, last)],
            (rows <= last).astype(np.float32),
        )

    def statistics(self) -> Statistics:
        """Of states at window starts, of all actions, and of each camera's images."""
        return Statistics(
            state=column_statistics(self._state.astype(np.float64), "state"),
            action=column_statistics(self._actions.astype(np.float64), "action"),
            images=tuple(
                image_statistics(self._images[:, camera]) for camera in range(self._images.shape[1])
            ),
        )


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
    left_out: str
    """How many episodes were left out and why, in words; empty when none was."""


class _EpisodeRows(NamedTuple):
    """What one episode gives."""

    state: NDArray[np.float32]
    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    starts: NDArray[np.int64]
    """Rows at which windows begin; ``state`` and ``images`` hold only these."""


def load(
    folder: Path,
    options: DataOptions,
    seed: int,
    track: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> TrainingData:
    """Read a folder of episodes.

    Args:
        folder: Searched for episode files.
        options: What to take from them.
        seed: Decides which episodes are held back for validation.
        track: Goes through the files, for example with a progress bar.

    Raises:
        PolicyError: no episode that the options admit, or episodes that do not belong together.
        UnknownNameError: a camera that was not recorded.
        EpisodeError: a file that is no episode.
    """
    paths, left_out = _select(folder, options)
    parts: list[_EpisodeRows] = []
    first: _Header | None = None
    for path in track(paths):
        with Episode(path) as episode:
            header = _header_of(episode, options)
            first = first or header
            _check_same(first, header, path, paths[0])
            parts.append(_rows_of(episode, header, options))
    assert first is not None
    return _assemble(parts, first, data_hash(paths), options, seed, left_out)


def data_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the content of the files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Header:
    """What all episodes of a training run share."""

    task: str
    joint_names: tuple[str, ...]
    row_hz: float
    cameras: tuple[CameraView, ...]
    extras: tuple[ExtraInput, ...]


def _select(folder: Path, options: DataOptions) -> tuple[list[Path], str]:
    """Episodes to learn from, and what was left out and why.

    Raises:
        PolicyError: none is left.
    """
    found = find_episodes(folder)
    if not found:
        raise PolicyError(
            f"{folder}: no episodes; record some with 'tandem record' or name another folder"
        )
    paths = []
    outcomes: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    for path in found:
        with Episode(path) as episode:
            outcome, verdict = episode.outcome, episode.verdict.level
        if outcome not in options.outcomes:
            outcomes[outcome] += 1
        elif verdict not in options.verdicts:
            verdicts[verdict] += 1
        else:
            paths.append(path)
    reasons = [f"{count} {outcome} outcome" for outcome, count in sorted(outcomes.items())]
    reasons += [f"{count} verdict {verdict}" for verdict, count in sorted(verdicts.items())]
    if not paths:
        admit = [f"--outcomes {' '.join([*options.outcomes, *sorted(outcomes)])}"] * bool(outcomes)
        admit += [f"--verdicts {' '.join([*options.verdicts, *sorted(verdicts)])}"] * bool(verdicts)
        raise PolicyError(
            f"{folder}: no episode to learn from among {len(found)}: {', '.join(reasons)}; "
            f"{' and '.join(admit)} would admit them"
        )
    left = len(found) - len(paths)
    return paths, f"left out {left} of {len(found)} episodes: {', '.join(reasons)}" if left else ""


def _header_of(episode: Episode, options: DataOptions) -> _Header:
    names = episode.cameras if options.cameras is None else options.cameras
    for name in names:
        if name not in episode.cameras:
            raise UnknownNameError(f"camera in {episode.path.name}", name, episode.cameras)
    height, width = options.image_size
    views = []
    for name in names:
        camera = episode.rig.cameras[name]
        view = CameraView(
            name=name,
            height=height,
            width=width,
            source_height=camera.height,
            source_width=camera.width,
            fps=camera.fps,
            settings=camera_settings(episode.rig, name),
        )
        views.append(view)
    extras: tuple[ExtraInput, ...] = ()
    if options.object_pose:
        extras = (ExtraInput(OBJECT_POSE, _object_pose(episode).shape[1]),)
    return _Header(episode.task, episode.joint_names, episode.row_hz, tuple(views), extras)


def _check_same(first: _Header, other: _Header, path: Path, first_path: Path) -> None:
    for name in ("task", "joint_names", "row_hz", "cameras", "extras"):
        want, got = getattr(first, name), getattr(other, name)
        if want != got:
            raise PolicyError(
                f"{path.name} was recorded with {name} {got}, {first_path.name} with {want}; "
                "train on episodes of one rig and task"
            )


def _rows_of(episode: Episode, header: _Header, options: DataOptions) -> _EpisodeRows:
    states = [episode.qpos]
    states += [_object_pose(episode)] if header.extras else []
    state = np.concatenate(states, 1)
    actions = episode.action
    if not np.isfinite(actions).all():
        row = int(np.argwhere(~np.isfinite(actions))[0, 0])
        raise PolicyError(
            f"{episode.path.name}: row {row} has no action; "
            "see 'tandem inspect --validate' and leave this episode out"
        )
    starts = np.arange(0, episode.length, options.row_stride, dtype=np.int64)
    seen = np.asarray(np.isfinite(state).all(axis=1))
    for view in header.cameras:
        seen &= episode.index(stream_of(camera_frame(view.name))) >= 0
    starts = starts[seen[starts]]
    return _EpisodeRows(
        state[starts].astype(np.float32),
        _images_of(episode, header, starts, options.image_size),
        actions.astype(np.float32),
        starts,
    )


def _images_of(
    episode: Episode, header: _Header, rows: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Images at these rows, (N, C, H, W, 3)."""
    images = np.zeros((len(rows), len(header.cameras), *size, 3), dtype=np.uint8)
    for camera, view in enumerate(header.cameras):
        for place, row in enumerate(rows):
            images[place, camera] = shrink(episode.image(view.name, int(row)), *size)
    return images


def _object_pose(episode: Episode) -> FloatArray:
    """Object poses per row, (T, N*7); NaN where none had arrived yet."""
    try:
        poses = episode.stream(TASK_STATE)["object_pose"]
    except UnknownNameError as error:
        raise PolicyError(
            f"{episode.path.name} holds no object poses (they exist on the emulated rig only); "
            "train on cameras"
        ) from error
    rows = episode.index(TASK_STATE)
    flat = poses.reshape(len(poses), -1)[np.maximum(rows, 0)]
    return np.where(rows[:, None] >= 0, flat, np.nan)


def _assemble(
    parts: Sequence[_EpisodeRows],
    header: _Header,
    digest: str,
    options: DataOptions,
    seed: int,
    left_out: str,
) -> TrainingData:
    order = np.random.default_rng(seed).permutation(len(parts))
    held = round(options.holdout * len(parts))
    train = WindowSet([parts[i] for i in order[held:]], options.chunk_rows)
    validation = WindowSet([parts[i] for i in order[:held]], options.chunk_rows) if held else None
    statistics = train.statistics()
    joints = len(header.joint_names)
    contract = ObservationContract(
        task=header.task,
        joint_names=header.joint_names,
        cameras=header.cameras,
        extras=header.extras,
        row_hz=header.row_hz,
        chunk_rows=options.chunk_rows,
        qpos_low=statistics.state.low[:joints],
        qpos_high=statistics.state.high[:joints],
        action_low=statistics.action.low,
        action_high=statistics.action.high,
        data_hash=digest,
    )
    return TrainingData(train, validation, statistics, contract, len(parts) - held, left_out)
