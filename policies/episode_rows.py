"""What one recorded episode gives to training, before frames are decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from policies.frame_cache import Loaded, Wanted
from policies.plugin import load_plugin, plugin_faults
from policies.policy import OBJECT_POSE, CameraView, ExtraInput, camera_settings
from policies.selection import Flags, check_wrap, idle_rows
from policies.windows import Frames, Rows
from recorder.episode import Episode
from recorder.schema import stream_of
from teleop.errors import PolicyError, UnknownNameError
from teleop.messages import FloatArray
from teleop.topics import TASK_STATE, camera_frame

RATE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SampleWeights:
    """A user's function that weighs the rows of an episode."""

    reference: str
    """``module:function``."""
    function: Callable[[Episode], object]
    """Gives the weight of the window that begins at each row, (T,)."""

    @classmethod
    def load(cls, reference: str) -> Self:
        """The function by its name.

        Raises:
            PolicyError: there is none.
        """
        with plugin_faults("--sample-weights", reference):
            function = load_plugin("sample weights", reference)
        if not callable(function):
            raise PolicyError(
                f"--sample-weights {reference} is a {type(function).__name__}; name a function "
                "that takes an Episode"
            )
        return cls(reference, function)

    def of(self, episode: Episode) -> NDArray[np.floating]:
        """The weights of an episode's rows, (T,).

        Raises:
            PolicyError: the function fails, or gives something else.
        """
        with plugin_faults("--sample-weights", self.reference, episode.path.name):
            values = np.asarray(self.function(episode), np.float64)
        if values.shape != (episode.length,):
            raise PolicyError(
                f"{episode.path.name}: the sample weights have shape {values.shape}, "
                f"not ({episode.length},)"
            )
        return values


@dataclass(frozen=True)
class Header:
    """Where an episode comes from and what its columns mean."""

    name: str
    """Of the file."""
    task: str
    instruction: str
    joint_names: tuple[str, ...]
    row_hz: float
    """As recorded."""
    cameras: tuple[CameraView, ...]
    extras: tuple[ExtraInput, ...]
    calibration_sha256: str


@dataclass(frozen=True)
class Pause:
    """What counts as one."""

    seconds: float
    """At least; 0 for none."""
    reach: float
    """Furthest that a column gets in it; rad, gripper opening."""


@dataclass(frozen=True, eq=False)
class EpisodeRows:
    """T rows as recorded, checked."""

    header: Header
    state: FloatArray
    """Shape (T, S)."""
    actions: FloatArray
    """Shape (T, A)."""
    whole: Flags
    """Shape (T,): rows at which everything that the policy sees had arrived."""
    idle: Flags
    """Shape (T,): rows in a pause."""
    weight: NDArray[np.floating] | None
    """Shape (T,)."""
    index: tuple[NDArray[np.int64], ...]
    """Per camera, shape (T,): frame of each row."""
    frames: Wanted

    def phases(
        self, step: int, stride: int, loaded: Loaded, text: NDArray[np.float32], weight: float
    ) -> list[Rows]:
        """Every ``step``-th row as one trajectory, from each of the first ``step`` rows.

        Args:
            step: Recorded rows per row of the policy.
            stride: Rows of the policy from one window to the next.
            loaded: Frames, per camera.
            text: The embedded instruction.
            weight: Of the folder.
        """
        return [
            part
            for phase in range(min(step, len(self.actions)))
            if (part := self._phase(slice(phase, None, step), stride, loaded, text, weight))
        ]

    def _phase(
        self, rows: slice, stride: int, loaded: Loaded, text: NDArray[np.float32], weight: float
    ) -> Rows | None:
        whole = self.whole[rows]
        if not whole.any():
            return None
        kept = whole & ~self.idle[rows]
        starts = np.arange(int(whole.argmax()), len(whole), stride, dtype=np.int64)
        return Rows(
            state=self.state[rows],
            actions=self.actions[rows],
            starts=starts[kept[starts]],
            weight=None if self.weight is None else self.weight[rows],
            frames=tuple(
                Frames(source, index[rows])
                for source, index in zip(loaded.frames, self.index, strict=True)
            ),
            text=text,
            folder_weight=weight,
            first=int(whole.argmax()),
            name=self.header.name,
        )


def read_rows(
    episode: Episode,
    cameras: Sequence[str] | None,
    size: tuple[int, int],
    object_pose: bool,
    pause: Pause,
    weights: SampleWeights | None,
) -> EpisodeRows:
    """Read an episode and check that its numbers make sense.

    Args:
        episode: Open.
        cameras: To see; all that were recorded when None.
        size: Height and width of images at training.
        object_pose: See the poses of objects.
        pause: What counts as one.
        weights: Of samples; all alike when None.

    Raises:
        UnknownNameError: a camera was not recorded.
        PolicyError: a missing action, a wrapped angle, no object poses, or unusable weights.
    """
    header = _header(episode, cameras, size, object_pose)
    name, names = header.name, header.joint_names
    actions = episode.action
    if not np.isfinite(actions).all():
        row = int(np.argwhere(~np.isfinite(actions))[0, 0])
        raise PolicyError(
            f"{name}: row {row} has no action; "
            "see 'tandem inspect --validate' and leave this episode out"
        )
    check_wrap(episode.qpos, names, "qpos", name)
    check_wrap(actions, names, "action", name)
    state = np.concatenate([episode.qpos, *([_poses(episode)] if object_pose else [])], 1)
    index = tuple(episode.index(stream_of(camera_frame(v.name))) for v in header.cameras)
    whole = np.asarray(np.isfinite(state).all(1))
    for seen in index:
        whole &= seen >= 0
    _check_gap(whole, name)
    idle = np.zeros(len(actions), bool)
    if pause.seconds:
        idle = idle_rows(actions, round(pause.seconds * header.row_hz), pause.reach)
    return EpisodeRows(
        header=header,
        state=state,
        actions=actions,
        whole=whole,
        idle=idle,
        weight=None if weights is None else weights.of(episode),
        index=index,
        frames=Wanted.of(episode, tuple(view.name for view in header.cameras), size),
    )


def rows_per_step(header: Header, rate_hz: float | None) -> int:
    """Recorded rows per row of the policy.

    Raises:
        PolicyError: the policy's rate does not divide that of the rows.
    """
    if rate_hz is None:
        return 1
    step = round(header.row_hz / rate_hz) if rate_hz > 0 else 0
    if step < 1 or abs(step * rate_hz - header.row_hz) > RATE_TOLERANCE * header.row_hz:
        nearest = header.row_hz / max(1, step)
        raise PolicyError(
            f"--rate-hz {rate_hz:g} does not divide the {header.row_hz:g} rows per second of "
            f"{header.name}; the nearest that does is {nearest:g}"
        )
    return step


def _header(
    episode: Episode, cameras: Sequence[str] | None, size: tuple[int, int], object_pose: bool
) -> Header:
    extras: tuple[ExtraInput, ...] = ()
    if object_pose:
        extras = (ExtraInput(OBJECT_POSE, _poses(episode).shape[1]),)
    names = episode.cameras if cameras is None else cameras
    return Header(
        name=episode.path.name,
        task=episode.task,
        instruction=episode.instruction,
        joint_names=episode.joint_names,
        row_hz=episode.row_hz,
        cameras=tuple(_view(episode, name, size) for name in names),
        extras=extras,
        calibration_sha256=episode.calibration_sha256,
    )


def _view(episode: Episode, name: str, size: tuple[int, int]) -> CameraView:
    if name not in episode.cameras:
        raise UnknownNameError(f"camera in {episode.path.name}", name, episode.cameras)
    camera = episode.rig.cameras[name]
    return CameraView(
        name=name,
        height=size[0],
        width=size[1],
        source_height=camera.height,
        source_width=camera.width,
        fps=camera.fps,
        settings=camera_settings(episode.rig, name),
    )


def _poses(episode: Episode) -> FloatArray:
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


def _check_gap(whole: Flags, episode: str) -> None:
    """Raises PolicyError when an observation is missing after one that was whole."""
    gaps = np.flatnonzero(~whole & np.logical_or.accumulate(whole))
    if len(gaps):
        raise PolicyError(
            f"{episode}: row {gaps[0]} has no measured state, rows before it have; "
            "see 'tandem inspect --validate' and leave this episode out"
        )
