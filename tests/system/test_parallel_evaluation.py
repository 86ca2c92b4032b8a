"""Evaluation over several processes: what comes out does not depend on how many."""

from pathlib import Path

import pytest

from policies.comparison import Score
from policies.evaluate import record, run
from recorder.episode import Episode, find_episodes
from teleop.errors import PolicyError
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rig() -> Rig:
    """The demo's rig without cameras, its episodes cut short after a second."""
    rig = load_rig(ROOT / "docs/rigs/demo_state.yaml")
    tasks = {"transfer_cube": rig.tasks["transfer_cube"].model_dump() | {"max_seconds": 1.0}}
    return rig.replaced(tasks=tasks)


def facts_of(score: Score) -> list[tuple[object, ...]]:
    """All that is known of each rollout but where it was recorded and how long saving took."""
    return [
        (
            rollout.scene,
            rollout.result.outcome,
            rollout.result.seconds,
            rollout.result.stage,
            rollout.motion.jerk,
            rollout.motion.inside_steps.tobytes(),
        )
        for rollout in score.rollouts
    ]


def test_results_do_not_depend_on_the_number_of_processes(rig: Rig, tmp_path: Path) -> None:
    """Three scenes by one process and by two: every step of every joint is equal to the bit."""
    [alone] = run(["expert"], rig, "transfer_cube", 3, 7, jobs=1, out=tmp_path, show=False)
    [shared] = run(["expert"], rig, "transfer_cube", 3, 7, jobs=2, show=False)
    assert facts_of(alone) == facts_of(shared)
    assert len({facts[4] for facts in facts_of(alone)}) == 3
    names = [path.name for path in find_episodes(tmp_path / "expert")]
    assert names == [f"episode_{scene:06d}.hdf5" for scene in range(3)]
    for scene, path in enumerate(find_episodes(tmp_path / "expert")):
        with Episode(path) as episode:
            assert episode.scene == (7, scene)
    assert sorted(path.name for path in (tmp_path / "expert").iterdir()) == names
    assert {rollout.result.path for rollout in shared.rollouts} == {""}


def test_recording_goes_on_where_it_was_broken_off(rig: Rig, tmp_path: Path) -> None:
    """A lost episode is made again, with its own scene; the others are left alone."""
    assert len(record(rig, "transfer_cube", 2, 5, tmp_path, jobs=1, show=False)) == 2
    kept, lost = find_episodes(tmp_path)
    before = kept.read_bytes()
    lost.unlink()
    [made] = record(rig, "transfer_cube", 2, 5, tmp_path, jobs=1, show=False)
    assert made.scene == 1
    assert kept.read_bytes() == before
    with Episode(lost) as episode:
        assert episode.scene == (5, 1)
    assert record(rig, "transfer_cube", 2, 5, tmp_path, jobs=1, show=False) == []


def test_a_scene_that_cannot_run_is_one_sentence(rig: Rig) -> None:
    """The error crosses from the other process as a user reads it."""
    with pytest.raises(PolicyError, match="scene 0: unknown camera 'nobody'"):
        run(["expert"], rig, "transfer_cube", 1, 0, jobs=1, cameras=["nobody"], show=False)
