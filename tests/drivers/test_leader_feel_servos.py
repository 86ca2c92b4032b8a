"""Servos that push: what the driver asks of them, and what becomes of a bad bus or servo."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from one_arm import OneArm, changed_arm, changed_model

from drivers.base import PushingArm
from drivers.dynamixel import table
from drivers.dynamixel.feel import GOAL_PWM, MODE_CURRENT, NM_PER_A, STALL_NM
from teleop.errors import DeviceError, SafetyError
from teleop.rig import Rig

SHOULDER, SHADOW, GRIPPER = 2, 3, 9
ALL: dict[str, Any] = {
    "gravity": {"max_current_a": {"shoulder": 1.0, "elbow": 1.0}},
    "barrier": {},
    "gripper_spring": {"max_torque_nm": 0.2},
}


def leader(rig: Rig, feel: dict[str, Any] | None = None) -> OneArm:
    """A WidowX with a feel, not yet connected."""
    return OneArm(
        changed_arm(rig, "left_leader", feel=ALL if feel is None else feel), "left_leader"
    )


@pytest.fixture
def pushing(aloha: Rig) -> OneArm:
    """One that is let go and pushes."""
    one = leader(aloha)
    one.arm.connect()
    one.arm.set_torque(False, False)
    one.arm.set_push(True, True)
    return one


def test_it_is_an_arm_that_can_push(aloha: Rig) -> None:
    """The protocol that the arm node looks for."""
    assert isinstance(leader(aloha).arm, PushingArm)


def test_torque_per_ampere_counts_both_servos_of_a_joint(pushing: OneArm) -> None:
    """XM430-W350: 4.1 N m at 2.3 A; XL430 and XC430 have no current."""
    one = 4.1 / 2.3
    expected = [one, 2 * one, 2 * one, one, one, np.nan, np.nan]
    assert pushing.arm.torque_per_ampere == pytest.approx(expected, nan_ok=True)


def test_torque_comes_with_no_current(pushing: OneArm) -> None:
    """A change of mode sets a servo's goal to the largest current there is; shadows too."""
    for servo_id in range(1, 8):
        assert pushing.register(servo_id, table.OPERATING_MODE) == MODE_CURRENT
        assert pushing.register(servo_id, table.TORQUE_ENABLE) == 1
        assert pushing.register(servo_id, table.GOAL_CURRENT) == 0
    assert pushing.register(8, table.TORQUE_ENABLE) == 0


def test_the_strength_of_every_servo_model_is_known() -> None:
    """By current or by voltage: a new model in the table needs its line here too."""
    for name, model in table.SERVO_MODELS.items():
        assert (name in NM_PER_A, name in STALL_NM) == (
            model.current_unit_a is not None,
            model.current_unit_a is None,
        )


def test_currents_reach_both_servos_of_a_joint(pushing: OneArm) -> None:
    """In units of 2.69 mA, in the joint's own direction."""
    pushing.arm.push(np.array([0.0, 0.269, -0.269, 0.0, 0.0, 0.0, 0.0]))
    currents = [pushing.register(i, table.GOAL_CURRENT) for i in range(1, 6)]
    assert currents == [0, 100, 100, -100, -100]
    pushing.bank.torque_nm(0.002, pushing.bank.angle_rad, np.zeros(len(pushing.bank)))
    axis = pushing.bank.index("left_leader", "shoulder")
    assert pushing.bank.motor_nm[axis] == pytest.approx(2 * 0.269 * 4.1 / 2.3, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_current_that_is_no_number_is_never_written(pushing: OneArm, bad: float) -> None:
    """Nor are the others of that packet."""
    currents = np.full(7, 0.1)
    currents[3] = bad
    with pytest.raises(SafetyError, match="finite currents"):
        pushing.arm.push(currents)
    with pytest.raises(SafetyError, match="not 7 finite currents"):
        pushing.arm.push(np.zeros(6))
    assert pushing.register(SHOULDER, table.GOAL_CURRENT) == 0


def test_a_servo_set_to_less_gets_no_more(aloha: Rig) -> None:
    """Beyond its own limit a servo would keep the current it had."""
    one = leader(aloha)
    one.set_register(SHOULDER, table.CURRENT_LIMIT, 150)
    one.arm.connect()
    one.arm.set_push(True, True)
    one.arm.push(np.full(7, 1.0))
    assert one.register(SHOULDER, table.GOAL_CURRENT) == 150


def test_joints_without_current_control_are_named_once(
    aloha: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """At the first connection, not at each."""
    one = leader(aloha)
    with caplog.at_level(logging.WARNING):
        one.arm.connect()
        one.arm.close()
        one.arm.connect()
    told = [r.getMessage() for r in caplog.records if "current control" in r.getMessage()]
    assert len(told) == 2
    assert "wrist_rotate" in told[0]
    assert "XL430-W250" in told[0]
    assert "spring pushes by voltage" in told[1]


def test_a_gripper_without_current_control_pushes_by_voltage(pushing: OneArm) -> None:
    """0.2 of 1.6 N m, an eighth of the full 885, towards open."""
    assert pushing.register(GRIPPER, GOAL_PWM) == 111
    assert pushing.register(GRIPPER, table.OPERATING_MODE) == table.MODE_POSITION
    assert pushing.goals_rad()[-1] == pytest.approx(0.3083, abs=2e-3)
    pushing.arm.set_torque(True, True)
    assert pushing.register(GRIPPER, GOAL_PWM) == 885


def test_held_joints_do_not_push(pushing: OneArm) -> None:
    """The gripper alone is let go at the start of an episode."""
    pushing.arm.set_torque(True, False)
    pushing.arm.set_push(False, True)
    pushing.arm.push(np.full(7, 0.5))
    assert pushing.register(SHOULDER, table.OPERATING_MODE) == table.MODE_POSITION
    assert pushing.register(SHADOW, table.OPERATING_MODE) == table.MODE_POSITION
    assert pushing.register(GRIPPER, GOAL_PWM) == 111


def test_holding_again_holds_where_it_is(pushing: OneArm) -> None:
    """Not where it was when it was let go."""
    pushing.place((0.2, -1.0, 1.0, 0.1, 0.3, 0.2, 0.0))
    pushing.arm.set_torque(True, True)
    assert pushing.goals_rad() == pytest.approx([0.2, -1.0, 1.0, 0.1, 0.3, 0.2, 0.0], abs=2e-3)
    assert [pushing.register(i, table.TORQUE_ENABLE) for i in range(1, 10)] == [1] * 9


def test_a_shadow_that_does_not_listen_is_not_given_torque(aloha: Rig) -> None:
    """It would start with whatever current its own memory holds."""
    one = leader(aloha)
    one.arm.connect()
    one.set_register(SHADOW, table.SECONDARY_ID, table.NO_SECONDARY_ID)
    with pytest.raises(DeviceError, match=r"shoulder \(shadow\).*keeps goal current 1193"):
        one.arm.set_push(True, True)
    assert not any(one.register(i, table.TORQUE_ENABLE) for i in (SHOULDER, SHADOW))


def test_silence_makes_it_limp_and_it_says_so(pushing: OneArm) -> None:
    """Register 98; afterwards the old current does not come back."""
    pushing.arm.push(np.full(7, 0.5))
    pushing.wait(0.25)
    assert [pushing.register(i, table.GOAL_CURRENT) for i in range(1, 8)] == [0] * 7
    with pytest.raises(DeviceError, match="it was limp meanwhile"):
        pushing.arm.read()
    assert [pushing.register(i, table.GOAL_CURRENT) for i in range(1, 8)] == [0] * 7
    pushing.arm.push(np.full(7, 0.5))
    assert pushing.register(SHOULDER, table.GOAL_CURRENT) == round(0.5 / 2.69e-3)


def test_torque_off_ends_it(pushing: OneArm) -> None:
    """And holding afterwards finds its way back to position mode."""
    pushing.arm.push(np.full(7, 0.5))
    assert pushing.arm.torque_off() == []
    assert not any(pushing.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    pushing.arm.set_torque(True, True)
    assert pushing.register(SHADOW, table.OPERATING_MODE) == table.MODE_POSITION


def test_a_lost_port_leaves_it_limp(pushing: OneArm) -> None:
    """Connected again, it has no torque, and is in position mode."""
    pushing.arm.push(np.full(7, 0.5))
    pushing.faults.unplugged = True
    with pytest.raises(DeviceError):
        pushing.arm.read()
    pushing.wait(0.3)
    pushing.faults.unplugged = False
    pushing.arm.connect()
    assert not any(pushing.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    assert pushing.register(SHADOW, table.OPERATING_MODE) == table.MODE_POSITION
    assert pushing.arm.poll_health().ok


def test_a_gripper_with_current_control_is_sprung_by_it(aloha: Rig) -> None:
    """Some kits have an XM430 there."""
    gripper = aloha.arm_models["wx250s"].gripper
    assert gripper is not None
    known = changed_model(aloha, "wx250s", gripper=gripper.model_dump() | {"servo": "XM430-W350"})
    rig = changed_arm(known, "left_leader", feel=ALL)
    one = OneArm(rig, "left_leader")
    one.arm.connect()
    one.arm.set_push(True, True)
    assert one.register(GRIPPER, table.OPERATING_MODE) == MODE_CURRENT
    one.arm.push(np.full(7, -0.1))
    assert one.register(GRIPPER, table.GOAL_CURRENT) == -37
