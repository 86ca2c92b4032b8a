"""Reading an episode, by our own interface and by others' readers."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import simplejpeg

from recorder import inspect
from recorder.episode import Episode, find_episodes
from recorder.validate import validate
from teleop.errors import EpisodeError, UnknownNameError
from tests.episode_feed import Feed, recorded_episode, recorder_for, small_rig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of the small rig."""
    return recorded_episode(tmp_path_factory.mktemp("episode"))


@pytest.fixture(scope="module")
def episode(path: Path) -> Episode:
    """The same, opened."""
    return Episode(path)


def test_an_episode_says_where_it_comes_from(episode: Episode) -> None:
    """Task, outcome, rig, backend and scene are in the file."""
    assert (episode.task, episode.outcome, episode.backend) == ("move", "success", "lockstep")
    assert episode.rig == small_rig()
    assert episode.scene == (7, 0)
    assert episode.calibration == {"note": "none"}
    assert episode.verdict.level == "pass"
    assert episode.row_hz == 50
    assert episode.operator == "somebody"
    assert episode.tags == ("calm", "day")


def test_an_episode_of_an_older_recorder_has_no_tags(path: Path, tmp_path: Path) -> None:
    """It is as valid as it was."""
    old = tmp_path / path.name
    shutil.copy(path, old)
    with h5py.File(old, "r+") as file:
        del file.attrs["tags"]
    with Episode(old) as episode:
        assert episode.tags == ()
    assert validate(old) == []


def test_columns_are_the_followers_joints_and_gripper(episode: Episode) -> None:
    """In one order for qpos and action."""
    assert episode.arms == ("follow",)
    assert episode.joint_names == ("follow/waist", "follow/elbow", "follow/gripper")
    assert episode.qpos.shape == episode.action.shape == (episode.length, 3)
    assert episode.cameras == ("high", "wrist")


def test_rows_hold_the_newest_sample_that_had_arrived(episode: Episode) -> None:
    """qpos from states, action from what the limits let through, by the stored index."""
    state = episode.stream("arm/follow/state")
    index = episode.index("arm/follow/state")
    assert np.array_equal(episode.qpos[:, :2], state["position_rad"][index])
    applied = episode.stream("arm/follow/applied")
    assert np.array_equal(
        episode.action[:, :2], applied["position_rad"][episode.index("arm/follow/applied")]
    )
    ages = episode.rows_stamp_ns - state.stamp_ns[index]
    assert np.array_equal(episode.age_ns("arm/follow/state"), ages)
    assert (state.arrival_ns[index] <= episode.rows_stamp_ns).all()
    assert (state.arrival_ns[index[:-1] + 1] > episode.rows_stamp_ns[:-1]).all()


def test_what_was_not_measured_is_nan_and_never_zero(episode: Episode) -> None:
    """The small rig's joints have no current sensor, its gripper no velocity."""
    assert np.isnan(episode.effort[:, :2]).all()
    assert np.isnan(episode.qvel[:, 2]).all()
    assert (episode.effort[:, 2] == 0.1).all()
    with pytest.raises(UnknownNameError, match="effort"):
        episode.stream("arm/follow/state")["effort"]


def test_images_come_decoded_or_as_the_camera_made_them(episode: Episode) -> None:
    """Both ways give the same picture."""
    row = 17
    image = episode.image("high", row)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(simplejpeg.decode_jpeg(episode.jpeg("high", row)), image)


def test_text_fields_are_str(episode: Episode) -> None:
    """Commands keep who asked."""
    assert set(episode.stream("arm/follow/command")["source"]) == {"teleop"}
    assert list(episode.stream("session/event")["kind"]) == ["start", "stop"]


def test_unknown_names_come_with_the_known_ones(episode: Episode) -> None:
    """Cameras, streams and fields."""
    with pytest.raises(UnknownNameError, match="high"):
        episode.image("hihg", 0)
    with pytest.raises(UnknownNameError, match="arm/follow/state"):
        episode.stream("arm/follow/stat")
    with pytest.raises(IndexError, match="row 9999"):
        episode.image("high", 9999)


def test_the_original_act_loader_reads_it(path: Path, episode: Episode) -> None:
    """The keys and indexing of ACT's EpisodicDataset (tonyzhaozh/act, utils.py)."""
    with h5py.File(path, "r") as root:
        is_sim = root.attrs["sim"]
        original_shape = root["/action"].shape
        qpos = root["/observations/qpos"][3]
        qvel = root["/observations/qvel"][3]
        images = {c: root[f"/observations/images/{c}"][3] for c in ("high", "wrist")}
        action = root["/action"][3:]
    assert bool(is_sim) is True
    assert original_shape == (episode.length, 3)
    assert qpos.shape == qvel.shape == (3,)
    assert len(action) == episode.length - 3
    assert np.array_equal(images["high"], episode.image("high", 3))


def test_the_aligned_view_equals_the_frames_it_stands_for(episode: Episode, path: Path) -> None:
    """Every row, in single reads and in one slice."""
    with h5py.File(path) as file:
        view, native = file["observations/images/wrist"], file["streams/camera/wrist/image"]
        assert view.is_virtual
        index = episode.index("camera/wrist")
        assert np.array_equal(view[:], native[:][index])
        assert np.array_equal(view[40], native[index[40]])


def test_every_dataset_has_units(path: Path) -> None:
    """So that a stranger can read the file."""
    bare = []
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                bare.append(name)
                if isinstance(item, h5py.Dataset) and not item.attrs.get("units")
                else None
            )
        )
    assert bare == []


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="needs hdf5-tools")
def test_h5dump_reads_the_structure_without_the_filter(path: Path) -> None:
    """As any HDF5 program that has never heard of us."""
    out = subprocess.run(["h5dump", "-H", path], capture_output=True, text=True, check=True).stdout
    assert 'GROUP "observations"' in out
    assert 'DATASET "action"' in out


def test_stock_h5py_opens_the_file_in_a_process_of_its_own(path: Path) -> None:
    """Numbers without our package, images once it is imported."""
    code = (
        "import h5py, sys; f = h5py.File(sys.argv[1]); q = f['observations/qpos'][0]\n"
        "try: f['observations/images/high'][0]; print('decoded')\n"
        "except OSError: print('no filter')\n"
        "import recorder; print(f['observations/images/high'][0].shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "(48, 64, 3)"


def test_a_file_that_is_no_episode_is_named_in_one_sentence(tmp_path: Path, path: Path) -> None:
    """Missing, truncated, foreign, newer."""
    with pytest.raises(EpisodeError, match="no such file"):
        Episode(tmp_path / "none.hdf5")
    with pytest.raises(EpisodeError, match="folder"):
        Episode(tmp_path)
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(EpisodeError, match="truncated"):
        Episode(cut)
    with h5py.File(tmp_path / "foreign.hdf5", "w") as file:
        file["x"] = 1
    with pytest.raises(EpisodeError, match="another program"):
        Episode(tmp_path / "foreign.hdf5")
    newer = tmp_path / "newer.hdf5"
    shutil.copy(path, newer)
    with h5py.File(newer, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(EpisodeError, match="version 99"):
        Episode(newer)


def test_episodes_of_a_folder_are_found_in_order(tmp_path: Path) -> None:
    """Only finished ones."""
    for name in ("episode_000002.hdf5", "episode_000001.hdf5", "episode_000003.hdf5.tmp", "x.h5"):
        (tmp_path / name).touch()
    (tmp_path / "episode_000004.partial").mkdir()
    assert [p.name for p in find_episodes(tmp_path)] == [
        "episode_000001.hdf5",
        "episode_000002.hdf5",
    ]
    with pytest.raises(EpisodeError, match="no such folder"):
        find_episodes(tmp_path / "none")


def test_raw_images_are_stored_as_they_are(tmp_path: Path) -> None:
    """A camera that gives pixels: no filter, same arrays."""
    from dataclasses import replace

    from teleop.messages import Frame, Message

    class RawFeed(Feed):
        def message(self, topic: str, stamp_ns: int) -> Message:
            message = super().message(topic, stamp_ns)
            if isinstance(message, Frame):
                pixels = simplejpeg.decode_jpeg(message.data).tobytes()
                return replace(message, encoding="rgb8", data=pixels)
            return message

    rig = small_rig()
    feed = RawFeed(rig, recorder_for(rig, tmp_path))
    feed.run(0.5)
    feed.episode(0.5)
    (path,) = find_episodes(tmp_path)
    with Episode(path) as episode:
        sent = feed.sent["camera/high/frame"]
        seq = episode.stream("camera/high").seq[episode.index("camera/high")[5]]
        (frame,) = (r.message for r in sent if r.message.seq == seq)
        assert isinstance(frame, Frame)
        assert episode.image("high", 5).tobytes() == frame.data
        with pytest.raises(EpisodeError, match="raw pixels"):
            episode.jpeg("high", 5)


def test_the_summary_and_the_picture_are_made(path: Path, tmp_path: Path) -> None:
    """Task, verdict and every stream in the text; a picture file."""
    text = inspect.summary(path)
    for word in ("move", "pass", "arm/follow/state", "camera/high", "50 Hz"):
        assert word in text
    picture = inspect.write_picture(path, tmp_path / "episode.png")
    assert picture.stat().st_size > 10_000


def test_a_folder_is_summed_up_in_one_line_per_episode(path: Path, tmp_path: Path) -> None:
    """In order of number, an unreadable one among them; a folder has no picture."""
    with pytest.raises(EpisodeError, match="holds no episode"):
        inspect.summary(tmp_path)
    shutil.copy(path, tmp_path / "episode_000002.hdf5")
    shutil.copy(path, tmp_path / "episode_000000.hdf5")
    (tmp_path / "episode_000001.hdf5").touch()
    lines = inspect.summary(tmp_path).splitlines()
    assert [line.split(".")[0] for line in lines] == [f"episode_00000{i}" for i in range(3)]
    assert " ".join(lines[0].split()[1:]) == "move success pass 1.0 s 51 rows 0 reasons"
    assert "truncated" in lines[1]
    with pytest.raises(EpisodeError, match="is a folder"):
        inspect.write_picture(tmp_path, tmp_path / "none.png")


def test_the_panels_of_the_picture_share_the_time_of_the_episode(
    episode: Episode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One latency line per kind of stream; an episode without a flag says so."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
    inspect.write_picture(episode.path, tmp_path / "picture.png")
    *_, joints, latency, gaps = figures[0].subfigs
    for panel in (joints, latency, gaps):
        assert all(axes.get_xlim() == (0, episode.seconds) for axes in panel.axes)
    labels = [line.get_label() for line in latency.axes[0].lines]
    assert labels == ["arm state", "arm command", "applied", "camera"]
    assert all(np.isfinite(line.get_ydata()).any() for line in latency.axes[0].lines)
    assert [text.get_text() for text in gaps.axes[0].texts] == ["no flags"]
