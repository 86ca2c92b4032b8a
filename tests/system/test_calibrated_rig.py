"""What calibration results do to a run: applied, stored with every episode, or a refusal."""

from pathlib import Path

import pytest

from calibration.result_values import GripperValues
from calibration.results import folder_of, load_results, make_result, write_result
from calibration.rules import identities_of
from recorder.episode import Episode
from teleop.cli import main
from teleop.rig_files import load_rig

ARM = "left_follower"
CLOSED_RAD, OPEN_RAD = -0.7, 1.45
RIGS = Path(__file__).parents[2] / "docs" / "rigs"


@pytest.fixture
def rig_file(tmp_path: Path) -> Path:
    """A rig without cameras, and a measured gripper of the emulated world beside it."""
    path = tmp_path / "rig.yaml"
    path.write_text(f"extends: {RIGS / 'demo_state.yaml'}\nname: calibrated\n")
    values = GripperValues(closed_rad=CLOSED_RAD, open_rad=OPEN_RAD)
    identity = {ARM: identities_of(load_rig(path))[ARM]}
    result = make_result("gripper", ARM, values, {}, identity, "somebody")
    write_result(result, folder_of(path, "emulated"))
    return path


def record(rig_file: Path) -> int:
    words = ["record", "--lockstep", "--hardware", str(rig_file), "--task", "free"]
    return main([*words, "--seconds", "0.5", "--out", str(rig_file.parent / "data")])


def test_results_are_applied_and_stored_with_every_episode(rig_file: Path) -> None:
    """The drivers use the measured angles; the episode tells by which calibration it was made."""
    assert record(rig_file) == 0
    with Episode(rig_file.parent / "data" / "episode_000000.hdf5") as episode:
        arm = episode.rig.arms[ARM].model_dump()
        assert (arm["gripper_closed_rad"], arm["gripper_open_rad"]) == (CLOSED_RAD, OPEN_RAD)
        results = load_results(folder_of(rig_file, "emulated"))
        assert episode.calibration_sha256 == results.sha256
        assert episode.calibration[f"gripper_{ARM}"]["made_by"] == "somebody"


def test_a_result_of_other_servos_refuses_the_run(
    rig_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence names the result, the servo, and what to do; nothing is recorded."""
    file = folder_of(rig_file, "emulated") / f"gripper_{ARM}.yaml"
    file.write_text(file.read_text().replace("XM430-W350", "XL430-W250"))
    assert record(rig_file) == 1
    said = capsys.readouterr().err
    assert f"gripper_{ARM} belongs to another {ARM}" in said
    assert "XL430-W250; calibrate it again" in said
    assert not (rig_file.parent / "data").exists()
