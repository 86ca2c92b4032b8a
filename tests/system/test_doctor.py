"""``tandem doctor``: the emulated rig in order, and each part of it out of order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import yaml

from drivers.base import Arm, DeviceHealth
from drivers.camera.jpeg_header import with_comment
from drivers.doctor import cameras as doctor_cameras
from drivers.doctor import examine as doctor
from drivers.doctor import ports as doctor_ports
from drivers.doctor import servos as doctor_servos
from drivers.doctor.checks import Check, guarded
from drivers.dynamixel import port as dynamixel_port
from drivers.dynamixel import table
from drivers.dynamixel.port import QuietPort
from drivers.dynamixel.viperx import DynamixelArm
from drivers.emulated.camera.mjpeg_camera import MjpegServer
from drivers.emulated.dynamixel.pty_bus import PtyBus
from drivers.registry import open_arm, open_camera
from teleop import cli
from teleop.addresses import free_base_port
from teleop.clock import Clock, MonotonicClock
from teleop.node import World
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm as ArmConfig
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_files import load_rig
from tests.drivers.one_arm import OneArm, changed_arm

ROOT = Path(__file__).parents[2]
CLOCK = MonotonicClock()
LEADER, FOLLOWER = "left_leader", "left_follower"
NO_SYSFS = Path("/nonexistent")
PATIENT = {"read_timeout_s": 0.3, "read_retries": 5}
"""Emulated servos share a loaded machine with everything else."""
SLOW_CAMERA = {"driver": "opencv", "width": 160, "height": 120, "fps": 5, "focus": None}
"""A rate that a loaded machine keeps up."""


def rig_file(folder: Path, **parts: Any) -> Path:
    """The shipped rig's left pair with other parts replaced, as a file on ports of its own."""
    tree: dict[str, Any] = {
        "extends": str(ROOT / "hardware.yaml"),
        "arms": {
            LEADER: PATIENT,
            FOLLOWER: PATIENT,
            "right_leader": None,
            "right_follower": None,
        },
        "cameras": dict.fromkeys(("cam_low", "cam_left_wrist", "cam_right_wrist")),
        "tasks": {name: {"cameras": None} for name in ("transfer_cube", "insertion", "free")},
        "recording": {"min_free_bytes": 0, "min_rate_fraction": 0.2},
        "network": {"base_port": free_base_port(40)},
    }
    for part, values in parts.items():
        tree[part] = {**tree[part], **values}
    path = folder / "hardware.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def by_status(checks: list[Check], status: str) -> str:
    """All findings of one status, in words."""
    return "\n".join(str(check) for check in checks if check.status == status)


class Feed:
    """A network camera that sends numbered pictures at about ten a second."""

    def __init__(self) -> None:
        self.server = MjpegServer(["cam"])
        self.url = self.server.url("cam")
        image = np.zeros((120, 160, 3), np.uint8)
        self._picture = bytes(simplejpeg.encode_jpeg(image, 90))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(0.1):
            count += 1
            self.server.publish("cam", with_comment(self._picture, b"%d" % count))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.server.close()


@pytest.fixture
def feed() -> Iterator[Feed]:
    with closing(Feed()) as made:
        yield made


class Plugged:
    """A follower behind a pseudo-terminal, to be broken."""

    def __init__(self, rig: Rig, link: Path, stack: ExitStack) -> None:
        self.link = link
        self.rig = changed_arm(rig, FOLLOWER, port=str(link), **PATIENT)
        self.emulated = OneArm(self.rig, FOLLOWER)
        stack.enter_context(PtyBus(self.emulated.chain, link, threading.Lock()))

    def checks(self, rig: Rig | None = None, sysfs: Path = NO_SYSFS) -> list[Check]:
        """All findings about the arm."""
        return list(doctor.arm_checks(FOLLOWER, rig or self.rig, CLOCK, sysfs=sysfs))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set-up replies may be late: emulated servos are processes and threads of a loaded machine."""
    monkeypatch.setattr(dynamixel_port, "SDK_ALLOWANCE_S", 0.3)


@pytest.fixture
def plugged(aloha: Rig, tmp_path: Path, patient: None) -> Iterator[Plugged]:
    with ExitStack() as stack:
        yield Plugged(aloha, tmp_path / "ttyDXL", stack)


# The whole command


def test_the_emulated_rig_is_in_order(
    tmp_path: Path, patient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every part is looked at, nothing fails, the exit code is 0, and the JSON says the same."""
    hardware = rig_file(tmp_path, cameras={"cam_high": SLOW_CAMERA})
    options = ["--emulate", "--json", "--hardware", str(hardware), "--out", str(tmp_path)]
    code = cli.main(["doctor", *options])
    report = json.loads(capsys.readouterr().out)
    assert [c for c in report["checks"] if c["status"] == "fail"] == []
    assert code == 0
    assert report["fail"] == 0
    assert report["ok"] + report["warn"] == len(report["checks"])
    things = {check["thing"] for check in report["checks"]}
    assert things >= {"packages", "rig file", "clock", "emulated rig", "camera cam_high"}
    assert things >= {f"{arm}{part}" for arm in (LEADER, FOLLOWER) for part in ("", " servos")}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("franka_kinesthetic", "pilot desk: brakes open, mode Execution, FCI Active"),
        ("viperx_openvr", "SteamVR: runs"),
        ("viperx_webxr", "webxr: the page opens at https://127.0.0.1"),
        ("interbotix_ros1", "right_leader: the node /leader_right has 7 motors"),
    ],
)
def test_every_kind_of_emulated_rig_is_in_order(tmp_path: Path, name: str, told: str) -> None:
    """The shipped example without its cameras, with a puck: no failure, each device is told."""
    example = ROOT / "docs" / "rigs" / f"{name}.yaml"
    rig = load_rig(example)
    tree = {
        "extends": str(example),
        "cameras": dict.fromkeys(rig.cameras),
        "tasks": {task: {"cameras": None} for task in rig.tasks},
        "inputs": {"puck": {"driver": "spacemouse"}},
        "webxr": {"view": None},
        "recording": {"min_free_bytes": 0},
    }
    path = tmp_path / "hardware.yaml"
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "teleop.cli", "doctor", "--emulate", "--hardware", str(path)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("fail")] == [], done.stdout
    assert done.returncode == 0, done.stderr
    for words in (told, "puck: puck"):
        assert any(line.startswith(f"ok    {words}") for line in lines), done.stdout


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({}, "ok    left_follower kinematics: vx300s, guided at its tcp"),
        ({"tool": "tpc"}, "fail  left_follower kinematics: unknown site of model vx300s 'tpc'"),
        ({"kinematics": "fr3"}, "fail  left_follower kinematics: unknown joint of model fr3"),
    ],
)
def test_a_model_that_cannot_be_guided_is_told(part: dict[str, str], words: str) -> None:
    """Else teleoperation ends after all its devices have started."""
    rig = load_rig(ROOT / "docs" / "rigs" / "viperx_spacemouse.yaml")
    models = {name: model.model_dump() | part for name, model in rig.arm_models.items()}
    look = partial(doctor.kinematics_checks, "left_follower", rig.replaced(arm_models=models))
    [check] = guarded("left_follower kinematics", look)
    assert str(check).startswith(words)


def test_a_half_connected_rig_is_told_part_by_part(
    tmp_path: Path, patient: None, feed: Feed, capsys: pytest.CaptureFixture[str]
) -> None:
    """An absent arm and an unreachable camera hide neither the others nor the disk."""
    link = tmp_path / "ttyDXL_leader"
    hardware = rig_file(
        tmp_path,
        arms={
            LEADER: {**PATIENT, "port": str(link)},
            FOLLOWER: {"port": str(tmp_path / "ttyDXL_follower")},
        },
        cameras={
            "cam_high": {**SLOW_CAMERA, "source": "http://127.0.0.1:9/cam_high.mjpg"},
            "cam_low": {**SLOW_CAMERA, "source": feed.url},
        },
    )
    with PtyBus(OneArm(load_rig(hardware), LEADER).chain, link, threading.Lock()):
        code = cli.main(["doctor", "--hardware", str(hardware), "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    failures = [line for line in lines if line.startswith("fail")]
    assert len(failures) == 2, failures
    assert "left_follower port" in failures[0]
    assert "ttyDXL_follower does not exist; plug the arm in" in failures[0]
    assert "camera cam_high" in failures[1]
    assert "cannot be reached" in failures[1]
    good = "\n".join(line for line in lines if line.startswith("ok"))
    assert "left_leader: 9 servos answer" in good
    assert "camera cam_low: 160x120" in good
    assert "disk of" in good
    assert lines[-1].endswith("2 to mend")


def test_a_faulty_rig_file_is_told_fault_by_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In JSON too, so that a program need not read standard error."""
    path = rig_file(tmp_path, arms={LEADER: {"baud": 7}, FOLLOWER: {"colour": "red"}})
    assert cli.main(["doctor", "--json", "--hardware", str(path)]) == 1
    report = json.loads(capsys.readouterr().out)
    seen = [check["seen"] for check in report["checks"] if check["status"] == "fail"]
    assert seen, report
    assert all(str(path) in words for words in seen)
    assert "colour" in " ".join(seen)


# Arms


def test_a_sound_arm_passes_and_keeps_its_torque_and_goal(plugged: Plugged) -> None:
    """An arm that was left holding is still holding the same pose afterwards."""
    arm = open_arm(FOLLOWER, plugged.rig, CLOCK, None)
    arm.connect()
    arm.set_torque(True, False)
    arm.close()
    goals = plugged.emulated.goals_rad()
    checks = plugged.checks()
    assert by_status(checks, "fail") == ""
    on = [plugged.emulated.register(i, table.TORQUE_ENABLE) for i in range(1, 10)]
    assert on == [1] * 8 + [0]
    assert plugged.emulated.goals_rad() == goals
    assert not any(plugged.emulated.register(i, table.BUS_WATCHDOG) for i in range(1, 10))


def test_an_absent_servo_is_named_with_its_joint(plugged: Plugged) -> None:
    """And with the remedy."""
    plugged.emulated.faults.servo_absent.add(4)
    said = by_status(plugged.checks(), "fail")
    assert "no answer from elbow (id 4), though the other servos answer; check the cables" in said


def test_a_wrong_baud_rate_is_told_with_the_right_one(
    plugged: Plugged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by trying them all."""
    monkeypatch.setattr(dynamixel_port, "SDK_ALLOWANCE_S", 0.05)  # 80 questions go unanswered
    rig = changed_arm(plugged.rig, FOLLOWER, baud=2_000_000)
    said = by_status(plugged.checks(rig), "fail")
    assert "no servo answers at 2000000 baud, but they do at 1000000; set baud" in said


def test_a_second_program_on_the_port_is_named_even_without_a_lock(plugged: Plugged) -> None:
    """Dynamixel Wizard and ROS lock nothing; two programs on one bus take each other's answers."""
    script = "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print(1, flush=True)"
    command = [sys.executable, "-c", f"{script}; sys.stdin.read()", str(plugged.link)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        checks = plugged.checks()
        other.communicate()
    assert f"(pid {other.pid}); close that program first" in by_status(checks, "fail")
    assert len(checks) == 1
    assert by_status(plugged.checks(), "fail") == ""


def test_a_locked_port_is_told_in_the_drivers_words(plugged: Plugged) -> None:
    """Another user's program is not to be seen, but its lock is."""
    arm = open_arm(FOLLOWER, plugged.rig, CLOCK, None)
    arm.connect()
    said = by_status(plugged.checks(), "fail")
    arm.close()
    assert "is in use by another program; close that first" in said


def test_a_setting_that_was_put_right_is_a_warning(plugged: Plugged) -> None:
    """The driver corrects a return delay; the operator should know that it was wrong."""
    plugged.emulated.set_register(7, table.RETURN_DELAY, 250)
    checks = plugged.checks()
    assert by_status(checks, "fail") == ""
    assert "changed from 250 to 0" in by_status(checks, "warn")
    assert "changed" not in by_status(plugged.checks(), "warn")


def test_a_servo_in_trouble_is_named(plugged: Plugged) -> None:
    """Its error register is read, whatever else works."""
    plugged.emulated.faults.overload(4)
    said = by_status(plugged.checks(), "fail")
    assert "elbow (id 4) reports overload" in said


def test_heat_and_low_voltage_fail(plugged: Plugged) -> None:
    """Against the limits of the rig file."""
    rig = plugged.rig.replaced(safety={"max_temperature_c": 20.0})
    assert "over 20 C: let the arm cool" in by_status(plugged.checks(rig), "fail")
    rig = plugged.rig.replaced(safety={"min_voltage_v": 13.0})
    assert "under 13 V at waist: check power supply" in by_status(plugged.checks(rig), "fail")


def test_a_slow_usb_adapter_fails_and_the_servos_are_looked_at_all_the_same(
    plugged: Plugged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that sets it."""

    def open_here(name: str, rig: Rig, clock: Clock, world: World | None) -> Arm:
        arm, model = rig.arms[name], rig.arm_model(name)
        assert isinstance(arm, ArmConfig)
        assert isinstance(model, DynamixelArmModel)
        open_port = partial(QuietPort, arm.port, clock, arm.baud)
        return DynamixelArm(name, arm, model, open_port, 0.2, tmp_path)

    monkeypatch.setattr(doctor_servos, "open_arm", open_here)
    timer = tmp_path / "bus/usb-serial/devices" / plugged.link.resolve().name / "latency_timer"
    timer.parent.mkdir(parents=True)
    timer.write_text("16\n")
    checks = plugged.checks(sysfs=tmp_path)
    assert "echo 1 | sudo tee" in by_status(checks, "fail")
    assert by_status(checks, "fail").count("\n") == 0
    assert "9 servos answer" in by_status(checks, "ok")


def test_a_pose_and_a_gripper_out_of_range_are_warnings(plugged: Plugged) -> None:
    """A horn mounted a quarter turn off, or fingers calibrated on another arm."""
    plugged.emulated.place((0.1, -1.2, 2.5, -0.2, 0.4, 0.3, 0.5))
    assert "elbow at 2.50 rad (-1.763 to 1.605)" in by_status(plugged.checks(), "warn")
    plugged.emulated.place((0.1, -1.2, 1.3, -0.2, 0.4, 0.3, 2.5))
    said = by_status(plugged.checks(), "warn")
    assert "gripper opening 1.48, fingers " in said
    assert " mm apart; 0 is closed, 1 open: run tandem calibrate gripper left_follower" in said


def test_a_port_without_a_stable_name_is_a_warning(plugged: Plugged) -> None:
    """The kernel numbers adapters in the order of plugging in."""
    check = doctor_ports.serial_port_check(FOLLOWER, str(plugged.link.resolve()))
    assert (check.status, check.thing) == ("warn", "left_follower port")
    assert doctor_ports.serial_port_check(FOLLOWER, str(plugged.link)).status == "ok"


def test_a_port_that_is_not_permitted_is_told_with_its_group(
    plugged: Plugged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest first mistake: not in dialout. (Root, who may run this, is never refused.)"""
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(doctor_ports, "_group_of", lambda _: "dialout")
    check = doctor_ports.serial_port_check(FOLLOWER, str(plugged.link))
    assert "is for root and the group dialout only; run: sudo usermod -aG dialout" in str(check)


# Cameras


def one_camera(aloha: Rig, **values: Any) -> Rig:
    """The shipped rig with one camera."""
    tasks = {name: task.model_dump() | {"cameras": None} for name, task in aloha.tasks.items()}
    return aloha.replaced(cameras={"cam": {**SLOW_CAMERA, **values}}, tasks=tasks)


def camera_findings(rig: Rig) -> list[Check]:
    """What is said of the rig's only camera."""
    (trial,) = doctor_cameras.try_cameras(rig, CLOCK)
    return list(doctor_cameras.camera_checks(trial, rig.recording.min_rate_fraction))


def test_a_camera_slower_than_configured_fails_with_both_rates(aloha: Rig) -> None:
    """A recording with it would not pass its verdict; repeated and damaged images are told."""
    rig = one_camera(aloha, fps=30, source="/dev/CAM")
    trial = doctor_cameras.CameraTrial(
        "cam", rig.cameras["cam"], open_camera("cam", rig, CLOCK, None)
    )
    trial.images, trial.image_bytes = 31, 620_000
    trial.after = DeviceHealth(values={"fps": 15.5, "repeats": 12.0, "corrupt": 3.0})
    checks = list(doctor_cameras.camera_checks(trial, 0.9))
    assert "160x120 at 15.5 of 30 fps, 20 kB" in by_status(checks, "fail")
    assert "spread the cameras over USB controllers" in by_status(checks, "fail")
    assert "12 images repeated the one before, 31 were new" in by_status(checks, "warn")
    assert "3 images were damaged" in by_status(checks, "warn")
    trial.after = DeviceHealth(values={"fps": 29.5})
    assert [check.status for check in doctor_cameras.camera_checks(trial, 0.9)] == ["ok"]


def test_a_frozen_camera_fails(aloha: Rig, feed: Feed) -> None:
    """The same image again and again is no image."""
    rig = one_camera(aloha, source=feed.url)
    feed.server.freeze("cam")
    assert "the same image came" in by_status(camera_findings(rig), "fail")


def test_a_setting_that_does_not_take_is_a_warning(aloha: Rig, feed: Feed) -> None:
    """Told once, with what to do."""
    said = camera_findings(one_camera(aloha, source=feed.url, exposure=100.0))
    assert "exposure 100 is not applied" in by_status(said, "warn")
    assert by_status(said, "fail") == ""
