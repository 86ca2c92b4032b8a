"""The doctor and the machine: USB tree, real time, programs, keys, udev rules, calibration."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from calibration.result_values import GripperValues
from calibration.results import make_result, write_result
from calibration.rules import identities_of
from drivers.doctor import machine as doctor_machine
from drivers.doctor import network as doctor_network
from drivers.doctor import ports as doctor_ports
from drivers.doctor import udev
from drivers.doctor import usb as doctor_usb
from drivers.doctor.calibration import calibrated, calibration_checks
from drivers.doctor.checks import Check, install_udev
from teleop import cli
from teleop.errors import DeviceError
from teleop.rig import Rig


def words(checks: Iterable[Check]) -> str:
    """All findings, in words."""
    return "\n".join(map(str, checks))


def said_of(checks: Iterable[Check], status: str) -> str:
    """The findings of one status."""
    return words(check for check in checks if check.status == status)


# USB


def plug(sysfs: Path, kind: str, node: str, ports: str, speed: float, serial: str = "") -> None:
    """Show a device as the kernel does."""
    device = sysfs / "devices/pci0/usb1" / ports
    interface = device / f"{ports}:1.0"
    interface.mkdir(parents=True)
    (device / "busnum").write_text(ports.partition("-")[0])
    (device / "speed").write_text(f"{speed:g}\n")
    if serial:
        (device / "serial").write_text(f"{serial}\n")
    folder = sysfs / "class" / kind / node
    folder.mkdir(parents=True)
    (folder / "device").symlink_to(interface)


def rig_on_usb(rig: Rig, cameras: int, fourcc: str = "MJPG") -> Rig:
    """One arm at ttyUSB0 and cameras at video0 and on."""
    arm = rig.arms["left_leader"].model_dump() | {"port": "/dev/ttyUSB0"}
    camera = {"width": 640, "height": 480, "fps": 60, "fourcc": fourcc}
    return rig.replaced(
        arms={"left_leader": arm},
        cameras={f"cam_{i}": {**camera, "source": f"/dev/video{i}"} for i in range(cameras)},
        tasks={},
    )


def test_the_usb_tree_names_what_shares_a_hub_or_a_bus(aloha: Rig, tmp_path: Path) -> None:
    """Three cameras and an arm at one hub, and more pictures than the bus carries."""
    plug(tmp_path, "tty", "ttyUSB0", "1-2.4", 480)
    for i in range(3):
        plug(tmp_path, "video4linux", f"video{i}", f"1-2.{i + 1}", 480)
    checks = list(doctor_usb.usb_checks(rig_on_usb(aloha, 3, "YUYV"), tmp_path))
    said = words(checks)
    assert "left_leader at 1-2.4 (480 Mbit/s)" in checks[0].seen
    assert "3 cameras at the hub 1-2" in said
    assert "left_leader shares the hub 1-2 with cam_0, cam_1, cam_2" in said
    assert "uncompressed pictures on bus 1 need 885 Mbit/s; it carries 384: set fourcc" in said


def test_a_tidy_usb_tree_is_one_line(aloha: Rig, tmp_path: Path) -> None:
    """Each at a port of the machine; a camera at an old hub is told."""
    plug(tmp_path, "tty", "ttyUSB0", "1-1", 480)
    plug(tmp_path, "video4linux", "video0", "2-1", 5000)
    assert len(list(doctor_usb.usb_checks(rig_on_usb(aloha, 1), tmp_path))) == 1
    plug(tmp_path, "video4linux", "video1", "3-1", 12)
    assert "cam_1 runs at 12 Mbit/s" in words(doctor_usb.usb_checks(rig_on_usb(aloha, 2), tmp_path))
    assert list(doctor_usb.usb_checks(rig_on_usb(aloha, 2), tmp_path / "nothing")) == []


# The machine itself


def test_topic_ports_that_are_taken_are_told(aloha: Rig) -> None:
    """A session is running, or another program has the port."""
    with socket.socket() as other:
        other.bind((aloha.network.host, aloha.network.base_port))
        other.listen()
        check = doctor_network.topic_checks(aloha)
        assert check.status == "fail"
        assert "1 of 35 cannot be bound" in check.seen
    assert doctor_network.topic_checks(aloha).status == "ok"


def test_a_full_slow_or_unwritable_disk_is_told(aloha: Rig, tmp_path: Path) -> None:
    """Against the episode to come; the folder itself need not exist, and stays away."""
    roomy = aloha.replaced(recording={"min_free_bytes": 0})
    out = tmp_path / "episodes" / "today"
    sound = doctor_machine.disk_checks(roomy, out, 1.0)
    assert [check.status for check in sound] == ["ok", "ok"]
    assert list(tmp_path.iterdir()) == []
    fast = doctor_machine.disk_checks(roomy.replaced(tasks={}), out, 1e15)
    assert "faster disk" in said_of(fast, "fail")
    full = doctor_machine.disk_checks(
        aloha.replaced(recording={"min_free_bytes": 10**18}), out, 1.0
    )
    assert "make room" in said_of(full, "fail")
    locked = doctor_machine.disk_checks(roomy, Path("/proc"), 0.0)
    assert "cannot be written to" in said_of(locked, "fail")


def test_a_missing_extra_warns_and_fails_where_it_is_needed_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(doctor_machine, "EXTRAS", {"sim": (("no_such_module",), "--emulate")})
    said = said_of(doctor_machine.package_checks(emulate=False), "warn")
    assert "no_such_module not installed, which --emulate need; run: pip install" in said
    assert "tandem-rig[sim]" in said_of(doctor_machine.package_checks(emulate=True), "fail")


def test_a_power_saving_processor_is_a_warning(aloha: Rig, tmp_path: Path) -> None:
    """As /sys tells; a virtual machine tells nothing."""
    file = tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_governor"
    file.parent.mkdir(parents=True)
    file.write_text("powersave\n")
    for sysfs, told in ((tmp_path, True), (tmp_path / "nothing", False)):
        said = said_of(doctor_machine.machine_checks(aloha, False, sysfs), "warn")
        assert ("governor powersave" in said) is told


def test_missing_real_time_is_told_with_what_to_set(tmp_path: Path) -> None:
    """The limit, and the kernel."""
    said = words(doctor_machine.real_time_checks(tmp_path, 0, "#1 SMP"))
    assert "rtprio limit 0" in said
    assert "/etc/security/limits.d/tandem.conf" in said
    assert "without PREEMPT_RT" in said
    fine = list(doctor_machine.real_time_checks(tmp_path, 99, "#1 SMP PREEMPT_RT"))
    assert [check.status for check in fine] == ["ok", "ok"]


def test_a_slow_clock_source_is_a_warning(tmp_path: Path) -> None:
    """Reading it takes microseconds, at every stamp."""
    file = tmp_path / "devices/system/clocksource/clocksource0/current_clocksource"
    file.parent.mkdir(parents=True)
    file.write_text("hpet\n")
    assert "slow source hpet" in doctor_machine.clock_check(tmp_path).seen
    file.write_text("tsc\n")
    assert doctor_machine.clock_check(tmp_path).status == "ok"


def test_arms_that_are_guided_need_their_kinematics(
    aloha: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra that no device's own line would miss."""
    arm = aloha.arms["left_follower"].model_dump() | {"leader": None, "input": "mouse"}
    rig = aloha.replaced(arms={"left_follower": arm}, inputs={"mouse": {"driver": "spacemouse"}})
    assert list(doctor_machine.rig_package_checks(rig, emulate=False)) == []
    monkeypatch.setattr(doctor_machine, "GUIDING", ("no_such_module",))
    said = words(doctor_machine.rig_package_checks(rig, emulate=False))
    assert "which guide the tool of left_follower; run: pip install 'tandem-rig[ik]'" in said
    monkeypatch.setenv("PATH", "")
    assert "no C compiler" in words(doctor_machine.rig_package_checks(rig, emulate=True))


# Programs


def test_programs_that_take_servo_ports_are_named(aloha: Rig, tmp_path: Path) -> None:
    """ROS by its node, LeRobot by its script, whatever interpreter runs them."""
    lines = {
        "12": b"/usr/bin/python3\0/opt/ros/noetic/bin/rosmaster\0--core\0",
        "13": b"/opt/ros/noetic/lib/interbotix_xs_sdk/xs_sdk\0",
        "14": b"python\0/opt/lerobot/bin/lerobot-teleoperate\0",
        "15": b"/usr/sbin/ModemManager\0",
        "16": b"vim\0notes about lerobot\0",
    }
    for pid, line in lines.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(line)
    said = words(doctor_ports.rival_checks(aloha, tmp_path))
    assert "rosmaster (pid 12) runs; it is ROS" in said
    assert "xs_sdk (pid 13) runs; it is an Interbotix ROS node" in said
    assert "lerobot (pid 14) runs; it is LeRobot" in said
    assert "sudo apt purge modemmanager" in said
    assert "pid 16" not in said


# Network


def test_keys_that_lack_or_that_others_may_read_are_told(aloha: Rig, tmp_path: Path) -> None:
    """Each file by its name."""
    peers = {"gpu_box": "commander"}
    security = {"key_dir": str(tmp_path), "identity": "rig", "peers": peers}
    rig = aloha.replaced(network={"security": security})
    said = words(doctor_network.key_checks(rig))
    assert "lacks rig.key_secret, gpu_box.key" in said
    secret = tmp_path / "rig.key_secret"
    secret.write_text("")
    secret.chmod(0o640)
    (tmp_path / "gpu_box.key").write_text("")
    assert f"run: chmod 600 {secret}" in words(doctor_network.key_checks(rig))
    secret.chmod(0o600)
    assert "own pair rig, 1 peers" in words(doctor_network.key_checks(rig))
    assert list(doctor_network.key_checks(aloha)) == []


def test_another_machine_is_reached_or_told(aloha: Rig, tmp_path: Path) -> None:
    """Up without its program is fine; a name that nobody knows is not."""
    security = {"key_dir": str(tmp_path), "identity": "rig", "peers": {"box": "commander"}}

    def told(address: str) -> str:
        endpoints = {"camera/cam_high/frame": {"address": address, "peer": "box"}}
        network = {"security": security, "endpoints": endpoints}
        return words(doctor_network.peer_checks(aloha.replaced(network=network)))

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        assert "answers" in told(f"tcp://127.0.0.1:{port}")
    assert "nobody publishes" in told(f"tcp://127.0.0.1:{port}")
    assert "its name is not known here" in told("tcp://no.such.host.invalid:5600")


# udev


def test_rules_are_printed_with_names_for_what_is_plugged_in(aloha: Rig, tmp_path: Path) -> None:
    """Adapters by serial number, cameras by port; nothing is named by guessing."""
    plug(tmp_path, "tty", "ttyUSB0", "1-1", 480, serial="FT6Z5TLE")
    plug(tmp_path, "video4linux", "video0", "2-1", 5000)
    files = udev.rule_files(aloha, tmp_path)
    text = udev.shown(files)
    assert 'ATTRS{idProduct}=="6014", ATTR{device/latency_timer}="1"' in text
    assert 'ENV{ID_MM_DEVICE_IGNORE}="1"' in text
    assert 'ATTRS{idVendor}=="256f"' in text
    lines = files[udev.NAMES_FILE].splitlines()
    assert all(line.startswith("#") for line in lines)
    assert any('ATTRS{serial}=="FT6Z5TLE"' in li and "ttyDXL_leader_left" in li for li in lines)
    assert any('KERNELS=="2-1"' in line and "CAM_HIGH" in line for line in lines)


def test_rules_are_installed_once_and_edited_names_stay(aloha: Rig, tmp_path: Path) -> None:
    """A second time nothing is written."""
    plug(tmp_path / "sys", "tty", "ttyUSB0", "1-1", 480, serial="FT6Z5TLE")
    files = udev.rule_files(aloha, tmp_path / "sys")
    (tmp_path / "etc/udev/rules.d").mkdir(parents=True)
    assert udev.missing(aloha, tmp_path) == ["U2D2 adapters"]
    assert all(line.endswith(" written") for line in udev.install(files, tmp_path))
    assert udev.missing(aloha, tmp_path) == []
    names = tmp_path / udev.NAMES_FILE.lstrip("/")
    names.write_text("mine")
    done = "\n".join(udev.install(files, tmp_path))
    assert done.count("up to date") == 2
    assert "stays as it is" in done
    assert names.read_text() == "mine"
    mice = next(tmp_path.rglob("70-tandem-spacemouse.rules"))
    mice.write_text("with a line of mine")
    assert "70-tandem-spacemouse.rules.old" in "\n".join(udev.install(files, tmp_path))
    assert mice.with_name(f"{mice.name}.old").read_text() == "with a line of mine"


def test_a_user_who_may_not_write_rules_is_told_the_command(
    aloha: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a machine without udev is told as such."""

    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(DeviceError, match="does this machine use udev"):
        udev.install(udev.rule_files(None, tmp_path), tmp_path)
    monkeypatch.setattr(Path, "write_text", forbidden)  # root is never refused
    with pytest.raises(DeviceError, match=r"by root only; run: sudo .*doctor --install-udev"):
        udev.install(udev.rule_files(None, tmp_path), tmp_path)


def test_the_command_for_sudo_is_the_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its full path, even where no virtual environment is activated: sudo searches none."""
    command = tmp_path / "bin/tandem"
    command.parent.mkdir()
    command.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr("sys.argv", ["bin/tandem", "doctor"])
    assert install_udev() == f"sudo {command} doctor --install-udev"


def test_the_command_prints_rules_without_a_rig(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permissions are the first thing that a new machine needs."""
    assert cli.main(["doctor", "--udev", "--hardware", str(tmp_path / "none.yaml")]) == 0
    assert "# --- /etc/udev/rules.d/70-tandem-dynamixel.rules" in capsys.readouterr().out


# Calibration


def test_missing_calibration_is_one_warning_for_all_arms(aloha: Rig, tmp_path: Path) -> None:
    """With the command that makes it; a file that is none fails."""
    hardware = tmp_path / "hardware.yaml"
    checks: list[Check] = list(calibration_checks(aloha, hardware, tmp_path))
    assert [check.status for check in checks] == ["warn", "warn"]
    arms = ", ".join(aloha.arms)
    assert f"{arms}: joints not checked" in words(checks)
    assert "run tandem calibrate" in checks[0].remedy
    folder = tmp_path / "hardware.calibration"
    folder.mkdir()
    (folder / "arm_left_leader.yaml").write_text(yaml.safe_dump({"schema_version": 99}))
    said = words(calibration_checks(aloha, hardware, tmp_path))
    assert said.startswith("fail  calibration")
    assert "is of version 99" in said
    assert [file.name for file in folder.iterdir()] == ["arm_left_leader.yaml"]


def test_arms_are_looked_at_with_their_calibration(aloha: Rig, tmp_path: Path) -> None:
    """As a session sees them; results that do not fit are not applied."""
    hardware = tmp_path / "hardware.yaml"
    arm = "left_leader"
    devices = {arm: identities_of(aloha)[arm]}
    values = GripperValues(closed_rad=-0.5, open_rad=0.4)
    folder = tmp_path / "hardware.calibration"
    write_result(make_result("gripper", arm, values, {}, devices, "me"), folder)
    assert calibrated(aloha, hardware).arms[arm].model_dump()["gripper_open_rad"] == 0.4
    devices[arm] = {**devices[arm], "servo 9": "XL430-W250"}
    write_result(make_result("gripper", arm, values, {}, devices, "me"), folder)
    assert calibrated(aloha, hardware).arms[arm].model_dump()["gripper_open_rad"] is None
    said = said_of(calibration_checks(aloha, hardware, tmp_path), "fail")
    assert "belongs to another left_leader: servo 9 is XC430-W150, was XL430-W250" in said
