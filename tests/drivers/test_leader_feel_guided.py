"""A leader whose motors help the hand that guides it: stable, lighter, within range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leader_bench import (
    ELBOW,
    FORWARD_RAD,
    GRIPPER,
    SHOULDER,
    SPRING,
    STANDS_RAD_S,
    WRIST_ANGLE,
    GuidedLeader,
    gravity,
    steadily,
    towards,
)
from one_arm import changed_model

from drivers.dynamixel import table
from drivers.emulated.plant import START_RAD
from teleop.messages import LIMP, LIMP_GRIPPER
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[2]


# Gravity compensation.


@pytest.fixture(scope="module")
def limp() -> dict[tuple[float, ...], GuidedLeader]:
    """The same leader with no help, let go at each of the poses."""
    rig = load_rig(ROOT / "hardware.yaml").replaced(rates={"arm_hz": 100})
    starts: tuple[tuple[float, ...], ...] = (FORWARD_RAD, START_RAD)
    arms = {start: GuidedLeader(rig, None, start) for start in starts}
    for arm in arms.values():
        arm.run(3.0)
    return arms


@pytest.mark.parametrize("start", [FORWARD_RAD, START_RAD], ids=["forward", "start"])
@pytest.mark.parametrize("gain", [0.7, 1.0])
@pytest.mark.parametrize("mass_scale", [0.7, 1.0, 1.3])
def test_a_leader_let_go_sinks_slower_than_limp_and_comes_to_rest(
    aloha: Rig,
    limp: dict[tuple[float, ...], GuidedLeader],
    mass_scale: float,
    gain: float,
    start: tuple[float, ...],
) -> None:
    """Whether its model is 30 % too heavy or too light, and even when all of it is carried."""
    arm = GuidedLeader(aloha, gravity(mass_scale, gain=gain), start)
    arm.run(8.0)
    assert arm.node.mode == "limp"
    assert arm.fastest_rad_s < 0.5 * limp[start].fastest_rad_s
    assert np.abs(np.array(arm.rates)[-250:, :6]).max() < STANDS_RAD_S
    if gain == 0.7 and mass_scale >= 1.3:
        assert arm.angle_rad[:5] == pytest.approx(start[:5], abs=0.02)  # Left there, it stays.


def test_a_leader_with_the_default_gain_never_rises_by_itself(aloha: Rig) -> None:
    """0.7 of a model 30 % too heavy is less than the arm's weight; its friction does the rest."""
    arm = GuidedLeader(aloha, gravity(1.3), FORWARD_RAD)
    arm.run(4.0)
    assert np.array(arm.angles)[:, SHOULDER].min() > FORWARD_RAD[SHOULDER] - 0.002


@pytest.mark.parametrize(("mass_scale", "most"), [(0.7, 0.95), (1.0, 0.75), (1.3, 0.55)])
def test_lifting_takes_less_force_than_a_limp_leader(
    aloha: Rig, mass_scale: float, most: float
) -> None:
    """A hand lifts the shoulder by half a radian; gears with power on have friction to overcome."""
    work = {}
    for name, feel in (("limp", None), ("helped", gravity(mass_scale))):
        arm = GuidedLeader(aloha, feel, FORWARD_RAD)
        hold = towards(FORWARD_RAD[SHOULDER], SHOULDER)
        arm.run(0.3, hold)
        forces = []
        for step in range(100):
            lift = towards(FORWARD_RAD[SHOULDER] - 0.005 * step, SHOULDER)
            arm.run(0.01, lift)
            forces.append(lift(arm.angle_rad, arm.rate_rad_s)[SHOULDER])
        assert arm.angle_rad[SHOULDER] < FORWARD_RAD[SHOULDER] - 0.3
        work[name] = np.abs(forces).mean()
    assert work["helped"] < most * work["limp"]


def test_currents_stay_within_their_caps(aloha: Rig) -> None:
    """Per servo: the shoulder needs more than 0.2 A, and gets no more."""
    caps = {"shoulder": 0.2, "elbow": 0.4}
    arm = GuidedLeader(aloha, {"gravity": {"max_current_a": caps}}, FORWARD_RAD)
    most = 0
    for _ in range(100):
        arm.run(0.01)
        most = max(most, abs(arm.register(2, table.GOAL_CURRENT)))
    assert most == round(0.2 / 2.69e-3)
    assert arm.register(1, table.TORQUE_ENABLE) == 0  # The waist has no cap, so it is limp.
    assert arm.register(6, table.OPERATING_MODE) == table.MODE_POSITION


def test_a_throw_is_not_driven_on(aloha: Rig) -> None:
    """Thrown upwards by hand, a leader whose model is too heavy is given nothing on the way."""
    thrown_rad_s = {}
    for cutoff_rad_s in (0.5, 6.0):
        feel = gravity(1.3, gain=1.0) | {"cutoff_rad_s": cutoff_rad_s}
        arm = GuidedLeader(aloha, feel, FORWARD_RAD)
        arm.run(0.2)
        arm.run(0.3, steadily(-4.0, SHOULDER))
        thrown_rad_s[cutoff_rad_s] = abs(arm.rate_rad_s[SHOULDER])
    assert thrown_rad_s[6.0] > 2.0
    assert thrown_rad_s[0.5] < 0.75 * thrown_rad_s[6.0]


# Barrier.

BARRIER: dict[str, Any] = {"barrier": {"max_current_a": 1.0}}


@pytest.mark.parametrize(
    ("joint", "push_nm", "end_rad"),
    [(SHOULDER, 1.2, 1.256), (ELBOW, -1.2, -1.763), (WRIST_ANGLE, -0.8, -1.745)],
    ids=["shoulder", "elbow", "wrist"],
)
def test_a_moderate_hand_cannot_leave_the_followers_range(
    aloha: Rig, joint: int, push_nm: float, end_rad: float
) -> None:
    """A WidowX' shoulder and elbow reach further than a ViperX'; its wrist less far."""
    start = [*START_RAD]
    start[joint] = end_rad - 0.3 * np.sign(push_nm)
    beyond = {}
    for name, feel in (
        ("free", gravity(1.0, gain=1.0)),
        ("kept", gravity(1.0, gain=1.0) | BARRIER),
    ):
        arm = GuidedLeader(aloha, feel, tuple(start))
        arm.run(0.2)
        arm.run(3.0, steadily(push_nm, joint))
        beyond[name] = (arm.angle_rad[joint] - end_rad) * np.sign(push_nm)
        assert abs(arm.rate_rad_s[joint]) < STANDS_RAD_S
    assert beyond["kept"] < 0.0
    assert beyond["free"] > beyond["kept"] + 0.02


def test_the_stiffest_barrier_does_not_swing(aloha: Rig) -> None:
    """Pushed into it and let go, the lightest joint comes back and stands."""
    start = (*START_RAD[:WRIST_ANGLE], -1.6, 0.0)
    feel = {"barrier": {"stiffness_nm_rad": 30.0, "max_current_a": 1.5, "margin_rad": 0.3}}
    arm = GuidedLeader(aloha, feel | gravity(1.0), start)
    arm.run(3.0)
    rates = np.array(arm.rates)[:, WRIST_ANGLE]
    assert arm.angle_rad[WRIST_ANGLE] > -1.55
    assert np.abs(rates[-500:]).max() < STANDS_RAD_S


# Gripper.


def with_gripper(rig: Rig, servo: str) -> Rig:
    gripper = rig.arm_models["wx250s"].gripper
    assert gripper is not None
    return changed_model(rig, "wx250s", gripper=gripper.model_dump() | {"servo": servo})


def opening(arm: GuidedLeader) -> float:
    reading = arm.arm.read().gripper
    assert reading is not None
    return reading


@pytest.mark.parametrize(
    ("servo", "torque_nm"), [("XC430-W150", 0.2), ("XL430-W250", 0.2), ("XM430-W350", 0.35)]
)
@pytest.mark.parametrize("mode", [LIMP, LIMP_GRIPPER])
def test_a_squeezed_gripper_opens_again(
    aloha: Rig, servo: str, torque_nm: float, mode: str
) -> None:
    """By current or by voltage; guided, and while the joints wait for the episode to begin."""
    spring = {"gripper_spring": {"max_torque_nm": torque_nm}}
    arm = GuidedLeader(with_gripper(aloha, servo), spring, START_RAD)
    arm.mode = mode
    arm.run(1.0, towards(-0.6842, GRIPPER, cap_nm=1.0))
    assert opening(arm) < 0.1
    arm.run(3.0)
    assert opening(arm) > 0.85
    assert abs(arm.rate_rad_s[GRIPPER]) < STANDS_RAD_S


@pytest.mark.parametrize("servo", ["XC430-W150", "XM430-W350"])
def test_a_sprung_gripper_holds_with_all_its_strength_afterwards(aloha: Rig, servo: str) -> None:
    """Little voltage, or no position loop, would let a held gripper be pulled away."""
    arm = GuidedLeader(with_gripper(aloha, servo), SPRING, START_RAD)
    arm.run(0.5)
    arm.stop = True
    arm.run(0.1)
    held_rad = arm.angle_rad[GRIPPER]
    arm.run(0.5, steadily(-0.6, GRIPPER))
    assert arm.angle_rad[GRIPPER] == pytest.approx(held_rad, abs=0.4)
    arm.run(0.5)
    assert arm.angle_rad[GRIPPER] == pytest.approx(held_rad, abs=0.1)
    assert arm.register(9, table.OPERATING_MODE) == table.MODE_POSITION
