"""What evaluation refuses before anything runs, and pictures of rollouts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from policy_episodes import CAMERA, HEIGHT, WIDTH, small_rig, write_episode
from pydantic import TypeAdapter

from policies.card import CARD, VERSION, Card, read_card
from policies.comparison import Score
from policies.deployment import DeployOptions
from policies.evaluate import inputs_of, run, write_video_of
from policies.motion_metrics import motion_from
from policies.normalisation import Statistics, column_statistics
from policies.policy import CameraView, ObservationContract
from policies.rollouts import Rollout
from policies.video import Taken, side_by_side, write_takes, write_video
from teleop import cli
from teleop.errors import PolicyError, UnknownNameError
from teleop.session_plan import EpisodeResult

MOTION = motion_from(np.zeros((8, 1)), np.empty(0, np.int64))


def save_card(
    folder: Path, cameras: Sequence[str] = (), tasks: tuple[str, ...] = ("transfer_cube",)
) -> Path:
    """What is known of a policy of one joint; it has no weights."""
    column = column_statistics(np.array([[0.0], [1.0]]))
    contract = ObservationContract(
        tasks=tasks,
        joint_names=("a/waist",),
        cameras=tuple(CameraView(name, 24, 32, 24, 32, 25.0, {}) for name in cameras),
        extras=(),
        row_hz=50.0,
        chunk_rows=5,
        qpos_low=(0.0,),
        qpos_high=(1.0,),
        action_low=(0.0,),
        action_high=(1.0,),
        start_low=(0.0,),
        start_high=(1.0,),
        calibration_sha256="",
        data_hash="",
    )
    card = Card(
        format="tandem-policy",
        version=VERSION,
        family="bc",
        config={},
        contract=contract,
        statistics=Statistics(column, column, ()),
        weights_sha256="",
        software="test",
        training={},
        deployment=DeployOptions(),
    )
    folder.mkdir()
    (folder / CARD).write_bytes(TypeAdapter(Card).dump_json(card))
    return folder


def test_what_a_policy_sees_is_said_in_words(tmp_path: Path) -> None:
    """Cameras by name, or that there are none."""
    seeing = read_card(save_card(tmp_path / "a", ["cam_high"]))
    assert inputs_of(seeing) == "joints, cam_high"
    assert inputs_of(read_card(save_card(tmp_path / "b"))) == "joints only (blind)"


def test_a_policy_of_another_task_is_refused(tmp_path: Path) -> None:
    """The error says which task it was trained for, before any process starts."""
    folder = save_card(tmp_path / "run", ["cam_high"])
    with pytest.raises(PolicyError, match="was trained for transfer_cube, not for insertion"):
        list(run([folder], small_rig(), "insertion", 1, 0, show=False))


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    """Also when another subject could run."""
    with pytest.raises(PolicyError, match="holds no policy"):
        list(run(["expert", tmp_path], small_rig(), "transfer_cube", 1, 0, show=False))


def test_an_option_that_deployment_does_not_know_is_refused() -> None:
    """With a near name."""
    options = {"replan_row": 3}
    with pytest.raises(UnknownNameError, match="did you mean replan_rows"):
        list(run(["expert"], small_rig(), "transfer_cube", 1, 0, options=options, show=False))


def test_an_episode_in_the_way_ends_it_before_the_first_scene(tmp_path: Path) -> None:
    """Also when it is in the folder of the last subject."""
    (tmp_path / "out" / "1_expert").mkdir(parents=True)
    (tmp_path / "out" / "1_expert" / "episode_000000.hdf5").touch()
    both = ["expert", "expert"]
    with pytest.raises(PolicyError, match=r"1_expert.*exists already"):
        list(run(both, small_rig(), "transfer_cube", 1, 0, out=tmp_path / "out", show=False))
    assert not list((tmp_path / "out" / "0_expert").iterdir())


@pytest.mark.parametrize("command", ["deploy", "policy"])
def test_a_policy_of_several_tasks_asks_which(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An arm must not begin with one that nobody asked for."""
    folder = save_card(tmp_path / "run", tasks=("insertion", "transfer_cube"))
    assert cli.main([command, str(folder), "--emulate"]) == 1
    assert "knows insertion and transfer_cube; choose one with --task" in capsys.readouterr().err


def test_no_process_at_all_is_refused() -> None:
    """Nothing would run."""
    with pytest.raises(PolicyError, match="give --jobs 1 or more"):
        list(run(["expert"], small_rig(), "transfer_cube", 1, 0, jobs=0, show=False))


def test_recordings_are_never_overwritten(tmp_path: Path) -> None:
    """The first that is in the way is named."""
    (tmp_path / "expert").mkdir()
    (tmp_path / "expert/episode_000001.hdf5").touch()
    with pytest.raises(PolicyError, match=r"expert/episode_000001\.hdf5 exists already"):
        list(run(["expert"], small_rig(), "transfer_cube", 2, 0, out=tmp_path, show=False))


def images_of(path: Path) -> list[np.ndarray]:
    """All images of a video, (H, W, 3) RGB."""
    video = cv2.VideoCapture(str(path))
    images = []
    while True:
        good, image = video.read()
        if not good:
            return images
        images.append(image[..., ::-1])


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_rollouts_become_a_video_side_by_side(tmp_path: Path, name: str) -> None:
    """Two episodes of 40 rows: 20 images of both, readable again."""
    takes = [Taken(write_episode(tmp_path / "e", episode), True) for episode in range(2)]
    assert write_takes(tmp_path / name, takes, CAMERA) == 20
    assert [image.shape for image in images_of(tmp_path / name)] == [(HEIGHT, 2 * WIDTH, 3)] * 20


def test_the_video_shows_successes_and_failures_in_their_colours(tmp_path: Path) -> None:
    """One failure among twelve is shown, in a red frame, after eight green ones."""
    rollouts = []
    for scene in range(12):
        path = write_episode(tmp_path / "e", scene, rows=8)
        result = EpisodeResult(scene, "failure" if scene == 10 else "success", 1.0, path=str(path))
        rollouts.append(Rollout(scene, result, MOTION))
    assert write_video_of(Score("a", "", tuple(rollouts)), CAMERA, tmp_path / "v.mp4") == 4
    image = images_of(tmp_path / "v.mp4")[0].astype(int)
    assert image.shape == (3 * HEIGHT, 3 * WIDTH, 3)
    edges = [
        image[row * HEIGHT + 1 : row * HEIGHT + 3, column * WIDTH + 8 : (column + 1) * WIDTH - 8]
        for row in range(3)
        for column in range(3)
    ]
    redder = [float((edge[..., 0] - edge[..., 1]).mean()) for edge in edges]
    assert [value > 0 for value in redder] == [False] * 8 + [True]


def test_a_video_needs_recordings(tmp_path: Path) -> None:
    """The error says how to make them."""
    score = Score("a", "", (Rollout(0, EpisodeResult(0, "success", 1.0), MOTION),))
    with pytest.raises(PolicyError, match="give --out DIR"):
        write_video_of(score, CAMERA, tmp_path / "v.mp4")


def test_long_rollouts_are_shown_without_being_held_in_memory() -> None:
    """One image of each at a time; a shorter one stays at its last, an empty place is black."""
    drawn: list[int] = []

    def images(first: int, count: int) -> Iterator[np.ndarray]:
        for value in range(first, first + count):
            drawn.append(value)
            yield np.full((2, 2, 3), value, np.uint8)

    video = side_by_side([images(1, 3), images(51, 1), images(101, 2)], columns=2)
    assert [image[::2, ::2, 0].tolist() for image in [next(video)]] == [[[1, 51], [101, 0]]]
    assert drawn == [1, 51, 101]
    assert [image[::2, ::2, 0].tolist() for image in video] == [
        [[2, 51], [102, 0]],
        [[3, 51], [102, 0]],
    ]


def test_a_video_of_nothing_or_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    """In one sentence each."""
    with pytest.raises(PolicyError, match="there are no frames"):
        write_video(tmp_path / "a.mp4", [], 25)
    with pytest.raises(PolicyError, match=r"no encoder for '\.gif'; use \.mp4 or \.webm"):
        write_video(tmp_path / "a.gif", [np.zeros((8, 8, 3), np.uint8)], 25)
