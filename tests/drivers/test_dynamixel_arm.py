"""The Dynamixel arm driver on an emulated bus: set-up, reading, moving, torque."""

import numpy as np
import pytest
from one_arm import REST_RAD, OneArm, changed_arm, changed_model

from drivers.dynamixel import table
from drivers.registry import open_arm, open_camera
from teleop.clock import VirtualClock
from teleop.errors import DeviceError, SafetyError, UnknownNameError
from teleop.rig import Rig

JOINTS = 6
TICK = table.RAD_PER_TICK


@pytest.fixture
def follower(aloha: Rig) -> OneArm:
    """A connected ViperX 300."""
    one = OneArm(aloha, "left_follower")
    one.arm.connect()
    return one


@pytest.fixture
def leader(aloha: Rig) -> OneArm:
    """A connected WidowX 250."""
    one = OneArm(aloha, "left_leader")
    one.arm.connect()
    return one


def test_joints_read_as_their_angles(follower: OneArm) -> None:
    """Whatever the drive mode of a servo, the driver reports the joint's own angle."""
    reading = follower.arm.read()
    assert reading.position_rad == pytest.approx(REST_RAD[:JOINTS], abs=TICK)
    assert follower.arm.joint_names[1] == "shoulder"
    assert reading.stamp_ns == follower.clock.now_ns()


def test_opening_is_zero_closed_and_one_open(follower: OneArm) -> None:
    """The model's angles are the ends of the stroke."""
    for angle, opening in ((-0.6213, 0.0), (1.4910, 1.0), (0.43485, 0.5)):
        follower.place((*REST_RAD[:JOINTS], angle))
        assert follower.arm.read().gripper == pytest.approx(opening, abs=1e-3)


def test_an_arms_own_gripper_calibration_comes_first(aloha: Rig) -> None:
    """gripper_closed_rad and gripper_open_rad of the arm, before its model's."""
    rig = changed_arm(aloha, "left_follower", gripper_closed_rad=0.0, gripper_open_rad=1.0)
    one = OneArm(rig, "left_follower")
    one.arm.connect()
    assert one.arm.read().gripper == pytest.approx(0.5, abs=1e-3)
    one.arm.set_torque(True, True)
    one.arm.write(np.array(REST_RAD[:JOINTS]), 0.25)
    assert one.goals_rad()[-1] == pytest.approx(0.25, abs=TICK)


def test_effort_is_in_ampere_and_nan_without_a_sensor(follower: OneArm, leader: OneArm) -> None:
    """The XL430 and XC430 of a leader's wrist and gripper have no current register."""
    assert np.isfinite(follower.arm.read().effort).all()
    reading = leader.arm.read()
    assert np.isnan(reading.effort).tolist() == [False] * 5 + [True]
    assert reading.gripper_effort is not None
    assert np.isnan(reading.gripper_effort)


def test_connecting_leaves_torque_as_it_was(follower: OneArm) -> None:
    """A fresh arm stays limp; an arm that holds goes on holding."""
    assert not any(follower.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    follower.arm.set_torque(True, True)
    goals = follower.goals_rad()
    follower.arm.close()
    follower.arm.connect()
    assert all(follower.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    assert follower.goals_rad() == goals


def test_torque_on_holds_where_the_arm_is(follower: OneArm) -> None:
    """An old goal must not move the arm when torque comes."""
    follower.set_register(1, table.GOAL_POSITION, 3000)
    follower.chain.servo(1).goal_given = True
    follower.arm.set_torque(True, True)
    assert follower.goals_rad() == pytest.approx(REST_RAD, abs=TICK)


def test_shadows_get_torque_through_their_secondary_id(follower: OneArm) -> None:
    """The driver speaks to primaries only."""
    follower.arm.set_torque(True, False)
    on = [i for i in range(1, 10) if follower.register(i, table.TORQUE_ENABLE)]
    assert on == [1, 2, 3, 4, 5, 6, 7, 8]


def test_gripper_alone_can_be_let_go(leader: OneArm) -> None:
    """As operators need it to close a leader's gripper at the start of an episode."""
    leader.arm.set_torque(True, True)
    leader.arm.set_torque(True, False)
    assert leader.register(9, table.TORQUE_ENABLE) == 0
    assert leader.register(8, table.TORQUE_ENABLE) == 1


def test_goals_go_to_the_servos(follower: OneArm) -> None:
    """Joint angles and opening arrive as the motion model's goals."""
    follower.arm.set_torque(True, True)
    goal = np.array(REST_RAD[:JOINTS]) + 0.1
    follower.arm.write(goal, 1.0)
    assert follower.goals_rad() == pytest.approx([*goal, 1.4910], abs=TICK)
    follower.arm.write(goal - 0.1, None)
    assert follower.goals_rad() == pytest.approx((*REST_RAD[:JOINTS], 1.4910), abs=TICK)


def test_goals_beyond_a_limit_go_to_the_limit(follower: OneArm) -> None:
    """Others joints' goals are not dropped; the gripper stays within its stroke."""
    follower.arm.set_torque(True, True)
    follower.arm.write(np.array([0.0, -9.0, 9.0, 0.0, 0.0, 0.2]), 7.0)
    expected = [0.0, -1.850, 1.605, 0.0, 0.0, 0.2, 1.4910]
    assert follower.goals_rad() == pytest.approx(expected, abs=TICK)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_goal_that_is_no_number_is_refused(follower: OneArm, bad: float) -> None:
    """It would otherwise become the lowest tick."""
    follower.arm.set_torque(True, True)
    goals = follower.goals_rad()
    position = np.array(REST_RAD[:JOINTS])
    position[2] = bad
    with pytest.raises(SafetyError, match="not a finite number"):
        follower.arm.write(position, 0.5)
    with pytest.raises(SafetyError, match="not a finite number"):
        follower.arm.write(np.zeros(JOINTS), bad)
    with pytest.raises(SafetyError, match="5 joint goals for 6 joints"):
        follower.arm.write(np.zeros(5), 0.5)
    assert follower.goals_rad() == goals


def test_gripper_presses_with_its_current_limit_at_most(follower: OneArm) -> None:
    """Current-based position mode, 0.538 A / 2.69 mA = 200 units."""
    assert follower.register(9, table.OPERATING_MODE) == table.MODE_CURRENT_BASED_POSITION
    assert follower.register(9, table.GOAL_CURRENT) == 200


def test_current_based_mode_needs_a_servo_that_has_it(aloha: Rig) -> None:
    """An XC430 gripper cannot do it, and the message says what can."""
    gripper = aloha.arm_models["wx250s"].gripper
    assert gripper is not None
    bad = gripper.model_dump() | {"operating_mode": "current_based_position"}
    one = OneArm(changed_model(aloha, "wx250s", gripper=bad), "left_leader")
    with pytest.raises(DeviceError, match="XC430-W150, has no current control"):
        one.arm.connect()


def test_gains_and_profiles_are_set(aloha: Rig) -> None:
    """Profile in servo units of 0.229 rpm and 214.577 rev/min^2; gains also at the shadow."""
    joints = [joint.model_dump() for joint in aloha.arm_models["vx300s"].joints]
    joints[1].update(position_p=1200, position_d=300)
    rig = changed_model(
        aloha,
        "vx300s",
        joints=joints,
        profile_velocity_rad_s=3.1416,
        profile_acceleration_rad_s2=7.49,
    )
    one = OneArm(rig, "left_follower")
    one.arm.connect()
    for servo_id in (2, 3):
        assert one.register(servo_id, table.POSITION_P) == 1200
        assert one.register(servo_id, table.POSITION_D) == 300
        assert one.register(servo_id, table.PROFILE_VELOCITY) == 131
        assert one.register(servo_id, table.PROFILE_ACCELERATION) == 20
    assert one.register(4, table.POSITION_P) == 800


def test_a_shadow_is_brought_to_its_primarys_position(aloha: Rig) -> None:
    """Its homing offset is EEPROM of its own; both drive modes, both directions."""
    for name in ("left_follower", "left_leader"):
        one = OneArm(aloha, name)
        one.set_register(3, table.HOMING_OFFSET, 57)
        one.set_register(5, table.HOMING_OFFSET, -31)
        one.arm.connect()
        assert abs(one.register(3, table.HOMING_OFFSET)) <= 4
        assert abs(one.register(5, table.HOMING_OFFSET)) <= 4


def test_a_shadow_mounted_the_other_way_is_refused(aloha: Rig) -> None:
    """It would work against its primary; beyond a quarter turn no offset helps."""
    one = OneArm(aloha, "left_follower")
    one.chain.servo(3).reverse = True
    with pytest.raises(DeviceError, match=r"shoulder \(shadow\) \(id 3\) reads 2\.40 rad away"):
        one.arm.connect()
    assert one.register(3, table.HOMING_OFFSET) == 0


def test_eeprom_is_put_right_while_torque_is_off(aloha: Rig) -> None:
    """Drive mode, operating mode, return delay, secondary id, limits tighter than ours."""
    one = OneArm(aloha, "left_follower")
    one.set_register(1, table.RETURN_DELAY, 250)
    one.set_register(2, table.DRIVE_MODE, 0)
    one.set_register(4, table.OPERATING_MODE, 1)
    one.set_register(5, table.SECONDARY_ID, 255)
    one.set_register(6, table.MIN_POSITION, 1000)
    one.set_register(6, table.SECONDARY_ID, 1)
    one.arm.connect()
    assert one.register(1, table.RETURN_DELAY) == 0
    assert one.register(2, table.DRIVE_MODE) == 1
    assert one.register(4, table.OPERATING_MODE) == 3
    assert one.register(5, table.SECONDARY_ID) == 4
    assert one.register(6, table.MIN_POSITION) == 0
    assert one.register(6, table.SECONDARY_ID) == 255


def test_eeprom_is_left_alone_while_the_arm_holds(follower: OneArm) -> None:
    """Changing it would need torque off, and the arm would fall."""
    follower.arm.set_torque(True, True)
    follower.arm.close()
    follower.set_register(7, table.DRIVE_MODE, 0)
    with pytest.raises(DeviceError, match=r"wrist_angle \(id 7\) has drive mode 0 and needs 1"):
        follower.arm.connect()
    assert follower.register(7, table.TORQUE_ENABLE) == 1


def test_the_watchdog_is_armed_on_followers_only(follower: OneArm, leader: OneArm) -> None:
    """0.2 s in units of 20 ms, shadows too; closing disarms it and the arm goes on holding."""
    for one, armed in ((follower, 10), (leader, 0)):
        one.arm.set_torque(True, True)
        assert {one.register(i, table.BUS_WATCHDOG) for i in range(1, 10)} == {armed}
        one.arm.close()
        assert {one.register(i, table.BUS_WATCHDOG) for i in range(1, 10)} == {0}
        assert {one.register(i, table.TORQUE_ENABLE) for i in range(1, 10)} == {1}


def test_health_goes_round_all_servos(follower: OneArm) -> None:
    """One packet per call; shadows included."""
    follower.set_register(5, table.PRESENT_TEMPERATURE, 61)
    for _ in range(18):
        health = follower.arm.poll_health()
    assert health.ok
    assert health.values["elbow_shadow_temperature_c"] == 61
    assert sum(name.endswith("_temperature_c") for name in health.values) == 9
    assert health.values["waist_voltage_v"] == pytest.approx(12.0)


def test_fast_sync_read_gives_the_same_reading(aloha: Rig) -> None:
    """An option for servos with new firmware."""
    one = OneArm(changed_arm(aloha, "left_follower", fast_sync_read=True), "left_follower")
    one.arm.connect()
    assert one.arm.read().position_rad == pytest.approx(REST_RAD[:JOINTS], abs=TICK)


def test_an_arm_without_gripper_works(aloha: Rig) -> None:
    """Openings are then None, and a commanded one goes nowhere."""
    one = OneArm(changed_model(aloha, "vx300s", gripper=None), "left_follower")
    one.arm.connect()
    assert not one.arm.has_gripper
    assert one.arm.read().gripper is None
    one.arm.set_torque(True, True)
    one.arm.write(np.zeros(JOINTS), 0.5)


def test_the_registry_names_what_it_cannot_open(aloha: Rig) -> None:
    """Unknown names with near ones; virtual addresses without a world."""
    clock = VirtualClock()
    with pytest.raises(UnknownNameError, match="did you mean left_leader"):
        open_arm("left_leadr", aloha, clock, None)
    with pytest.raises(UnknownNameError, match="unknown camera"):
        open_camera("cam_hi", aloha, clock, None)
    rig = changed_arm(aloha, "left_leader", port="virtual:left_leader")
    with pytest.raises(DeviceError, match="exists only in the lockstep emulation"):
        open_arm("left_leader", rig, clock, None).connect()
