"""When a leader that pushes goes limp, and when it holds: silence, stops, faults, kills."""

from __future__ import annotations

import pytest
from leader_bench import FORWARD_RAD, SHOULDER, SPRING, GuidedLeader, gravity, towards

from drivers.dynamixel import table
from drivers.dynamixel.feel import GOAL_PWM, MODE_CURRENT
from drivers.emulated.plant import START_RAD
from teleop.rig import Rig


def test_a_leader_goes_limp_when_nobody_talks_to_it(aloha: Rig) -> None:
    """A killed process: nothing pushes after a quarter of a second, shadows neither."""
    arm = GuidedLeader(aloha, gravity(1.3, gain=1.0) | SPRING, FORWARD_RAD)
    arm.run(0.3)
    assert arm.pushed_nm > 1.0
    arm.run(0.25, ticks=False)
    assert [arm.register(i, table.GOAL_CURRENT) for i in range(1, 8)] == [0] * 7
    assert arm.pushed_nm < 0.25  # The gripper, which has no current, keeps where it is.


def test_a_leader_pushes_again_after_its_node_was_stalled(aloha: Rig) -> None:
    """It says what happened, and begins from no current."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.run(0.4, ticks=False)
    arm.run(0.1)
    assert arm.node.mode == "limp"
    assert arm.pushed_nm > 1.0
    arm.run(1.0)
    values = arm.node.health(arm.clock.now_ns()).values
    assert values["watchdog_trips"] == 1
    assert values["failed_reads"] == 1


def test_without_a_reading_nothing_pushes(aloha: Rig) -> None:
    """A current from an old pose is none to go on with."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.chain.faults.drop.probability = 1.0
    arm.run(0.02)
    assert [arm.register(i, table.GOAL_CURRENT) for i in range(1, 8)] == [0] * 7
    arm.chain.faults.drop.probability = 0.0
    arm.run(0.3)
    assert arm.pushed_nm > 1.0


def test_a_stop_holds_the_leader_in_position_mode(aloha: Rig) -> None:
    """And when that is cleared it is guided again."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    assert arm.modes() == [MODE_CURRENT] * 7
    arm.stop = True
    arm.run(0.1)
    assert (arm.node.mode, arm.modes()) == ("stopped", [table.MODE_POSITION] * 7)
    held_rad = arm.angle_rad
    arm.run(1.0)
    assert arm.angle_rad[:6] == pytest.approx(held_rad[:6], abs=0.06)  # Servos sag by that.
    arm.stop, arm.lease = False, "two"  # A stop ends a commander's lease for good.
    arm.run(0.3)
    assert (arm.node.mode, arm.modes()) == ("limp", [MODE_CURRENT] * 7)


def test_a_guided_leader_stays_guided_without_commander_and_session(aloha: Rig) -> None:
    """The rules of a limp leader: someone has it in hand."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.commanded = arm.session_speaks = False
    arm.run(1.0, towards(FORWARD_RAD[SHOULDER], SHOULDER))
    assert arm.node.mode == "limp"
    assert arm.pushed_nm > 1.0


def test_a_servo_in_trouble_ends_the_help(aloha: Rig) -> None:
    """The others do not go on pushing against an arm that has lost a joint."""
    arm = GuidedLeader(aloha, gravity(), FORWARD_RAD)
    arm.run(0.3)
    arm.chain.faults.overload(4)
    arm.run(0.5)
    assert arm.node.mode == "fault"
    assert "elbow" in arm.node.health(arm.clock.now_ns()).detail
    assert arm.pushed_nm == 0.0


def test_closing_leaves_a_guided_leader_limp(aloha: Rig) -> None:
    """Not pushing for ever with the last current."""
    arm = GuidedLeader(aloha, gravity() | SPRING, FORWARD_RAD)
    arm.run(0.3)
    arm.node.close()
    assert not any(arm.register(i, table.TORQUE_ENABLE) for i in range(1, 10))


def test_the_next_process_finds_a_killed_ones_leader_and_lets_it_go(aloha: Rig) -> None:
    """Its servos have torque, in a mode that cannot be changed with torque on."""
    arm = GuidedLeader(aloha, gravity() | SPRING, FORWARD_RAD)
    arm.run(0.3)
    arm.chain.host = None  # The process is gone, and its port with it.
    arm.run(0.3, ticks=False)
    arm.arm = arm.driver()
    arm.arm.connect()
    assert not any(arm.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    assert arm.modes() == [table.MODE_POSITION] * 7
    arm.arm.set_torque(True, True)
    assert arm.register(9, GOAL_PWM) == 885


def test_a_leader_without_feel_is_limp_as_ever(aloha: Rig) -> None:
    """Off by default: no torque, no other mode, no watchdog."""
    arm = GuidedLeader(aloha, None, START_RAD)
    arm.run(0.3)
    assert not any(arm.register(i, table.TORQUE_ENABLE) for i in range(1, 10))
    assert arm.modes() == [table.MODE_POSITION] * 7
    assert not any(arm.register(i, table.BUS_WATCHDOG) for i in range(1, 10))
