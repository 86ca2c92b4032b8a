"""Training windows from real episode files."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from policy_episodes import CAMERA, action_of, image_of, place_of, small_rig, write_episode

from policies.dataset import DataOptions, TrainingData, data_hash, load
from policies.normalisation import STD_FLOOR, column_statistics
from recorder.quality import Verdict
from teleop.errors import PolicyError, UnknownNameError

ROWS = 40
OPTIONS = DataOptions(image_size=(24, 32), chunk_rows=10, row_stride=3, holdout=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes."""
    folder = tmp_path_factory.mktemp("episodes")
    for episode in range(4):
        write_episode(folder, episode, ROWS)
    return folder


def first_windows(data: TrainingData, count: int) -> list[np.ndarray]:
    return [np.asarray(part) for part in data.train.windows(np.arange(count))]


def test_a_window_holds_the_actions_of_its_row_and_the_following_ones(folder: Path) -> None:
    """Window j of an episode begins at row 3 j: state, image and actions of that very row."""
    data = load(folder, OPTIONS, seed=0)
    per_episode = len(range(0, ROWS, 3))
    assert len(data.train) == 4 * per_episode
    state, images, actions, mask = first_windows(data, per_episode)
    episode = next(
        e for e in range(4) if np.allclose(actions[-1, -1, [0, 7]], place_of(e), atol=1e-6)
    )
    place = place_of(episode)
    row = 3 * 5
    expected = np.stack([action_of(place, row + i, ROWS) for i in range(10)])
    assert actions[5] == pytest.approx(expected, abs=1e-6)
    assert state[5] == pytest.approx(action_of(place, row, ROWS), abs=1e-6)
    assert mask[5].all()
    assert np.abs(images[5, 0].astype(int) - image_of(place)).mean() < 5


def test_beyond_the_end_the_last_action_is_repeated_and_masked(folder: Path) -> None:
    """The window at row 39 has one action of its own."""
    data = load(folder, OPTIONS, seed=0)
    _, _, actions, mask = first_windows(data, 14)
    assert mask[13].tolist() == [1.0] + [0.0] * 9
    assert (actions[13] == actions[13][0]).all()


def test_held_back_episodes_share_no_window_with_training(folder: Path) -> None:
    """The split is by episode: the goals of one set do not occur in the other."""
    data = load(folder, DataOptions(**{**OPTIONS.__dict__, "holdout": 0.25}), seed=3)
    assert data.validation is not None
    assert data.episodes == 3

    def goals(windows: object) -> set[float]:
        count = len(windows)  # type: ignore[arg-type]
        ends = windows.windows(np.arange(count)).actions[:, -1, 0]  # type: ignore[attr-defined]
        return {round(float(end), 5) for end in ends}

    train_goal = max(goals(data.validation))
    assert train_goal not in goals(data.train)


def test_joints_that_rest_are_not_blown_up(folder: Path) -> None:
    """A constant column is divided by the floor, not by zero."""
    data = load(folder, OPTIONS, seed=0)
    assert data.statistics.action.std[1] == STD_FLOOR
    assert data.statistics.action.std[0] > STD_FLOOR


def test_the_contract_tells_names_rates_ranges_and_cameras(folder: Path) -> None:
    """It is what deployment checks against the rig."""
    contract = load(folder, OPTIONS, seed=0).contract
    assert contract.task == "transfer_cube"
    assert contract.joint_names[0] == "left_follower/waist"
    assert contract.joint_names[13] == "right_follower/gripper"
    assert (contract.row_hz, contract.chunk_rows, contract.dt_ns) == (50.0, 10, 20_000_000)
    assert [(view.name, view.source_width) for view in contract.cameras] == [(CAMERA, 32)]
    assert contract.action_high[0] == pytest.approx(max(place_of(e)[0] for e in range(4)))
    assert contract.check_rig(small_rig()) == []


def test_images_are_kept_at_training_resolution(folder: Path) -> None:
    """Recorded at 24x32, kept at 12x16."""
    data = load(folder, DataOptions(**{**OPTIONS.__dict__, "image_size": (12, 16)}), seed=0)
    assert first_windows(data, 2)[1].shape == (2, 1, 12, 16, 3)


def test_object_poses_are_read_as_further_state(folder: Path) -> None:
    """The privileged state policy sees 14 joints and 7 numbers of one object, no image."""
    options = DataOptions(**{**OPTIONS.__dict__, "cameras": (), "object_pose": True})
    data = load(folder, options, seed=0)
    state, images, actions, _ = first_windows(data, 5)
    assert state.shape == (5, 21)
    assert images.shape[1] == 0
    assert state[0, 14:16] == pytest.approx(actions[-1, -1, [0, 7]] * 0 + state[4, 14:16])
    assert [extra.name for extra in data.contract.extras] == ["object_pose"]


def test_the_hash_changes_with_the_data(folder: Path, tmp_path: Path) -> None:
    """Another episode file gives another hash, the same files the same."""
    paths = sorted(folder.glob("*.hdf5"))
    assert data_hash(paths) == data_hash(list(reversed(paths)))
    assert data_hash(paths) != data_hash(paths[:-1])


def fail_verdict(path: Path) -> None:
    """As the recorder leaves an episode of poor quality."""
    with h5py.File(path, "r+") as file:
        file.attrs["verdict"] = Verdict("fail", ("bad",)).to_json()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A failure, an unlabelled episode, and a success that the recorder calls bad."""
    write_episode(tmp_path, 0, outcome="failure")
    write_episode(tmp_path, 1, outcome="unknown")
    fail_verdict(write_episode(tmp_path, 2))
    return tmp_path


def test_what_is_no_good_success_is_left_out_and_counted(mixed: Path, folder: Path) -> None:
    """One sentence tells how many of how many, and why."""
    write_episode(mixed, 3)
    data = load(mixed, OPTIONS, seed=0)
    assert data.episodes == 1
    reasons = "1 failure outcome, 1 unknown outcome, 1 verdict fail"
    assert data.left_out == f"left out 3 of 4 episodes: {reasons}"
    assert load(folder, OPTIONS, seed=0).left_out == ""


def test_options_admit_other_outcomes_and_verdicts(mixed: Path) -> None:
    """Each by its own option."""
    options = DataOptions(
        **{**OPTIONS.__dict__, "outcomes": ("success", "unknown"), "verdicts": ("pass", "fail")}
    )
    data = load(mixed, options, seed=0)
    assert data.episodes == 2
    assert data.left_out == "left out 1 of 3 episodes: 1 failure outcome"


def test_nothing_left_says_what_was_found_and_which_option_admits_it(mixed: Path) -> None:
    """An empty folder is told apart from one of which nothing may be learned."""
    with pytest.raises(PolicyError, match="no episode to learn from among 3") as caught:
        load(mixed, OPTIONS, seed=0)
    assert "1 failure outcome, 1 unknown outcome, 1 verdict fail" in str(caught.value)
    assert "--outcomes success failure unknown" in str(caught.value)
    assert "--verdicts pass warn fail" in str(caught.value)
    (mixed / "empty").mkdir()
    with pytest.raises(PolicyError, match="no episodes; record some"):
        load(mixed / "empty", OPTIONS, seed=0)


def test_a_camera_that_was_not_recorded_is_named(folder: Path) -> None:
    """The error lists the nearest camera of the episode."""
    options = DataOptions(**{**OPTIONS.__dict__, "cameras": ("cam_hihg",)})
    with pytest.raises(UnknownNameError, match="did you mean cam_high"):
        load(folder, options, seed=0)


def test_episodes_of_another_task_do_not_mix(tmp_path: Path) -> None:
    """The error names the file and what differs."""
    write_episode(tmp_path, 0)
    write_episode(tmp_path, 1, task="insertion")
    with pytest.raises(PolicyError, match=r"episode_000001\.hdf5 was recorded with task insertion"):
        load(tmp_path, OPTIONS, seed=0)


def test_a_missing_action_is_named_with_its_row(tmp_path: Path) -> None:
    """NaN commands are not trained on."""
    write_episode(tmp_path, 0, action_fault=float("nan"))
    options = DataOptions(**{**OPTIONS.__dict__, "verdicts": ("pass", "warn", "fail")})
    with pytest.raises(PolicyError, match="row 0 has no action"):
        load(tmp_path, options, seed=0)


def test_an_exploding_column_is_refused() -> None:
    """One wild value among many is broken data."""
    table = np.zeros((5000, 2))
    table[7, 1] = 1e6
    with pytest.raises(PolicyError, match="column 1 is not finite"):
        column_statistics(np.where(table == 1e6, np.inf, table), "action")
    table[7, 1] = 1000.0
    table[:, 1] += np.linspace(0, 1e-6, 5000)
    with pytest.raises(PolicyError, match="action: column 1 holds a value"):
        column_statistics(np.vstack([table, np.zeros((2_000_000, 2))]), "action")
