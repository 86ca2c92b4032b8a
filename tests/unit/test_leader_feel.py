"""The currents that help a hand: maths alone, and what a rig description may ask for."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from drivers.base import ArmReading
from drivers.dynamixel.leader_feel import Feel, Weight, feel_of
from drivers.emulated.plant import SCENE
from teleop.errors import RigError
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rig_checks import faults_of

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
SHOULDER, ELBOW, GRIPPER = 1, 2, 6
NM_PER_A = np.array([1.78, 3.56, 3.56, 1.78, 1.78, np.nan, 1.78])
FORWARD_RAD = np.array([0.0, 0.3, 0.2, 0.0, 0.3, 0.0])


def leading(rig: Rig, feel: dict[str, Any], leader: str = "left_leader") -> Rig:
    """The rig with a leader that has a feel, and with a model of its kind's weight."""
    tree = rig.model_dump()
    tree["arm_models"]["wx250s"]["kinematics"] = "wx250s"
    tree["arms"][leader]["feel"] = feel
    return Rig.model_validate(tree)


def feel(rig: Rig, **parts: Any) -> Feel:
    found = feel_of("left_leader", leading(rig, parts))
    assert found is not None
    return found


def reading(
    position_rad: FloatArray = FORWARD_RAD,
    velocity_rad_s: FloatArray | float = 0.0,
    gripper: float = 0.5,
    gripper_velocity: float = 0.0,
) -> ArmReading:
    rate = np.zeros(6) + velocity_rad_s
    return ArmReading(0, position_rad, rate, np.zeros(6), gripper, gripper_velocity, 0.0)


def everywhere(cap_a: float) -> dict[str, Any]:
    return {"max_current_a": dict.fromkeys(JOINTS, cap_a)}


def at(joint: int, angle_rad: float) -> FloatArray:
    pose = np.zeros(6)
    pose[joint] = angle_rad
    return pose


def test_the_weight_is_that_of_the_emulated_leader() -> None:
    """Two files hold the same inertias; a change of one alone is noticed."""
    weight = Weight("wx250s", JOINTS)
    model = mujoco.MjModel.from_xml_path(str(SCENE / "leader.xml"))
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    for _ in range(50):
        pose = rng.uniform(model.jnt_range[:6, 0], model.jnt_range[:6, 1])
        data.qpos[:6] = pose
        mujoco.mj_forward(model, data)
        assert weight.torque_nm(pose) == pytest.approx(data.qfrc_bias[:6], abs=1e-3)


def test_a_stretched_shoulder_carries_what_a_lever_says() -> None:
    """1.1 kg beyond the shoulder, its middle 0.35 m out: close to 4 N m, pulling down."""
    torque = Weight("wx250s", JOINTS).torque_nm(np.array([0.0, np.pi / 2, -np.pi / 2, 0, 0, 0]))
    assert torque[SHOULDER] == pytest.approx(-3.88, abs=0.2)
    assert torque[0] == pytest.approx(0.0, abs=1e-9)


def test_a_model_that_weighs_nothing_is_refused() -> None:
    """Kinematics alone: its placeholder masses would make an absurd torque."""
    with pytest.raises(RigError, match="has no masses"):
        Weight("vx300s", JOINTS)
    with pytest.raises(RigError, match="has no joint 'knee'"):
        Weight("wx250s", ["knee"])


def test_gravity_asks_for_a_part_of_the_weight(aloha: Rig) -> None:
    """Gain times mass scale, over the torque per ampere."""
    whole = Weight("wx250s", JOINTS).torque_nm(FORWARD_RAD)
    gravity = everywhere(1.5) | {"gain": 0.5, "mass_scale": 1.2}
    current = feel(aloha, gravity=gravity).current_a(reading(), NM_PER_A)
    assert current[:5] == pytest.approx(0.6 * whole[:5] / NM_PER_A[:5])
    assert current[5] == 0.0  # Its servo has no current control.


def test_each_joint_has_a_cap_of_its_own(aloha: Rig) -> None:
    """Joints that are not named carry nothing."""
    gravity = {"gain": 1.0, "max_current_a": {"shoulder": 0.1, "elbow": 0.05}}
    current = feel(aloha, gravity=gravity).current_a(reading(), NM_PER_A)
    assert np.abs(current).tolist() == [0, 0.1, 0.05, 0, 0, 0, 0]


def test_the_barrier_begins_before_the_followers_range_ends(aloha: Rig) -> None:
    """A ViperX' shoulder ends at 1.256, a WidowX' at 1.990; 20 N m/rad from 1.156 on."""
    barrier = feel(aloha, barrier={"margin_rad": 0.1, "max_current_a": 1.5})
    pushes = [
        barrier.current_a(reading(at(SHOULDER, angle)), NM_PER_A)[SHOULDER]
        for angle in (-1.85, 0.0, 1.15, 1.256, 1.9)
    ]
    assert pushes == pytest.approx([2.0 / 3.56, 0.0, 0.0, -2.0 / 3.56, -1.5])


def test_the_leaders_own_range_counts_too(aloha: Rig) -> None:
    """A WidowX' wrist ends at -1.745, before a ViperX' at -1.867."""
    barrier = feel(aloha, barrier={"margin_rad": 0.1, "max_current_a": 1.5})
    current = barrier.current_a(reading(at(4, -1.745)), NM_PER_A)
    assert current[4] == pytest.approx(2.0 / 1.78, rel=1e-3)


def test_the_spring_opens_either_way_round(aloha: Rig) -> None:
    """Towards open, whichever of the two servo angles is the larger, and never above its cap."""
    for closed, opened, sign in ((-0.5, 0.5, 1), (0.5, -0.5, -1)):
        tree = leading(aloha, {"gripper_spring": {"stiffness_nm_rad": 0.4}}).model_dump()
        ends = {"gripper_closed_rad": closed, "gripper_open_rad": opened}
        tree["arms"]["left_leader"].update(ends)
        spring = feel_of("left_leader", Rig.model_validate(tree))
        assert spring is not None
        for opening, torque_nm in ((0.0, 0.2), (0.75, 0.1), (1.0, 0.0), (1.1, -0.04)):
            current = spring.current_a(reading(gripper=opening), NM_PER_A)
            assert current[GRIPPER] == pytest.approx(sign * torque_nm / 1.78)


@pytest.mark.parametrize(("speed", "left"), [(1.4, 1.0), (2.25, 0.5), (3.0, 0.0), (9.0, 0.0)])
def test_what_drives_a_fast_joint_on_is_cut_off(aloha: Rig, speed: float, left: float) -> None:
    """From half the cut-off speed on; what brakes it stays whole."""
    gravity = feel(aloha, gravity=everywhere(1.5))
    still = gravity.current_a(reading(), NM_PER_A)
    upwards = np.sign(still[:6])  # Positive where the current would raise the arm.
    rising = gravity.current_a(reading(velocity_rad_s=speed * upwards), NM_PER_A)
    falling = gravity.current_a(reading(velocity_rad_s=-speed * upwards), NM_PER_A)
    assert rising == pytest.approx(left * still)
    assert falling == pytest.approx(still)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["position", "velocity", "gripper", "gripper velocity"])
def test_a_reading_that_is_no_number_asks_for_nothing(aloha: Rig, bad: float, what: str) -> None:
    """Of no joint: nobody knows what else is wrong with it."""
    all_of_it = feel(
        aloha,
        gravity=everywhere(1.0),
        barrier={"max_current_a": 0.4},
        gripper_spring={"max_torque_nm": 0.2},
    )
    broken = np.where(np.arange(6) == ELBOW, bad, 0.0)
    readings = {
        "position": reading(position_rad=broken),
        "velocity": reading(velocity_rad_s=broken),
        "gripper": reading(gripper=bad),
        "gripper velocity": reading(gripper_velocity=bad),
    }
    assert all_of_it.current_a(readings[what], NM_PER_A).tolist() == [0.0] * 7


def test_absurd_readings_stay_within_the_caps(aloha: Rig) -> None:
    """Finite, and far out of anybody's range."""
    both = feel(aloha, gravity=everywhere(0.3), barrier={"max_current_a": 0.4})
    for angle in (1e3, -1e6, 1e12):
        current = both.current_a(reading(np.full(6, angle)), NM_PER_A)
        assert np.abs(current).max() <= 0.7 + 1e-9
        assert np.isfinite(current).all()


def test_no_arm_has_a_feel_by_default(aloha: Rig) -> None:
    """The shipped rig asks for none."""
    assert [feel_of(name, aloha) for name in aloha.arms] == [None] * len(aloha.arms)


@pytest.mark.parametrize(
    ("arm", "parts", "words"),
    [
        ("left_follower", {"barrier": {}}, "only a leader is guided by hand"),
        ("left_leader", {"gravity": {"max_current_a": {"knee": 0.1}}}, "no joint 'knee'"),
    ],
)
def test_a_feel_that_cannot_be_is_told_before_any_port_opens(
    aloha: Rig, arm: str, parts: dict[str, Any], words: str
) -> None:
    """With its path in the file."""
    faults = faults_of(leading(aloha, parts, arm))
    assert any(fault.startswith(f"arms.{arm}.feel") and words in fault for fault in faults)


def test_a_feel_needs_what_it_is_made_from(aloha: Rig) -> None:
    """A weight, a follower, a gripper."""
    tree = aloha.model_dump()
    tree["arm_models"]["wx250s"]["gripper"] = None
    del tree["arms"]["left_follower"]
    parts = {"gravity": everywhere(0.5), "barrier": {}, "gripper_spring": {}}
    tree["arms"]["left_leader"]["feel"] = parts
    faults = "\n".join(faults_of(Rig.model_validate(tree)))
    assert "feel.gravity: arm model 'wx250s' has no kinematics" in faults
    assert "feel.barrier: no arm has 'left_leader' as its leader" in faults
    assert "feel.gripper_spring: arm model 'wx250s' has no gripper" in faults


def test_a_good_feel_has_no_faults(aloha: Rig) -> None:
    """All three parts together."""
    parts = {"gravity": everywhere(0.5), "barrier": {}, "gripper_spring": {}}
    assert faults_of(leading(aloha, parts)) == []
