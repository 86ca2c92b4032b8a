"""Validation: a sound file has no faults, and each kind of damage is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from recorder.episode import find_episodes
from recorder.validate import validate
from tests.episode_feed import Feed, recorded_episode, recorder_for, small_rig


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished episode."""
    return recorded_episode(tmp_path_factory.mktemp("sound"), 0.6)


def overwrite(name: str, position: int, value: float) -> Callable[[h5py.File], None]:
    """Damage one number."""

    def damage(file: h5py.File) -> None:
        file[name][position] = value

    return damage


def remove(name: str) -> Callable[[h5py.File], None]:
    """Delete a part."""

    def damage(file: h5py.File) -> None:
        del file[name]

    return damage


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    """Change an attribute of the root."""

    def damage(file: h5py.File) -> None:
        file.attrs[name] = value

    return damage


def spoil_frame(file: h5py.File) -> None:
    """Half of the first JPEG is gone."""
    images = file["streams/camera/high/image"]
    data = images.id.read_direct_chunk((0, 0, 0, 0))[1]
    images.id.write_direct_chunk((0, 0, 0, 0), data[: len(data) // 2])


def forget_units(file: h5py.File) -> None:
    """One dataset without a unit."""
    del file["observations/qpos"].attrs["units"]


def shorten_action(file: h5py.File) -> None:
    """Fewer actions than rows."""
    values, names = file["action"][:-3], file["action"].attrs["names"]
    del file["action"]
    file["action"] = values
    file["action"].attrs["units"] = "rad"
    file["action"].attrs["names"] = names


def test_a_sound_file_has_no_faults(sound: Path) -> None:
    """Every frame decoded."""
    assert validate(sound, all_frames=True) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("observations/qvel"), "/observations/qvel is missing"),
        (remove("rows/camera/high_index"), "/rows/camera/high_index is missing"),
        (remove("streams/arm/follow/state/seq"), "seq missing"),
        (attribute("rig", "{}"), "attribute rig is not readable"),
        (attribute("verdict", "nonsense"), "attribute verdict is not readable"),
        (attribute("stop_ns", 0), "stop_ns is before start_ns"),
        (forget_units, "/observations/qpos has no attribute units"),
        (overwrite("streams/arm/follow/state/stamp_ns", 5, 1), "stamp_ns goes backward"),
        (overwrite("streams/arm/follow/state/arrival_ns", 5, 1), "arrived before it was taken"),
        (overwrite("rows/arm/follow/state_index", 9, 3), "state_index[9] is 3, the newest"),
        (overwrite("rows/arm/follow/state_age_ns", 9, 3), "state_age_ns[9] is 3, expected"),
        (overwrite("rows/stamp_ns", 4, 7), "not an even grid"),
        (overwrite("observations/qpos", 4, np.nan), "/observations/qpos: 1 rows hold NaN"),
        (spoil_frame, "/streams/camera/high/image[0]: cannot be decoded"),
        (shorten_action, "/action has shape"),
    ],
)
def test_each_damage_is_named(
    sound: Path, tmp_path: Path, damage: Callable[[h5py.File], None], words: str
) -> None:
    """The sentence says where and what."""
    broken = tmp_path / "broken.hdf5"
    shutil.copy(sound, broken)
    with h5py.File(broken, "r+") as file:
        damage(file)
    assert any(words in fault for fault in validate(broken)), validate(broken)


def test_lost_messages_are_listed(tmp_path: Path) -> None:
    """They were flagged while recording; a validator says so again."""
    rig = small_rig()
    feed = Feed(rig, recorder_for(rig, tmp_path))
    feed.run(0.5)
    feed.step(feed.event("start"))
    feed.run(0.3)
    feed.muted = {"arm/follow/state"}
    feed.run(0.1)
    feed.muted = set()
    feed.run(0.3)
    feed.step(feed.event("stop"))
    (path,) = find_episodes(tmp_path)
    (fault,) = validate(path)
    assert fault == "/streams/arm/follow/state: 10 messages were lost while recording"


@pytest.mark.parametrize("size", [0, 100, 3000, 30_000])
def test_a_truncated_file_gives_one_sentence(sound: Path, tmp_path: Path, size: int) -> None:
    """However much of it is left."""
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(sound.read_bytes()[:size])
    (fault,) = validate(cut)
    assert "cut.hdf5" in fault


def test_a_foreign_file_gives_one_sentence(tmp_path: Path) -> None:
    """Not HDF5 at all."""
    path = tmp_path / "text.hdf5"
    path.write_text("hello")
    (fault,) = validate(path)
    assert "not an HDF5 file" in fault
