"""The rig file: what is shipped is valid, and every fault is told, all at once, by its path."""

from pathlib import Path

import pytest
import yaml

from teleop.addresses import address_of, topics_of
from teleop.errors import RigError, UnknownNameError
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree() -> dict:
    """The shipped file as plain mappings."""
    return yaml.safe_load((ROOT / "hardware.yaml").read_text())


def load(tree: dict, folder: Path) -> Rig:
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_rig(path)


def faults(tree: dict, folder: Path) -> str:
    with pytest.raises(RigError) as caught:
        load(tree, folder)
    return str(caught.value)


def test_the_shipped_rig_is_a_four_arm_aloha() -> None:
    """Two leaders, two followers, four cameras, real device paths."""
    rig = load_rig(ROOT / "hardware.yaml")
    assert len(rig.leaders) == len(rig.followers) == 2
    assert len(rig.cameras) == 4
    assert all(arm.port.startswith("/dev/") for arm in rig.arms.values())
    assert [j.name for j in rig.arm_model("left_follower").joints] == [
        "waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate",
    ]  # fmt: skip


def test_all_faults_are_told_together_with_their_paths(tree: dict, tmp_path: Path) -> None:
    """A typo, a wrong type and a missing key come in one report."""
    tree["arms"]["left_leader"]["bauds"] = 9600
    tree["rates"]["arm_hz"] = "fast"
    del tree["cameras"]["cam_high"]["fps"]
    report = faults(tree, tmp_path)
    assert "arms.left_leader.bauds: unknown key" in report.replace("dynamixel.", "")
    assert "rates.arm_hz" in report
    assert "'fast'" in report
    assert "cam_high" in report
    assert "fps: missing" in report


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("arms", "left_follower", "leader"), "nobody", "no leader arm 'nobody'"),
        (("arms", "left_follower", "model"), "vx300", "no arm model 'vx300'"),
        (("arms", "left_follower", "port"), "/dev/ttyDXL_leader_left", "both use"),
        (("arms", "left_follower", "baud"), 123, "123 is not one of"),
        (("arms", "right_follower", "leader"), "left_leader", "followed by two arms"),
        (("arm_models", "vx300s", "start_rad"), [0, 0, 0], "3 values for 6 joints"),
        (("arm_models", "vx300s", "start_rad"), [0, -3, 0, 0, 0, 0], "outside its limits"),
        (("arm_models", "vx300s", "max_velocity_rad_s"), -1, "greater than 0"),
        (("arm_models", "vx300s", "kinematics"), "vx30s", "did you mean vx300s"),
        (("arms", "left_follower", "driver"), "vipex", "no driver 'vipex'; known: dynamixel"),
        (("inputs",), {"mouse": {}}, "inputs.mouse.driver: missing"),
        (("safety", "stale_command_s"), float("nan"), "finite number"),
        (("tasks", "insertion", "cameras"), ["cam_top"], "no camera 'cam_top'"),
        (("operator", "keys"), {"start": "q"}, "'q' is used for start, quit"),
        (("operator", "keys"), {"start": "Q"}, "start 'Q', quit 'q' differ only by case"),
        (("network",), {"base_port": 65_000, "host": "127.0.0.1", "extra": 1}, "unknown key"),
        (("schema_version",), 2, "schema_version"),
    ],
)
def test_a_wrong_value_is_named(
    tree: dict, tmp_path: Path, path: tuple[str, ...], value: object, words: str
) -> None:
    """Each kind of fault says where it is and what was seen."""
    part = tree
    for key in path[:-1]:
        part = part.setdefault(key, {})
    part[path[-1]] = value
    assert words in faults(tree, tmp_path)


PUCK = {"driver": "spacemouse"}
OPENVR = {"driver": "openvr", "hand": "right"}
WEBXR = {"driver": "webxr", "hand": "right"}
PILOT = {
    "driver": "franka_desk",
    "address": "172.16.0.2",
    "username": "me",
    "password_file": "secret",
    "arm": "left_follower",
}


@pytest.mark.parametrize(
    ("device", "button", "words"),
    [
        (PUCK, "button_32", "unknown spacemouse button 'button_32'; did you mean"),
        (OPENVR, "foo", "unknown openvr button 'foo'; known: a, b, menu, squeeze, thumbstick"),
        (WEBXR, "menu", "unknown webxr button 'menu'; known: a, b, squeeze, thumbstick"),
        (PILOT, "chek", "unknown franka_desk button 'chek'; did you mean check"),
    ],
)
def test_a_button_that_the_device_does_not_have_is_refused(
    tree: dict, tmp_path: Path, device: dict, button: str, words: str
) -> None:
    """An emergency stop on a button that does not exist would never be heard."""
    tree["inputs"] = {"hand": {**device, "buttons": {button: "emergency_stop"}}}
    assert f"inputs.hand.buttons: {words}" in faults(tree, tmp_path)


@pytest.mark.parametrize(
    ("path", "bound", "beyond"),
    [
        ("arm_models.vx300s.joints.0.min_rad", -6.28, -6.3),
        ("arm_models.vx300s.joints.0.max_rad", 6.28, 180),
        ("arm_models.vx300s.joints.0.max_velocity_rad_s", 10, 11),
        ("arm_models.vx300s.joints.0.max_acceleration_rad_s2", 200, 201),
        ("arm_models.vx300s.max_velocity_rad_s", 10, 314),
        ("arm_models.vx300s.max_acceleration_rad_s2", 200, 2000),
        ("arm_models.vx300s.gripper.closed_rad", -6.28, -62),
        ("arm_models.vx300s.gripper.open_rad", 6.28, 149.1),
        ("arms.left_follower.gripper_closed_rad", -6.28, -40),
        ("arms.left_follower.gripper_open_rad", 6.28, 85),
        ("rates.arm_hz", 1000, 1e4),
        ("safety.stale_command_s", 1, 100),
        ("safety.stop_silence_s", 2, 500),
        ("safety.engage_max_rad", 3.14, 30),
        ("safety.engage_velocity_rad_s", 3.14, 8),
        ("safety.homing_velocity_rad_s", 3.14, 80),
        ("safety.max_step_rad", 0.5, 20),
        ("safety.max_temperature_c", 85, 700),
    ],
)
def test_a_limit_that_would_limit_nothing_is_refused(
    tree: dict, tmp_path: Path, path: str, bound: float, beyond: float
) -> None:
    """Up to its bound a number loads; beyond, the fault names its path and the value."""
    *parents, last = path.split(".")
    part = tree
    for key in parents:
        part = part[int(key)] if isinstance(part, list) else part[key]
    part[last] = bound
    load(tree, tmp_path)
    part[last] = beyond
    report = faults(tree, tmp_path)
    assert f"{path}: Input should be" in report
    assert f"got {beyond}" in report


def test_the_demo_rig_is_valid() -> None:
    """The rig of scripts/demo keeps to the bounds, too."""
    assert load_rig(ROOT / "docs/rigs/demo.yaml").name == "demo"


def test_joint_limits_must_be_ordered(tree: dict, tmp_path: Path) -> None:
    """An impossible limit is refused, naming the joint."""
    tree["arm_models"]["vx300s"]["joints"][2]["min_rad"] = 2.0
    assert "elbow" in faults(tree, tmp_path)


def test_servo_ids_must_be_unique_shadows_included(tree: dict, tmp_path: Path) -> None:
    """A shadow with a used id is a fault."""
    tree["arm_models"]["vx300s"]["joints"][1]["shadow_id"] = 4
    assert "servo id 4 used twice" in faults(tree, tmp_path)


def test_a_follower_needs_a_leader_of_equal_joints(tree: dict, tmp_path: Path) -> None:
    """Six joints cannot follow five."""
    model = tree["arm_models"]["wx250s"]
    for key in ("joints", "start_rad", "sleep_rad"):
        model[key] = model[key][:5]
    assert "left_follower has 6 joints, its leader left_leader has 5" in faults(tree, tmp_path)


def test_a_file_may_extend_another(tmp_path: Path) -> None:
    """Mappings are merged, null removes, the rest is replaced."""
    child = tmp_path / "demo.yaml"
    child.write_text(
        f"extends: {ROOT / 'hardware.yaml'}\n"
        "rates: {arm_hz: 50}\n"
        "tasks: {free: null, insertion: null, transfer_cube: {cameras: [cam_high]}}\n"
        "cameras: {cam_low: null}\n"
    )
    rig = load_rig(child)
    assert rig.rates.arm_hz == 50
    assert set(rig.cameras) == {"cam_high", "cam_left_wrist", "cam_right_wrist"}
    assert rig.tasks["transfer_cube"].cameras == ("cam_high",)
    assert set(rig.tasks) == {"transfer_cube"}


def test_the_file_that_extends_nothing_is_named(tmp_path: Path) -> None:
    """--hardware named a file that is there: what it extends is not."""
    child = tmp_path / "demo.yaml"
    child.write_text("extends: hardwear.yaml\n")
    with pytest.raises(RigError, match=r"demo\.yaml: .*\n.*extends: no such file .*hardwear"):
        load_rig(child)


def test_a_null_that_removes_nothing_is_told(tmp_path: Path) -> None:
    """A slip of the pen must not leave in what was to go."""
    child = tmp_path / "demo.yaml"
    child.write_text(
        f"extends: {ROOT / 'hardware.yaml'}\nsafty: null\n"
        "cameras: {cam_hihg: null}\narms: {left: null, right: 5}\n"
    )
    with pytest.raises(RigError) as caught:
        load_rig(child)
    for words in (
        "safty: unknown key",
        "cameras.cam_hihg: null, and `extends` gives nothing of that name",
        "arms.left: null",
        "arms.right: expected a mapping, got 5",
    ):
        assert words in str(caught.value)


def test_a_key_that_is_given_twice_is_told(tmp_path: Path) -> None:
    """YAML readers take the last one: an arm would vanish without a word."""
    path = tmp_path / "rig.yaml"
    path.write_text("name: a\narms: {left: {port: /dev/a}}\nname: b\narms: {}\n")
    with pytest.raises(RigError, match=r"arms: given twice, in lines 2 and 4"):
        load_rig(path)


def test_emulation_is_not_for_the_file(tmp_path: Path) -> None:
    """A real rig would start, and say in its episodes that it is none."""
    path = tmp_path / "rig.yaml"
    path.write_text(f"extends: {ROOT / 'hardware.yaml'}\nbackend: emulated\n")
    with pytest.raises(RigError, match="backend: not for the file; it is set by --emulate"):
        load_rig(path)


def test_files_are_named_relative_to_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is extended from another folder, and wherever the command is called."""
    (tmp_path / "arm.xml").write_text((ROOT / "teleop/models/vx300s.xml").read_text())
    (tmp_path / "parent.yaml").write_text(
        f"extends: {ROOT / 'hardware.yaml'}\narm_models: {{vx300s: {{kinematics: arm.xml}}}}\n"
        "webxr: {certificate: page.pem, key: ~/page.key}\n"
    )
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "child.yaml").write_text("extends: ../parent.yaml\n")
    monkeypatch.chdir(tmp_path / "sub")
    rig = load_rig("child.yaml")
    assert Path(rig.arm_models["vx300s"].kinematics or "") == (tmp_path / "arm.xml").resolve()
    assert rig.webxr.certificate == (tmp_path / "page.pem").resolve()
    assert rig.webxr.key == Path.home() / "page.key"


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    """A circle ends in words, not in a stack overflow."""
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RigError, match="circle"):
        load_rig(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["[1, 2", "- a list\n", "\x00\x01"])
def test_what_is_not_a_rig_file_is_refused_in_words(tmp_path: Path, text: str) -> None:
    """Broken YAML and wrong shapes give one RigError."""
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(RigError, match=r"rig\.yaml"):
        load_rig(path)


def test_a_missing_file_says_which_option_names_one(tmp_path: Path) -> None:
    """The remedy is in the sentence."""
    with pytest.raises(RigError, match="--hardware"):
        load_rig(tmp_path / "none.yaml")


def test_every_topic_has_an_address_of_its_own(aloha: Rig) -> None:
    """No two topics share a port."""
    addresses = [address_of(aloha, topic) for topic in topics_of(aloha)]
    assert len(set(addresses)) == len(addresses)


def test_an_unknown_topic_brings_the_nearest_name(aloha: Rig) -> None:
    """A typo in a topic is answered with what was probably meant."""
    with pytest.raises(UnknownNameError, match="arm/left_follower/state"):
        address_of(aloha, "arm/left_folower/state")
