"""What reaches the arms when a policy stalls, repeats itself, talks nonsense or dies.

On the whole emulated rig; asserted on the recorded episode.
"""

from pathlib import Path

import numpy as np
import pytest

from policies import latency
from policies.deployment import ChunkMode, DeployOptions
from policies.provenance import plan_of_rows
from recorder.episode import Episode
from teleop.assembly import Job
from teleop.clock import NS_PER_S
from teleop.console import Console
from teleop.errors import NodeFailedError
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rig_files import load_rig
from teleop.runs import run_lockstep, run_processes
from tests.system import scripted_policy as scripted

RIG = Path(__file__).parents[2] / "docs/rigs/demo_state.yaml"
LASTS_S = 4.5
CHUNK_ROWS = 25
"""Half a second: a policy silent for a second leads to a hold."""
SEAM_RAD = 0.02
MODES: tuple[ChunkMode, ...] = ("ensemble", "newest")


def job_of(folder: Path, deployment: DeployOptions, fault: str, rig: Rig) -> Job:
    """A deployment of the scripted policy, recorded."""
    scripted.write_card(folder / "policy", rig, CHUNK_ROWS, deployment)
    return Job(
        "deploy",
        "transfer_cube",
        out=folder / "episodes",
        options={
            "checkpoint": str(folder / "policy"),
            "loader": scripted.LOADER,
            "fault": fault,
        },
        max_seconds=LASTS_S,
    )


def deployed(folder: Path, mode: ChunkMode, fault: str) -> Episode:
    """One episode on the virtual clock."""
    rig = load_rig(RIG)
    deployment = DeployOptions(chunk_mode=mode)
    results = run_lockstep(rig, job_of(folder, deployment, fault, rig)).results
    return Episode(results[0].path)


def waist(episode: Episode) -> tuple[FloatArray, FloatArray]:
    """Seconds since the start, and what the left arm's waist was let do then."""
    applied = episode.stream("arm/left_follower/applied")
    seconds = (applied.stamp_ns - episode.start_ns) / NS_PER_S
    return seconds, applied["position_rad"][:, 0]


def said(episode: Episode, node: str) -> str:
    """All a node reported while something was wrong."""
    health = episode.stream(f"node/{node}/health")
    return " | ".join(text for text in np.unique(health["detail"]) if text)


def assert_never_moved_wrongly(episode: Episode, streams: tuple[str, ...]) -> None:
    """From one message to the next the arms are sent no further than the policy's own motion in
    that time and a seam per tick, and never out of the policy's range."""
    for arm in ("left_follower", "right_follower"):
        for stream in streams:
            said = episode.stream(f"arm/{arm}/{stream}")
            position = said["position_rad"]
            assert np.isfinite(position).all()
            ticks = np.maximum(np.diff(said.stamp_ns) / NS_PER_S * episode.rig.rates.arm_hz, 1.0)
            own_rad = scripted.FASTEST_RAD_S / episode.rig.rates.arm_hz
            steps = np.abs(np.diff(position, axis=0))
            assert (steps <= (own_rad + SEAM_RAD) * ticks[:, None]).all()
            away = np.abs(position - scripted.start_of(episode.rig)[:6])
            assert away[:, 0].max() <= scripted.SWING_RAD + SEAM_RAD
            assert away[:, 1:].max() <= SEAM_RAD


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("stall", "no plan covers now"),
        ("old", "was past when it came"),
        ("nan", "contains NaN or infinite actions"),
        ("shape", "has shape (25, 7), expected (rows, 14)"),
    ],
)
def test_a_policy_in_trouble_leads_to_a_hold_and_resumes_smoothly(
    tmp_path: Path, mode: ChunkMode, fault: str, word: str
) -> None:
    """Nothing it says meanwhile is obeyed; afterwards the arms take up the motion again."""
    with deployed(tmp_path, mode, fault) as episode:
        assert_never_moved_wrongly(episode, ("command", "applied"))
        seconds, position = waist(episode)
        holding = (seconds > scripted.FAULT_S + 0.7) & (seconds < scripted.MEND_S - 0.05)
        assert np.ptp(position[holding]) == 0.0
        resumed = seconds > scripted.MEND_S + 1.2
        wanted = scripted.SWING_RAD * np.sin(scripted.SWING_RAD_S * seconds[resumed])
        assert np.abs(position[resumed] - wanted).max() < 0.1
        assert "no plan covers now" in said(episode, "commander")
        assert word in said(episode, "commander")


def test_a_plan_far_outside_the_training_data_is_cut_to_it(tmp_path: Path) -> None:
    """50 rad: the arms go no further than the data did, at a seam's pace."""
    with deployed(tmp_path, "newest", "far away") as episode:
        applied = episode.stream("arm/left_follower/applied")
        away = np.abs(applied["position_rad"] - scripted.start_of(episode.rig)[:6])
        assert away.max() <= 1.0 + SEAM_RAD
        ticks_s = np.maximum(np.diff(applied.stamp_ns) / NS_PER_S, 1 / episode.rig.rates.arm_hz)
        steps = np.abs(np.diff(applied["position_rad"], axis=0))
        assert (steps <= scripted.FASTEST_RAD_S * ticks_s[:, None] + SEAM_RAD).all()


def test_a_recorded_row_tells_its_plan_and_observation(tmp_path: Path) -> None:
    """Rows that a policy commanded name chunks of the file; held rows name none."""
    with deployed(tmp_path, "newest", "stall") as episode:
        seconds = (episode.rows_stamp_ns - episode.start_ns) / NS_PER_S
        plan = plan_of_rows(episode)
        chunks = episode.stream("policy/chunk")
        following = (seconds > 0.3) & (seconds < scripted.FAULT_S)
        held = (seconds > scripted.FAULT_S + 0.7) & (seconds < scripted.MEND_S - 0.05)
        assert set(plan.chunk_id[following]) <= set(chunks["chunk_id"])
        assert set(plan.observation_id[following]) <= set(chunks["observation_id"])
        assert (np.diff(plan.chunk_id[following]) >= 0).all()
        assert (plan.chunk_id[held] == -1).all()
        of_row = dict(zip(chunks["chunk_id"], chunks["t0_ns"], strict=True))
        newest_ns = [of_row[chunk_id] for chunk_id in plan.chunk_id[following]]
        age_s = (episode.rows_stamp_ns[following] - newest_ns) / NS_PER_S
        assert age_s.min() >= 0
        assert age_s.max() < 0.25


def test_a_recorded_episode_tells_its_latencies(tmp_path: Path) -> None:
    """The stall shows as plans overdue; one table of all stages."""
    with deployed(tmp_path, "newest", "stall") as episode:
        values = latency.of_episode(episode)
        assert values["inference_ms.max"] == pytest.approx(1000.0, abs=1.0)
        assert 300 < values["overdue_ms.max"] < 1100
        stages = [line.split("|")[1].strip() for line in latency.table(values).splitlines()[2:]]
        assert stages == ["observation", "inference", "transport", "plan", "overdue"]


def test_a_policy_that_stalls_and_then_dies_in_real_time(tmp_path: Path) -> None:
    """A process per node: hold, resume, and a run that ends by name with its episode kept."""
    rig = load_rig(RIG)
    job = job_of(tmp_path, DeployOptions(chunk_mode="newest"), "stall and death", rig)
    with Console(rig.operator) as console, pytest.raises(NodeFailedError, match="node policy"):
        run_processes(rig, job, console, emulate=True)
    with Episode(tmp_path / "episodes" / "episode_000000.hdf5") as episode:
        # What the arms' limits make of commands that a busy machine delays is not looked at.
        assert_never_moved_wrongly(episode, ("command",))
        seconds, position = waist(episode)
        holding = (seconds > scripted.FAULT_S + 0.8) & (seconds < scripted.MEND_S - 0.05)
        assert np.ptp(position[holding]) == 0.0
        resumed = seconds > scripted.MEND_S + 0.1
        assert np.ptp(position[resumed]) > 0.1
