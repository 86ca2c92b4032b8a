"""Decoded frames in files: right, used again, and built again when they must be."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_episodes import CAMERA, write_episode

from policies.file_hash import content_sha256
from policies.frame_cache import Wanted, load_frames
from policies.images import shrink
from recorder.episode import Episode

SIZE = (12, 16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An episode of ten frames."""
    return write_episode(tmp_path, 0, 20)


def wanted(path: Path, size: tuple[int, int] = SIZE) -> Wanted:
    with Episode(path) as episode:
        return Wanted.of(episode, (CAMERA,), size)


def expected(path: Path) -> np.ndarray:
    """What training should see."""
    with Episode(path) as episode:
        return np.stack([shrink(episode.frame(CAMERA, i), *SIZE) for i in range(10)])


def pixels(path: Path, **options: object) -> tuple[np.ndarray, list[str]]:
    """All frames of the one camera, and what was told."""
    loaded, notes = load_frames([wanted(path)], **options)  # type: ignore[arg-type]
    source = loaded[0].frames[0]
    return np.stack([source[i] for i in range(source.shape[0])]), notes


def cached_file(path: Path) -> Path:
    (found,) = (path.parent / ".frames").glob("*.npy")
    return found


@pytest.mark.parametrize("cache", [True, False])
def test_frames_are_those_of_the_episode_at_training_size(path: Path, cache: bool) -> None:
    """With files and without."""
    frames, notes = pixels(path, cache=cache)
    assert np.array_equal(frames, expected(path))
    assert notes == []
    assert (path.parent / ".frames").exists() == cache


def test_frames_are_decoded_once(path: Path) -> None:
    """The second time nothing is decoded; another size is another file."""
    tracked: list[Path] = []

    def track(paths: Sequence[Path]) -> Iterable[Path]:
        tracked.extend(paths)
        return paths

    pixels(path, track=track)
    pixels(path, track=track)
    assert tracked == [path]
    load_frames([wanted(path, (6, 8))], track=track)
    assert tracked == [path, path]


def test_processes_of_their_own_give_the_same_files(tmp_path: Path) -> None:
    """As for two large episodes."""
    paths = [write_episode(tmp_path, episode, 20) for episode in range(2)]
    loaded, _ = load_frames([replace(wanted(path), source_pixels=10**9) for path in paths])
    for path, frames in zip(paths, loaded, strict=True):
        assert np.array_equal(frames.frames[0][3], expected(path)[3])
        assert frames.episode_sha256 == content_sha256(path)


def test_a_changed_episode_is_decoded_again(path: Path) -> None:
    """The note says so, and a process that had the old frames open sees the new ones."""
    before, _ = pixels(path)
    path.unlink()
    other = write_episode(path.parent, 1, 20)
    other.rename(path)
    after, notes = pixels(path)
    assert np.array_equal(after, expected(path))
    assert not np.array_equal(before, after)
    assert notes == [f"{path.name}: frames decoded again, the episode has changed"]


def damage_end(array: Path) -> None:
    os.truncate(array, array.stat().st_size - 100)


def damage_beginning(array: Path) -> None:
    with array.open("r+b") as file:
        file.write(b"\0" * 64)


def damage_seal(array: Path) -> None:
    array.with_suffix(".json").write_text("{}")


def lose_seal(array: Path) -> None:
    array.with_suffix(".json").unlink()


@pytest.mark.parametrize("damage", [damage_end, damage_beginning, damage_seal, lose_seal])
def test_damaged_frames_are_decoded_again_and_that_is_told(
    path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off, written over, or without the file that says what they are."""
    pixels(path)
    damage(cached_file(path))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        frames, notes = pixels(path)
    assert np.array_equal(frames, expected(path))
    assert notes == [f"{path.name}: frames decoded again, the cached ones of {CAMERA} are damaged"]
    assert notes[0] in caplog.text


def test_a_large_file_that_is_cut_off_is_noticed_without_the_full_check(tmp_path: Path) -> None:
    """Its beginning is whole."""
    large = wanted(write_episode(tmp_path, 0, 20), (96, 128))
    load_frames([large])
    damage_end(cached_file(large.path))
    assert "damaged" in load_frames([large])[1][0]


def test_the_full_check_finds_a_single_wrong_pixel(tmp_path: Path) -> None:
    """Far behind the beginning that the quick check looks at."""
    path = write_episode(tmp_path, 0, 20)
    large = wanted(path, (96, 128))
    load_frames([large])
    array = cached_file(path)
    with array.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 255]))
    assert load_frames([large])[1] == []
    assert "damaged" in load_frames([large], verify=True)[1][0]
    assert load_frames([large], verify=True)[1] == []


def test_the_full_check_finds_an_episode_changed_behind_its_time(path: Path) -> None:
    """Same size and time of change, one other byte near the end."""
    pixels(path)
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 255]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert pixels(path)[1] == []
    assert "the episode has changed" in pixels(path, verify=True)[1][0]


def test_beside_a_folder_that_cannot_be_written_the_users_cache_is_used(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a file stands where the folder should be."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    (path.parent / ".frames").write_text("in the way")
    frames, _ = pixels(path)
    assert np.array_equal(frames, expected(path))
    assert len(list(home.rglob("*.npy"))) == 1
    assert pixels(path)[1] == []


def test_nothing_but_whole_files_is_left_behind(path: Path) -> None:
    """One array and its seal."""
    pixels(path)
    assert sorted(file.suffix for file in (path.parent / ".frames").iterdir()) == [".json", ".npy"]


def test_the_hash_of_an_episode_is_known_without_reading_it_again(path: Path) -> None:
    """With cameras and without."""
    for cameras in ((CAMERA,), ()):
        with Episode(path) as episode:
            want = Wanted.of(episode, cameras, SIZE)
        assert load_frames([want])[0][0].episode_sha256 == content_sha256(path)
