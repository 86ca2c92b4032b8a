"""The lockstep rig: the same seed gives the same bytes, another seed another episode."""

from pathlib import Path

import pytest

from teleop.assembly import Job
from teleop.rig import Rig
from teleop.rig_files import load_rig
from teleop.runs import LockstepRig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rig() -> Rig:
    """The demo's rig: arms at 50 Hz, one small camera."""
    return load_rig(ROOT / "docs/rigs/demo.yaml")


def journals(rig: Rig, out: Path, seed: int) -> dict[str, bytes]:
    """The journals of the first second of an episode, by stream, as they lie on disk."""
    with LockstepRig(rig, Job("record", "transfer_cube", 1, out, seed)) as run:
        session = run.session
        run.run(
            lambda: (
                session.phase == "running" and session.seconds_in_phase(run.clock.now_ns()) >= 1.0
            ),
            limit_s=60,
        )
        folder = out / "episode_000000.partial"
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            # The description bears the time of day and this run's place; the journals do not.
            if path.is_file() and path.name != "meta.json"
        }


def test_the_same_seed_gives_byte_identical_journals(rig: Rig, tmp_path: Path) -> None:
    """Arms, camera, commands, task, heartbeats: every journal is equal to the byte."""
    first = journals(rig, tmp_path / "a", seed=3)
    second = journals(rig, tmp_path / "b", seed=3)
    assert sum(len(data) for data in first.values()) > 100_000
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_another_seed_gives_another_episode(rig: Rig, tmp_path: Path) -> None:
    """The cube lies elsewhere and the hand moves otherwise."""
    first = journals(rig, tmp_path / "a", seed=3)
    other = journals(rig, tmp_path / "b", seed=4)
    assert any(first[name] != other[name] for name in first if "task" in name)
