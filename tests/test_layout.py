"""The tree keeps to its own rules."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("teleop", "drivers", "recorder", "policies", "calibration")
MAX_LINES = 420
CATCH_ALLS = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}


def tracked(pattern: str) -> list[Path]:
    """Files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listed.stdout.splitlines()]


def test_the_top_level_is_what_was_agreed() -> None:
    """The parts a user expects to find are there."""
    names = ("pyproject.toml", "hardware.yaml", "scripts", "tests", "bench", "docs", *PACKAGES)
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_files_stay_small() -> None:
    """A longer file holds two ideas."""
    files = [path for package in PACKAGES for path in tracked(f"{package}/*.py")]
    long = {p.name: n for p in files if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert long == {}


def test_no_file_is_named_for_what_did_not_fit_elsewhere() -> None:
    """No utils."""
    assert [p for p in tracked("*.py") if p.name in CATCH_ALLS] == []


def test_no_driver_pretends() -> None:
    """No mock flags and no swallowed errors in what moves a robot."""
    forbidden = re.compile(r"mock\s*=\s*True|use_fake|except Exception:\s*pass|except:\s")
    assert [p for p in tracked("drivers/*.py") if forbidden.search(p.read_text())] == []


def test_no_private_path_got_in() -> None:
    """Files mention no folder of the machine they were written on."""
    private = re.compile(r"(?<![\w.])/(work|farm|home|root)/")
    files = [*tracked("*.py"), *tracked("*.md"), *tracked("*.yaml"), *tracked("scripts/*")]
    mine = Path(__file__).name
    assert [p for p in files if p.name != mine and private.search(p.read_text())] == []


VENDORS = {
    "dynamixel_sdk": {"dynamixel/port.py", "dynamixel/bus.py"},
    "franky": {"franka/franky_link.py", "franka/pilot.py"},
    "panda_py": {"franka/panda_link.py"},
    "pyspacemouse": {"spacemouse/hid.py"},
    "easyhid": {"spacemouse/hid.py"},
    "openvr": {"vr/client.py", "emulated/vr/abi.py"},
    "aiohttp": {
        "webxr/server.py",
        "webxr/operator.py",
        "webxr/hub.py",
        "emulated/franka/desk.py",
    },
    "roslibpy": {"interbotix/rosbridge.py"},
    "rclpy": {"interbotix/ros2.py"},
    "rospy": {"emulated/interbotix/xs_sdk_node.py"},
}
"""Vendors' packages, and the files that may import them: a driver, or the emulator below it."""


def test_each_vendors_package_is_used_in_its_own_file() -> None:
    """So that a package can be replaced, or be absent, without anybody else noticing."""
    misplaced = []
    for path in tracked("drivers/*.py"):
        text, name = path.read_text(), path.relative_to(ROOT / "drivers").as_posix()
        for package, files in VENDORS.items():
            used = re.search(rf"^\s*(import|from) {package}\b", text, re.MULTILINE)
            if used and name not in files:
                misplaced.append(f"{name} imports {package}")
    assert misplaced == []


FOREIGN = {
    "hardware.calibration/arm_left_follower.yaml",
    "samples/hello.py",
    "samples/track_hmd.py",
    "tests/test_bool.py",
}
"""Files that documents name and that are not ours: of other projects, or made by a command."""
SHORT_FOR = ("", "drivers/", "drivers/emulated/", "docs/", "tests/")
"""Folders that a document may leave out before a path."""
CITED = re.compile(
    r"(?<![\w./:-])((?:[\w.-]+/)+[\w.-]+\.(?:py|c|js|yaml|md))\b(?:::(\w+))?"  # file, name in it
    r"|^()(\w+)\.[A-Z][A-Z_]+$"  # a module's constant
)


def test_documents_name_files_that_exist() -> None:
    """A path in backticks leads somewhere, and what is said to be in the file is there."""
    modules = {path.stem for path in tracked("*.py")}
    wrong = []
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *tracked("docs/*.md")):
        for quoted in re.findall(r"`([^`\n]+)`", document.read_text()):
            for path, name, _, module in CITED.findall(quoted):
                files = [f for s in SHORT_FOR if (f := ROOT / s / path).is_file()] if path else []
                absent = path and path not in FOREIGN and not files
                lacking = files and name and not any(name in f.read_text() for f in files)
                if absent or lacking or (module and module not in modules):
                    wrong.append(f"{document.name}: {quoted}")
    assert wrong == []
