"""The command's own part: names, devices, folders, and a run on the emulated rig."""

import io
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.board import Board
from calibration.result_values import CameraValues, GripperValues
from calibration.results import folder_of, load_results
from drivers.calibrate.guide import StoppedError, TerminalGuide
from drivers.calibrate.procedure import CalibrateOptions, forward_of, run
from drivers.emulated.camera.rendering import choose_backend
from teleop.errors import DeviceError, RigError, TandemError, UnknownNameError
from teleop.rig import Rig

ROOT = Path(__file__).parents[2]


class Listener:
    """An operator who agrees to everything and remembers what was said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)

    def ready(self, text: str, meanwhile: Callable[[], object] = lambda: None) -> bool:
        return True


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    """A copy of the shipped rig file, with room for results beside it."""
    return Path(shutil.copy(ROOT / "hardware.yaml", tmp_path))


def test_a_gripper_of_the_emulated_rig_is_calibrated_by_one_call(hardware: Path) -> None:
    """In real time, over a pseudo-terminal; the file lies in the emulated rig's folder."""
    guide = Listener()
    options = CalibrateOptions("gripper", "left_follower", hardware, emulate=True, made_by="Ada")
    path = run(options, guide)
    assert path == hardware.parent / "hardware.calibration/emulated/gripper_left_follower.yaml"
    results = load_results(folder_of(hardware, "emulated"))
    result = results.get("gripper", "left_follower")
    assert result is not None
    values = result.values_as(GripperValues)
    # The emulated servo's stops are at -0.72 and 1.59 rad, the latter with 0.05 rad to spare.
    assert values.closed_rad == pytest.approx(-0.72, abs=0.02)
    assert values.open_rad == pytest.approx(1.54, abs=0.02)
    assert result.made_by == "Ada"
    assert load_results(folder_of(hardware, "hardware")).by_stem == {}
    assert guide.heard[-1] == f"written: {path}"


@pytest.mark.skipif(choose_backend() == "sketch", reason="rendering a board needs OpenGL")
def test_somebody_shows_the_board_to_a_camera_of_the_emulated_rig(hardware: Path) -> None:
    """In real time, by MJPEG; what is found is the lens of the scene's camera."""
    options = CalibrateOptions("camera", "cam_high", hardware, emulate=True)
    run(options, Listener())
    result = load_results(folder_of(hardware, "emulated")).get("camera", "cam_high")
    assert result is not None
    (focal_px, _, centre_px), *_ = result.values_as(CameraValues).matrix
    assert focal_px == pytest.approx(240 / math.tan(math.radians(48) / 2), rel=0.003)
    assert centre_px == pytest.approx(319.5, abs=2.0)
    assert result.residuals["parts_unseen"] == 0


def test_only_cameras_of_the_rig_are_shown_a_board(hardware: Path) -> None:
    """Before anything is started."""
    options = CalibrateOptions("hand_eye", "cam_hihg", hardware, emulate=True)
    with pytest.raises(UnknownNameError, match="did you mean cam_high"):
        run(options, Listener())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "arm", "name": "left_folower"}, UnknownNameError, "did you mean left_follower"),
        ({"kind": "arm", "name": "left_leader"}, DeviceError, "name the arm to compare with"),
        (
            {"kind": "arm", "name": "left_leader", "reference": "left_leader"},
            DeviceError,
            "left_leader cannot be compared with itself",
        ),
        (
            {"kind": "arm", "name": "left_leader", "reference": "left_folower"},
            UnknownNameError,
            "did you mean left_follower",
        ),
        ({"kind": "gripper", "name": "waist"}, UnknownNameError, "unknown arm 'waist'"),
        ({"kind": "hand_eye", "name": "cam_high"}, DeviceError, "name the arm that moves"),
        (
            {"kind": "hand_eye", "name": "cam_high", "arm": "third"},
            UnknownNameError,
            "unknown arm 'third'",
        ),
        (
            {"kind": "vr", "name": "left_hand", "arm": "left_follower"},
            UnknownNameError,
            "unknown input 'left_hand'",
        ),
        ({"kind": "camera", "name": "cam_hig"}, UnknownNameError, "did you mean cam_high"),
        ({"kind": "gripper", "name": "left_leader"}, DeviceError, "does not exist"),
        (
            {"kind": "camera", "name": "cam_high", "picture": Path("nowhere/coverage.png")},
            DeviceError,
            r"--picture nowhere.* in a folder that exists",
        ),
    ],
)
def test_wrong_names_and_absent_devices_are_told_before_anything_moves(
    hardware: Path, options: dict[str, Any], error: type[TandemError], words: str
) -> None:
    """And nothing is written."""
    with pytest.raises(error, match=words):
        run(CalibrateOptions(hardware=hardware, **options), Listener())
    assert not (hardware.parent / "hardware.calibration").exists()


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        (
            "interbotix_ros1",
            {"kind": "arm", "name": "right_follower"},
            "right_follower: .* interbotix takes no joint offsets; its zero belongs to its ROS",
        ),
        (
            "franka_kinesthetic",
            {"kind": "arm", "name": "franka", "reference": "franka"},
            "franka: .* franka takes no joint offsets; its maker calibrates the arm",
        ),
        (
            "franka_kinesthetic",
            {"kind": "gripper", "name": "franka"},
            "franka: .* franka takes no gripper angles; its maker calibrates",
        ),
        (
            "franka_kinesthetic",
            {"kind": "vr", "name": "pilot"},
            "pilot: the driver franka_desk tells no pose; name an input of openvr or webxr",
        ),
        ("franka_spacemouse", {"kind": "vr", "name": "mouse"}, "spacemouse tells no pose"),
    ],
)
def test_what_a_driver_does_not_take_or_tell_is_refused_before_anything_starts(
    tmp_path: Path, file: str, options: dict[str, Any], words: str
) -> None:
    """Not even the emulation, which would lay down its folder of results, and no dialogue."""
    hardware = tmp_path / "hardware.yaml"
    hardware.write_text(f"extends: {ROOT / 'docs/rigs' / file}.yaml\n")
    guide = Listener()
    with pytest.raises(DeviceError, match=words):
        run(CalibrateOptions(hardware=hardware, emulate=True, **options), guide)
    assert guide.heard == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"kind": "latency", "beside": True, "touch": True, "apply": True},
            r"calibrate latency does not use --apply \(of arm\), --beside \(of hand-eye\), "
            r"--touch \(of vr\); leave that out",
        ),
        ({"kind": "latency", "picture": Path("x.png")}, r"--picture \(of camera\)"),
        ({"kind": "camera", "arm": "left_follower"}, r"--arm \(of hand-eye and vr\)"),
        ({"kind": "vr", "by_hand": True}, r"--by-hand \(of gripper and hand-eye\)"),
        ({"kind": "hand_eye", "reference": "x"}, r"hand-eye does not use --reference \(of arm\)"),
        ({"kind": "arm", "joint": "waist"}, r"--joint \(of latency\)"),
        ({"kind": "gripper", "cameras": ("cam_high",)}, r"--cameras \(of latency\)"),
        ({"kind": "arm", "board": Board(square_m=0.03)}, r"--square-mm \(of camera and hand-eye\)"),
    ],
)
def test_an_option_that_a_kind_does_not_use_is_refused(
    hardware: Path, options: dict[str, Any], words: str
) -> None:
    """Whoever gives it expects something of it."""
    with pytest.raises(TandemError, match=words):
        run(CalibrateOptions(name="left_follower", hardware=hardware, **options), Listener())


@pytest.mark.parametrize(("given", "swings"), [(None, "joint1"), ("joint2", "joint2")])
def test_the_joint_that_swings_is_the_arms_own(
    hardware: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, swings: str
) -> None:
    """On an arm without a waist the first one, unless another is named."""

    class Franka:
        joint_names = ("joint1", "joint2")

        def connect(self) -> None: ...

        def close(self) -> None: ...

    class Refuser(Listener):
        def ready(self, text: str, meanwhile: Callable[[], object] = lambda: None) -> bool:
            self.heard.append(text)
            return False

    monkeypatch.setattr("drivers.calibrate.procedure.open_arm", lambda *_: Franka())
    guide = Refuser()
    with pytest.raises(StoppedError, match="left_follower: stopped"):
        run(CalibrateOptions("latency", "left_follower", hardware, joint=given), guide)
    assert f"will swing its {swings} by" in guide.heard[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_kill_or_a_closed_terminal_leaves_nothing_behind(
    hardware: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As Ctrl-C does: the devices are let go in order, and the emulation ends with the command."""
    command = [sys.executable, "-m", "teleop.cli", "calibrate", "latency", "left_follower"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [*command, "--emulate", "--hardware", str(hardware)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(scratch)},
    ) as process:
        assert process.stdout is not None
        assert "will swing its waist" in process.stdout.readline()
        assert list(scratch.iterdir()) != []
        process.send_signal(number)
        assert process.wait(60) == 130
    assert list(scratch.iterdir()) == []


def test_damaged_results_stop_the_command(hardware: Path) -> None:
    """They would be in force meanwhile."""
    folder = folder_of(hardware, "hardware")
    folder.mkdir()
    (folder / "arm_left_leader.yaml").write_text("kind: arm\n")
    with pytest.raises(RigError, match="calibrate again"):
        run(CalibrateOptions("arm", "left_follower", hardware), Listener())


def test_the_tool_is_where_the_arms_own_model_has_it(aloha: Rig) -> None:
    """The kinematics of the rig agree with the emulated arm's, to the micrometre."""
    pytest.importorskip("mink")
    from calibration_bench import follower_kinematics

    forward, emulated = forward_of(aloha, "left_follower"), follower_kinematics()
    for pose in ([0.0] * 6, [0.3, -0.9, 1.1, -0.4, 0.5, 0.2]):
        assert forward(np.array(pose)) == pytest.approx(emulated(np.array(pose)), abs=1e-4)


def test_an_arm_without_kinematics_is_refused(aloha: Rig) -> None:
    """With the key to fill in."""
    models = {name: model.model_dump() for name, model in aloha.arm_models.items()}
    models["vx300s"]["kinematics"] = None
    with pytest.raises(RigError, match=r"arm_models\.vx300s\.kinematics: missing"):
        forward_of(aloha.replaced(arm_models=models), "left_follower")


@pytest.mark.parametrize(
    ("typed", "agreed"),
    [
        *[("\n", True), ("y\n", True), ("Yes \n", True)],
        *[("q\n", False), ("Quit \n", False), ("n\n", False), ("NO\n", False)],
        *[("", False), ("y", False)],
    ],
)
def test_enter_goes_on_and_q_or_the_end_of_input_stops(typed: str, agreed: bool) -> None:
    """And the arm is looked after until the answer comes."""
    reading, writing = os.pipe()
    looked: list[int] = []

    def look() -> None:
        looked.append(1)
        if len(looked) == 3:
            os.write(writing, typed.encode())
            os.close(writing)

    out = io.StringIO()
    with open(reading, encoding="utf-8") as keys:
        assert TerminalGuide(keys, out).ready("hold the arm", look) is agreed
    assert len(looked) == 3
    assert out.getvalue() == "> hold the arm\n  [Enter: go on, q: stop] "


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), ("stop\nno", False)])
def test_a_word_that_is_no_answer_is_asked_again(answer: str, agreed: bool) -> None:
    """Nobody who typed ``stop`` wanted the arm to go limp."""
    reading, writing = os.pipe()
    os.write(writing, f"halt\n{answer}\n".encode())
    os.close(writing)
    out = io.StringIO()
    with open(reading, encoding="utf-8") as keys:
        assert TerminalGuide(keys, out).ready("hold the arm") is agreed
    assert out.getvalue().count("hold the arm") == 1
    assert out.getvalue().count("[Enter: go on, q: stop]") == 2 + answer.count("\n")


def test_lines_typed_ahead_are_answers_to_what_comes() -> None:
    """As from a pipe."""
    reading, writing = os.pipe()
    os.write(writing, b"\n\nq\n")
    with open(reading, encoding="utf-8") as keys:
        guide = TerminalGuide(keys, io.StringIO())
        assert [guide.ready("next") for _ in range(3)] == [True, True, False]
    os.close(writing)
