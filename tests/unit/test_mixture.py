"""Training data out of several folders, and what tells one run's data from another's."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_episodes import place_of, write_episode

from policies.dataset import DataOptions, TrainingData, data_hash, load

STATE_ONLY = DataOptions(image_size=(24, 32), chunk_rows=10, holdout=0.0, blind=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes."""
    folder = tmp_path_factory.mktemp("episodes")
    for episode in range(4):
        write_episode(folder, episode)
    return folder


def test_folders_are_mixed_by_their_weights(folder: Path, tmp_path: Path) -> None:
    """A window of the folder with weight 3 is drawn three times as often as one of the other."""
    write_episode(tmp_path, 9)
    data = load([folder, f"{tmp_path}=12"], STATE_ONLY, seed=0)
    assert data.episodes == 5
    chosen = data.train.sample(np.random.default_rng(0), 3000)
    ends = data.train.windows(chosen).actions[:, -1, 0]
    assert np.isclose(ends.max(), max(place_of(e)[0] for e in (0, 1, 2, 3, 9)), atol=1e-5)
    number = np.arange(len(data.train))
    starts = data.train.windows(number).actions[:, -1, 7]
    from_heavy = np.isin(chosen, number[np.isclose(starts, place_of(9)[1], atol=1e-5)])
    assert 0.5 < from_heavy.mean() < 0.85  # 0.75 of the windows, some of which look alike


def test_the_hash_changes_with_the_data(folder: Path) -> None:
    """Another episode file gives another hash, the same files the same, with or without images."""
    paths = sorted(folder.glob("*.hdf5"))
    assert data_hash(paths) == data_hash(list(reversed(paths)))
    assert data_hash(paths) != data_hash(paths[:-1])
    for options in (replace(STATE_ONLY, blind=False), STATE_ONLY):
        assert load([folder], options, seed=0).contract.data_hash == data_hash(paths)


def test_the_mixture_tells_runs_apart_that_would_train_otherwise(
    folder: Path, tmp_path: Path
) -> None:
    """The order of folders decides the split, their weights the samples; places do neither."""
    one, other, moved = (tmp_path / name for name in ("one", "other", "moved"))
    for place, numbers in ((one, (0, 1)), (other, (2, 3))):
        place.mkdir()
        for number in numbers:
            shutil.copy2(folder / f"episode_{number:06d}.hdf5", place)
    shutil.copytree(one, moved)

    def loaded(*folders: object) -> TrainingData:
        return load([str(folder) for folder in folders], STATE_ONLY, seed=0)

    begun = loaded(one, f"{other}=2")
    assert loaded(moved, f"{other}=2").mixture == begun.mixture
    different = [(f"{other}=2", one), (one, f"{other}=3"), (one, other), (f"{one}=2", other)]
    for folders in different:
        again = loaded(*folders)
        assert again.contract.data_hash == begun.contract.data_hash
        assert again.mixture != begun.mixture
