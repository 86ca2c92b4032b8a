"""What the data report warns of."""

from dataclasses import replace
from pathlib import Path

from policy_episodes import write_episode

from policies.data_report import DataReport
from policies.dataset import DataOptions, load

OPTIONS = DataOptions(image_size=(24, 32), chunk_rows=30, holdout=0.0)
BLIND = "no camera and no object pose: the policy sees joint positions only"


def report(folder: Path, **changes: object) -> DataReport:
    found = load([folder], replace(OPTIONS, **changes), seed=0).report
    assert found is not None
    return found


def test_a_policy_that_sees_joints_only_is_warned_of_unless_asked_for(tmp_path: Path) -> None:
    """Data without cameras make one without a word, else."""
    write_episode(tmp_path, 0)
    assert BLIND in report(tmp_path, cameras=()).warnings
    for sees in ({}, {"blind": True}, {"object_pose": True}):
        assert BLIND not in report(tmp_path, **sees).warnings


def test_enlarged_images_are_warned_of(tmp_path: Path) -> None:
    """They cost time and show nothing more."""
    write_episode(tmp_path, 0)
    told = "warning: images of cam_high are enlarged from 24x32 to 48x32 pixels"
    assert told in str(report(tmp_path, image_size=(48, 32)))
    assert told not in str(report(tmp_path))


def test_a_column_below_the_floor_shows_its_own_deviation(tmp_path: Path) -> None:
    """Not the floor that it is divided by."""
    write_episode(tmp_path, 0)
    columns = {column.name: column for column in report(tmp_path).actions}
    assert columns["left_follower/elbow"].std < 1e-6
    assert columns["left_follower/elbow"].constant
    assert columns["left_follower/waist"].std > 0.01
    assert not columns["left_follower/waist"].constant
