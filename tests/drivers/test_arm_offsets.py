"""Calibrated zeros in force: the driver speaks true angles, the servos their own."""

from pathlib import Path

import numpy as np
import pytest
from calibration_bench import ScriptedGuide, Workshop
from one_arm import REST_RAD, OneArm, changed_arm

from calibration.result_values import ArmValues
from calibration.results import Results
from calibration.rules import applied, check_calibration
from drivers.calibrate.arm import ArmPlan, calibrate_arm
from drivers.dynamixel import table
from teleop.rig import Rig

TICK = table.RAD_PER_TICK
OFFSETS = {"waist": 0.1, "elbow": -0.05, "wrist_rotate": 0.6}


@pytest.fixture
def one(aloha: Rig) -> OneArm:
    """A follower whose horns are off, and a rig that knows by how much."""
    told = changed_arm(aloha, "left_follower", joint_offsets_rad=OFFSETS)
    made = OneArm(aloha, "left_follower", described_by=told)
    for servo in made.chain.servos:
        joint = made.bank.axes[servo.axis].name
        servo.mounted_rad = -OFFSETS.get(joint, 0.0)
    made.arm.connect()
    return made


def test_readings_are_the_joints_true_angles(one: OneArm) -> None:
    """Whatever the servos count."""
    assert one.arm.read().position_rad == pytest.approx(REST_RAD[:6], abs=TICK)


def test_goals_take_the_joints_to_their_true_angles(one: OneArm) -> None:
    """And torque coming on does not move the arm."""
    one.arm.set_torque(True, True)
    assert one.goals_rad() == pytest.approx(REST_RAD, abs=TICK)
    goal = np.array([0.5, -1.0, 1.0, 0.2, 0.1, -0.4])
    one.arm.write(goal, None)
    assert one.goals_rad()[:6] == pytest.approx(goal, abs=TICK)


def test_limits_hold_for_the_true_angle(one: OneArm) -> None:
    """In the driver's clamp and in the servo's own limit registers."""
    elbow = one.rig.arm_model("left_follower").joints[2]
    one.arm.set_torque(True, True)
    for far, limit in ((9.0, elbow.max_rad), (-9.0, elbow.min_rad)):
        one.arm.write(np.array([0.1, -1.2, far, -0.2, 0.4, 0.3]), None)
        assert one.goals_rad()[2] == pytest.approx(limit, abs=2 * TICK)
    highest = one.register(elbow.id, table.MAX_POSITION)
    assert highest >= table.tick_from_rad(elbow.max_rad - OFFSETS["elbow"])


def test_a_calibrated_arm_agrees_with_its_reference(aloha: Rig) -> None:
    """From crooked horns through the result to a driver that reads true, within a tick; and
    measuring again with the offsets in force changes nothing."""
    arms = {n: a.model_dump() for n, a in aloha.arms.items() if n.startswith("left")}
    shop = Workshop(aloha.replaced(arms=arms))
    shop.mount("left_follower", waist=37, elbow=-90, wrist_rotate=400)
    rng = np.random.default_rng(0)

    def act(number: int, text: str) -> bool:
        if number:
            pose = np.array([0.0, -0.9, 0.9, 0.0, -0.2, 0.0]) + rng.uniform(-0.25, 0.25, 6)
            shop.place("left_follower", pose)
            shop.place("left_leader", pose)
        return True

    plan = ArmPlan("left_follower", "left_leader", apply=True)
    leader = shop.arm("left_leader")
    rig = shop.rig
    for _ in range(2):
        arm = shop.arm("left_follower", rig)
        guide = ScriptedGuide(act)
        result, fit = calibrate_arm(plan, rig, arm, leader, shop.clock, guide)
        arm.close()
        results = Results(Path("hardware.calibration"), {result.stem: result})
        rig = applied(shop.rig, results)
    assert fit.offset_rad == pytest.approx([0.0] * 6, abs=TICK)
    found = result.values_as(ArmValues).offsets_rad
    assert found["elbow"] == pytest.approx(90 * TICK, abs=TICK)
    truth = shop.joints_rad("left_follower")
    reading = shop.arm("left_follower", rig).read()
    assert reading.position_rad == pytest.approx(truth, abs=TICK)
    told = [f.words for f in check_calibration(shop.rig, results) if "arm_" in f.words]
    assert told == []
