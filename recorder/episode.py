"""Reading an episode: what policies, replay and people use.

Arrays are read when they are first asked for. Stamps are integer nanoseconds of the recording
machine's monotonic clock.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from recorder import schema
from recorder.meta import calibration_sha256
from recorder.quality import Verdict
from teleop.clock import NS_PER_S
from teleop.errors import EpisodeError, UnknownNameError
from teleop.messages import FloatArray
from teleop.rig import Rig

IntArray = NDArray[np.int64]


class StreamView:
    """One native stream of N samples, as it was received.

    Args:
        group: Its HDF5 group.
        name: Its path under ``/streams``.
    """

    def __init__(self, group: h5py.Group, name: str) -> None:
        self.name = name
        self._group = group

    def __len__(self) -> int:
        return int(self._group["stamp_ns"].shape[0])

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of its datasets."""
        return tuple(self._group)

    @cached_property
    def stamp_ns(self) -> IntArray:
        """Shape (N,). When each sample was taken."""
        return cast(IntArray, self._group["stamp_ns"][:])

    @cached_property
    def arrival_ns(self) -> IntArray:
        """Shape (N,). When each sample reached the recorder."""
        return cast(IntArray, self._group["arrival_ns"][:])

    @cached_property
    def seq(self) -> IntArray:
        """Shape (N,). Jumps by more than one where messages were lost."""
        return cast(IntArray, self._group["seq"][:])

    @property
    def nominal_hz(self) -> float | None:
        """The rate it should have had; None when it has none."""
        return float(self._group.attrs["nominal_hz"]) or None

    @property
    def required(self) -> bool:
        """Whether the episode makes no sense without it."""
        return bool(self._group.attrs["required"])

    def __getitem__(self, field: str) -> NDArray[Any]:
        """A whole field, (N, ...); text as str objects.

        Raises:
            UnknownNameError: the stream has no such field, or it was never measured.
        """
        if field not in self._group:
            raise UnknownNameError(f"field of stream {self.name}", field, self.fields)
        dataset = self._group[field]
        if h5py.check_string_dtype(dataset.dtype) is not None:
            dataset = dataset.asstr()
        return cast(NDArray[Any], dataset[:])

    def dataset(self, field: str) -> h5py.Dataset:
        """The HDF5 dataset, for reading parts of it."""
        if field not in self._group:
            raise UnknownNameError(f"field of stream {self.name}", field, self.fields)
        return self._group[field]


class Episode:
    """One episode file, opened for reading. Use it as a context manager.

    Rows: T instants at ``row_hz``; row k of every array belongs to ``rows_stamp_ns[k]``.

    Raises:
        EpisodeError: missing, truncated, foreign, or of a newer version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open_file(self.path)
        attributes = self._file.attrs
        try:
            self.task: str = schema.text_of(attributes["task"])
            self.instruction: str = schema.text_of(attributes["instruction"])
            self.operator: str = schema.text_of(attributes["operator"])
            self.tags: tuple[str, ...] = tuple(json.loads(attributes.get(schema.TAGS, "[]")))
            self.outcome: str = schema.text_of(attributes["outcome"])
            self.backend: str = schema.text_of(attributes["backend"])
            self.wall_start: str = schema.text_of(attributes["wall_start"])
            self.row_hz = float(attributes["row_hz"])
            self.start_ns = int(attributes["start_ns"])
            self.stop_ns = int(attributes["stop_ns"])
            self.verdict = Verdict.from_json(schema.text_of(attributes["verdict"]))
            self.rates_hz: dict[str, float] = json.loads(attributes["rates_hz"])
            self.gaps: dict[str, int] = json.loads(attributes["gaps"])
            self.length = int(self._file[f"{schema.ROWS}/stamp_ns"].shape[0])
            self.joint_names: tuple[str, ...] = tuple(
                schema.text_of(name) for name in self._file[schema.ACTION].attrs["names"]
            )
            self.cameras: tuple[str, ...] = tuple(sorted(self._images))
        except (KeyError, ValueError) as error:
            self._file.close()
            raise EpisodeError(
                f"{self.path}: part of the episode is missing ({error}); "
                "`tandem inspect --validate` lists what"
            ) from error

    @cached_property
    def rig(self) -> Rig:
        """The rig that recorded it."""
        return Rig.model_validate_json(schema.text_of(self._file.attrs["rig"]))

    @cached_property
    def scene(self) -> tuple[int, int] | None:
        """Emulated rigs: seed and index that placed the objects; None on a real rig."""
        content = json.loads(self._file.attrs["scene"])
        return None if content is None else (int(content[0]), int(content[1]))

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """Snapshot of the calibration results."""
        content: dict[str, Any] = json.loads(self._file.attrs["calibration"])
        return content

    @cached_property
    def calibration_sha256(self) -> str:
        """Tells one set of calibration results from another."""
        return calibration_sha256(self.calibration)

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes of the file's root, as stored."""
        return dict(self._file.attrs)

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """The acting arms, in the order of the columns."""
        return tuple(dict.fromkeys(name.split("/")[0] for name in self.joint_names))

    @property
    def seconds(self) -> float:
        """From start to stop."""
        return (self.stop_ns - self.start_ns) / NS_PER_S

    @cached_property
    def rows_stamp_ns(self) -> IntArray:
        """Shape (T,)."""
        return cast(IntArray, self._file[f"{schema.ROWS}/stamp_ns"][:])

    @cached_property
    def qpos(self) -> FloatArray:
        """Shape (T, D). Measured positions, rad; grippers 0 closed ... 1 open."""
        return self._observation("qpos")

    @cached_property
    def qvel(self) -> FloatArray:
        """Shape (T, D). rad/s; grippers 1/s; NaN where not measured."""
        return self._observation("qvel")

    @cached_property
    def effort(self) -> FloatArray:
        """Shape (T, D). A; NaN where not measured."""
        return self._observation("effort")

    @cached_property
    def action(self) -> FloatArray:
        """Shape (T, A). The command in force after the limits, columns as in ``qpos``."""
        return cast(FloatArray, self._file[schema.ACTION][:])

    def _observation(self, name: str) -> FloatArray:
        return cast(FloatArray, self._file[f"{schema.OBSERVATIONS}/{name}"][:])

    @property
    def _images(self) -> h5py.Group:
        return self._file[f"{schema.OBSERVATIONS}/images"]

    def image(self, camera: str, row: int) -> NDArray[np.uint8]:
        """The image that a policy would have seen at a row, RGB, shape (H, W, 3).

        Raises:
            EpisodeError: no frame had arrived by then, or it cannot be decoded.
        """
        return self.frame(camera, self._sample(camera, row))

    def frame(self, camera: str, sample: int) -> NDArray[np.uint8]:
        """A recorded frame by its number in the camera's stream, RGB, shape (H, W, 3).

        Raises:
            EpisodeError: it cannot be decoded.
        """
        try:
            dataset = self._file[f"{schema.STREAMS}/camera/{camera}/image"]
            return cast(NDArray[np.uint8], dataset[sample])
        except OSError as error:
            raise EpisodeError(
                f"{self.path}: frame {sample} of {camera} cannot be decoded ({error})"
            ) from error

    def jpeg(self, camera: str, row: int) -> bytes:
        """The same image as the camera made it, not decoded.

        Raises:
            EpisodeError: no frame had arrived by then, or images are stored as raw pixels.
        """
        sample = self._sample(camera, row)
        dataset = self._file[f"{schema.STREAMS}/camera/{camera}/image"]
        if dataset.id.get_create_plist().get_nfilters() == 0:
            raise EpisodeError(f"{self.path}: {camera} was recorded as raw pixels, not JPEG")
        return cast(bytes, dataset.id.read_direct_chunk((sample, 0, 0, 0))[1])

    def _sample(self, camera: str, row: int) -> int:
        if camera not in self.cameras:
            raise UnknownNameError("camera", camera, self.cameras)
        if not -self.length <= row < self.length:
            raise IndexError(f"{self.path}: row {row} of {self.length}")
        sample = int(self.index(f"camera/{camera}")[row])
        if sample < 0:
            raise EpisodeError(f"{self.path}: no frame of {camera} had arrived by row {row}")
        return sample

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """Names of all native streams, such as ``arm/left_follower/state``."""
        found: list[str] = []

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group) and "stamp_ns" in item:
                found.append(name)

        self._file[schema.STREAMS].visititems(visit)
        return tuple(sorted(found))

    def stream(self, name: str) -> StreamView:
        """One native stream by its name.

        Raises:
            UnknownNameError: the episode has no such stream.
        """
        group = self._file[schema.STREAMS].get(name)
        if not isinstance(group, h5py.Group) or "stamp_ns" not in group:
            raise UnknownNameError("stream", name, self.streams)
        return StreamView(group, name)

    def index(self, stream: str) -> IntArray:
        """Shape (T,). Sample of each row, -1 where none had arrived."""
        return self._row_data(stream, "index")

    def age_ns(self, stream: str) -> IntArray:
        """Shape (T,). Age of each row's sample since its capture, -1 where none had arrived."""
        return self._row_data(stream, "age_ns")

    def flags(self, stream: str) -> NDArray[np.uint8]:
        """Shape (T,). Bits of ``recorder.schema.Flag``."""
        return self._row_data(stream, "flags")

    def on_rows(self, stream: str) -> bool:
        """Whether a stream is aligned to the rows (state and images are, health is not)."""
        return f"{schema.ROWS}/{stream}_index" in self._file

    def _row_data(self, stream: str, kind: str) -> NDArray[Any]:
        if (stream, kind) not in self._rows_read:
            name = f"{schema.ROWS}/{stream}_{kind}"
            if name not in self._file:
                raise UnknownNameError("stream on the rows", stream, self.streams)
            self._rows_read[stream, kind] = self._file[name][:]
        return self._rows_read[stream, kind]

    @cached_property
    def _rows_read(self) -> dict[tuple[str, str], NDArray[Any]]:
        return {}

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.length


def open_file(path: Path) -> h5py.File:
    """Open an episode file and check that it is one.

    Raises:
        EpisodeError: missing, truncated, foreign, or of a newer version.
    """
    if not path.exists():
        raise EpisodeError(f"{path}: no such file")
    if path.is_dir():
        hint = "; run `tandem recover`" if path.suffix == schema.PARTIAL_SUFFIX else ""
        raise EpisodeError(f"{path}: is a folder, not an episode file{hint}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise EpisodeError(f"{path}: truncated, or not an HDF5 file ({error})") from error
    found = file.attrs.get("format")
    version = file.attrs.get("schema_version")
    if found is None or schema.text_of(found) != schema.FORMAT or version is None:
        file.close()
        raise EpisodeError(
            f"{path}: an HDF5 file of another program, not a {schema.FORMAT} "
            "(attribute `format` is missing or different)"
        )
    if int(version) > schema.VERSION:
        file.close()
        raise EpisodeError(
            f"{path}: schema version {int(version)}, this program reads up to "
            f"{schema.VERSION}; install a newer tandem-rig"
        )
    return file


def find_episodes(folder: Path | str) -> list[Path]:
    """All finished episodes of a folder, in order of number.

    Raises:
        EpisodeError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such folder of episodes")
    return sorted(folder.glob(f"episode_*{schema.EPISODE_SUFFIX}"))
