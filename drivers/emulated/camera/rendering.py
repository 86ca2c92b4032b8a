"""Pictures of the plant: by OpenGL where it works without a screen, else drawn as a sketch."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, Protocol

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from drivers.emulated.camera.sketch import BACKGROUND, SketchPainter
from teleop.errors import DeviceError, UnknownNameError
from teleop.messages import FloatArray
from teleop.rotations import quaternion_of_matrix

log = logging.getLogger(__name__)

Backend = Literal["egl", "osmesa", "sketch"]
Image = NDArray[np.uint8]

BACKENDS: tuple[Backend, ...] = ("egl", "osmesa", "sketch")
"""From the best to the one that always works."""
_PROBE_TIMEOUT_S = 60.0
_MAX_GEOMS = 2000
_PROBE = """
import sys
import mujoco
import numpy as np
from drivers.emulated.camera.rendering import SceneRenderer
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><camera name='c' pos='0 0 1'/>"
    "<geom type='box' size='.2 .2 .01' rgba='1 0 0 1'/></worldbody></mujoco>"
)
red, green, _ = SceneRenderer(model, sys.argv[1]).render(np.zeros(0), "c", 64, 64)[32, 32]
sys.exit("wrong colours" if red < 60 or red < 2 * int(green) else 0)
"""


class _Painter(Protocol):
    def paint(self, data: mujoco.MjData, camera_id: int, width: int, height: int) -> Image: ...

    def close(self) -> None: ...


@functools.cache
def choose_backend() -> Backend:
    """The best backend that works here; callers announce it.

    Each OpenGL flavour is tried in a process of its own, because a broken driver may crash or
    leave its library half loaded. Takes about a second per flavour tried.
    """
    for backend in BACKENDS[:-1]:
        if _works(backend):
            return backend
    return BACKENDS[-1]


def _works(backend: Backend) -> bool:
    """Whether a small picture comes out right; the log says why not."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, backend],
            cwd=Path(__file__).parents[3],  # -c imports from the working folder
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        log.info("rendering by %s: no picture within %g s", backend, _PROBE_TIMEOUT_S)
        return False
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        log.info("rendering by %s does not work here: %s", backend, last)
    return done.returncode == 0


@functools.cache
def _background(width: int, height: int) -> Image:
    return np.tile(np.array(BACKGROUND, np.uint8), (height, width, 1))


class SceneRenderer:
    """Renders the cameras of one model. Use it from the thread that made it.

    Args:
        model: the plant's model; its picture quality is set, the rest only read.
        backend: one of ``BACKENDS``.

    Raises:
        UnknownNameError: no such backend.
        DeviceError: OpenGL does not start.
    """

    def __init__(self, model: mujoco.MjModel, backend: Backend) -> None:
        if backend not in BACKENDS:
            raise UnknownNameError("rendering backend", backend, BACKENDS)
        self.backend = backend
        self._model = model
        self._data = mujoco.MjData(model)
        self._painter: _Painter = (
            SketchPainter(model) if backend == "sketch" else _OpenGlPainter(model, backend)
        )

    def render(self, qpos: FloatArray, camera: str, width: int, height: int) -> Image:
        """A camera's view of the plant in a given pose.

        Args:
            qpos: shape (nq,), the plant's ``snapshot()``.
            camera: name of a camera of the model.
            width: pixels.
            height: pixels.

        Returns:
            Shape (height, width, 3), RGB.

        Raises:
            UnknownNameError: the model has no such camera.
        """
        camera_id = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if camera_id < 0:
            names = [self._model.camera(i).name for i in range(self._model.ncam)]
            raise UnknownNameError("camera of the emulated scene", camera, names)
        self._data.qpos[:] = qpos
        # Only what a picture depends on: no collisions, no dynamics.
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        return self._painter.paint(self._data, camera_id, width, height)

    def move(self, body: str, pose_in_world: FloatArray) -> None:
        """Put a mocap body somewhere, from the next picture on; pose (4, 4)."""
        number = int(self._model.body(body).mocapid.item())
        self._data.mocap_pos[number] = pose_in_world[:3, 3]
        self._data.mocap_quat[number] = quaternion_of_matrix(pose_in_world)

    def close(self) -> None:
        """Release the OpenGL context."""
        self._painter.close()


class _OpenGlPainter:
    """MuJoCo's own renderer, off screen. Shadows, reflections and sky are off.

    On a software rasteriser they cost more than the picture: shadows 40 ms and the sky 2.5 ms
    of a 3 ms frame (Mesa llvmpipe, 640x480).
    """

    def __init__(self, model: mujoco.MjModel, backend: Backend) -> None:
        # MuJoCo's C library reads this when it loads OpenGL, Mesa the other: its threads cost
        # more than they bring for so small a picture, and the cores have other work.
        os.environ["MUJOCO_GL"] = backend
        os.environ.setdefault("LP_NUM_THREADS", "1")
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.quality.numquads = 1  # a box face is one quad, not 16: 0.6 ms
        self._model = model
        try:
            self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(64, 64)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except Exception as error:
            raise DeviceError(
                f"emulated cameras: OpenGL by {backend} does not start ({error}); install its "
                "libraries (Debian: libegl1 libgl1-mesa-dri, or libosmesa6) or use the sketch"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._size = (0, 0)
        """The buffer is as large as the largest picture asked for: all of it is cleared."""
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def paint(self, data: mujoco.MjData, camera_id: int, width: int, height: int) -> Image:
        self._gl.make_current()
        if width > self._size[0] or height > self._size[1]:
            self._size = (max(width, self._size[0]), max(height, self._size[1]))
            mujoco.mjr_resizeOffscreen(*self._size, self._context)
        self._camera.fixedcamid = camera_id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, everything, self._scene
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        upside_down = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(upside_down, None, viewport, self._context)
        image = np.asarray(cv2.flip(upside_down, 0), dtype=np.uint8)
        # Where nothing was drawn is pure black, which no lit surface is.
        background = _background(width, height)
        cv2.copyTo(background, cv2.inRange(image, (0, 0, 0), (0, 0, 0)), image)
        return image

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()
