"""The command line: quick help, and one clear sentence for every wrong call."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "doctor",
    "teleop",
    "record",
    "recover",
    "inspect",
    "replay",
    "rest",
    "train",
    "evaluate",
)
FILMED = ("--cameras", "cam_high", "--out", "x")
NO_LEADER = ("--hardware", "docs/rigs/viperx_spacemouse.yaml")
HEAVY = ["numpy", "zmq", "pydantic", "h5py", "cv2", "torch", "mujoco"]


def tandem(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "teleop.cli", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def complaint(*words: str, cwd: Path = ROOT) -> str:
    """What a failing command says: one sentence on standard error, no traceback."""
    done = tandem(*words, cwd=cwd)
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    """Half a second is only kept by not importing what the help does not need."""
    code = (
        "import sys; from teleop.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"    {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (("record", "--lockstep", "--task", "transfer_cub", "--out", "x"), ["transfer_cube"]),
        (("record", "--lockstep"), ["--out DIR"]),
        (("record", "--lockstep", "--out", "README.md"), ["README.md is a file"]),
        (("record", "--lockstep", "--seconds", "nan", "--out", "x"), ["positive number"]),
        (("record", "--lockstep", "--episodes", "0", "--out", "x"), ["1 or more"]),
        (("record", "--lockstep", "--seed", "-1", "--out", "x"), ["--seed", "0 or more"]),
        (("teleop", "--lockstep", "--cameras", "cam_hihg"), ["cam_high"]),
        (("teleop", "--hardware", "nowhere.yaml"), ["nowhere.yaml", "--hardware"]),
        (("teleop",), ["/dev/"]),
        (("replay", "nowhere.hdf5", "--lockstep"), ["nowhere.hdf5"]),
        (("inspect", "hardware.yaml"), ["hardware.yaml", "HDF5"]),
        (("recover", "nowhere"), ["nowhere"]),
        (("deploy", "nowhere", "--emulate"), ["nowhere", "tandem train"]),
        (("evaluate", "nowhere"), ["nowhere", "tandem train"]),
        (("evaluate", "expert", "--video", "v.gif", *FILMED), ["v.gif", ".mp4 or .webm"]),
        (("train", "bcc", "--data", "x", "--out", "y"), ["bc"]),
        (("train", "bc", "--data", "nowhere", "--out", "y"), ["nowhere"]),
        (("record", "--lockstep", "--operator", "README.md", "--out", "x"), ["README.md"]),
        (("teleop", "--emulate", "--operator", "nowhere.csv"), ["nowhere.csv: no such file"]),
        (("teleop", "--operator", "README.md"), ["plays on an emulated leader", "--lockstep"]),
        (
            ("teleop", "--emulate", "--operator", "README.md", *NO_LEADER),
            ["leader arm", "has none"],
        ),
        (("inspect", "--validate", "docs"), ["docs: holds no episode"]),
    ],
)
def test_a_wrong_call_is_answered_in_one_sentence(
    words: tuple[str, ...], hints: list[str], tmp_path: Path
) -> None:
    """The thing is named, and so is the remedy or the nearest known name."""
    said = complaint(*words)
    assert all(hint in said for hint in hints), said
    sentences = [line for line in said.strip().splitlines() if not line.startswith((" ", "usage"))]
    assert len(sentences) <= 3


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded lockstep episode."""
    out = tmp_path_factory.mktemp("episodes")
    rig = str(ROOT / "docs/rigs/demo.yaml")
    done = tandem("record", "--lockstep", "--hardware", rig, "--episodes", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "verdict pass" in done.stdout
    return out / "episode_000000.hdf5"


def test_an_episode_is_inspected_validated_and_replayed(episode: Path, tmp_path: Path) -> None:
    """The three readers of a file agree that it is good, and the task succeeds again."""
    picture = tmp_path / "episode.png"
    done = tandem("inspect", str(episode), "--picture", str(picture))
    assert "verdict   pass" in done.stdout
    assert picture.stat().st_size > 50_000
    assert "no fault found" in tandem("inspect", "--validate", str(episode)).stdout
    rig = str(ROOT / "docs/rigs/demo.yaml")
    done = tandem("replay", str(episode), "--lockstep", "--hardware", rig)
    assert done.returncode == 0, done.stderr
    assert "success" in done.stdout
    assert "right_follower tracking error" in done.stdout


@pytest.mark.parametrize("kind", ["truncated", "foreign", "future"])
def test_a_bad_file_is_told_apart(episode: Path, tmp_path: Path, kind: str) -> None:
    """Truncated, not ours, of a later version: each in its own words, and the file untouched."""
    path = tmp_path / f"{kind}.hdf5"
    shutil.copy(episode, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "foreign":
        path.unlink()
        with h5py.File(path, "w") as file:
            file["x"] = 1
    else:
        with h5py.File(path, "r+") as file:
            file.attrs["schema_version"] = 99
    before = path.read_bytes()
    said = complaint("inspect", str(path))
    assert path.name in said
    hint = {"truncated": "trunc", "foreign": "not a tandem-episode", "future": "99"}[kind]
    assert hint in said, said
    assert path.read_bytes() == before


def test_a_folder_of_episodes_is_validated_episode_by_episode(
    episode: Path, tmp_path: Path
) -> None:
    """One with a fault hides no other, and decides the exit code."""
    shutil.copy(episode, tmp_path / "episode_000001.hdf5")
    done = tandem("inspect", "--validate", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "episode_000000.hdf5").write_bytes(b"torn")
    done = tandem("inspect", "--validate", str(tmp_path))
    assert done.returncode == 1
    torn, sound = done.stdout.splitlines()
    assert torn.count("episode_000000.hdf5") == 1, torn
    assert sound.endswith("episode_000001.hdf5: no fault found")


def test_debugging_shows_no_messages_of_the_file_library(episode: Path) -> None:
    """h5py tells a line for each type that it can convert."""
    assert "h5py" not in tandem("inspect", "--debug", "--no-picture", str(episode)).stderr
