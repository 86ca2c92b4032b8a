"""An Interbotix motor file instead of a hand-written servo list."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from one_arm import OneArm

from teleop.errors import RigError
from teleop.rig import Rig
from teleop.rig_files import load_rig

MOTORS = """
port: /dev/ttyDXL
joint_order: [waist, shoulder, elbow, gripper]
sleep_positions: [0, -1.5, 1.2, 0]
joint_state_publisher: {update_rate: 100, publish_states: true, topic_name: joint_states}
groups: {arm: [waist, shoulder, elbow]}
grippers:
  gripper: {horn_radius: 0.022, arm_length: 0.036, left_finger: left, right_finger: right}
shadows:
  shoulder: {shadow_list: [shoulder_shadow], calibrate: true}
sisters:
motors:
  waist: {ID: 1, Baud_Rate: 3, Return_Delay_Time: 0, Drive_Mode: 0, Velocity_Limit: 131,
          Min_Position_Limit: 0, Max_Position_Limit: 4095, Secondary_ID: 255}
  shoulder: {ID: 2, Baud_Rate: 3, Return_Delay_Time: 0, Drive_Mode: 1, Velocity_Limit: 131,
             Min_Position_Limit: 841, Max_Position_Limit: 2867, Secondary_ID: 255}
  shoulder_shadow: {ID: 3, Baud_Rate: 3, Return_Delay_Time: 0, Drive_Mode: 0,
                    Velocity_Limit: 131, Min_Position_Limit: 841, Max_Position_Limit: 2867,
                    Secondary_ID: 2}
  elbow: {ID: 4, Baud_Rate: 3, Return_Delay_Time: 0, Drive_Mode: 1, Velocity_Limit: 100,
          Min_Position_Limit: 898, Max_Position_Limit: 3094, Secondary_ID: 255}
  gripper: {ID: 5, Baud_Rate: 3, Return_Delay_Time: 0, Drive_Mode: 0, Velocity_Limit: 131,
            Min_Position_Limit: 0, Max_Position_Limit: 4095, Secondary_ID: 255,
            Current_Limit: 200}
"""

HARDWARE = """
name: mine
arm_models:
  mini:
    motor_config: motors.yaml
    gripper: {closed_rad: -0.6, open_rad: 1.5}
    start_rad: [0, -1.0, 1.0]
arms:
  solo: {role: follower, model: mini, port: /dev/ttyDXL}
"""


def rig_from(folder: Path, motors: str = MOTORS, hardware: str = HARDWARE) -> Rig:
    (folder / "motors.yaml").write_text(motors)
    (folder / "hardware.yaml").write_text(hardware)
    return load_rig(folder / "hardware.yaml")


def without(*path: str) -> str:
    """The motor file with one part taken out."""
    tree: Any = yaml.safe_load(MOTORS)
    part = tree
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return yaml.safe_dump(tree, sort_keys=False)


def test_the_file_gives_joints_limits_shadows_and_gripper(tmp_path: Path) -> None:
    """Ticks become radians as Interbotix counts them: (tick - 2048) 2 pi / 4096."""
    model = rig_from(tmp_path).arm_models["mini"]
    waist, shoulder, elbow = model.joints
    assert [joint.name for joint in model.joints] == ["waist", "shoulder", "elbow"]
    assert (shoulder.id, shoulder.reverse) == (2, True)
    assert (shoulder.shadow_id, shoulder.shadow_reverse) == (3, False)
    assert (shoulder.min_rad, shoulder.max_rad) == pytest.approx((-1.8515, 1.2563), abs=1e-4)
    assert waist.min_rad == pytest.approx(-3.1416, abs=1e-4)
    assert elbow.shadow_id is None
    assert model.max_velocity_rad_s == pytest.approx(100 * 0.229 * 6.2832 / 60, abs=1e-3)
    assert model.sleep_rad == (0.0, -1.5, 1.2)
    assert model.gripper is not None
    assert (model.gripper.id, model.gripper.horn_radius_m) == (5, 0.022)
    assert model.gripper.current_limit_a == pytest.approx(0.538)


def test_what_hardware_yaml_says_comes_first(tmp_path: Path) -> None:
    """Start pose, gripper angles, a lower speed."""
    hardware = HARDWARE.replace("    start_rad", "    max_velocity_rad_s: 1.5\n    start_rad")
    model = rig_from(tmp_path, hardware=hardware).arm_models["mini"]
    assert model.start_rad == (0.0, -1.0, 1.0)
    assert model.max_velocity_rad_s == 1.5
    assert model.gripper is not None
    assert (model.gripper.closed_rad, model.gripper.open_rad) == (-0.6, 1.5)


def test_unknown_gripper_angles_are_asked_for_not_guessed(tmp_path: Path) -> None:
    """A guessed closed angle would press the fingers together."""
    hardware = HARDWARE.replace("    gripper: {closed_rad: -0.6, open_rad: 1.5}\n", "")
    with pytest.raises(RigError, match=r"add gripper: \{closed_rad, open_rad\} beside it"):
        rig_from(tmp_path, hardware=hardware)


@pytest.mark.parametrize(
    ("motors", "why"),
    [
        (without("motors"), "lacks 'motors'"),
        (without("motors", "elbow", "ID"), "lacks 'ID'"),
        (without("motors", "elbow"), "lacks 'elbow'"),
        (
            MOTORS.replace("Secondary_ID: 2}", "Secondary_ID: 4}"),
            "shoulder_shadow has Secondary_ID",
        ),
        (MOTORS.replace("[0, -1.5, 1.2, 0]", "[0, -1.5]"), "not a usable Interbotix"),
        ("just text", "not a usable Interbotix"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_file_with_a_fault_is_refused_in_one_sentence(
    tmp_path: Path, motors: str, why: str
) -> None:
    """With the path in the rig file and the name of the motor file."""
    with pytest.raises(RigError) as caught:
        rig_from(tmp_path, motors=motors)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith("arm_models.mini.motor_config: ")
    assert "motors.yaml" in caught.value.faults[0]
    assert why in caught.value.faults[0]


def test_any_servo_model_is_accepted_and_asked_for_its_unit(tmp_path: Path) -> None:
    """The file does not name models, so the ping decides; the emulator needs names."""
    rig = rig_from(tmp_path)
    tree = rig.model_dump()
    for joint in tree["arm_models"]["mini"]["joints"]:
        joint["servo"] = "XM540-W270"
    tree["arm_models"]["mini"]["gripper"]["servo"] = "XL430-W250"
    one = OneArm(Rig.model_validate(tree), "solo", described_by=rig)
    one.arm.connect()
    reading = one.arm.read()
    assert reading.gripper_effort != reading.gripper_effort
    assert (reading.effort == reading.effort).all()
