"""Which episodes and which rows a policy learns from."""

from pathlib import Path

import numpy as np
import pytest
from policy_episodes import write_episode

from policies.selection import Choice, Folder, check_wrap, idle_rows, select
from teleop.errors import PolicyError

EVERYTHING = Choice(outcomes=("success", "failure", "unknown"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes: two operators, three tags."""
    folder = tmp_path_factory.mktemp("episodes")
    write_episode(folder, 0, 4, operator="ann", tags=("calm", "day"))
    write_episode(folder, 1, 4, operator="bob", tags=("night",))
    write_episode(folder, 2, 4, operator="bob", outcome="failure")
    write_episode(folder, 3, 4, operator="bob", tags=("calm",))
    return folder


def numbers(folder: Path, choice: Choice) -> list[int]:
    return [int(path.stem[-6:]) for path in select([Folder(folder)], choice).paths]


def test_every_operator_and_tag_is_admitted_unless_one_is_named(folder: Path) -> None:
    """Of successes, which alone are learned from by default."""
    assert numbers(folder, Choice()) == [0, 1, 3]


def test_episodes_are_chosen_by_operator(folder: Path) -> None:
    """Any of the named ones."""
    assert numbers(folder, Choice(operators=("ann",))) == [0]
    assert numbers(folder, Choice(operators=("ann", "bob"))) == [0, 1, 3]


def test_episodes_are_chosen_by_tag(folder: Path) -> None:
    """One of the named tags is enough; an episode without tags has none of them."""
    assert numbers(folder, Choice(tags=("calm", "night"))) == [0, 1, 3]
    assert numbers(folder, Choice(tags=("day",))) == [0]


def test_what_is_left_out_is_counted_by_its_first_reason(folder: Path) -> None:
    """In one sentence."""
    chosen = select([Folder(folder)], Choice(operators=("ann",)))
    assert chosen.left_out == "left out 3 of 4 episodes: 2 by operator 'bob', 1 failure outcome"
    chosen = select([Folder(folder)], Choice(tags=("day",), outcomes=EVERYTHING.outcomes))
    assert (
        chosen.left_out == "left out 3 of 4 episodes: 1 without tags, 1 with other tags (calm), "
        "1 with other tags (night)"
    )


def test_nothing_left_names_the_options_that_refused(folder: Path) -> None:
    """Here an operator who is not there."""
    with pytest.raises(PolicyError, match="no episode to learn from among 4") as caught:
        select([Folder(folder)], Choice(operators=("eve",)))
    words = "give --outcomes success failure and leave --operators out to admit them"
    assert words in str(caught.value)


def test_an_operator_who_was_not_recorded_is_told_so(tmp_path: Path) -> None:
    """Not by an empty name."""
    write_episode(tmp_path, 0, 4)
    with pytest.raises(PolicyError, match="1 operator not recorded; leave --operators out to"):
        select([Folder(tmp_path)], Choice(operators=("eve",)))


def test_several_folders_keep_their_weights(folder: Path, tmp_path: Path) -> None:
    """Path by path, in the order of the folders."""
    write_episode(tmp_path, 0, 4)
    chosen = select([Folder(folder, 2.0), Folder(tmp_path, 0.5)], Choice())
    assert chosen.weights == (2.0, 2.0, 2.0, 0.5)
    assert chosen.found == 5


def test_a_folder_is_written_with_or_without_its_weight(tmp_path: Path) -> None:
    """An existing folder whose name holds an equals sign is that folder."""
    assert Folder.parse("demos/ann=2.5") == Folder(Path("demos/ann"), 2.5)
    assert Folder.parse("demos/ann") == Folder(Path("demos/ann"))
    odd = tmp_path / "lr=3"
    odd.mkdir()
    assert Folder.parse(str(odd)) == Folder(odd)


@pytest.mark.parametrize("weight", ["0", "-1", "much", "inf", "nan", ""])
def test_a_weight_that_is_no_positive_number_is_refused(weight: str) -> None:
    """The sentence says how to write it."""
    with pytest.raises(PolicyError, match="write DIR or DIR=WEIGHT"):
        Folder.parse(f"demos={weight}")


def test_an_angle_that_wraps_is_refused_with_episode_column_and_row() -> None:
    """From almost pi to almost minus pi in one row."""
    table = np.zeros((10, 2))
    table[:, 1] = 3.1
    table[6:, 1] = -3.1
    with pytest.raises(PolicyError, match=r"e\.hdf5: qpos of left/wrist jumps .* at row 6") as told:
        check_wrap(table, ["left/waist", "left/wrist"], "qpos", "e.hdf5")
    assert "from 3.10 to -3.10 rad" in str(told.value)


def test_a_fast_motion_is_no_wrap() -> None:
    """3 rad within one row, and 6 rad within two."""
    check_wrap(np.array([[-3.0], [0.0], [3.0]]), ["waist"], "action", "e.hdf5")


def moving(*speeds: float) -> np.ndarray:
    """One column that moves by these steps per row, (T, 2) with a resting one."""
    return np.stack([np.cumsum([0.0, *speeds]), np.zeros(len(speeds) + 1)], 1)


def test_only_pauses_of_the_given_length_count() -> None:
    """Four resting rows are a pause of four, not of five."""
    actions = moving(0.1, 0.1, 0.0, 0.0, 0.0, 0.1, 0.1)
    assert np.flatnonzero(idle_rows(actions, 4, 0.01)).tolist() == [2, 3, 4, 5]
    assert not idle_rows(actions, 5, 0.01).any()


def test_slow_drift_is_no_pause() -> None:
    """Each step is below the band, the way of the whole run is not."""
    assert not idle_rows(moving(*[0.004] * 20), 5, 0.01).any()
    assert idle_rows(moving(*[0.001] * 20), 5, 0.01).all()


def test_one_moving_column_is_enough_to_be_no_pause() -> None:
    """The other one rests throughout."""
    assert not idle_rows(moving(*[0.1] * 20), 5, 0.01).any()


def test_an_episode_shorter_than_a_pause_has_none() -> None:
    """No row is left out."""
    assert idle_rows(np.zeros((3, 2)), 5, 0.01).tolist() == [False] * 3
