"""Calibrating joints and grippers on the emulated rig, whose servos' horns sit off their marks."""

from pathlib import Path

import numpy as np
import pytest
from calibration_bench import JOINTS, ScriptedGuide, Workshop

from calibration.result_values import ArmValues, GripperValues
from drivers.calibrate.arm import ArmPlan, calibrate_arm, report
from drivers.calibrate.gripper import CLEARANCE_RAD, GripperPlan, calibrate_gripper, widened
from drivers.calibrate.guide import StoppedError
from drivers.dynamixel.table import RAD_PER_TICK
from drivers.identity import adapter_serial, identity_of
from teleop.errors import DeviceError
from teleop.rig import Rig

HOME = np.array([0.0, -0.9, 0.9, 0.0, -0.2, 0.0])
MOUNTED = {
    "waist": 37,
    "shoulder": -12,
    "elbow": 5,
    "forearm_roll": -80,
    "wrist_angle": 3,
    "wrist_rotate": 400,
}
"""Ticks."""
OPEN_STOP_RAD, CLOSED_STOP_RAD = 1.59, -0.72
"""Range of the emulated follower's gripper servo, ``scene/follower.xml``."""


@pytest.fixture
def shop(aloha: Rig) -> Workshop:
    """One side of the rig: a leader and its follower."""
    arms = {n: a.model_dump() for n, a in aloha.arms.items() if n.startswith("left")}
    return Workshop(aloha.replaced(arms=arms))


def hands_that_align(shop: Workshop, unlike_rad: float = 0.0) -> ScriptedGuide:
    """An operator who puts both arms into the same poses, within this much per joint."""
    rng = np.random.default_rng(0)

    def act(number: int, text: str) -> bool:
        if number:
            pose = HOME + rng.uniform(-0.25, 0.25, 6)
            shop.place("left_follower", pose)
            shop.place("left_leader", pose + rng.uniform(-unlike_rad, unlike_rad, 6))
        return True

    return ScriptedGuide(act)


def compare(shop: Workshop, plan: ArmPlan, guide: ScriptedGuide) -> tuple[ArmValues, list[str]]:
    """Run the comparison with the real drivers; the values and the report."""
    arm, leader = shop.arm("left_follower"), shop.arm("left_leader")
    result, fit = calibrate_arm(plan, shop.rig, arm, leader, shop.clock, guide)
    return result.values_as(ArmValues), report(fit, plan.apply)


def test_offsets_of_all_joints_are_found_within_a_tick(shop: Workshop) -> None:
    """Also where a shadow servo sits right and its primary does not."""
    shop.mount("left_follower", **MOUNTED)
    shop.world.chains["left_follower"].servo(3).mounted_rad = 0.0
    plan = ArmPlan("left_follower", "left_leader", apply=True, made_by="Ada")
    values, lines = compare(shop, plan, hands_that_align(shop))
    assert set(values.offsets_rad) == set(JOINTS)
    for joint, ticks in MOUNTED.items():
        assert values.offsets_rad[joint] == pytest.approx(-ticks * RAD_PER_TICK, abs=RAD_PER_TICK)
    assert values.reference == "left_leader"
    assert any("forearm_roll" in line and "-80 ticks" in line for line in lines)


def test_by_default_the_factory_zero_stays(shop: Workshop) -> None:
    """The result only says how far it is off."""
    shop.mount("left_follower", **MOUNTED)
    arm, leader = shop.arm("left_follower"), shop.arm("left_leader")
    plan = ArmPlan("left_follower", "left_leader")
    guide = hands_that_align(shop)
    result, _ = calibrate_arm(plan, shop.rig, arm, leader, shop.clock, guide)
    assert set(result.values_as(ArmValues).offsets_rad.values()) == {0.0}
    assert result.residuals["factory_offset_ticks"]["wrist_rotate"] == -400
    assert result.residuals["worst_rad"] == pytest.approx(400 * RAD_PER_TICK, abs=0.01)
    assert result.devices["left_follower"]["servo 9"] == "XM430-W350"


def test_hands_that_align_poorly_show_in_the_residual(shop: Workshop) -> None:
    """A degree of misalignment: the offset is within it and the spread tells."""
    shop.mount("left_follower", waist=37)
    plan = ArmPlan("left_follower", "left_leader", apply=True)
    arm, leader = shop.arm("left_follower"), shop.arm("left_leader")
    guide = hands_that_align(shop, unlike_rad=np.radians(1))
    result, _ = calibrate_arm(plan, shop.rig, arm, leader, shop.clock, guide)
    found = result.values_as(ArmValues).offsets_rad["waist"]
    assert found == pytest.approx(-37 * RAD_PER_TICK, abs=np.radians(1))
    assert np.radians(0.3) < result.residuals["worst_rad"] < np.radians(2.5)


def test_poses_with_known_angles_need_no_second_arm(shop: Workshop) -> None:
    """A jig holds the arm."""
    shop.mount("left_follower", elbow=20)
    jig = {"folded": HOME, "stretched": HOME + 0.3}

    def act(number: int, text: str) -> bool:
        for name, pose in jig.items():
            if name in text:
                shop.place("left_follower", pose)
        return True

    plan = ArmPlan("left_follower", known_rad={n: p.tolist() for n, p in jig.items()}, apply=True)
    arm = shop.arm("left_follower")
    result, fit = calibrate_arm(plan, shop.rig, arm, None, shop.clock, ScriptedGuide(act))
    found = result.values_as(ArmValues).offsets_rad["elbow"]
    assert found == pytest.approx(-20 * RAD_PER_TICK, abs=RAD_PER_TICK)
    assert fit.sign == (1,) * 6


@pytest.mark.parametrize("apply", [True, False])
def test_an_arm_that_never_moved_is_not_calibrated(shop: Workshop, apply: bool) -> None:
    """Whoever only presses Enter learns nothing of either arm, and nothing is taken over."""
    shop.mount("left_follower", waist=37)

    def act(number: int, text: str) -> bool:
        for arm in ("left_follower", "left_leader"):
            shop.place(arm, HOME)
        return True

    plan = ArmPlan("left_follower", "left_leader", apply=apply)
    arm, leader = shop.arm("left_follower"), shop.arm("left_leader")
    words = "left_follower: the poses were all the same; nothing was saved; .* by 9 degrees"
    with pytest.raises(DeviceError, match=words):
        calibrate_arm(plan, shop.rig, arm, leader, shop.clock, ScriptedGuide(act))
    once = ScriptedGuide(lambda number, text: number < 2)
    with pytest.raises(DeviceError, match="only one pose was compared; nothing was saved"):
        calibrate_arm(plan, shop.rig, arm, leader, shop.clock, once)


def test_a_joint_that_never_moved_keeps_the_offset_it_had(shop: Workshop) -> None:
    """The others get theirs, and the report names it."""
    shop.mount("left_follower", waist=37, wrist_rotate=400)
    arms = {n: arm.model_dump() for n, arm in shop.rig.arms.items()}
    arms["left_follower"]["joint_offsets_rad"] = {"wrist_rotate": 0.1}
    rig = shop.rig.replaced(arms=arms)
    rng = np.random.default_rng(0)

    def act(number: int, text: str) -> bool:
        pose = HOME + np.append(rng.uniform(-0.25, 0.25, 5), 0.0)
        for arm in ("left_follower", "left_leader"):
            shop.place(arm, pose)
        return True

    plan = ArmPlan("left_follower", "left_leader", apply=True)
    arm, leader = shop.arm("left_follower", rig), shop.arm("left_leader")
    result, fit = calibrate_arm(plan, rig, arm, leader, shop.clock, ScriptedGuide(act))
    offsets = result.values_as(ArmValues).offsets_rad
    assert offsets["waist"] == pytest.approx(-37 * RAD_PER_TICK, abs=RAD_PER_TICK)
    assert offsets["wrist_rotate"] == 0.1
    unapplied_rad = 400 * RAD_PER_TICK + 0.1
    assert result.residuals["worst_rad"] == pytest.approx(unapplied_rad, abs=0.01)
    lines = report(fit, applied=True)
    assert lines[-1] == "offsets are in force from now on, but not of wrist_rotate"
    assert [line for line in lines if "moved too little" in line] == [lines[-2]]


def test_a_joint_that_was_wound_up_is_refused(shop: Workshop) -> None:
    """Its goals would be out of a servo's range; the remedy is told."""
    shop.mount("left_follower", wrist_rotate=4096)
    plan = ArmPlan("left_follower", "left_leader", apply=True)
    with pytest.raises(DeviceError, match=r"wrist_rotate is wound up by \+1 turn: turn it back"):
        compare(shop, plan, hands_that_align(shop))


def test_a_joint_with_the_wrong_drive_mode_is_refused(shop: Workshop) -> None:
    """The rig file says that it is not mounted the other way round; it is."""
    servo = shop.world.chains["left_follower"].servo(6)
    servo.reverse = not servo.reverse
    plan = ArmPlan("left_follower", "left_leader")
    words = "forearm_roll turns the other way: change its reverse in arm_models.vx300s"
    with pytest.raises(DeviceError, match=words):
        compare(shop, plan, hands_that_align(shop))


def test_the_operator_can_stop(shop: Workshop) -> None:
    """Before the arm is let go nothing has happened; after a pose, those taken count."""
    arm, leader = shop.arm("left_follower"), shop.arm("left_leader")
    arm.set_torque(True, True)
    plan = ArmPlan("left_follower", "left_leader")
    never = ScriptedGuide(lambda number, text: False)
    with pytest.raises(StoppedError, match="nothing was saved"):
        calibrate_arm(plan, shop.rig, arm, leader, shop.clock, never)
    assert shop.world.chains["left_follower"].servo(1).registers.torque_on
    moving = hands_that_align(shop)
    twice = ScriptedGuide(lambda number, text: moving.act(number, text) and number < 3)
    result, _ = calibrate_arm(plan, shop.rig, arm, leader, shop.clock, twice)
    assert result.values_as(ArmValues).poses == 2
    assert not shop.world.chains["left_follower"].servo(1).registers.torque_on


def test_an_arm_that_is_not_held_still_is_not_read(shop: Workshop) -> None:
    """A swinging arm has no pose."""
    arm, leader = shop.arm("left_follower"), shop.arm("left_leader")
    plant = shop.world.plant
    dof = plant.model.joint("left_follower/waist").dofadr[0]
    pushed = shop.world.plant.step

    def step(torque: np.ndarray, hand: np.ndarray) -> None:
        plant.data.qvel[dof] = 0.2
        pushed(torque, hand)

    plant.step = step  # type: ignore[method-assign]
    plan = ArmPlan("left_follower", "left_leader")
    with pytest.raises(DeviceError, match="left_follower: still moving after 5 s"):
        calibrate_arm(plan, shop.rig, arm, leader, shop.clock, ScriptedGuide())


def test_a_gripper_finds_its_stops_by_its_motor(shop: Workshop) -> None:
    """Within 3 ticks of the emulated stops, wherever the horn sits; torque is off afterwards."""
    shop.mount("left_follower", gripper=50)
    rig = widened(shop.rig, "left_follower")
    arm = shop.arm("left_follower", rig)
    guide = ScriptedGuide()
    plan = GripperPlan("left_follower", made_by="Ada")
    result = calibrate_gripper(plan, rig, arm, shop.clock, guide)
    values = result.values_as(GripperValues)
    off = 50 * RAD_PER_TICK
    assert values.closed_rad == pytest.approx(CLOSED_STOP_RAD + off, abs=3 * RAD_PER_TICK)
    stop = values.open_rad + CLEARANCE_RAD
    assert stop == pytest.approx(OPEN_STOP_RAD + off, abs=3 * RAD_PER_TICK)
    assert not shop.world.chains["left_follower"].servo(9).registers.torque_on
    assert "nothing between its fingers" in guide.asked[0]


def test_a_leaders_gripper_is_measured_by_hand(shop: Workshop) -> None:
    """Its servo has no current control, so that its motor is refused."""
    rig = widened(shop.rig, "left_leader")
    arm = shop.arm("left_leader", rig)
    with pytest.raises(DeviceError, match="calibrate it by hand"):
        calibrate_gripper(GripperPlan("left_leader"), rig, arm, shop.clock, ScriptedGuide())

    def act(number: int, text: str) -> bool:
        opening = {"close": 0.1, "open ": 0.9}.get(text[:5])
        if opening is not None:
            shop.place("left_leader", HOME, opening)
        return True

    plan = GripperPlan("left_leader", by_hand=True)
    result = calibrate_gripper(plan, rig, arm, shop.clock, ScriptedGuide(act))
    values = result.values_as(GripperValues)
    closed, opened = -0.6842, 0.3083
    assert values.closed_rad == pytest.approx(closed + 0.1 * (opened - closed), abs=RAD_PER_TICK)
    assert values.open_rad == pytest.approx(closed + 0.9 * (opened - closed), abs=RAD_PER_TICK)


def test_a_gripper_that_hardly_moves_is_refused(shop: Workshop) -> None:
    """It holds something, or the operator did not."""
    rig = widened(shop.rig, "left_leader")
    arm = shop.arm("left_leader", rig)
    plan = GripperPlan("left_leader", by_hand=True)
    with pytest.raises(DeviceError, match=r"gripper moved by 0\.00 rad only"):
        calibrate_gripper(plan, rig, arm, shop.clock, ScriptedGuide())


def test_an_adapters_serial_number_is_part_of_an_arms_identity(aloha: Rig, tmp_path: Path) -> None:
    """As the kernel shows it; a pseudo-terminal has none."""
    usb = tmp_path / "devices/usb1/1-1"
    interface = usb / "1-1:1.0/ttyUSB0"
    interface.mkdir(parents=True)
    (usb / "serial").write_text("FT88ABCD\n")
    tty = tmp_path / "class/tty/ttyUSB0"
    tty.mkdir(parents=True)
    (tty / "device").symlink_to(interface)
    assert adapter_serial("/dev/ttyUSB0", tmp_path) == "FT88ABCD"
    assert adapter_serial("/dev/pts/3", tmp_path) == ""
    arms = {n: a.model_dump() | {"leader": None} for n, a in aloha.arms.items()}
    arms["left_follower"]["port"] = "/dev/ttyUSB0"
    rig = aloha.replaced(arms=arms)
    assert identity_of("left_follower", rig, tmp_path)["adapter"] == "FT88ABCD"
    assert "adapter" not in identity_of("left_leader", rig, tmp_path)
