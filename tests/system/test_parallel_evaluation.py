"""Evaluation over several processes: what comes out does not depend on how many."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.bc import BcConfig, BcNet
from policies.comparison import Score, paired
from policies.evaluate import record, run
from policies.learned import shapes_of
from policies.normalisation import Statistics, column_statistics
from policies.policy import ObservationContract
from recorder.episode import Episode, find_episodes
from recorder.rows import column_names
from teleop import cli
from teleop.errors import PolicyError
from teleop.rig import Rig
from teleop.rig_files import load_rig
from tests.waiting import wait_until

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
            rollout.motion.seam_steps.tobytes(),
        )
        for rollout in score.rollouts
    ]


def test_results_do_not_depend_on_the_number_of_processes(rig: Rig, tmp_path: Path) -> None:
    """Three scenes by one process and by two: every step of every joint is equal to the bit."""
    [alone] = run(["expert"], rig, "transfer_cube", 3, 7, jobs=1, out=tmp_path, show=False)
    [shared] = run(["expert"], rig, "transfer_cube", 3, 7, jobs=2, show=False)
    assert [rollout.scene for rollout in shared.rollouts] == [0, 1, 2]
    assert facts_of(alone) == facts_of(shared)
    assert len({facts[4] for facts in facts_of(alone)}) == 3
    names = [path.name for path in find_episodes(tmp_path / "expert")]
    assert names == [f"episode_{scene:06d}.hdf5" for scene in range(3)]
    for scene, path in enumerate(find_episodes(tmp_path / "expert")):
        with Episode(path) as episode:
            assert episode.scene == (7, scene)
    assert sorted(path.name for path in (tmp_path / "expert").iterdir()) == names
    assert {rollout.result.path for rollout in shared.rollouts} == {""}


def save_policy(folder: Path, rig: Rig, start_rad: float = -2.0) -> Path:
    """An untrained policy that sees the joints; its episodes began above ``start_rad``."""
    names = column_names(rig)
    low, high = (-2.0,) * len(names), (2.0,) * len(names)
    column = column_statistics(np.array([low, high]))
    contract = ObservationContract(
        tasks=("transfer_cube",),
        joint_names=names,
        cameras=(),
        extras=(),
        row_hz=50.0,
        chunk_rows=10,
        qpos_low=low,
        qpos_high=high,
        action_low=low,
        action_high=high,
        start_low=(start_rad,) * len(names),
        start_high=high,
        calibration_sha256="",
        data_hash="",
    )
    torch.manual_seed(0)
    network = BcNet(shapes_of(contract), BcConfig(hidden=8))
    checkpoint.save(folder, "bc", network, contract, Statistics(column, column, ()), {})
    return folder


def test_a_policy_is_compared_with_the_expert_on_the_same_scenes(rig: Rig, tmp_path: Path) -> None:
    """Its plans have seams, the expert has none; both fail all scenes within a second."""
    folder = save_policy(tmp_path / "run", rig)
    often = {"replan_rows": 2}
    policy, expert = run(
        [folder, "expert"], rig, "transfer_cube", 2, 7, 2, options=often, show=False
    )
    [rarely] = run([folder], rig, "transfer_cube", 1, 7, 1, options={"replan_rows": 8}, show=False)
    assert paired(policy, expert).neither == 2
    seams = len(policy.rollouts[0].motion.seam_steps)
    assert seams > 2 * len(rarely.rollouts[0].motion.seam_steps) > 0
    assert len(expert.rollouts[0].motion.seam_steps) == 0


def test_weights_that_are_missing_end_it_before_the_first_scene(rig: Rig, tmp_path: Path) -> None:
    """Else the scenes of all subjects before it would be lost."""
    folder = save_policy(tmp_path / "run", rig)
    (folder / checkpoint.WEIGHTS).unlink()
    scores = run(["expert", folder], rig, "transfer_cube", 1, 0, jobs=1, show=False)
    with pytest.raises(PolicyError, match="copy the whole folder of the policy"):
        next(scores)


def test_what_is_known_is_told_when_a_later_subject_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy that cannot be run costs its own row, not those of the others."""
    rig_file = tmp_path / "rig.yaml"
    rig_file.write_text(f"extends: {ROOT / 'docs/rigs/demo_state.yaml'}\n")
    folder = save_policy(tmp_path / "run", load_rig(rig_file), start_rad=1.9)
    words = ["evaluate", "expert", str(folder), "--episodes", "1", "--jobs", "1"]
    table = tmp_path / "table.md"
    code = cli.main([*words, "--hardware", str(rig_file), "--table", str(table)])
    said = capsys.readouterr()
    assert code == 1
    assert "too far from where training began" in said.err
    assert "| expert |" in said.out
    assert "| expert |" in table.read_text()


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
        list(run(["expert"], rig, "transfer_cube", 1, 0, jobs=1, cameras=["nobody"], show=False))


def test_an_impatient_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    """The first lets go of what has not begun, the second of what runs."""
    heard = ["env", "--default-signal=INT"]  # what a shell runs in the background ignores Ctrl-C
    command = [*heard, sys.executable, "-m", "teleop.cli", "evaluate", "expert", "--episodes", "40"]
    words = ["--jobs", "2", "--hardware", "docs/rigs/demo_state.yaml", "--out", str(tmp_path)]
    process = subprocess.Popen([*command, *words], cwd=ROOT, start_new_session=True)
    try:
        # Both run scenes, of seconds each: one that still starts would end by the first stroke.
        scenes = tmp_path / "expert"
        wait_until(lambda: len(list(scenes.glob(".scene-*"))) == 2, "two scenes at once", 60.0)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)  # between two strokes of an operator
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        wait_until(lambda: not is_alive(process.pid), "the end of all", 60.0)
    finally:
        if is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def is_alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
