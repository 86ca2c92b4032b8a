"""A ChArUco board in the emulated scene, and the person who holds it for a calibration.

It is drawn only: nothing touches it. ``calibrate --emulate`` asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import mujoco
import numpy as np
from pydantic import TypeAdapter

from calibration.board import Board
from calibration.poses import inverse, pose, rotation_from_vector
from drivers.emulated.camera.rendering import SceneRenderer
from teleop.clock import ns_from_s
from teleop.messages import FloatArray

BOARD = "board"
"""Its name in the scene."""
OPENCV_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up, OpenCV's along z with y down."""
HOLD_S = 0.8
"""How long a held board is kept still: two looks, 0.25 s apart, have to see it."""
_DARKEST = 20
"""The renderer takes pure black for "nothing drawn"."""
_LEANS = ((0.6, 0.0), (-0.6, 0.0), (0.0, 0.6), (0.0, -0.6), (0.35, 0.35), (-0.4, 0.4))
_SPOTS = tuple((x, y) for y in (-0.57, 0.0, 0.57) for x in (-0.56, 0.0, 0.56))
"""In half pictures from the middle."""
_FILLS = 0.65
"""Part of the picture's height that a held board covers, about."""
_STAND = (np.array([0.2, -0.1, 0.15]), np.array([0.0, -0.07, 0.33]))
"""Turn and middle of a board on a stand, seen by the camera: above the fingers of its own arm."""
_GRIPPED_TURN = np.array([0.25, -0.3, 0.1])
_BEFORE_TOOL_M = 0.04
"""How far in front of the fingers a gripped board is, towards the camera."""


@dataclass(frozen=True, slots=True)
class BoardJob:
    """A board, and for whom it is held. Plain values: they travel to a fresh process."""

    board: Board
    camera: str
    place: Literal["held", "stand", "gripper"]
    """In a hand before the camera, on a stand before it, or in the gripper of ``arm``."""
    arm: str = ""
    """That holds it, or that carries the camera: it stands ready."""

    def options(self) -> dict[str, object]:
        """As options of the emulator's node; ``of`` reads them."""
        return {"board": asdict(self)}

    @classmethod
    def of(cls, options: Mapping[str, object]) -> BoardJob | None:
        """What ``options`` has told; None when nothing."""
        told = options.get("board")
        return None if told is None else TypeAdapter(cls).validate_python(told)


def add_board(spec: Any, board: Board) -> None:
    """Put it into a scene; ``put_board`` moves it. It adds nothing to ``qpos``."""
    image = np.maximum(board.picture(16), _DARKEST)
    spec.add_texture(
        name=BOARD,
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        width=image.shape[1],
        height=image.shape[0],
        nchannel=3,
    ).data = np.repeat(image[..., None], 3, 2).tobytes()
    material = spec.add_material(name=BOARD, texuniform=False, specular=0, emission=0.4)
    textures = material.textures
    textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = BOARD
    material.textures = textures
    half_m = [side / 16 * board.square_m / 10 / 2 for side in image.shape[1::-1]]
    spec.worldbody.add_body(name=BOARD, mocap=True).add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[*half_m, 0.01],
        material=BOARD,
        contype=0,
        conaffinity=0,
    )


def put_board(renderer: SceneRenderer, board: Board, board_in_world: FloatArray) -> None:
    """Move it.

    Args:
        renderer: Of a scene that has it.
        board: As it was added.
        board_in_world: Pose (4, 4), in the frame of ``calibration.board``.
    """
    face = pose(OPENCV_FROM_MUJOCO, np.array([*board.size_m, 0.0]) / 2)  # MuJoCo's plane
    renderer.move(BOARD, board_in_world @ face)


def camera_in_world(data: mujoco.MjData, camera: str) -> FloatArray:
    """Pose (4, 4) of a camera with OpenCV's axes, after ``mj_camlight``."""
    seen = data.camera(camera)
    return pose(seen.xmat.reshape(3, 3) @ OPENCV_FROM_MUJOCO, seen.xpos)


def held_boards(board: Board, fovy_rad: float, aspect: float) -> Iterator[FloatArray]:
    """How a person holds it: into each part of the picture, leaning each way, over and over.

    Args:
        board: Held.
        fovy_rad: The camera's vertical field of view.
        aspect: Width of its picture by its height.

    Yields:
        Poses (4, 4) in the camera.
    """
    middle = np.array([*board.size_m, 0.0]) / 2
    half = math.tan(fovy_rad / 2)
    k = 0
    while True:
        away_m = board.size_m[1] / (2 * half * _FILLS) * (1 + 0.06 * (k % 5))
        x, y = np.array(_SPOTS[k % len(_SPOTS)]) * (half * aspect * away_m, half * away_m)
        turn = rotation_from_vector(np.array([*_LEANS[k % len(_LEANS)], 0.1 * (k % 3)]))
        yield pose(turn, np.array([x, y, away_m]) - turn @ middle)
        k += 1


class BoardHolder:
    """The person who holds the board, or has put it somewhere, in the renderer's scene.

    Args:
        job: What is wanted.
        model: The scene's.
        renderer: Draws the scene.
        aspect: Width of the camera's picture by its height.
    """

    def __init__(
        self, job: BoardJob, model: mujoco.MjModel, renderer: SceneRenderer, aspect: float
    ) -> None:
        self._job = job
        self._data = mujoco.MjData(model)
        self._model = model
        self._renderer = renderer
        fovy_rad = math.radians(model.camera(job.camera).fovy.item())
        self._poses = held_boards(job.board, fovy_rad, aspect)
        self._held = next(self._poses)
        self._next_ns: int | None = None
        self._fixed: FloatArray | None = None

    def hold(self, qpos: FloatArray, now_ns: int) -> None:
        """Put the board where it is now.

        Args:
            qpos: Of the scene, shape (nq,).
            now_ns: Any clock.
        """
        data = self._data
        data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_camlight(self._model, data)
        camera = camera_in_world(data, self._job.camera)
        if self._job.place == "held":
            placed = camera @ self._hand(now_ns)
        elif self._job.place == "stand":
            if self._fixed is None:
                self._fixed = camera @ self._facing(*_STAND)
            placed = self._fixed
        else:
            site = data.site(f"{self._job.arm}/tcp")
            tool = pose(site.xmat.reshape(3, 3), site.xpos)
            if self._fixed is None:
                middle = (inverse(camera) @ tool)[:3, 3]
                middle *= 1 - _BEFORE_TOOL_M / np.linalg.norm(middle)
                self._fixed = inverse(tool) @ camera @ self._facing(_GRIPPED_TURN, middle)
            placed = tool @ self._fixed
        put_board(self._renderer, self._job.board, placed)

    def _hand(self, now_ns: int) -> FloatArray:
        if self._next_ns is None:
            self._next_ns = now_ns + ns_from_s(HOLD_S)
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + ns_from_s(HOLD_S)
            self._held = next(self._poses)
        return self._held

    def _facing(self, turn: FloatArray, middle_m: FloatArray) -> FloatArray:
        """A board in the camera with this rotation vector and its middle there."""
        turned = rotation_from_vector(turn)
        return pose(turned, middle_m - turned @ np.array([*self._job.board.size_m, 0.0]) / 2)
