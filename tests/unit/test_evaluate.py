"""Scores, their table, and pictures of rollouts."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from policy_episodes import CAMERA, write_episode

from policies import checkpoint
from policies.bc import BcConfig, BcNet
from policies.evaluate import evaluate, table
from policies.learned import shapes_of
from policies.normalisation import ColumnStatistics, ImageStatistics, Statistics
from policies.policy import CameraView, ObservationContract
from policies.video import grid, write_contact_sheet, write_rollouts, write_video
from teleop.assembly import Job
from teleop.errors import PolicyError
from teleop.session_plan import EpisodeResult

COLUMN = ColumnStatistics((0.0,), (1.0,), (0.0,), (1.0,))


def save_policy(folder: Path, cameras: Sequence[str]) -> Path:
    """An untrained policy of one joint."""
    views = tuple(CameraView(name, 24, 32, 24, 32, 25.0, {}) for name in cameras)
    contract = ObservationContract(
        "transfer_cube", ("a/waist",), views, (), 50.0, 5, (0.0,), (1.0,), (0.0,), (1.0,), ""
    )
    network = BcNet(shapes_of(contract), BcConfig(hidden=4, features=2))
    images = tuple(ImageStatistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) for _ in cameras)
    checkpoint.save(folder, "bc", network, contract, Statistics(COLUMN, COLUMN, images), {})
    return folder


class FakeRig:
    """Answers jobs with given outcomes and remembers them."""

    def __init__(self, outcomes: Sequence[str]) -> None:
        self.outcomes = outcomes
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> list[EpisodeResult]:
        self.jobs.append(job)
        return [
            EpisodeResult(i, outcome, 6.0 + i, 4 if outcome == "success" else 1, 4)
            for i, outcome in enumerate(self.outcomes)
        ]


def test_expert_and_policies_meet_the_same_scenes(tmp_path: Path) -> None:
    """Same task, seed and first scene; only who acts differs."""
    rig = FakeRig(["success"])
    folder = save_policy(tmp_path / "run", ["cam_high"])
    for subject in ("expert", folder):
        evaluate(subject, rig, "transfer_cube", 20, 1000, cameras=("overview",))
    expert, policy = rig.jobs
    assert (expert.kind, policy.kind) == ("record", "deploy")
    for job in rig.jobs:
        assert (job.task, job.episodes, job.seed, job.first_episode) == (
            "transfer_cube",
            20,
            1000,
            0,
        )
    assert policy.cameras == ("cam_high", "overview")
    assert policy.options == {"checkpoint": str(folder.resolve())}


def test_the_table_shows_counts_interval_and_what_was_seen(tmp_path: Path) -> None:
    """15 of 20, with the Wilson interval 53 % to 89 %."""
    rig = FakeRig(["success"] * 15 + ["failure"] * 5)
    blind = save_policy(tmp_path / "blind", [])
    text = table([evaluate(s, rig, "transfer_cube", 20, 1000) for s in ("expert", blind)])
    rows = text.splitlines()
    assert "| 15/20 | 75% | 53% to 89% | 3.2/4 | 13.0 s |" in rows[2]
    assert "joints only (blind)" in rows[3]


def test_a_policy_of_another_task_is_refused(tmp_path: Path) -> None:
    """The error says which task it was trained for."""
    folder = save_policy(tmp_path / "run", ["cam_high"])
    with pytest.raises(PolicyError, match="was trained for 'transfer_cube', not for 'insertion'"):
        evaluate(folder, FakeRig([]), "insertion", 1, 0)


def test_no_success_has_no_mean_time(tmp_path: Path) -> None:
    """A dash, not a number."""
    score = evaluate("expert", FakeRig(["failure"] * 3), "transfer_cube", 3, 0)
    assert table([score]).endswith("| 0/3 | 0% | 0% to 56% | 1.0/4 | - |")


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_rollouts_become_a_video_side_by_side(tmp_path: Path, name: str) -> None:
    """Two episodes of 40 rows: 20 images of 32 x 64, readable again."""
    episodes = [write_episode(tmp_path / "e", episode) for episode in range(2)]
    assert write_rollouts(tmp_path / name, episodes, CAMERA, columns=2) == 20
    video = cv2.VideoCapture(str(tmp_path / name))
    count = 0
    while True:
        good, image = video.read()
        if not good:
            break
        assert image.shape == (24, 64, 3)
        count += 1
    assert count == 20


def test_a_contact_sheet_holds_spaced_images(tmp_path: Path) -> None:
    """First and last image are among them."""
    frames = [np.full((8, 8, 3), value, np.uint8) for value in range(0, 250, 10)]
    write_contact_sheet(tmp_path / "sheet.png", frames, columns=3, count=6)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert sheet.shape == (16, 24, 3)
    assert (sheet[0, 0, 0], sheet[-1, -1, 0]) == (0, 240)
    assert grid(frames[:1], 2).shape == (8, 16, 3)


def test_a_video_of_nothing_or_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    """In one sentence each."""
    with pytest.raises(PolicyError, match="there are no frames"):
        write_video(tmp_path / "a.mp4", [], 25)
    with pytest.raises(PolicyError, match=r"no encoder for '\.gif'; use \.mp4 or \.webm"):
        write_video(tmp_path / "a.gif", [np.zeros((8, 8, 3), np.uint8)], 25)
