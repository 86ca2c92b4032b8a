"""Pictures of the plant: the sketch always, OpenGL where the probe says it works."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from drivers.emulated.camera.rendering import BACKENDS, Backend, SceneRenderer, choose_backend
from drivers.emulated.plant import build_model
from teleop.errors import UnknownNameError

SCENE = """
<mujoco>
  <worldbody>
    <light directional="true" pos="0 0 2" dir="0 0 -1"/>
    <camera name="top" pos="0 0 1" fovy="90"/>
    <camera name="low" pos="0 -0.3 0.05" xyaxes="1 0 0 0 0 1" fovy="60"/>
    <geom type="plane" size="1 1 0.1" rgba="0.4 0.4 0.4 1"/>
    <geom type="box" pos="-0.9 0 0.05" size="0.05 0.05 0.05" rgba="0 0.8 0 1"/>
    <geom type="sphere" size="0.2" pos="0 0 0.1" rgba="0 0 1 1" group="3"/>
    <body name="cube" pos="0.5 0.25 0.05">
      <freejoint/>
      <geom type="box" size="0.05 0.05 0.05" rgba="0.9 0 0 1"/>
    </body>
  </worldbody>
</mujoco>
"""


def backends() -> list[Backend]:
    """The sketch, and the best that works here if that is another."""
    return sorted({"sketch", choose_backend()})


def red_centre_px(image: np.ndarray) -> tuple[float, float]:
    """Mean column and row of the red pixels."""
    red = (image[..., 0] > 80) & (image[..., 0] > 2 * image[..., 1].astype(int))
    rows, columns = np.nonzero(red)
    assert len(rows), "nothing red in the picture"
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize("backend", backends())
def test_objects_are_where_the_camera_model_says(backend: Backend) -> None:
    """A cube's top at x .5, y .25, z .1 under a 90 degree camera at 1 m, pinhole geometry."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    renderer = SceneRenderer(model, backend)
    image = renderer.render(model.qpos0, "top", 200, 200)
    assert image.shape == (200, 200, 3)
    assert image.dtype == np.uint8
    column, row = red_centre_px(image)
    assert column == pytest.approx(100 + 100 * 0.5 / 0.9, abs=4)
    assert row == pytest.approx(100 - 100 * 0.25 / 0.9, abs=4)
    renderer.close()


@pytest.mark.parametrize("backend", backends())
def test_the_picture_follows_the_pose(backend: Backend) -> None:
    """Moving the cube in qpos moves it in the picture; the same pose gives the same picture."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    renderer = SceneRenderer(model, backend)
    moved = model.qpos0.copy()
    moved[:2] = (-0.5, -0.5)
    first = renderer.render(model.qpos0, "top", 128, 96)
    column, row = red_centre_px(renderer.render(moved, "top", 128, 96))
    assert column < 64
    assert row > 48
    assert np.array_equal(first, renderer.render(model.qpos0, "top", 128, 96))
    renderer.close()


@pytest.mark.parametrize("backend", backends())
def test_geoms_of_hidden_groups_are_not_drawn(backend: Backend) -> None:
    """Group 3 holds collision shapes: nothing blue may show."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    renderer = SceneRenderer(model, backend)
    image = renderer.render(model.qpos0, "top", 128, 96).astype(int)
    assert not ((image[..., 2] > 100) & (image[..., 0] < 50)).any()
    renderer.close()


@pytest.mark.parametrize("backend", backends())
def test_what_stands_on_the_floor_is_in_front_of_it(backend: Backend) -> None:
    """A large near surface, partly behind the camera, neither hides the cube nor vanishes."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    renderer = SceneRenderer(model, backend)
    pose = model.qpos0.copy()
    pose[:2] = (0.0, 0.3)
    image = renderer.render(pose, "low", 160, 120)
    column, _ = red_centre_px(image)
    assert column == pytest.approx(80, abs=3)
    floor = image[-1, 80].astype(int)
    assert np.ptp(floor) < 12
    assert 50 < floor.mean() < 180
    renderer.close()


def test_backends_draw_the_same_scene() -> None:
    """Every camera of the ALOHA scene: most pixels of the sketch are near OpenGL's."""
    if choose_backend() == "sketch":
        pytest.skip("no OpenGL works here")
    arms = ("left_follower", "left_leader", "right_follower", "right_leader")
    model = build_model(arms, "transfer_cube")
    sketch, opengl = SceneRenderer(model, "sketch"), SceneRenderer(model, choose_backend())
    for camera in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist", "overview"):
        ours = sketch.render(model.qpos0, camera, 160, 120).astype(int)
        theirs = opengl.render(model.qpos0, camera, 160, 120).astype(int)
        near = (np.abs(ours - theirs).max(axis=2) < 70).mean()
        assert near > 0.85, f"{camera}: only {near:.0%} of the pixels agree"
    opengl.close()


def test_the_choice_is_one_that_works() -> None:
    """The probe's answer can be rendered with, twice in a row."""
    backend = choose_backend()
    assert backend in BACKENDS
    assert choose_backend() == backend


def test_unknown_names_are_named() -> None:
    """A camera or backend that is not there: the known ones are told."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    with pytest.raises(UnknownNameError, match="top"):
        SceneRenderer(model, "sketch").render(model.qpos0, "topp", 64, 64)
    with pytest.raises(UnknownNameError, match="sketch"):
        SceneRenderer(model, "vulkan")  # type: ignore[arg-type]
