"""What calibration results do to a run: applied, stored with every episode, or a refusal."""

import os
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
FREE = ("--task", "free", "--seconds", "0.5")
JOBS = ("--task", "transfer_cube", "--jobs", "1")
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


@pytest.fixture
def foreign(rig_file: Path) -> Path:
    """The same rig, with the result of another arm."""
    file = folder_of(rig_file, "emulated") / f"gripper_{ARM}.yaml"
    file.write_text(file.read_text().replace("XM430-W350", "XL430-W250"))
    return rig_file


def record(rig_file: Path, *options: str) -> int:
    words = ["record", "--lockstep", "--hardware", str(rig_file), "--out"]
    return main([*words, str(rig_file.parent / "data"), *(options or FREE)])


@pytest.mark.parametrize("options", [FREE, JOBS])
def test_results_are_applied_and_stored_with_every_episode(
    rig_file: Path, options: tuple[str, ...]
) -> None:
    """The drivers use the measured angles; the episode tells by which calibration it was made."""
    record(rig_file, *options)
    with Episode(rig_file.parent / "data" / "episode_000000.hdf5") as episode:
        arm = episode.rig.arms[ARM].model_dump()
        assert (arm["gripper_closed_rad"], arm["gripper_open_rad"]) == (CLOSED_RAD, OPEN_RAD)
        results = load_results(folder_of(rig_file, "emulated"))
        assert episode.calibration_sha256 == results.sha256
        assert episode.calibration[f"gripper_{ARM}"]["made_by"] == "somebody"


@pytest.mark.parametrize(
    "command",
    [
        ("record", "--lockstep", "--out", "data"),
        ("record", "--lockstep", "--out", "data", "--jobs", "1"),
        ("evaluate", "expert", "--episodes", "1"),
        ("rest", "--lockstep"),
        ("calibrate", "gripper", "right_follower", "--emulate"),
    ],
)
def test_a_result_of_other_servos_refuses_every_command(
    foreign: Path,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence names the result, the servo, and what to do; nothing moves or is recorded."""
    monkeypatch.chdir(foreign.parent)
    assert main([*command, "--hardware", str(foreign)]) == 1
    said = capsys.readouterr().err
    assert f"gripper_{ARM} belongs to another {ARM}" in said
    assert "XL430-W250; calibrate it again" in said
    assert not (foreign.parent / "data").exists()


def test_what_is_measured_again_may_be_of_other_servos(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is how one mends it."""
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        main(["calibrate", "gripper", ARM, "--emulate", "--hardware", str(foreign)])
    assert f"{ARM}: stopped" in capsys.readouterr().err, "it came as far as the first question"
