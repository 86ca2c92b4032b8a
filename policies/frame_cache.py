"""Camera frames at training resolution, decoded once.

Beside the episodes, in ``.frames``, lies one ``.npy`` per episode, camera and size with all
recorded frames as uint8, and a ``.json`` that says which content it was made from. The arrays
are memory-mapped: what is read often stays in the page cache, which processes share. A cached
file is used while its episode has the same size, time of change and beginning; it is built
again when they differ or when it is damaged. ``verify`` hashes everything in full instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from policies.file_hash import content_sha256
from policies.images import shrink
from policies.windows import FrameSource
from recorder.episode import Episode
from recorder.meta import sync_path
from recorder.schema import stream_of
from teleop.errors import PolicyError
from teleop.topics import camera_frame

FOLDER = ".frames"
HEAD_BYTES = 1 << 16
"""Beginning of a file that the quick check hashes: an episode's names and attributes are there."""
OPEN_MAPS = 256
"""Files that are kept mapped at once; each holds a file descriptor, of which 1024 are usual."""
DECODE_S_PER_PIXEL = 5e-9
DECODE_S_PER_FRAME = 3e-4
"""Measured for JPEG with shrinking, one core: 1.9 ms for 480x640, 0.4 ms for 96x128."""
POOL_WORTH_S = 4.0
"""Less decoding than this is done before other processes have started."""

log = logging.getLogger(__name__)

Track = Callable[[Sequence[Path]], Iterable[Path]]
"""Goes through files, for example with a progress bar."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The frames of one episode that a policy is trained on."""

    path: Path
    cameras: tuple[str, ...]
    height: int
    """Pixels at training."""
    width: int
    source_pixels: int
    """Pixels to decode, over all frames and cameras."""
    frames: int
    """Over all cameras."""

    @classmethod
    def of(cls, episode: Episode, cameras: tuple[str, ...], size: tuple[int, int]) -> Wanted:
        """All frames of these cameras."""
        shapes = [_frames_shape(episode, camera) for camera in cameras]
        pixels = sum(count * height * width for count, height, width in shapes)
        frames = sum(count for count, _, _ in shapes)
        return cls(episode.path, cameras, *size, pixels, frames)

    @property
    def bytes(self) -> int:
        """Size at training resolution."""
        return self.frames * self.height * self.width * 3


@dataclass(frozen=True, slots=True)
class Seal:
    """The content of a cached file's ``.json``."""

    episode_sha256: str
    episode_size: int
    episode_mtime_ns: int
    episode_head_sha256: str
    shape: tuple[int, ...]
    size: int
    """Of the ``.npy``, bytes."""
    head_sha256: str
    """Of the ``.npy``'s beginning."""
    sha256: str
    """Of the whole ``.npy``."""


class _Cached(NamedTuple):
    """A cached file that is good."""

    array: Path
    seal: Seal


@dataclass(frozen=True, slots=True)
class CachedFrames:
    """Frames of a cached file, (F, H, W, 3); cheap to hand to another process."""

    path: str
    inode: int
    """Tells the file from one that is built again under its name later."""
    shape: tuple[int, ...]

    def __getitem__(self, frame: int, /) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = _mapped(self.path, self.inode)[frame]
        return pixels


@dataclass(frozen=True, slots=True)
class Loaded:
    """The frames of one episode, per camera, and the hash of its file."""

    frames: tuple[FrameSource, ...]
    episode_sha256: str


def load_frames(
    wanted: Sequence[Wanted],
    cache: bool = True,
    verify: bool = False,
    track: Track = iter,
) -> tuple[list[Loaded], list[str]]:
    """Frames of episodes, decoded or from the cache.

    Args:
        wanted: Per episode; without cameras only its hash is taken.
        cache: Keep decoded frames in files; otherwise in memory.
        verify: Hash cached files and episodes in full.
        track: Goes through the episodes that are decoded.

    Returns:
        What was loaded, in the same order, and what a user should know, in sentences.

    Raises:
        EpisodeError: a frame that cannot be decoded.
        PolicyError: no room for the cache.
    """
    if not cache:
        by_path = {want.path: want for want in wanted}
        decoded = {path: _decoded(by_path[path]) for path in track(list(by_path))}
        return [decoded[want.path] for want in wanted], []
    stale: dict[Path, Wanted] = {}
    notes: list[str] = []
    for want in wanted:
        found = [_find(want, camera, verify) for camera in want.cameras]
        faults = [fault for fault in found if isinstance(fault, str)]
        if faults:
            stale[want.path] = want
        if told := sorted(set(filter(None, faults))):
            notes.append(f"{want.path.name}: frames decoded again, {' and '.join(told)}")
            log.warning("%s", notes[-1])
    if stale:
        _build_all(stale, track)
    return [_loaded(want) for want in wanted], notes


def _decoded(want: Wanted) -> Loaded:
    with Episode(want.path) as episode:
        frames = tuple(_decode(episode, camera, want) for camera in want.cameras)
    return Loaded(frames, content_sha256(want.path))


def _decode(
    episode: Episode, camera: str, want: Wanted, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """All frames of one camera at training resolution, (F, H, W, 3)."""
    count, _, _ = _frames_shape(episode, camera)
    if out is None:
        out = np.empty((count, want.height, want.width, 3), np.uint8)
    for frame in range(count):
        out[frame] = shrink(episode.frame(camera, frame), want.height, want.width)
    return out


def _frames_shape(episode: Episode, camera: str) -> tuple[int, int, int]:
    """Count, height and width of a camera's recorded frames."""
    count, height, width, _ = episode.stream(stream_of(camera_frame(camera))).dataset("image").shape
    return int(count), int(height), int(width)


def _build_all(stale: dict[Path, Wanted], track: Track) -> None:
    """Decode into the cache, with a process per core where that pays."""
    targets = {path: _writable(path.parent) for path in stale}
    _check_room(stale, targets)
    seconds = sum(
        want.source_pixels * DECODE_S_PER_PIXEL + want.frames * DECODE_S_PER_FRAME
        for want in stale.values()
    )
    processes = len(os.sched_getaffinity(0))
    if processes == 1 or seconds < POOL_WORTH_S:
        for path in track(list(stale)):
            _build(stale[path], targets[path])
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _one_thread) as pool:
        futures: dict[Path, Future[None]] = {
            path: pool.submit(_build, want, targets[path]) for path, want in stale.items()
        }
        try:
            for path in track(list(stale)):
                futures[path].result()
        except BrokenProcessPool as error:
            raise PolicyError(
                "a process that decodes frames was killed; most often memory ran out: "
                "close other programs or choose a smaller --image-size"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the pool has one process per core


def _build(want: Wanted, folder: Path) -> None:
    """Cached files of one episode; each appears whole or not at all."""
    before = want.path.stat()
    episode_sha256 = content_sha256(want.path)
    with Episode(want.path) as episode:
        for camera in want.cameras:
            array = folder / _file_name(want, camera)
            temporary = array.with_name(f"{array.name}.{os.getpid()}.tmp")
            count, _, _ = _frames_shape(episode, camera)
            shape = (count, want.height, want.width, 3)
            try:
                out = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
                _decode(episode, camera, want, out)
                out.flush()
                sync_path(temporary)
                seal = Seal(
                    episode_sha256=episode_sha256,
                    episode_size=before.st_size,
                    episode_mtime_ns=before.st_mtime_ns,
                    episode_head_sha256=_head_sha256(want.path),
                    shape=shape,
                    size=temporary.stat().st_size,
                    head_sha256=_head_sha256(temporary),
                    sha256=content_sha256(temporary),
                )
                temporary.replace(array)
                temporary.write_text(json.dumps(asdict(seal), indent=1) + "\n")
                temporary.replace(array.with_suffix(".json"))
            finally:
                temporary.unlink(missing_ok=True)


def _find(want: Wanted, camera: str, verify: bool) -> _Cached | str:
    """A camera's cached frames, or why there are none; empty when there never were."""
    faults = []
    for folder in _homes(want.path.parent):
        array = folder / _file_name(want, camera)
        if array.exists():
            seal = _read_seal(array)
            fault = f"the cached ones of {camera} are damaged"
            if seal is not None:
                if _changed(want.path, seal, verify):
                    fault = "the episode has changed"
                elif _whole(array, seal, verify):
                    return _Cached(array, seal)
            faults.append(fault)
    return faults[0] if faults else ""


def _changed(episode: Path, seal: Seal, verify: bool) -> bool:
    """Whether an episode file is another one than frames were decoded from."""
    now = episode.stat()
    return (
        (seal.episode_size, seal.episode_mtime_ns) != (now.st_size, now.st_mtime_ns)
        or _head_sha256(episode) != seal.episode_head_sha256
        or (verify and content_sha256(episode) != seal.episode_sha256)
    )


def _whole(array: Path, seal: Seal, verify: bool) -> bool:
    """Whether a cached file is as it was written."""
    return (
        array.stat().st_size == seal.size
        and _head_sha256(array) == seal.head_sha256
        and not (verify and content_sha256(array) != seal.sha256)
    )


def _loaded(want: Wanted) -> Loaded:
    """Frames out of the cache, which has just been found or made good."""
    frames: list[FrameSource] = []
    sha256 = ""
    for camera in want.cameras:
        found = _find(want, camera, verify=False)
        if isinstance(found, str):
            raise PolicyError(
                f"{want.path}: the frames of {camera} were changed while they were decoded; "
                "run again when nothing else writes there"
            )
        inode = found.array.stat().st_ino
        frames.append(CachedFrames(str(found.array), inode, found.seal.shape))
        sha256 = found.seal.episode_sha256
    return Loaded(tuple(frames), sha256 or content_sha256(want.path))


def _read_seal(array: Path) -> Seal | None:
    """What a cached file was made from; None when that is not readable."""
    try:
        content = json.loads(array.with_suffix(".json").read_text())
        return Seal(**{**content, "shape": tuple(content["shape"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


@lru_cache(OPEN_MAPS)
def _mapped(path: str, inode: int) -> NDArray[np.uint8]:
    """A cached file; one that is mapped keeps its inode to itself."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _head_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()


def _file_name(want: Wanted, camera: str) -> str:
    return f"{want.path.stem}.{camera}.{want.height}x{want.width}.npy"


def _homes(folder: Path) -> tuple[Path, Path]:
    """Where frames of a folder's episodes may lie: beside them, or in the user's own cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return folder / FOLDER, cache / "tandem" / "frames" / key


def _writable(folder: Path) -> Path:
    """The first home that can be written to.

    Raises:
        PolicyError: none can.
    """
    homes = _homes(folder)
    for home in homes:
        try:
            home.mkdir(parents=True, exist_ok=True)
            probe = home / f"probe.{os.getpid()}.tmp"
            probe.touch()
            probe.unlink()
        except OSError:
            continue
        return home
    raise PolicyError(
        f"decoded frames can be kept neither in {homes[0]} nor in {homes[1]}: not writable; "
        "add --no-cache to keep them in memory"
    )


def _check_room(stale: dict[Path, Wanted], targets: dict[Path, Path]) -> None:
    """Raises PolicyError when a disk is too small for the frames."""
    for home in set(targets.values()):
        needed = sum(want.bytes for path, want in stale.items() if targets[path] == home)
        free = shutil.disk_usage(home).free
        if needed > free:
            raise PolicyError(
                f"decoded frames need {needed / 1e9:.1f} GB in {home}, {free / 1e9:.1f} GB are "
                "free; make room or choose a smaller --image-size"
            )
