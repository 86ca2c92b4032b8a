"""From the plant's pose to a JPEG, as an emulated camera makes it."""

from __future__ import annotations

import numpy as np
import simplejpeg

from drivers.camera.jpeg_header import with_comment
from drivers.emulated.camera.burnt_stamp import BurntStamp, burn
from drivers.emulated.camera.rendering import SceneRenderer
from teleop.messages import FloatArray
from teleop.rig import OpenCvCamera as CameraConfig


class Shutter:
    """Takes the pictures of one emulated camera and numbers them.

    Args:
        camera: name in the rig and in the scene.
        config: size and JPEG quality.
        renderer: draws the scene; may be shared by cameras of one thread.
        burn_in: draw number and stamp into the picture, see ``burnt_stamp``.
    """

    def __init__(
        self, camera: str, config: CameraConfig, renderer: SceneRenderer, burn_in: bool = False
    ) -> None:
        self._camera = camera
        self._config = config
        self._renderer = renderer
        self._burn_in = burn_in
        self._number = 0

    def picture(self, qpos: FloatArray, stamp_ns: int) -> bytes:
        """The scene in pose ``qpos`` (nq,) at ``stamp_ns`` as a colour JPEG.

        A real sensor's noise makes any two exposures differ, here a comment with number and
        stamp does: equal bytes are then a repeated frame, in emulation as on the rig.
        """
        image = self._renderer.render(qpos, self._camera, self._config.width, self._config.height)
        if self._burn_in:
            burn(image, BurntStamp(self._number, stamp_ns))
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(image),
            self._config.jpeg_quality,
            colorspace="RGB",
            colorsubsampling="420",
        )
        comment = f"tandem emulated camera {self._camera} {self._number} {stamp_ns}"
        self._number += 1
        return with_comment(jpeg, comment.encode())
