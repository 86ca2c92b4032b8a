"""Training data from real episode files."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from policy_episodes import CAMERA, action_of, image_of, place_of, small_rig, write_episode

from policies.dataset import DataOptions, TrainingData, load
from policies.normalisation import STD_FLOOR
from policies.windows import Windows
from recorder.episode import Episode
from recorder.quality import Verdict
from teleop.errors import PolicyError, UnknownNameError

ROWS = 40
OPTIONS = DataOptions(image_size=(24, 32), chunk_rows=10, window_stride=3, holdout=0.0)
STATE_ONLY = replace(OPTIONS, blind=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes."""
    folder = tmp_path_factory.mktemp("episodes")
    for episode in range(4):
        write_episode(folder, episode, ROWS)
    return folder


def first_windows(data: TrainingData, count: int) -> Windows:
    return data.train.windows(np.arange(count))


def test_a_window_holds_the_actions_of_its_row_and_the_following_ones(folder: Path) -> None:
    """Window j of an episode begins at row 3 j: state, image and actions of that very row."""
    data = load([folder], OPTIONS, seed=0)
    per_episode = len(range(0, ROWS, 3))
    assert len(data.train) == 4 * per_episode
    seen = first_windows(data, per_episode)
    episode = next(
        e for e in range(4) if np.allclose(seen.actions[-1, -1, [0, 7]], place_of(e), atol=1e-6)
    )
    place = place_of(episode)
    row = 3 * 5
    expected = np.stack([action_of(place, row + i, ROWS) for i in range(10)])
    assert seen.actions[5] == pytest.approx(expected, abs=1e-6)
    assert seen.state[5, 0] == pytest.approx(action_of(place, row, ROWS), abs=1e-6)
    assert np.abs(seen.images[5, 0, 0].astype(int) - image_of(place)).mean() < 5


def test_padding_counts_only_when_asked_to(folder: Path) -> None:
    """The window at row 39 has one action of its own."""
    for padding, counted in (("repeat", 10), ("mask", 1)):
        data = load([folder], replace(STATE_ONLY, padding=padding), seed=0)
        assert first_windows(data, 14).mask[13].sum() == counted


def test_held_back_episodes_share_no_window_with_training(folder: Path) -> None:
    """The split is by episode: the goals of one set do not occur in the other."""
    data = load([folder], replace(STATE_ONLY, holdout=0.25), seed=3)
    assert data.validation is not None
    assert data.episodes == 3

    def goals(windows: object) -> set[float]:
        count = len(windows)  # type: ignore[arg-type]
        ends = windows.windows(np.arange(count)).actions[:, -1, 0]  # type: ignore[attr-defined]
        return {round(float(end), 5) for end in ends}

    assert max(goals(data.validation)) not in goals(data.train)


def test_the_split_depends_on_the_seed_alone(folder: Path) -> None:
    """The same one gives the same, some other one another."""
    options = replace(STATE_ONLY, holdout=0.25)
    held = [load([folder], options, seed).contract.action_high[0] for seed in (0, 0, 1, 2, 3)]
    assert held[0] == held[1]
    assert len(set(held)) > 1


def test_one_episode_is_never_held_back_alone(tmp_path: Path) -> None:
    """There must be something to learn from."""
    write_episode(tmp_path, 0)
    data = load([tmp_path], replace(STATE_ONLY, holdout=0.9), seed=0)
    assert (data.episodes, data.validation) == (1, None)


def test_the_contract_tells_names_rates_ranges_and_cameras(folder: Path) -> None:
    """It is what deployment checks against the rig."""
    contract = load([folder], OPTIONS, seed=0).contract
    assert contract.tasks == ("transfer_cube",)
    assert contract.joint_names[0] == "left_follower/waist"
    assert contract.joint_names[13] == "right_follower/gripper"
    assert (contract.row_hz, contract.chunk_rows, contract.dt_ns) == (50.0, 10, 20_000_000)
    assert [(view.name, view.source_width) for view in contract.cameras] == [(CAMERA, 32)]
    assert contract.action_high[0] == pytest.approx(max(place_of(e)[0] for e in range(4)))
    assert contract.check_rig(small_rig()) == []


def test_the_contract_tells_where_episodes_start_and_how_the_rig_is_calibrated(
    folder: Path,
) -> None:
    """All begin with the waist at 0 and reach further later."""
    contract = load([folder], STATE_ONLY, seed=0).contract
    assert contract.start_low[0] == contract.start_high[0] == 0.0
    assert contract.qpos_high[0] > 0.1
    with Episode(folder / "episode_000000.hdf5") as episode:
        assert contract.calibration_sha256 == episode.calibration_sha256


def test_episodes_that_differ_in_calibration_leave_it_open(tmp_path: Path) -> None:
    """Nothing to compare a live rig with."""
    write_episode(tmp_path, 0)
    with h5py.File(write_episode(tmp_path, 1), "r+") as file:
        file.attrs["calibration"] = '{"other": 1}'
    assert load([tmp_path], STATE_ONLY, seed=0).contract.calibration_sha256 == ""


def test_a_slower_policy_uses_every_recorded_row(folder: Path) -> None:
    """At 10 Hz the rows of an action chunk are five recorded rows apart; each row begins one."""
    options = replace(STATE_ONLY, rate_hz=10.0, chunk_rows=3, window_stride=1, history=2)
    data = load([folder], options, seed=0)
    assert data.contract.row_hz == 10.0
    assert len(data.train) == 4 * ROWS
    seen = first_windows(data, ROWS)
    place = next(
        place_of(e)
        for e in range(4)
        if np.allclose(seen.actions[-1, -1, [0, 7]], place_of(e), atol=1e-6)
    )
    waist = [action_of(place, row, ROWS)[0] for row in range(ROWS)]
    # windows come by phase: rows 0, 5, 10 ... then rows 1, 6, 11 ...
    assert seen.actions[1, :, 0] == pytest.approx(waist[5:20:5], abs=1e-6)
    assert seen.actions[8 + 1, :, 0] == pytest.approx(waist[6:21:5], abs=1e-6)
    assert seen.state[8 + 1, :, 0] == pytest.approx([waist[1], waist[6]], abs=1e-6)


@pytest.mark.parametrize(("rate_hz", "nearest"), [(30.0, "25"), (100.0, "50"), (0.0, "50")])
def test_a_rate_that_does_not_divide_is_refused(folder: Path, rate_hz: float, nearest: str) -> None:
    """The sentence names the nearest rate that does."""
    with pytest.raises(PolicyError, match=f"does not divide the 50 .* does is {nearest}$"):
        load([folder], replace(STATE_ONLY, rate_hz=rate_hz), seed=0)


def test_episodes_of_other_rates_mix_at_a_common_one(tmp_path: Path) -> None:
    """50 and 25 rows per second at 25; without a rate they are refused."""
    write_episode(tmp_path, 0)
    with h5py.File(write_episode(tmp_path, 1), "r+") as file:
        file.attrs["row_hz"] = 25.0
    assert load([tmp_path], replace(STATE_ONLY, rate_hz=25.0), seed=0).contract.row_hz == 25.0
    with pytest.raises(PolicyError, match=r"rows at 25 per second, .* 50 per second; give"):
        load([tmp_path], STATE_ONLY, seed=0)


def test_images_are_kept_at_training_resolution(folder: Path) -> None:
    """Recorded at 24x32, kept at 12x16."""
    data = load([folder], replace(OPTIONS, image_size=(12, 16)), seed=0)
    assert first_windows(data, 2).images.shape == (2, 1, 1, 12, 16, 3)


def test_frames_in_memory_are_the_same_as_in_files(folder: Path) -> None:
    """--no-cache changes where they lie only."""
    files, memory = (load([folder], replace(OPTIONS, cache=c), seed=0) for c in (True, False))
    assert np.array_equal(first_windows(files, 9).images, first_windows(memory, 9).images)
    assert files.contract == memory.contract


def test_object_poses_are_read_as_further_state(folder: Path) -> None:
    """The privileged state policy sees 14 joints and 7 numbers of one object, no image."""
    data = load([folder], replace(OPTIONS, object_pose=True), seed=0)
    seen = first_windows(data, 5)
    assert seen.state.shape == (5, 1, 21)
    assert seen.images.shape[2] == 0
    goals = {tuple(np.round(place_of(e), 5).tolist()) for e in range(4)}
    assert tuple(np.round(seen.state[0, 0, 14:16].astype(float), 5).tolist()) in goals
    assert [extra.name for extra in data.contract.extras] == ["object_pose"]


def test_object_poses_with_named_cameras_are_seen_together(folder: Path) -> None:
    """Only then."""
    data = load([folder], replace(OPTIONS, object_pose=True, cameras=(CAMERA,)), seed=0)
    assert first_windows(data, 1).images.shape[2] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(OPTIONS, blind=True, object_pose=True), "--blind and --object-pose exclude"),
        (replace(OPTIONS, blind=True, cameras=(CAMERA,)), "--blind and --cameras exclude"),
        (replace(OPTIONS, chunk_rows=0), "--chunk-rows is 0; at least 1"),
        (replace(OPTIONS, history_stride=-1), "--history-stride is -1"),
        (replace(OPTIONS, holdout=1.0), "--holdout is 1"),
        (replace(OPTIONS, drop_idle=-1.0), "--drop-idle is -1"),
        (replace(OPTIONS, image_size=(0, 32)), "--image-size"),
        (replace(OPTIONS, drop_idle=float("inf")), "--drop-idle is inf"),
        (replace(OPTIONS, idle_reach=float("inf")), "--idle-reach is inf"),
        (replace(OPTIONS, cameras=(CAMERA, CAMERA)), f"--cameras names {CAMERA} more than once"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    folder: Path, options: DataOptions, words: str
) -> None:
    """Before any file is read."""
    with pytest.raises(PolicyError, match=words):
        load([folder], options, seed=0)


def test_windows_in_pauses_are_left_out_when_asked(folder: Path) -> None:
    """These episodes rest in their second half, 0.4 s."""
    everything = load([folder], replace(STATE_ONLY, window_stride=1), seed=0)
    moving = load([folder], replace(STATE_ONLY, window_stride=1, drop_idle=0.3), seed=0)
    longer = load([folder], replace(STATE_ONLY, window_stride=1, drop_idle=0.5), seed=0)
    assert len(everything.train) == len(longer.train) == 4 * ROWS
    assert 4 * 15 <= len(moving.train) <= 4 * 22
    assert f"at {4 * ROWS - len(moving.train)} rows in pauses" in str(moving.report)


def late_rows(episode: Episode) -> np.ndarray:
    """Sample weights as a user writes them: the later the heavier."""
    return np.linspace(0, 2, episode.length)


def short_weights(episode: Episode) -> np.ndarray:
    """A mistake."""
    return np.ones(3)


def test_a_function_of_ones_own_weights_the_samples(folder: Path) -> None:
    """Named by module and function."""
    options = replace(STATE_ONLY, sample_weights="test_dataset:late_rows", window_stride=1)
    weight = first_windows(load([folder], options, seed=0), ROWS).weight
    assert weight == pytest.approx(np.linspace(0, 2, ROWS))
    with pytest.raises(PolicyError, match=r"weights have shape \(3,\), not \(40,\)"):
        load([folder], replace(options, sample_weights="test_dataset:short_weights"), seed=0)


def all_but_one(episode: Episode) -> np.ndarray:
    """Nothing is to be learned from one episode."""
    return np.full(episode.length, float(episode.path.name != "episode_000002.hdf5"))


def test_weights_of_held_back_episodes_may_be_zero(folder: Path) -> None:
    """Nothing is learned from those anyway; the held-back loss counts their windows alike."""
    seed = next(s for s in range(99) if np.random.default_rng(s).permutation(4)[0] == 2)
    options = replace(STATE_ONLY, holdout=0.25, sample_weights="test_dataset:all_but_one")
    held = load([folder], options, seed).validation
    assert held is not None
    assert (held.windows(np.arange(len(held))).weight == 1).all()


def broken_weights(episode: Episode) -> np.ndarray:
    """Another mistake."""
    return np.ones(episode.length) / {}["decay"]  # type: ignore[no-any-return]


class BrokenEncoder:
    """An encoder that fails."""

    size = 3

    def embed(self, text: str) -> np.ndarray:
        raise OSError(f"no model for {text}")


class Unmade(BrokenEncoder):
    """One that fails when it is made."""

    def __init__(self) -> None:
        raise RuntimeError("no licence")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sample_weights": "numpy:pi"}, "--sample-weights numpy:pi is a float; name a function"),
        (
            {"sample_weights": "test_dataset:broken_weights"},
            r"test_dataset:broken_weights failed at episode_000000.hdf5 \(KeyError: 'decay'\)",
        ),
        (
            {"text": "test_dataset:BrokenEncoder"},
            r"--text test_dataset:BrokenEncoder failed at episode_000000.hdf5 \(OSError: no model",
        ),
        ({"text": "test_dataset:Unmade"}, r"test_dataset:Unmade failed \(RuntimeError: no lic"),
    ],
)
def test_a_part_of_ones_own_that_fails_is_named_with_the_episode(
    folder: Path, options: dict[str, str], words: str
) -> None:
    """And with the option and the error, in one sentence."""
    with pytest.raises(PolicyError, match=words):
        load([folder], replace(STATE_ONLY, **options), seed=0)


def test_episodes_of_several_tasks_need_an_instruction_to_tell_them_apart(tmp_path: Path) -> None:
    """With a text encoder the windows carry it."""
    write_episode(tmp_path, 0, instruction="move the cube")
    write_episode(tmp_path, 1, task="insertion", instruction="insert the peg")
    with pytest.raises(PolicyError, match=r"several tasks \(insertion, transfer_cube\).*--text"):
        load([tmp_path], STATE_ONLY, seed=0)
    data = load([tmp_path], replace(STATE_ONLY, text="words"), seed=0)
    assert data.contract.tasks == ("insertion", "transfer_cube")
    assert data.contract.text is not None
    assert (data.contract.text.encoder, data.contract.text.size) == ("words", 64)
    text = first_windows(data, len(data.train)).text
    assert len(np.unique(text, axis=0)) == 2


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
    data = load([mixed], STATE_ONLY, seed=0)
    assert data.episodes == 1
    reasons = "1 failure outcome, 1 unknown outcome, 1 verdict fail"
    assert data.left_out == f"left out 3 of 4 episodes: {reasons}"
    assert load([folder], STATE_ONLY, seed=0).left_out == ""


def test_options_admit_other_outcomes_and_verdicts(mixed: Path) -> None:
    """Each by its own option."""
    options = replace(STATE_ONLY, outcomes=("success", "unknown"), verdicts=("pass", "fail"))
    data = load([mixed], options, seed=0)
    assert data.episodes == 2
    assert data.left_out == "left out 1 of 3 episodes: 1 failure outcome"


def test_nothing_left_says_what_was_found_and_which_option_admits_it(mixed: Path) -> None:
    """An empty folder is told apart from one of which nothing may be learned."""
    with pytest.raises(PolicyError, match="no episode to learn from among 3") as caught:
        load([mixed], STATE_ONLY, seed=0)
    assert "1 failure outcome, 1 unknown outcome, 1 verdict fail" in str(caught.value)
    assert "--outcomes success failure unknown" in str(caught.value)
    assert "--verdicts pass warn fail" in str(caught.value)
    (mixed / "empty").mkdir()
    with pytest.raises(PolicyError, match="no episodes; record some"):
        load([mixed / "empty"], STATE_ONLY, seed=0)


def test_folders_that_differ_are_told_apart_in_words(tmp_path: Path) -> None:
    """Episodes of one name, one of them with two objects."""
    files = []
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        written = write_episode(tmp_path / name, number)
        files.append(written.rename(written.with_name("episode_000000.hdf5")))
    with h5py.File(files[1], "r+") as file:
        stream = next(group for group in groups(file) if "object_pose" in group)
        poses = stream["object_pose"][:]
        del stream["object_pose"]
        stream["object_pose"] = np.concatenate([poses, poses], 1)
    both = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(PolicyError) as caught:
        load(both, replace(STATE_ONLY, blind=False, object_pose=True), seed=0)
    assert str(caught.value) == (
        f"{files[1]} has the extra inputs object_pose (14 numbers), {files[0]} has object_pose "
        "(7 numbers); train on episodes of the same objects"
    )


def groups(file: h5py.File) -> list[h5py.Group]:
    found: list[h5py.Group] = []
    file.visititems(lambda _, part: found.append(part) if isinstance(part, h5py.Group) else None)
    return found


def test_a_camera_that_was_not_recorded_is_named(folder: Path) -> None:
    """The error lists the nearest camera of the episode."""
    with pytest.raises(UnknownNameError, match="did you mean cam_high"):
        load([folder], replace(OPTIONS, cameras=("cam_hihg",)), seed=0)


def test_cameras_with_other_settings_mix_but_are_not_checked_later(tmp_path: Path) -> None:
    """Another shape of image does not mix at all."""
    write_episode(tmp_path, 0)
    rig = small_rig()
    camera = rig.cameras[CAMERA].model_dump()
    other = rig.replaced(cameras={CAMERA: camera | {"exposure": 5.0, "fps": 20}})
    write_episode(tmp_path, 1, rig=other)
    options = replace(OPTIONS, verdicts=("pass", "warn", "fail"))
    (view,) = load([tmp_path], options, seed=0).contract.cameras
    assert "exposure" not in view.settings
    assert "gain" in view.settings
    assert view.fps == 20


def test_a_missing_action_is_named_with_its_row(tmp_path: Path) -> None:
    """NaN commands are not trained on."""
    write_episode(tmp_path, 0, action_fault=float("nan"))
    options = replace(STATE_ONLY, verdicts=("pass", "warn", "fail"))
    with pytest.raises(PolicyError, match="row 0 has no action"):
        load([tmp_path], options, seed=0)


def change(path: Path, dataset: str, row: int, column: int, value: float) -> None:
    """One wrong number in an episode."""
    with h5py.File(path, "r+") as file:
        file[dataset][row, column] = value


def test_a_state_that_goes_missing_is_named_with_its_row(tmp_path: Path) -> None:
    """A history must not reach over a gap."""
    change(write_episode(tmp_path, 0), "observations/qpos", 20, 3, np.nan)
    with pytest.raises(PolicyError, match=r"episode_000000\.hdf5: row 20 has no measured state"):
        load([tmp_path], STATE_ONLY, seed=0)


@pytest.mark.parametrize(("dataset", "what"), [("observations/qpos", "qpos"), ("action", "action")])
def test_an_angle_that_wraps_is_refused(tmp_path: Path, dataset: str, what: str) -> None:
    """Episode, column and row are named."""
    write_episode(tmp_path, 0)
    change(write_episode(tmp_path, 1), dataset, 30, 3, 6.2)
    sentence = rf"episode_000001\.hdf5: {what} of left_follower/forearm_roll jumps .* row 30"
    with pytest.raises(PolicyError, match=sentence):
        load([tmp_path], STATE_ONLY, seed=0)


def test_a_value_that_explodes_is_refused_with_episode_and_column(tmp_path: Path) -> None:
    """An object that is found a kilometre away, once."""
    write_episode(tmp_path, 0)
    with h5py.File(write_episode(tmp_path, 1), "r+") as file:
        file["streams/task/state/object_pose"][20, 0, 1] = 1000.0
    options = replace(OPTIONS, object_pose=True, window_stride=1)
    with pytest.raises(PolicyError, match=r"_000001\.hdf5: state of object_pose\[1\] reaches 1000"):
        load([tmp_path], options, seed=0)


def test_the_report_tells_shapes_units_rates_and_what_rests(folder: Path) -> None:
    """What a dry run prints."""
    data = load([folder], replace(OPTIONS, holdout=0.25, history=2), seed=0)
    text = str(data.report)
    for part in (
        "3 to learn from, 1 held back",
        "none of 4",
        "50 rows per second",
        "10 rows, 0.20 s",
        "42 to learn from, 14 held back",
        "(2, 14) per sample",
        "24x32 out of 24x32 pixels, 25 fps",
        "warning: a chunk of 10 rows lasts 0.20 s",
        "here 25 to 100 rows",
    ):
        assert part in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("left_foll")}
    assert "opening" in lines["left_follower/gripper"]
    assert lines["left_follower/elbow"].endswith("constant")
    assert not lines["left_follower/waist"].endswith("constant")
    assert "  0.000  constant" in lines["left_follower/elbow"]
    assert data.statistics.action.std[1] == STD_FLOOR


def test_an_episode_and_its_copy_are_refused_with_both_names(folder: Path, tmp_path: Path) -> None:
    """Else training would see what is held back; so would it by a folder named twice."""
    copy = tmp_path / "episode_000099.hdf5"
    shutil.copy2(folder / "episode_000002.hdf5", copy)
    with pytest.raises(PolicyError, match=r"_000099\.hdf5 and .*_000002\.hdf5 are the same"):
        load([folder, tmp_path], STATE_ONLY, seed=0)
    with pytest.raises(PolicyError, match="name each folder once"):
        load([folder, f"{folder}=2"], STATE_ONLY, seed=0)
