"""The motion model of the emulated servos: profile, loop, limits, friction, readings."""

from __future__ import annotations

import time

import numpy as np
import pytest

from drivers.emulated.dynamixel.bank import VELOCITY_WINDOW_S, AxisSpec, Drive, ServoBank, axes_of
from drivers.emulated.dynamixel.motors import (
    FRICTION_A,
    LAG_S,
    LEADER_PASSIVE_DAMPING,
    PLANT_FRICTION,
    POWERED_DAMPING,
    axis_spec,
)
from teleop.errors import UnknownNameError
from teleop.rig_files import DEFAULT_RIG, load_rig

STEP_S = 0.002
RIG = load_rig(DEFAULT_RIG)


FOLLOWER_DAMPING = {**POWERED_DAMPING, "gripper": 0.2}
"""As in the plant's scene; a gripper's is the load of its fingers."""


class Joint:
    """One axis with inertia and the plant's passive damping, integrated as the plant does."""

    def __init__(self, spec: AxisSpec, inertia: float = 0.1) -> None:
        self.spec, self.inertia = spec, inertia
        passive = LEADER_PASSIVE_DAMPING if "leader" in spec.arm else FOLLOWER_DAMPING
        self.passive_nms_rad = passive[spec.name]
        self.bank = ServoBank([spec], STEP_S)
        self.q, self.dq = np.zeros(1), np.zeros(1)
        self.set_points: list[float] = []
        self.rates: list[float] = []
        self.run(STEP_S)

    def run(self, seconds: float, blocked: bool = False, pulled_nm: float = 0.0) -> None:
        for _ in range(round(seconds / STEP_S)):
            torque = self.bank.torque_nm(STEP_S, self.q, self.dq)
            push = self.inertia * self.dq + STEP_S * (torque + pulled_nm)
            self.dq = push / (self.inertia + STEP_S * self.passive_nms_rad)
            if blocked:
                self.dq = np.zeros(1)
            self.q = self.q + self.dq * STEP_S
            self.set_points.append(self.bank.set_rad[0])
            self.rates.append(self.bank.set_rad_s[0])


@pytest.fixture
def waist() -> Joint:
    """A follower's waist, torque on, holding at zero."""
    joint = Joint(axis_spec("arm", "waist", "XM540-W270", 1, leader=False))
    joint.bank.drive(0, Drive())
    return joint


def test_joint_reaches_its_goal_and_stays(waist: Joint) -> None:
    """Within the friction band, and without overshoot."""
    waist.bank.goal(0, 0.5)
    waist.run(1.0)
    assert waist.q[0] == pytest.approx(0.5, abs=waist.spec.friction_nm / waist.spec.kp_nm_rad * 1.1)
    assert abs(waist.dq[0]) < 1e-3


def test_trapezoid_keeps_velocity_and_acceleration(waist: Joint) -> None:
    """The set point accelerates, cruises, brakes and stops exactly, never faster than told."""
    waist.bank.profile(0, 1.0, 4.0)
    waist.bank.goal(0, 1.0)
    waist.run(1.25 + 2 * STEP_S)
    rates = np.array(waist.rates)
    assert rates.max() == pytest.approx(1.0)
    assert np.abs(np.diff(rates)).max() <= 4.0 * STEP_S + 1e-12
    assert waist.set_points[-1] == pytest.approx(1.0, abs=1e-3)
    waist.run(0.2)
    assert waist.bank.set_rad[0] == pytest.approx(1.0, abs=2e-5)


def test_new_goal_while_moving_replans_without_a_jump(waist: Joint) -> None:
    """A reversed goal brakes at the profile's acceleration first."""
    waist.bank.profile(0, 2.0, 5.0)
    waist.bank.goal(0, 2.0)
    waist.run(0.3)
    waist.bank.goal(0, -1.0)
    waist.run(2.5)
    assert np.abs(np.diff(waist.rates)).max() <= 5.0 * STEP_S + 1e-12
    assert waist.bank.set_rad[0] == pytest.approx(-1.0, abs=1e-3)


def test_without_a_profile_the_set_point_is_the_goal(waist: Joint) -> None:
    """Register 112 at 0: the joint alone smooths the motion."""
    waist.bank.profile(0, 1.0, 1.0)
    waist.bank.profile(0, 0.0, 1.0)
    waist.bank.goal(0, 0.3)
    waist.run(STEP_S)
    assert waist.bank.set_rad[0] == 0.3


def test_joint_lags_a_ramp_by_the_identified_time(waist: Joint) -> None:
    """At steady speed it is the lag and the friction behind, as the real arm."""
    waist.bank.profile(0, 1.0, 0.0)
    waist.bank.goal(0, 3.0)
    waist.run(1.0)
    behind = waist.bank.set_rad[0] - waist.q[0]
    friction = waist.spec.friction_nm / waist.spec.kp_nm_rad
    assert behind == pytest.approx(LAG_S + friction, abs=0.004)


def test_current_while_moving_is_friction_and_has_its_sign(waist: Joint) -> None:
    """Back-EMF takes no current: at steady speed only the gears do."""
    waist.bank.profile(0, 1.0, 0.0)
    for goal in (3.0, -3.0):
        waist.bank.goal(0, goal)
        waist.run(1.5)
        assert waist.bank.current_a(0) == pytest.approx(np.sign(goal) * FRICTION_A, rel=0.05)


def test_current_keeps_its_sign_after_stopping(waist: Joint) -> None:
    """Friction hysteresis: coming from below leaves positive current, from above negative."""
    waist.bank.profile(0, 1.0, 4.0)
    currents = []
    for goal in (0.5, 1.0, 0.5):
        waist.bank.goal(0, goal)
        waist.run(2.0)
        currents.append(waist.bank.current_a(0))
    assert currents[1] > 0.02
    assert currents[2] < -0.02


def test_blocked_joint_is_limited_by_stall_and_by_the_goal_current() -> None:
    """Mode 5 caps the torque of a gripper that has met an object, mode 3 the motor."""
    gripper = Joint(axis_spec("arm", "gripper", "XM430-W350", 1, leader=False), inertia=0.006)
    limit_nm = 0.538 * gripper.spec.kt_nm_a
    for limit, expected in ((limit_nm, 0.538), (1e9, 2.3)):
        gripper.bank.drive(0, Drive(torque_limit_nm=limit))
        gripper.bank.goal(0, -3.0)
        gripper.run(0.1, blocked=True)
        assert gripper.bank.current_a(0) == pytest.approx(-expected, rel=0.01)
        assert gripper.bank.load(0) == pytest.approx(-expected / 2.3, rel=0.01)


def test_without_torque_the_servo_does_nothing(waist: Joint) -> None:
    """Zero torque at any state; torque on again holds where the joint then is."""
    waist.bank.drive(0, Drive(power=0.0))
    assert waist.bank.torque_nm(STEP_S, np.ones(1), np.ones(1))[0] == 0.0
    waist.run(0.3, pulled_nm=3.0)
    pulled = waist.q[0]
    assert abs(pulled) > 0.01
    waist.dq[:] = 0
    waist.bank.drive(0, Drive())
    waist.run(0.5)
    assert waist.q[0] == pytest.approx(pulled, abs=0.01)


def test_current_mode_pushes_with_the_asked_torque() -> None:
    """Without a position loop, and without electrical braking."""
    joint = Joint(axis_spec("leader", "waist", "XM430-W350", 1, leader=True))
    joint.bank.drive(0, Drive(position_gain=0.0, push_nm=0.5, braking=False))
    joint.bank.goal(0, -1.0)
    joint.run(2.0)
    free_nm = 0.5 - joint.spec.friction_nm
    assert joint.dq[0] == pytest.approx(free_nm / joint.spec.passive_nms_rad, rel=0.05)
    assert joint.bank.motor_nm[0] == pytest.approx(0.5)


def test_velocity_reading_is_a_mean_and_falls_to_exactly_zero(waist: Joint) -> None:
    """It lags by half its window, as the real servo's register does."""
    waist.bank.profile(0, 1.0, 0.0)
    waist.bank.goal(0, 3.0)
    waist.run(1.0)
    assert waist.bank.velocity_rad_s(0) == pytest.approx(1.0, abs=0.02)
    waist.run(VELOCITY_WINDOW_S / 2, blocked=True)
    assert waist.bank.velocity_rad_s(0) == pytest.approx(0.5, abs=0.05)
    waist.run(VELOCITY_WINDOW_S, blocked=True)
    assert waist.bank.velocity_rad_s(0) == 0.0


def test_every_axis_of_the_rig_steps_calmly() -> None:
    """Half a radian, all joints, both kinds of arm: settled in a second, overshoot below 5 %."""
    light = {"gripper": 0.006, "wrist_rotate": 0.002, "wrist_angle": 0.01}
    for spec in axes_of(RIG)[:14]:
        joint = Joint(spec, light.get(spec.name, 0.1))
        joint.bank.drive(0, Drive())
        joint.bank.goal(0, 0.5)
        top = 0.0
        for _ in range(10):
            joint.run(0.1)
            top = max(top, joint.q[0])
        band = spec.friction_nm / spec.kp_nm_rad * 1.2 + 0.002
        assert joint.q[0] == pytest.approx(0.5, abs=band), spec.name
        assert top < 0.525 + band, spec.name


def test_axes_are_the_rig_s_arms_in_order_with_grippers_last() -> None:
    """Seven per arm, arms sorted, a shadow doubling its joint."""
    axes = axes_of(RIG)
    assert [a.arm for a in axes] == [arm for arm in sorted(RIG.arms) for _ in range(7)]
    assert [a.name for a in axes[:7]] == [*POWERED_DAMPING, "gripper"]
    assert [a.servos for a in axes[:7]] == [1, 2, 2, 1, 1, 1, 1]


def test_unknown_servo_or_joint_is_named() -> None:
    """One sentence with the nearest known names."""
    with pytest.raises(UnknownNameError, match="XM540-W270"):
        axis_spec("arm", "waist", "XM540-W271", 1, leader=False)
    with pytest.raises(UnknownNameError, match="emulated joint 'waste'"):
        axis_spec("arm", "waste", "XM540-W270", 1, leader=False)


def test_numbers_are_those_of_the_plant() -> None:
    """The passive damping and friction that the bank relies on are in the scene."""
    mujoco = pytest.importorskip("mujoco")
    from drivers.emulated.plant import Plant

    model = Plant(sorted(RIG.arms), "transfer_cube", 0).model
    for spec in axes_of(RIG):
        joint = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, f"{spec.arm}/{spec.name}")
        dof = model.jnt_dofadr[joint]
        leader = spec.arm.endswith("leader")
        damping = LEADER_PASSIVE_DAMPING if leader else FOLLOWER_DAMPING
        assert model.dof_damping[dof] == pytest.approx(damping[spec.name]), spec
        friction = 0.0 if leader else PLANT_FRICTION.get(spec.name, 0.0)
        assert model.dof_frictionloss[dof] == pytest.approx(friction), spec


def test_a_step_of_all_axes_is_quick() -> None:
    """500 calls per simulated second: 25 us each on a quiet machine, ten times that here."""
    bank = ServoBank(axes_of(RIG))
    for axis in range(len(bank)):
        bank.drive(axis, Drive())
        bank.profile(axis, 3.0, 4.0)
    zero = np.zeros(len(bank))
    spans = []
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(50):
            bank.torque_nm(STEP_S, zero, zero)
        spans.append((time.perf_counter() - begun) / 50)
    assert min(spans) < 250e-6
