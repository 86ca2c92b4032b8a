"""Calibrating cameras on the emulated rig: rendered boards, real drivers, the truth known."""

import math
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from calibration_bench import BoardScene, SceneCamera, ScriptedGuide, Workshop, follower_kinematics

from calibration.board import Board
from calibration.cameras import Intrinsics
from calibration.poses import (
    angle_between_rad,
    distance_m,
    inverse,
    pose,
    rotation_from_quaternion,
    rotation_from_vector,
)
from calibration.result_values import CameraValues, HandEyeValues, Transform
from calibration.results import Results, make_result
from drivers.calibrate.camera import CameraPlan, calibrate_camera
from drivers.calibrate.camera import report as camera_report
from drivers.calibrate.hand_eye import HandEyePlan, calibrate_hand_eye, pose_changes
from drivers.calibrate.hand_eye import report as hand_eye_report
from drivers.emulated.camera.board import held_boards
from drivers.emulated.camera.rendering import choose_backend
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig import Rig

ARM = "left_follower"
WIDTH, HEIGHT = 640, 480
HOME = np.array([0.0, -0.75, 0.9, 0.0, 0.1, 0.0])
BOARD = Board()

pytestmark = pytest.mark.skipif(
    choose_backend() == "sketch", reason="rendering a textured board needs OpenGL"
)


@pytest.fixture
def shop(aloha: Rig) -> Workshop:
    """A rig of one follower."""
    arms = {ARM: aloha.arms[ARM].model_dump() | {"leader": None}}
    made = Workshop(aloha.replaced(arms=arms))
    made.place(ARM, HOME)
    return made


def matrix_of(transform: Transform) -> FloatArray:
    """The stored form as a pose (4, 4)."""
    turned = rotation_from_quaternion(transform.quaternion_wxyz)
    return pose(turned, np.array(transform.position_m))


def known_lens(lens: Intrinsics, camera: str) -> Results:
    """The calibration folder after intrinsics were measured without error."""
    values = CameraValues.model_validate(
        {
            "width": lens.width,
            "height": lens.height,
            "matrix": lens.matrix.tolist(),
            "distortion": lens.distortion.tolist(),
        }
    )
    result = make_result("camera", camera, values, {}, {}, "")
    return Results(Path("hardware.calibration"), {result.stem: result})


def test_intrinsics_of_a_rendered_camera_are_recovered(shop: Workshop, tmp_path: Path) -> None:
    """Guided through a board held everywhere: focal length within 0.3 %, centre within 2 px."""
    scene = BoardScene(ARM, BOARD, choose_backend())
    lens = scene.lens("cam_high", WIDTH, HEIGHT)
    at = scene.camera_in_world("cam_high", HOME)
    fovy = math.radians(scene.model.camera("cam_high").fovy.item())
    boards = list(islice(held_boards(BOARD, fovy, WIDTH / HEIGHT), 40))
    begun_ns = shop.clock.now_ns()

    def shoot() -> np.ndarray:
        k = int((shop.clock.now_ns() - begun_ns) / 0.6e9)
        scene.put_board(at @ boards[k % len(boards)])
        return scene.picture("cam_high", HOME, WIDTH, HEIGHT)

    camera = SceneCamera(shoot, shop.clock, fps=8)
    guide = ScriptedGuide()
    drawn = tmp_path / "coverage.png"
    plan = CameraPlan("cam_high", BOARD, picture=drawn, made_by="Ada")
    result, fit = calibrate_camera(plan, shop.rig, camera, shop.clock, guide)
    scene.close()
    values = result.values_as(CameraValues)
    found = np.array(values.matrix)
    assert found[[0, 1], [0, 1]] == pytest.approx(lens.matrix[[0, 1], [0, 1]], rel=0.003)
    assert found[:2, 2] == pytest.approx(lens.matrix[:2, 2], abs=2.0)
    assert result.residuals["rms_px"] < 0.2
    assert result.residuals["straightness_px"] < 0.15
    assert result.devices["cam_high"]["size"] == "640x480"
    assert "move the board to the upper left" in " ".join(guide.heard)
    assert "reprojection error" in " ".join(camera_report(fit))
    assert cv2.imread(str(drawn)).shape == (HEIGHT, WIDTH, 3)
    straight = cv2.imread(str(tmp_path / "coverage_undistorted.png"), cv2.IMREAD_GRAYSCALE)
    assert len(BOARD.detect(np.asarray(straight, np.uint8)).ids) > 12


def test_a_camera_with_fingers_in_view_is_calibrated_without_that_part(shop: Workshop) -> None:
    """The lower third of the picture is hidden: after a while it goes on, and says so."""
    scene = BoardScene(ARM, BOARD, choose_backend())
    at = scene.camera_in_world("cam_high", HOME)
    fovy = math.radians(scene.model.camera("cam_high").fovy.item())
    boards = list(islice(held_boards(BOARD, fovy, WIDTH / HEIGHT), 90))
    begun_ns = shop.clock.now_ns()

    def shoot() -> np.ndarray:
        k = int((shop.clock.now_ns() - begun_ns) / 0.6e9)
        scene.put_board(at @ boards[k % len(boards)])
        image = scene.picture("cam_high", HOME, WIDTH, HEIGHT).copy()
        image[2 * HEIGHT // 3 - 10 :] = 128
        return image

    guide = ScriptedGuide()
    plan = CameraPlan("cam_high", BOARD, give_up_s=120)
    camera = SceneCamera(shoot, shop.clock, fps=8)
    result, _ = calibrate_camera(plan, shop.rig, camera, shop.clock, guide)
    lens = scene.lens("cam_high", WIDTH, HEIGHT)
    scene.close()
    found = np.array(result.values_as(CameraValues).matrix)
    assert found[[0, 1], [0, 1]] == pytest.approx(lens.matrix[[0, 1], [0, 1]], rel=0.005)
    assert result.residuals["parts_unseen"] == 3
    words = "no board was seen in the lower left, lower middle, lower right of the picture"
    assert words in guide.heard[-1]


def test_a_camera_that_sees_no_board_says_what_it_still_wants(shop: Workshop) -> None:
    """After the time that the operator gave it."""
    grey = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    camera = SceneCamera(lambda: grey, shop.clock, fps=10)
    plan = CameraPlan("cam_high", BOARD, give_up_s=3.0)
    with pytest.raises(DeviceError, match="within 3 s; still wanted: move the board to the"):
        calibrate_camera(plan, shop.rig, camera, shop.clock, ScriptedGuide())


def test_a_moving_board_is_not_taken(shop: Workshop) -> None:
    """Its picture is blurred and its rows are of different moments."""
    rng = np.random.default_rng(0)
    still = np.full((HEIGHT, WIDTH), 128, np.uint8)
    board = BOARD.picture(4)

    def shoot() -> np.ndarray:
        image = still.copy()
        x, y = rng.integers(0, 200), rng.integers(0, 80)
        image[y : y + board.shape[0], x : x + board.shape[1]] = board
        return np.repeat(image[..., None], 3, axis=2)

    camera = SceneCamera(shoot, shop.clock, fps=10)
    plan = CameraPlan("cam_high", BOARD, give_up_s=3.0)
    guide = ScriptedGuide()
    with pytest.raises(DeviceError, match="not enough of the board"):
        calibrate_camera(plan, shop.rig, camera, shop.clock, guide)
    assert guide.heard[-1].startswith("  0%")


def test_a_wrist_camera_is_found_on_the_tool(shop: Workshop) -> None:
    """The arm moves itself, the board is rendered: within 1 mm and 0.1 degree."""
    scene = BoardScene(ARM, BOARD, choose_backend())
    name = f"{ARM}/wrist_cam"
    turn = rotation_from_vector(np.array([0.2, -0.1, 0.15]))
    middle = turn @ np.array([*BOARD.size_m, 0.0]) / 2
    ahead = pose(turn, np.array([0.0, -0.07, 0.33]) - middle)
    scene.put_board(scene.camera_in_world(name, HOME) @ ahead)
    fk = follower_kinematics()
    truth = inverse(fk(HOME)) @ scene.camera_in_base(name, HOME)
    camera = SceneCamera(
        lambda: scene.picture(name, shop.joints_rad(ARM), WIDTH, HEIGHT), shop.clock, fps=10
    )
    lens = known_lens(scene.lens(name, WIDTH, HEIGHT), "cam_left_wrist")
    guide = ScriptedGuide()
    plan = HandEyePlan("cam_left_wrist", ARM, "eye_in_hand", BOARD, views=16)
    arm = shop.arm(ARM)
    result, fit = calibrate_hand_eye(plan, shop.rig, lens, arm, camera, fk, shop.clock, guide)
    scene.close()
    values = result.values_as(HandEyeValues)
    assert distance_m(matrix_of(values.camera), truth) < 1e-3
    assert angle_between_rad(matrix_of(values.camera), truth) < math.radians(0.1)
    assert result.residuals["median_m"] < 1e-3
    assert set(result.based_on) == {"camera_cam_left_wrist"}
    assert set(result.devices) == {"cam_left_wrist", ARM}
    assert "emergency switch" in guide.asked[0]
    assert "camera in the tool" in hand_eye_report(fit)[0]
    assert shop.joints_rad(ARM) == pytest.approx(HOME, abs=0.02), "it went back"


def test_a_fixed_camera_is_found_beside_the_arm(shop: Workshop) -> None:
    """The gripper holds the board, hands move the limp arm: within 1 mm and 0.1 degree."""
    board = Board(6, 5, 0.03)
    grip = pose(rotation_from_vector(np.array([0.0, -0.5, 0.0])), np.zeros(3)) @ pose(
        np.column_stack(([0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0])),
        np.array([-0.02, -0.09, 0.05]),
    )
    scene = BoardScene(ARM, board, choose_backend(), on_gripper=grip)
    truth = scene.camera_in_base("cam_high", HOME)
    rng = np.random.default_rng(0)
    scale = np.array([0.25, 0.2, 0.2, 0.5, 0.5, 0.8])

    def act(number: int, text: str) -> bool:
        if number:
            shop.place(ARM, HOME + scale * rng.uniform(-1, 1, 6))
        return number <= 60

    camera = SceneCamera(
        lambda: scene.picture("cam_high", shop.joints_rad(ARM), 1280, 960), shop.clock, fps=5
    )
    sized = {n: c.model_dump() for n, c in shop.rig.cameras.items()}
    sized["cam_high"] |= {"width": 1280, "height": 960}
    rig = shop.rig.replaced(cameras=sized)
    lens = known_lens(scene.lens("cam_high", 1280, 960), "cam_high")
    plan = HandEyePlan("cam_high", ARM, "eye_to_hand", board, views=25, by_hand=True)
    arm = shop.arm(ARM)
    fk = follower_kinematics()
    result, _ = calibrate_hand_eye(plan, rig, lens, arm, camera, fk, shop.clock, ScriptedGuide(act))
    scene.close()
    found = matrix_of(result.values_as(HandEyeValues).camera)
    assert distance_m(found, truth) < 1e-3
    assert angle_between_rad(found, truth) < math.radians(0.1)


def test_hand_eye_needs_intrinsics_of_the_right_size(shop: Workshop) -> None:
    """Else it says how to get them."""
    nothing = Results(Path("hardware.calibration"), {})
    half = Intrinsics(320, 240, np.eye(3), np.zeros(5))
    for results, words in (
        (nothing, "intrinsics are not known; run: tandem calibrate camera cam_left_wrist"),
        (known_lens(half, "cam_left_wrist"), "calibrated at 320x240, now it runs at 640x480"),
    ):
        arm = shop.arm(ARM)
        camera = SceneCamera(lambda: np.zeros((2, 2, 3), np.uint8), shop.clock, fps=5)
        plan = HandEyePlan("cam_left_wrist", ARM)
        with pytest.raises(DeviceError, match=words):
            calibrate_hand_eye(
                plan, shop.rig, results, arm, camera, np.array, shop.clock, ScriptedGuide()
            )
        arm.close()


def test_an_arm_that_meets_an_obstacle_holds_and_says_so(shop: Workshop) -> None:
    """Its elbow cannot move; nothing is saved, and it does not push on."""
    scene = BoardScene(ARM, BOARD, choose_backend())
    lens = known_lens(scene.lens(f"{ARM}/wrist_cam", WIDTH, HEIGHT), "cam_left_wrist")
    scene.close()
    camera = SceneCamera(lambda: np.zeros((HEIGHT, WIDTH, 3), np.uint8), shop.clock, fps=5)
    plant = shop.world.plant
    elbow = plant.model.joint(f"{ARM}/elbow")
    moved = plant.step

    def step(torque: FloatArray, hand: FloatArray) -> None:
        moved(torque, hand)
        plant.data.qpos[elbow.qposadr[0]] = HOME[2]
        plant.data.qvel[elbow.dofadr[0]] = 0.0

    plant.step = step  # type: ignore[method-assign]
    arm = shop.arm(ARM)
    plan = HandEyePlan("cam_left_wrist", ARM, reach_rad=0.8)
    with pytest.raises(DeviceError, match=r"elbow is 0.* rad behind its goal; free its way"):
        calibrate_hand_eye(plan, shop.rig, lens, arm, camera, np.array, shop.clock, ScriptedGuide())
    held = shop.world.bank.goal_rad[shop.world.bank.index(ARM, "elbow")]
    assert held == pytest.approx(HOME[2], abs=0.01)


def test_poses_spread_over_all_joints() -> None:
    """Even a few of them reach both sides of every joint, the wrist further than the rest."""
    changes = np.array(list(pose_changes(6, 0.1, 12)))
    assert (changes.min(axis=0) < -0.05).all()
    assert (changes.max(axis=0) > 0.05).all()
    assert np.abs(changes[:, :3]).max() <= 0.1
    assert np.abs(changes[:, 5]).max() > 0.25
    assert len(np.unique(changes.round(3), axis=0)) == 12
