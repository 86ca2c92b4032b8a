"""Moving and still pictures of recorded rollouts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np

from policies.policy import Image
from recorder.episode import Episode
from teleop.errors import PolicyError

CODECS = {".mp4": "mp4v", ".webm": "VP80"}
"""By file ending, encoders that the headless wheel of OpenCV carries. ``.webm`` plays in
browsers, ``.mp4`` in most players."""
ROWS_PER_IMAGE = 2
"""With 50 rows per second this gives 25 images per second."""
BORDER_PX = 4
SUCCESS_RGB, FAILURE_RGB = (40, 170, 60), (210, 50, 40)


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


def write_takes(path: Path, takes: Sequence[Taken], camera: str) -> int:
    """Recorded rollouts side by side, in real time, framed green (success) or red.

    As near to a square as it gets.

    Args:
        path: Video file.
        takes: Episodes of one rig.
        camera: Whose images.

    Returns:
        The number of images.

    Raises:
        PolicyError: see ``write_video``.
        UnknownNameError: the camera was not recorded.
    """
    if not takes:
        raise PolicyError(f"{path}: there are no episodes to show; evaluate with --out")
    with Episode(takes[0].path) as first:
        fps = first.row_hz / ROWS_PER_IMAGE
    rollouts = [_images_of(take, camera) for take in takes]
    columns = math.ceil(math.sqrt(len(rollouts)))
    return write_video(path, side_by_side(rollouts, columns), fps)


def _images_of(take: Taken, camera: str) -> Iterator[Image]:
    """A rollout's images with their frame, decoded one by one."""
    colour = SUCCESS_RGB if take.success else FAILURE_RGB
    with Episode(take.path) as episode:
        for row in range(0, episode.length, ROWS_PER_IMAGE):
            yield framed(episode.image(camera, row), BORDER_PX, colour)


def framed(image: Image, border_px: int, rgb: tuple[int, int, int]) -> Image:
    """A copy with a coloured border drawn over its edge."""
    inside = image[border_px:-border_px, border_px:-border_px]
    out = np.empty_like(image)
    out[:] = rgb
    out[border_px:-border_px, border_px:-border_px] = inside
    return out


def side_by_side(rollouts: Sequence[Iterable[Image]], columns: int) -> Iterator[Image]:
    """Several rollouts in one moving grid; a shorter one stays at its last image.

    Of each rollout one image is held at a time.
    """
    shown: list[Image] = []
    for images in zip_longest(*rollouts):
        # a rollout that has ended gives None; none ends before its first image
        shown = [shown[i] if image is None else image for i, image in enumerate(images)]
        yield grid(shown, columns)


def grid(images: Sequence[Image], columns: int) -> Image:
    """Images of one size in rows of ``columns``, empty places black."""
    height, width = images[0].shape[:2]
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = image
    return sheet
