"""A picture of the plant without OpenGL: every geom a shaded box, painted far to near."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from teleop.messages import FloatArray

Image = NDArray[np.uint8]

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
_FACES = np.array(
    [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]]
)
"""Corners of the faces -x, +x, -y, +y, -z, +z, each in order around the face."""
_NORMALS = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]], float)
_NEAR_M = 0.01
BACKGROUND = (196, 205, 216)
"""RGB of what lies beyond the scene, in all backends."""
_LIGHT = np.array([-0.276, -0.184, 0.943])
"""Direction towards the light, unit length; about that of the scene's lamp."""
_AMBIENT, _DIFFUSE = 0.6, 0.4
_SUBPIXEL_BITS = 4
_FAR_OUT_PX = 30_000.0
"""Corners are kept within this many pixels; OpenCV's coordinates are 32-bit fixed point."""
_DEFAULT_RGBA = np.array([0.5, 0.5, 0.5, 1.0], dtype=np.float32)
_PLANE_EXTENT_M = 5.0
"""Half size of a plane that the model calls infinite."""
_VISIBLE_GROUPS = 3
"""MuJoCo's own viewer shows geom groups 0, 1 and 2 unless told otherwise."""


@dataclass(frozen=True, slots=True)
class _View:
    """A camera of one image size."""

    position: FloatArray
    """Shape (3,), m, world."""
    axes: FloatArray
    """Shape (3, 3): columns are right, up and backwards, in the world."""
    focal_px: float
    width: int
    height: int

    def to_fixed_point(self, points: FloatArray) -> NDArray[np.int32]:
        """(..., 3) camera coordinates in front of the camera -> (..., 2) pixels for OpenCV."""
        scaled = self.focal_px / -points[..., 2:]
        pixels = points[..., :2] * scaled * (1.0, -1.0) + (self.width / 2, self.height / 2)
        kept = np.clip(pixels - 0.5, -_FAR_OUT_PX, _FAR_OUT_PX)
        return np.rint(kept * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def beside_image(self, polygons: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of (N, corners, 2) polygons lie wholly to one side of the image."""
        limit = np.array([self.width, self.height]) << _SUBPIXEL_BITS
        before = np.all(polygons < 0, axis=1)
        beyond = np.all(polygons > limit, axis=1)
        return np.asarray(np.any(before | beyond, axis=1))


class SketchPainter:
    """Draws a model's visible geoms as boxes of their extent."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        shown = (model.geom_group < _VISIBLE_GROUPS) & (model.geom_rgba[:, 3] > 0)
        self._geoms = np.flatnonzero(shown)
        self._half_m = np.array(
            [_half_extent(model, geom) for geom in self._geoms.tolist()]
        ).reshape(-1, 3)
        self._colour = np.array([_colour(model, geom) for geom in self._geoms.tolist()]).reshape(
            -1, 3
        )

    def paint(self, data: mujoco.MjData, camera_id: int, width: int, height: int) -> Image:
        """The camera's view of ``data``, shape (height, width, 3), RGB."""
        view = _View(
            np.array(data.cam_xpos[camera_id]),
            np.array(data.cam_xmat[camera_id]).reshape(3, 3),
            height / 2 / np.tan(np.radians(self._model.cam_fovy[camera_id]) / 2),
            width,
            height,
        )
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = BACKGROUND
        for polygon, colour in self._polygons(data, view):
            cv2.fillConvexPoly(canvas, polygon, colour, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
        return canvas

    def close(self) -> None:
        """Nothing is held."""

    def _polygons(
        self, data: mujoco.MjData, view: _View
    ) -> list[tuple[NDArray[np.int32], tuple[float, float, float]]]:
        """Visible faces in pixels with their colour, in painting order."""
        centre = data.geom_xpos[self._geoms]
        axes = data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        local = _CORNERS * self._half_m[:, None]  # (G, 8, 3)
        corners = np.einsum("gij,gcj->gci", axes, local) + centre[:, None]
        seen = (corners - view.position) @ view.axes  # (G, 8, 3)
        faces = seen[:, _FACES]  # (G, 6, 4, 3)
        normal = np.einsum("gij,fj->gfi", axes, _NORMALS)  # (G, 6, 3), world
        facing = np.einsum("gfi,gfi->gf", normal @ view.axes, faces.mean(axis=2)) < 0
        geom, face = np.nonzero(facing & (faces[..., 2].min(axis=2) < -_NEAR_M))
        faces = faces[geom, face]  # (F, 4, 3)
        shade = _AMBIENT + _DIFFUSE * np.maximum(normal[geom, face] @ _LIGHT, 0.0)
        colour = self._colour[geom] * shade[:, None]
        # A face is as far as its farthest corner: so a table comes before what stands on it.
        order = np.argsort(-np.linalg.norm(faces, axis=2).max(axis=1), kind="stable")
        whole = faces[..., 2].max(axis=1) < -_NEAR_M
        pixels = view.to_fixed_point(np.where(whole[:, None, None], faces, -1.0))
        outside = whole & view.beside_image(pixels)
        painted = []
        for i in order[~outside[order]].tolist():
            polygon = pixels[i] if whole[i] else view.to_fixed_point(_cut_at_near_plane(faces[i]))
            red, green, blue = colour[i].tolist()
            painted.append((polygon, (red, green, blue)))
        return painted


def _cut_at_near_plane(polygon: FloatArray) -> FloatArray:
    """The part of a convex polygon (N, 3) in front of the camera, which looks along -z."""
    kept: list[FloatArray] = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        in_front = start[2] < -_NEAR_M
        if in_front:
            kept.append(start)
        if in_front != (end[2] < -_NEAR_M):
            part = (-_NEAR_M - start[2]) / (end[2] - start[2])
            kept.append(start + part * (end - start))
    return np.array(kept)


def _half_extent(model: mujoco.MjModel, geom: int) -> FloatArray:
    """Half edges of the box around a geom, m, in the geom's own frame."""
    size = model.geom_size[geom]
    kind = mujoco.mjtGeom(model.geom_type[geom])
    if kind == mujoco.mjtGeom.mjGEOM_PLANE:
        return np.array([size[0] or _PLANE_EXTENT_M, size[1] or _PLANE_EXTENT_M, 0.0])
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return np.full(3, size[0])
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.array([size[0], size[0], size[1] + size[0]])
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return np.array([size[0], size[0], size[1]])
    # Boxes and ellipsoids store their half sizes; a mesh has its box in geom_aabb.
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        return np.array(model.geom_aabb[geom, 3:])
    return np.array(size)


def _colour(model: mujoco.MjModel, geom: int) -> FloatArray:
    """RGB 0..255; a material's colour counts where the geom has none of its own."""
    rgba = model.geom_rgba[geom]
    material = model.geom_matid[geom]
    if material >= 0 and np.array_equal(rgba, _DEFAULT_RGBA):
        rgba = model.mat_rgba[material]
    return np.asarray(rgba[:3], dtype=float) * 255.0
