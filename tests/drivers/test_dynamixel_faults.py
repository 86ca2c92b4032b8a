"""What the Dynamixel driver does, and says, when something is wrong."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from one_arm import REST_RAD, OneArm, changed_arm

from drivers.base import DeviceHealth
from drivers.dynamixel import table
from drivers.dynamixel.port import QuietPort
from drivers.emulated.dynamixel.bus_faults import Chance
from drivers.emulated.dynamixel.pty_bus import PtyBus
from drivers.registry import open_arm
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig import Rig

TICK = table.RAD_PER_TICK
ROUND = 18
"""Health polls that go once round nine servos."""
PTY_TIMEOUT_S = 0.5
"""Generous, because the machine may be busy."""


@pytest.fixture
def new(aloha: Rig) -> OneArm:
    """A follower nobody has connected to yet."""
    return OneArm(aloha, "left_follower")


@pytest.fixture
def holding(new: OneArm) -> OneArm:
    """A follower that holds."""
    new.arm.connect()
    new.arm.set_torque(True, True)
    return new


def complaints(one: OneArm, polls: int = ROUND) -> list[DeviceHealth]:
    """The polls that were not ok."""
    return [h for h in (one.arm.poll_health() for _ in range(polls)) if not h.ok]


# At start.


def test_absent_servos_are_named_by_joint_and_id(new: OneArm) -> None:
    """All of them at once, shadows too."""
    new.faults.servo_absent |= {3, 7}
    expected = r"no answer from shoulder \(shadow\) \(id 3\), wrist_angle \(id 7\), though"
    with pytest.raises(DeviceError, match=expected):
        new.arm.connect()


def test_an_arm_without_power_is_told_apart(new: OneArm) -> None:
    """No servo at any baud rate."""
    new.faults.servo_absent |= set(range(1, 10))
    with pytest.raises(DeviceError, match="at any baud rate; check that the arm has power"):
        new.arm.connect()


def test_a_wrong_servo_model_is_named(new: OneArm) -> None:
    """As when leader and follower ports are swapped."""
    new.set_register(8, table.MODEL_NUMBER, 1060)
    new.set_register(9, table.MODEL_NUMBER, 4711)
    with pytest.raises(DeviceError) as caught:
        new.arm.connect()
    assert "wrist_rotate (id 8) is a XL430-W250, not a XM430-W350" in str(caught.value)
    assert "gripper (id 9) has model number 4711" in str(caught.value)


def test_the_baud_rate_that_answers_is_told(new: OneArm) -> None:
    """All servos at 57600 while the rig says 1 Mbps."""
    for servo_id in range(1, 10):
        new.faults.wrong_baud(servo_id, 57_600)
    with pytest.raises(DeviceError, match="at 1000000 baud, but they do at 57600"):
        new.arm.connect()


def test_a_slow_usb_adapter_is_refused(aloha: Rig, tmp_path: Path) -> None:
    """The FTDI default of 16 ms; the message has the command that cures it."""
    tty = tmp_path / "bus/usb-serial/devices/virtual:left_follower"
    tty.mkdir(parents=True)
    timer = tty / "latency_timer"
    timer.write_text("16\n")
    one = OneArm(aloha, "left_follower", sysfs=tmp_path)
    with pytest.raises(DeviceError, match=r"waits 16 ms .* echo 1 \| sudo tee .*latency_timer"):
        one.arm.connect()
    timer.write_text("1\n")
    one.arm.connect()


@pytest.mark.parametrize(("version", "fast", "why"), [(37, False, "watchdog"), (44, True, "fast")])
def test_old_firmware_is_refused(aloha: Rig, version: int, fast: bool, why: str) -> None:
    """Where a function that is asked for came later."""
    one = OneArm(changed_arm(aloha, "left_follower", fast_sync_read=fast), "left_follower")
    one.set_register(6, table.FIRMWARE, version)
    with pytest.raises(DeviceError, match=rf"{why}.* forearm_roll \(id 6\) has {version}"):
        one.arm.connect()


def test_a_silent_status_level_is_put_right(new: OneArm) -> None:
    """Servos told not to answer writes by another program."""
    for servo_id in range(1, 10):
        new.set_register(servo_id, table.STATUS_RETURN_LEVEL, 0)
    new.arm.connect()
    assert new.arm.read().position_rad == pytest.approx(REST_RAD[:6], abs=TICK)


def test_a_failed_connect_gives_the_port_back(new: OneArm) -> None:
    """So that the next attempt is not refused as a second program."""
    new.faults.servo_absent.add(9)
    with pytest.raises(DeviceError, match="gripper"):
        new.arm.connect()
    new.faults.servo_absent.clear()
    new.arm.connect()


# Replies.


def test_a_lost_reply_is_asked_for_again_and_counted(holding: OneArm) -> None:
    """Bounded by read_retries, and reported."""
    holding.faults.drop = Chance(count=1)
    assert holding.arm.read().position_rad == pytest.approx(REST_RAD[:6], abs=TICK)
    assert holding.arm.poll_health().values["read_retries"] == 1


def test_a_damaged_reply_is_asked_for_again(holding: OneArm) -> None:
    """One flipped bit."""
    for _ in range(50):
        holding.faults.corrupt = Chance(count=1)
        assert holding.arm.read().position_rad == pytest.approx(REST_RAD[:6], abs=TICK)


def test_a_reply_in_two_parts_is_no_failure(holding: OneArm) -> None:
    """4 ms apart is within the time-out."""
    holding.faults.split = Chance(count=1)
    assert holding.arm.read().position_rad == pytest.approx(REST_RAD[:6], abs=TICK)
    assert holding.arm.poll_health().values["read_retries"] == 0


def test_a_servo_that_falls_silent_is_named(holding: OneArm) -> None:
    """And nothing is read as 0 rad instead; the others may be heard again later."""
    holding.faults.servo_absent.add(9)
    expected = r"no valid answer from gripper \(id 9\) in 2 attempts"
    with pytest.raises(DeviceError, match=expected) as caught:
        holding.arm.read()
    assert not isinstance(caught.value, DeviceLostError)
    holding.faults.servo_absent.clear()
    holding.arm.read()


def test_a_silent_shadow_is_found_by_going_round(holding: OneArm) -> None:
    """It never answers in the control loop."""
    holding.faults.servo_absent.add(5)
    found = complaints(holding, 3 * ROUND)
    assert found[-1].detail == "elbow (shadow) (id 5) does not answer"


@pytest.mark.parametrize("late_ms", [5, 7, 8, 9, 10, 11, 12, 20, 40])
def test_a_late_reply_is_never_the_next_reading(holding: OneArm, late_ms: int) -> None:
    """The arm is elsewhere by then; only the place it is at may be read."""
    for servo_id in range(1, 10):
        holding.set_register(servo_id, table.RETURN_DELAY, 254)  # leaves time to be overtaken
    holding.faults.late_s = late_ms / 1e3
    holding.faults.late = Chance(count=1)
    for k in range(8):
        place = 0.1 * k
        holding.place((place, *REST_RAD[1:]))
        reading = holding.arm.read()
        # A reply of this very cycle's first question is as good as that to its second.
        assert reading.position_rad[0] == pytest.approx(place, abs=TICK)


def test_a_late_answer_to_a_register_is_not_the_next_ones(holding: OneArm) -> None:
    """Set-up settles the line after a failure before it asks anything else."""
    holding.faults.late_s = 0.05
    holding.faults.late = Chance(count=1)
    bus = holding.arm._bus
    bus.read(1, table.PRESENT_TEMPERATURE)
    assert bus.read(1, table.TORQUE_ENABLE) == 1
    assert bus.retries == 1


# Servos in trouble.


def test_an_overload_is_told_at_the_next_poll(holding: OneArm) -> None:
    """The alert bit of the control loop's replies asks for the reason."""
    holding.faults.overload(4)
    holding.arm.read()
    assert holding.arm.poll_health().detail == "elbow (id 4) lost torque: overload"


def test_an_overloaded_shadow_is_found_by_going_round(holding: OneArm) -> None:
    """Its alert bit is never seen in the control loop."""
    holding.faults.overload(3)
    assert "shoulder (shadow) (id 3) lost torque: overload" in complaints(holding)[-1].detail


def test_an_overloaded_servo_refuses_torque_until_rebooted(holding: OneArm) -> None:
    """The message says so; the others get their torque; after the reboot it holds again."""
    holding.faults.overload(4)
    holding.arm.read()
    with pytest.raises(DeviceError, match=r"elbow \(id 4\).* shut down for overload.* reboot it"):
        holding.arm.set_torque(True, True)
    assert holding.register(1, table.TORQUE_ENABLE) == 1
    assert holding.arm.reboot_failed() == ["elbow (id 4)"]
    holding.arm.set_torque(True, True)
    holding.arm.read()
    assert complaints(holding) == []
    assert holding.register(4, table.TORQUE_ENABLE) == holding.register(5, table.TORQUE_ENABLE) == 1


def test_a_brown_out_is_told_and_torque_can_come_back(holding: OneArm) -> None:
    """All servos restart limp, with gains, current limit and watchdog at their defaults."""
    holding.faults.brown_out()
    holding.wait(0.0)
    with pytest.raises(DeviceError, match="no valid answer from any servo"):
        holding.arm.read()
    holding.wait(0.5)
    first = holding.arm.poll_health()
    assert first.detail.startswith("waist (id 1), shoulder (id 2), shoulder (shadow) (id 3), ")
    assert first.detail.endswith("gripper (id 9) lost torque: power dipped?")
    assert first.lasting
    assert len(complaints(holding)) == ROUND
    holding.place((0.3, *REST_RAD[1:]))
    holding.arm.set_torque(True, True)
    assert holding.goals_rad()[0] == pytest.approx(0.3, abs=TICK)
    assert holding.register(9, table.GOAL_CURRENT) == 200
    assert holding.register(3, table.BUS_WATCHDOG) == 10
    assert complaints(holding) == []


def test_a_shadow_that_lost_its_torque_gets_it_back(holding: OneArm) -> None:
    """Its primary still has torque, which would hide it."""
    holding.set_register(3, table.TORQUE_ENABLE, 0)
    assert "shoulder (shadow) (id 3) lost torque" in complaints(holding)[0].detail
    holding.arm.set_torque(True, True)
    assert holding.register(3, table.TORQUE_ENABLE) == 1


def test_torque_that_went_while_the_cable_was_out_is_told_after_connecting(
    holding: OneArm,
) -> None:
    """Power and cable pulled together: the arm is limp, and nothing stiffens it by itself."""
    holding.faults.unplugged = True
    with pytest.raises(DeviceLostError):
        holding.arm.read()
    holding.faults.brown_out()
    holding.wait(0.0)
    holding.wait(0.5)
    holding.faults.unplugged = False
    holding.arm.connect()
    health = holding.arm.poll_health()
    assert "gripper (id 9) lost torque: power dipped?" in health.detail
    assert health.lasting
    assert not any(holding.register(i, table.TORQUE_ENABLE) for i in range(1, 10))


def test_several_failed_servos_are_restarted_together_and_the_others_hold_on(
    holding: OneArm,
) -> None:
    """It takes as long as one, and no bus watchdog trips meanwhile."""
    holding.faults.overload(9)
    holding.faults.overload(4)
    holding.faults.overload(6)
    holding.wait(0.01)
    began_ns = holding.clock.now_ns()
    restarted = holding.arm.reboot_failed()
    assert restarted == ["elbow (id 4)", "forearm_roll (id 6)", "gripper (id 9)"]
    assert holding.clock.now_ns() - began_ns < 0.6e9
    assert holding.register(1, table.BUS_WATCHDOG) == 10
    assert holding.register(1, table.TORQUE_ENABLE) == 1
    holding.arm.set_torque(True, True)
    holding.arm.read()
    assert complaints(holding) == []


def test_a_servo_that_does_not_come_back_is_named(holding: OneArm) -> None:
    """The others have their watchdog armed again."""
    holding.faults.overload(9)
    holding.wait(0.01)
    dead = holding.arm._bus.reboot

    def die(servo_ids: Iterable[int]) -> None:
        holding.faults.servo_absent.add(9)
        dead(servo_ids)

    holding.arm._bus.reboot = die
    with pytest.raises(DeviceError, match=r"no answer from gripper \(id 9\) 3 s after a reboot"):
        holding.arm.reboot_failed()
    assert holding.register(1, table.BUS_WATCHDOG) == 10


# Silence.


def test_silence_stops_the_servos_and_the_next_access_says_so(holding: OneArm) -> None:
    """A stalled host: the arm has stopped, holds there, and can be commanded again."""
    holding.arm.read()
    holding.arm.write(np.array((0.9, *REST_RAD[1:6])), 0.5)
    holding.wait(0.3)
    assert holding.register(1, table.BUS_WATCHDOG) == table.WATCHDOG_TRIPPED
    with pytest.raises(DeviceError, match=r"bus watchdog stopped the servos after 0\.30 s"):
        holding.arm.write(np.array((1.0, *REST_RAD[1:6])), 0.5)
    assert holding.goals_rad()[0] == pytest.approx(REST_RAD[0], abs=TICK)
    assert holding.register(1, table.BUS_WATCHDOG) == 10
    holding.arm.write(np.array((0.2, *REST_RAD[1:6])), 0.5)
    assert holding.goals_rad()[0] == pytest.approx(0.2, abs=TICK)
    assert holding.arm.poll_health().values["watchdog_trips"] == 1


def test_a_watchdog_that_tripped_unnoticed_is_found_and_cleared(holding: OneArm) -> None:
    """A servo that heard nothing though we were talking, as with a loose cable."""
    holding.set_register(6, table.BUS_WATCHDOG, table.WATCHDOG_TRIPPED)
    found = complaints(holding)
    assert [h.detail for h in found] == ["forearm_roll (id 6) was stopped by its bus watchdog"]
    assert holding.register(6, table.BUS_WATCHDOG) == 10


def test_unplugging_is_told_and_replugging_finds_the_arm_holding(holding: OneArm) -> None:
    """The servos stop by themselves; connect makes a fresh port and moves nothing."""
    holding.arm.write(np.array((0.9, *REST_RAD[1:6])), 0.5)
    holding.faults.unplugged = True
    with pytest.raises(DeviceLostError, match="has gone"):
        holding.arm.read()
    with pytest.raises(DeviceLostError):
        holding.arm.write(np.array(REST_RAD[:6]), 0.5)
    holding.wait(0.3)
    with pytest.raises(DeviceError, match=r"left_follower: serial port .* does not exist"):
        holding.arm.connect()
    holding.faults.unplugged = False
    holding.arm.connect()
    assert holding.goals_rad()[0] == pytest.approx(REST_RAD[0], abs=TICK)
    assert holding.register(1, table.TORQUE_ENABLE) == 1
    holding.arm.set_torque(True, True)
    assert holding.register(1, table.BUS_WATCHDOG) == 10


def test_closing_after_unplugging_raises_nothing(holding: OneArm) -> None:
    """Twice, too."""
    holding.faults.unplugged = True
    holding.arm.close()
    holding.arm.close()


# Torque off.


def test_torque_off_reaches_all_others_when_one_servo_is_dead(holding: OneArm) -> None:
    """The dead one is told in words."""
    holding.faults.servo_absent.add(2)
    failures = holding.arm.torque_off()
    assert [i for i in range(1, 10) if holding.register(i, table.TORQUE_ENABLE)] == [2]
    assert len(failures) == 1
    assert "shoulder (id 2) failed 5 times at writing 0 to its torque enable" in failures[0]


def test_torque_off_on_a_noisy_line_still_comes_through(holding: OneArm) -> None:
    """Answers are lost and damaged, the servos obey."""
    holding.faults.drop = Chance(probability=0.5)
    holding.faults.corrupt = Chance(probability=0.5)
    holding.arm.torque_off()
    assert not any(holding.register(i, table.TORQUE_ENABLE) for i in range(1, 10))


def test_torque_off_without_a_cable_is_told_not_raised(holding: OneArm) -> None:
    """Nothing else can be done."""
    holding.faults.unplugged = True
    assert "has gone" in holding.arm.torque_off()[0]
    holding.arm.close()
    assert "not connected" in holding.arm.torque_off()[0]


# On a real pseudo-terminal.


@pytest.fixture
def plugged(aloha: Rig, tmp_path: Path) -> Iterator[tuple[PtyBus, Rig]]:
    """An emulated bus behind a serial port, and the rig that names it."""
    link = tmp_path / "ttyDXL_follower_left"
    changes = {"port": str(link), "read_timeout_s": PTY_TIMEOUT_S}
    rig = changed_arm(aloha, "left_follower", **changes)
    with PtyBus(OneArm(rig, "left_follower").chain, link, threading.Lock()) as bus:
        yield bus, rig


def test_the_driver_works_through_a_serial_port(plugged: tuple[PtyBus, Rig]) -> None:
    """The SDK's set-up and the lean codec on one real file descriptor."""
    _, rig = plugged
    arm = open_arm("left_follower", rig, MonotonicClock(), None)
    arm.connect()
    arm.set_torque(True, True)
    for _ in range(20):
        reading = arm.read()
        arm.write(reading.position_rad, reading.gripper)
        assert reading.position_rad == pytest.approx(REST_RAD[:6], abs=TICK)
    assert arm.torque_off() == []
    arm.close()


def test_a_second_program_is_kept_off_the_port(plugged: tuple[PtyBus, Rig]) -> None:
    """Two drivers on one bus would take each other's replies."""
    _, rig = plugged
    first, second = (open_arm("left_follower", rig, MonotonicClock(), None) for _ in range(2))
    first.connect()
    with pytest.raises(DeviceError, match=r"in use by another program.*close that first"):
        second.connect()
    first.close()
    second.connect()
    second.close()


def test_a_pulled_cable_is_noticed_and_the_arm_found_again(plugged: tuple[PtyBus, Rig]) -> None:
    """The port's file comes back under the same name."""
    bus, rig = plugged
    arm = open_arm("left_follower", rig, MonotonicClock(), None)
    arm.connect()
    bus.unplug()
    with pytest.raises(DeviceLostError, match=r"ttyDXL_follower_left has gone .*USB cable"):
        arm.read()
    with pytest.raises(DeviceError, match="does not exist; plug the arm in"):
        arm.connect()
    bus.replug()
    arm.connect()
    assert arm.read().position_rad == pytest.approx(REST_RAD[:6], abs=TICK)
    arm.close()


def test_the_wrong_baud_rate_is_found_on_the_line(plugged: tuple[PtyBus, Rig]) -> None:
    """By the terminal's own setting."""
    _, rig = plugged
    rig = changed_arm(rig, "left_follower", baud=2_000_000)
    arm = open_arm("left_follower", rig, MonotonicClock(), None)
    with pytest.raises(DeviceError, match="at 2000000 baud, but they do at 1000000"):
        arm.connect()


def test_a_file_that_is_no_serial_port_is_refused(tmp_path: Path) -> None:
    """A wrong path in the rig description."""
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(DeviceError, match="is not a serial port"):
        QuietPort(str(path)).openPort()
    with pytest.raises(DeviceError, match="does not exist"):
        QuietPort(str(tmp_path / "ttyUSB9")).openPort()
