"""Every rig of docs/rigs that is guided otherwise than by leader arms, from hand to episode.

All is real below the rig file but the hardware: vendors' packages, protocols, processes, sockets.
"""

from pathlib import Path

import pytest

from recorder.episode import Episode, find_episodes
from recorder.validate import validate
from teleop import topics
from teleop.assembly import Job
from teleop.console import Console
from teleop.rig import Rig
from teleop.rig_files import load_rig
from teleop.runs import run_processes
from teleop.session_plan import EpisodeResult

RIGS = Path(__file__).parents[2] / "docs" / "rigs"
GUIDED = (
    "franka_kinesthetic",
    "franka_openvr",
    "franka_spacemouse",
    "interbotix_ros1",
    "viperx_openvr",
    "viperx_spacemouse",
    "viperx_webxr",
)


def run(rig: Rig, job: Job) -> EpisodeResult:
    """One episode on the emulated rig, in real time."""
    with Console(rig.operator) as console:
        [result] = run_processes(rig, job, console, emulate=True)
    return result


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", GUIDED)
def test_a_scripted_operator_reaches_the_target_and_the_episode_replays(
    name: str, tmp_path: Path
) -> None:
    """The tool is brought to its target from the device; the same motion brings it there again."""
    rig = load_rig(RIGS / f"{name}.yaml")
    made = run(rig, Job("record", "reach", out=tmp_path, seed=3, cameras=()))
    assert made.outcome == "success"
    [path] = find_episodes(tmp_path)
    assert validate(path) == []
    with Episode(path) as episode:
        assert episode.arms == tuple(sorted(rig.acting))
        for arm in rig.acting:
            moved = len(episode.stream(topics.arm_applied(arm)))
            assert moved > 0.5 * rig.rates.arm_hz * episode.seconds * 0.5
        for input_name, config in rig.inputs.items():
            if config.driver != "franka_desk":
                kind = "twist" if config.driver == "spacemouse" else "pose"
                assert len(episode.stream(f"input/{input_name}/{kind}")) > 0
    again = {"episode": str(path), "speed": 1.0}
    replayed = run(rig, Job("replay", "reach", seed=3, cameras=(), options=again, max_seconds=60.0))
    assert replayed.stage == 1, replayed.commander
