"""Moving and still pictures of recorded rollouts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from policies.policy import Image
from recorder.episode import Episode
from teleop.errors import PolicyError

CODECS = {".mp4": "mp4v", ".webm": "VP80"}
"""By file ending, encoders that the headless wheel of OpenCV carries. ``.webm`` plays in
browsers, ``.mp4`` in most players."""
BORDER_PX = 4
SUCCESS_RGB, FAILURE_RGB = (40, 170, 60), (210, 50, 40)


def frames_of(path: Path, camera: str, every: int = 1) -> Iterator[Image]:
    """A camera's image at every ``every``-th row of an episode, (H, W, 3) RGB."""
    with Episode(path) as episode:
        for row in range(0, episode.length, every):
            yield episode.image(camera, row)


def write_video(path: Path, frames: Iterable[Image], fps: float) -> int:
    """Write images of one size as a video; returns how many.

    Raises:
        PolicyError: unknown file ending, no frames, or an encoder that does not start.
    """
    if path.suffix not in CODECS:
        raise PolicyError(f"{path}: no encoder for {path.suffix!r}; use {' or '.join(CODECS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
    writer: cv2.VideoWriter | None = None
    count = 0
    for frame in frames:
        if writer is None:
            writer = cv2.VideoWriter(str(path), code, fps, (frame.shape[1], frame.shape[0]))
            if not writer.isOpened():
                raise PolicyError(f"{path}: this OpenCV cannot encode {CODECS[path.suffix]}")
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        count += 1
    if writer is None:
        raise PolicyError(f"{path}: there are no frames to write")
    writer.release()
    return count


@dataclass(frozen=True, slots=True)
class Taken:
    """A recorded rollout to show."""

    path: Path
    success: bool


def write_takes(
    path: Path, takes: Sequence[Taken], camera: str, columns: int | None = None, every: int = 2
) -> int:
    """Recorded rollouts side by side, in real time, framed green (success) or red.

    Args:
        path: Video file.
        takes: Episodes of one rig.
        camera: Whose images.
        columns: Rollouts beside each other; as near to a square as it gets when None.
        every: Rows per image: with 50 rows per second, 2 gives 25 images per second.

    Returns:
        The number of images.

    Raises:
        PolicyError: see ``write_video``.
        UnknownNameError: the camera was not recorded.
    """
    if not takes:
        raise PolicyError(f"{path}: there are no episodes to show; evaluate with --out")
    with Episode(takes[0].path) as first:
        fps = first.row_hz / every
    rollouts = []
    for take in takes:
        colour = SUCCESS_RGB if take.success else FAILURE_RGB
        frames = frames_of(take.path, camera, every)
        rollouts.append([framed(frame, BORDER_PX, colour) for frame in frames])
    columns = columns or math.ceil(math.sqrt(len(rollouts)))
    return write_video(path, side_by_side(rollouts, columns), fps)


def framed(image: Image, border_px: int, rgb: tuple[int, int, int]) -> Image:
    """A copy with a coloured border drawn over its edge."""
    inside = image[border_px:-border_px, border_px:-border_px]
    out = np.empty_like(image)
    out[:] = rgb
    out[border_px:-border_px, border_px:-border_px] = inside
    return out


def side_by_side(rollouts: Sequence[Sequence[Image]], columns: int) -> Iterator[Image]:
    """Several rollouts in one moving grid; a shorter one stays at its last image."""
    for step in range(max(len(frames) for frames in rollouts)):
        yield grid([frames[min(step, len(frames) - 1)] for frames in rollouts], columns)


def grid(images: Sequence[Image], columns: int) -> Image:
    """Images of one size in rows of ``columns``, empty places black."""
    height, width = images[0].shape[:2]
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_contact_sheet(path: Path, frames: Sequence[Image], columns: int, count: int) -> None:
    """Write ``count`` evenly spaced images of a rollout as one PNG.

    Raises:
        PolicyError: there are no frames, or the file cannot be written.
    """
    if not frames:
        raise PolicyError(f"{path}: there are no frames to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    sheet = grid([frames[i] for i in chosen], columns)
    if not cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise PolicyError(f"{path}: the picture could not be written")
