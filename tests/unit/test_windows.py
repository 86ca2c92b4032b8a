"""Windows over rows, from made-up arrays whose values tell where they come from."""

import pickle  # noqa: TID251  (what a loader's worker process is sent with)

import numpy as np
import pytest

from policies.windows import Frames, Rows, WindowSet
from teleop.errors import PolicyError


def rows(count: int, offset: float = 0.0, **fields: object) -> Rows:
    """A trajectory whose state and action at row k are ``offset + k`` and its negative."""
    values = offset + np.arange(count, dtype=float)[:, None]
    content: dict[str, object] = {"starts": np.arange(count), **fields}
    return Rows(values, -values, **content)  # type: ignore[arg-type]


def test_the_history_is_oldest_first_and_begins_with_the_first_observation_repeated() -> None:
    """Row 1 of a history of three, two rows apart, sees row 0 twice."""
    windows = WindowSet([rows(10)], 1, history=3, history_stride=2).windows(np.array([1, 7]))
    assert windows.state[:, :, 0].tolist() == [[0, 0, 1], [3, 5, 7]]


def test_an_observation_that_was_not_whole_is_not_part_of_any_history() -> None:
    """The first whole row stands for those before it."""
    part = rows(10, starts=np.array([4, 9]), first=4)
    windows = WindowSet([part], 1, history=3).windows(np.array([0, 1]))
    assert windows.state[:, :, 0].tolist() == [[4, 4, 4], [7, 8, 9]]


def test_neither_history_nor_actions_reach_into_another_episode() -> None:
    """The second episode's values begin at 100."""
    windows = WindowSet([rows(3), rows(4, 100)], 3, history=2).windows(np.array([2, 3]))
    assert windows.state[:, :, 0].tolist() == [[1, 2], [100, 100]]
    assert windows.actions[:, :, 0].tolist() == [[-2, -2, -2], [-100, -101, -102]]


@pytest.mark.parametrize(("padding", "counted"), [("repeat", [1, 1, 1]), ("mask", [1, 0, 0])])
def test_rows_beyond_the_end_repeat_the_last_action_and_count_as_asked(
    padding: str, counted: list[int]
) -> None:
    """The window at the last row has one action of its own."""
    windows = WindowSet([rows(5)], 3, padding=padding).windows(np.array([4]))  # type: ignore[arg-type]
    assert windows.actions[0, :, 0].tolist() == [-4, -4, -4]
    assert windows.mask[0].tolist() == counted


def test_windows_begin_only_at_the_rows_that_were_given() -> None:
    """In the order of the episodes."""
    windows = WindowSet([rows(9, starts=np.array([2, 6])), rows(5, 100, starts=np.array([1]))], 1)
    assert len(windows) == 3
    assert windows.windows(np.arange(3)).state[:, 0, 0].tolist() == [2, 6, 101]


def test_a_folder_of_weight_three_is_drawn_three_times_as_often() -> None:
    """Per window: both have as many."""
    windows = WindowSet([rows(50), rows(50, 100, folder_weight=3.0)], 1)
    chosen = windows.sample(np.random.default_rng(0), 4000)
    assert np.mean(chosen >= 50) == pytest.approx(0.75, abs=0.03)
    assert set(chosen) == set(range(100))


def test_equal_folders_are_drawn_window_by_window_alike() -> None:
    """Nine tenths of the windows get nine tenths of the draws."""
    windows = WindowSet([rows(90), rows(10, 100)], 1)
    chosen = windows.sample(np.random.default_rng(0), 4000)
    assert np.mean(chosen < 90) == pytest.approx(0.9, abs=0.03)


def test_sample_weights_are_one_on_average() -> None:
    """Of rows where windows begin; episodes without weights count 1 before that."""
    heavy = rows(4, starts=np.array([0, 1]), weight=np.array([1.0, 7.0, 50.0, 50.0]))
    windows = WindowSet([heavy, rows(2, 100)], 1)
    weight = windows.windows(np.arange(4)).weight
    assert weight.mean() == pytest.approx(1.0)
    assert weight.tolist() == pytest.approx([0.4, 2.8, 0.4, 0.4])


@pytest.mark.parametrize("weight", [[1.0, -1.0], [np.nan, 1.0], [0.0, 0.0]])
def test_weights_that_make_no_sense_are_refused(weight: list[float]) -> None:
    """Negative, no number, or all zero."""
    with pytest.raises(PolicyError, match="sample weights"):
        WindowSet([rows(2, weight=np.array(weight))], 1)


def images(first: int, count: int) -> np.ndarray:
    """Frames (count, 2, 3, 3) whose pixels are the frame's number."""
    return np.arange(first, first + count, dtype=np.uint8)[:, None, None, None] * np.ones(
        (2, 3, 3), np.uint8
    )


def test_each_row_of_the_history_shows_the_newest_frame_of_each_camera() -> None:
    """Two cameras at different rates: frames are looked up by row."""
    slow = Frames(images(10, 2), np.array([0, 0, 0, 1, 1]))
    fast = Frames(images(20, 5), np.arange(5))
    seen = WindowSet([rows(5, frames=(slow, fast))], 1, history=2).windows(np.array([0, 3])).images
    assert seen.shape == (2, 2, 2, 2, 3, 3)
    assert seen[..., 0, 0, 0].tolist() == [[[10, 20], [10, 20]], [[10, 22], [11, 23]]]


def test_without_cameras_and_text_their_arrays_are_empty() -> None:
    """Shapes stay the same in number."""
    windows = WindowSet([rows(5)], 2).windows(np.arange(3))
    assert windows.images.shape[:3] == (3, 1, 0)
    assert windows.text.shape == (3, 0)


def test_each_window_carries_its_episodes_instruction() -> None:
    """Two episodes with different embeddings."""
    parts = [rows(2, text=np.array([1.0, 2.0])), rows(2, text=np.array([3.0, 4.0]))]
    assert WindowSet(parts, 1).windows(np.array([1, 2])).text.tolist() == [[1, 2], [3, 4]]


def test_statistics_are_of_what_the_windows_show() -> None:
    """Rows outside every window, here a wild one, do not count; each other row counts once."""
    part = rows(6, starts=np.array([0, 1, 1]))
    part.state[5] = part.actions[5] = 1e9
    statistics = WindowSet([part], 2, history=2).statistics("range")
    assert (statistics.state.low, statistics.state.high) == ((0.0,), (1.0,))
    assert (statistics.action.low, statistics.action.mean) == ((-2.0,), (-1.0,))
    assert statistics.action.map == "range"


def test_a_value_far_outside_the_others_is_refused_with_episode_and_column() -> None:
    """One wild row among thousands."""
    good, bad = rows(5000, name="good.hdf5"), rows(5000, name="bad.hdf5")
    bad.actions[17] = 1e6
    with pytest.raises(PolicyError, match=r"bad\.hdf5: action of waist reaches 1e\+06"):
        WindowSet([good, bad], 1).statistics(names=["waist"])


def test_data_without_any_window_is_refused() -> None:
    """Everything was filtered out."""
    with pytest.raises(PolicyError, match="no row is left"):
        WindowSet([rows(5, starts=np.zeros(0, np.int64))], 1)


def test_a_set_can_be_sent_to_another_process() -> None:
    """What loads ahead gets a copy that gives the same windows."""
    windows = WindowSet([rows(5, frames=(Frames(images(0, 5), np.arange(5)),))], 2)
    copy = pickle.loads(pickle.dumps(windows))
    chosen = np.array([4, 1])
    for mine, other in zip(windows.windows(chosen), copy.windows(chosen), strict=True):
        assert np.array_equal(mine, other)
