"""From camera frames to policy inputs: one path for training and deployment."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from policies.policy import Image
from teleop.errors import PolicyError
from teleop.messages import Frame


def decode(frame: Frame) -> Image:
    """The frame's pixels, (H, W, 3) RGB.

    Raises:
        PolicyError: the bytes are not an image of the frame's encoding and size.
    """
    if frame.encoding == "rgb8":
        if len(frame.data) != frame.height * frame.width * 3:
            raise PolicyError(
                f"a frame of {frame.width}x{frame.height} has {len(frame.data)} bytes of rgb8, "
                f"expected {frame.height * frame.width * 3}"
            )
        return np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, 3)
    if frame.encoding != "jpeg":
        raise PolicyError(f"a frame has encoding {frame.encoding!r}; known: jpeg, rgb8")
    try:
        pixels: Image = simplejpeg.decode_jpeg(frame.data, colorspace="RGB")
    except ValueError as error:
        raise PolicyError(f"a frame of {len(frame.data)} bytes is no JPEG: {error}") from error
    return pixels


def shrink(image: Image, height: int, width: int) -> Image:
    """The image at the policy's resolution, averaged over areas; (height, width, 3)."""
    if image.shape[:2] == (height, width):
        return image
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)
