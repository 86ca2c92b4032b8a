"""Each fault of the emulated servo bus, named by what the host sees of it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import dynamixel_sdk as sdk
import numpy as np
import pytest

from drivers.dynamixel.port import QuietPort
from drivers.emulated.dynamixel.bank import ServoBank, axes_of
from drivers.emulated.dynamixel.bus_faults import Chance
from drivers.emulated.dynamixel.chain import ServoChain
from drivers.emulated.dynamixel.pty_bus import PtyBus
from drivers.emulated.dynamixel.virtual_port import VirtualPort
from teleop.clock import VirtualClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig_files import DEFAULT_RIG, load_rig

RIG = load_rig(DEFAULT_RIG)
ARM = "left_follower"
TORQUE, WATCHDOG, GOAL, POSITION = 64, 98, 116, 132
ALERT = 0x80
MS = 1_000_000


def chain_of() -> ServoChain:
    """A follower's chain on a bank of its own, joints standing at zero."""
    bank = ServoBank(axes_of(RIG))
    bank.torque_nm(0.002, np.zeros(len(bank)), np.zeros(len(bank)))
    return ServoChain(ARM, RIG.arm_model(ARM), bank)


@pytest.fixture
def bus() -> SimpleNamespace:
    """SDK, port and chain in virtual time."""
    clock, chain = VirtualClock(1_000 * MS), chain_of()
    port = VirtualPort(chain, clock)
    port.openPort()
    return SimpleNamespace(
        clock=clock, chain=chain, port=port, faults=chain.faults, sdk=sdk.PacketHandler(2.0)
    )


def wait(bus: SimpleNamespace, milliseconds: int) -> None:
    """Let virtual time pass with silence on the bus, as the world does."""
    for _ in range(milliseconds):
        bus.clock.sleep_until_ns(bus.clock.now_ns() + MS)
        bus.chain.advance(bus.clock.now_ns())


def torque_of(bus: SimpleNamespace, joint: str, angle_rad: float) -> float:
    """What the servos do when the joint stands at an angle."""
    bank = bus.chain.bank
    angle = np.zeros(len(bank))
    axis = bank.index(ARM, joint)
    angle[axis] = angle_rad
    return float(bank.torque_nm(0.002, angle, np.zeros(len(bank)))[axis])


def test_absent_servo_is_silent_and_comes_back(bus: SimpleNamespace) -> None:
    """Only that id is concerned."""
    bus.faults.servo_absent.add(5)
    assert bus.sdk.ping(bus.port, 5)[1] == sdk.COMM_RX_TIMEOUT
    assert bus.sdk.ping(bus.port, 6)[1] == sdk.COMM_SUCCESS
    bus.faults.servo_absent.clear()
    assert bus.sdk.ping(bus.port, 5)[1] == sdk.COMM_SUCCESS


def test_dropped_reply_is_missed_once(bus: SimpleNamespace) -> None:
    """A count of one hits exactly one reply; the write itself was carried out."""
    bus.faults.drop = Chance(count=1)
    assert bus.sdk.write1ByteTxRx(bus.port, 1, 65, 1)[0] == sdk.COMM_RX_TIMEOUT
    assert bus.sdk.read1ByteTxRx(bus.port, 1, 65) == (1, 0, 0)


def test_corrupt_reply_never_passes_as_data(bus: SimpleNamespace) -> None:
    """Whatever bit is flipped, the SDK reports a failure."""
    bus.faults.corrupt = Chance(probability=1.0)
    results = {bus.sdk.read4ByteTxRx(bus.port, 1, POSITION)[1] for _ in range(50)}
    assert sdk.COMM_SUCCESS not in results


def test_late_reply_arrives_after_the_timeout_and_is_stale(bus: SimpleNamespace) -> None:
    """The bytes of the lost answer lie in the line until somebody drains it."""
    bus.faults.late = Chance(count=1)
    assert bus.sdk.read4ByteTxRx(bus.port, 1, POSITION)[1] == sdk.COMM_RX_TIMEOUT
    stale = bus.port.read_exactly(15, bus.clock.now_ns() + 50 * MS)
    assert stale[4] == 1
    assert len(stale) == 15


def test_split_reply_is_put_together(bus: SimpleNamespace) -> None:
    """Two halves 4 ms apart still make a packet."""
    bus.faults.split = Chance(count=1)
    begun_ns = bus.clock.now_ns()
    assert bus.sdk.read4ByteTxRx(bus.port, 1, POSITION) == (2048, 0, 0)
    assert bus.clock.now_ns() - begun_ns == 4 * MS


def test_faults_of_chance_repeat_with_their_seed() -> None:
    """Two buses with equal seeds lose the same replies."""

    def lost() -> list[bool]:
        chain = chain_of()
        chain.faults.drop = Chance(probability=0.3)
        port, handler = VirtualPort(chain, VirtualClock()), sdk.PacketHandler(2.0)
        port.openPort()
        return [handler.ping(port, 1)[1] != sdk.COMM_SUCCESS for _ in range(60)]

    first = lost()
    assert first == lost()
    assert 5 < sum(first) < 35


def test_overload_drops_torque_alerts_and_needs_a_reboot(bus: SimpleNamespace) -> None:
    """Every reply carries the alert bit, torque is refused, a reboot clears it."""
    bus.sdk.write1ByteTxRx(bus.port, 1, TORQUE, 1)
    bus.sdk.write4ByteTxRx(bus.port, 1, GOAL, 2100)
    assert torque_of(bus, "waist", 0.0) > 1.0
    bus.faults.overload(1)
    assert bus.sdk.read1ByteTxRx(bus.port, 1, TORQUE) == (0, 0, ALERT)
    assert torque_of(bus, "waist", 0.0) == 0.0
    assert bus.sdk.read1ByteTxRx(bus.port, 1, 70)[0] == 0x20
    assert bus.sdk.write1ByteTxRx(bus.port, 1, TORQUE, 1) == (0, ALERT | 1)
    bus.sdk.reboot(bus.port, 1)
    wait(bus, 300)
    assert bus.sdk.write1ByteTxRx(bus.port, 1, TORQUE, 1) == (0, 0)


def test_brown_out_reboots_all_servos_at_once(bus: SimpleNamespace) -> None:
    """Torque is gone everywhere; nobody answers for a while, then all do."""
    for servo_id in range(1, 10):
        bus.sdk.write1ByteTxRx(bus.port, servo_id, TORQUE, 1)
    bus.faults.brown_out()
    assert bus.sdk.ping(bus.port, 9)[1] == sdk.COMM_RX_TIMEOUT
    wait(bus, 300)
    torques = [bus.sdk.read1ByteTxRx(bus.port, i, TORQUE) for i in range(1, 10)]
    assert torques == [(0, 0, 0)] * 9


def test_servo_at_wrong_baud_answers_only_there(bus: SimpleNamespace) -> None:
    """The others go on; at its own rate the lost servo is found."""
    bus.faults.wrong_baud(7, 57_600)
    assert bus.sdk.ping(bus.port, 7)[1] == sdk.COMM_RX_TIMEOUT
    assert bus.sdk.ping(bus.port, 8)[1] == sdk.COMM_SUCCESS
    bus.port.setBaudRate(57_600)
    assert bus.sdk.ping(bus.port, 7)[1] == sdk.COMM_SUCCESS


def test_watchdog_stops_the_motion_and_refuses_goals_until_cleared(bus: SimpleNamespace) -> None:
    """After 200 ms of silence the joint holds where it is, and register 98 reads -1."""
    bus.sdk.write1ByteTxRx(bus.port, 1, WATCHDOG, 10)
    bus.sdk.write1ByteTxRx(bus.port, 1, TORQUE, 1)
    bus.sdk.write4ByteTxRx(bus.port, 1, GOAL, 2500)
    wait(bus, 200)
    assert torque_of(bus, "waist", 0.1) > 1.0
    wait(bus, 1)
    assert torque_of(bus, "waist", 0.1) == pytest.approx(0.0)
    assert bus.sdk.read1ByteTxRx(bus.port, 1, WATCHDOG)[0] == 255
    assert bus.sdk.write4ByteTxRx(bus.port, 1, GOAL, 2500) == (0, 4)
    assert bus.sdk.write1ByteTxRx(bus.port, 1, WATCHDOG, 0) == (0, 0)
    assert torque_of(bus, "waist", 0.1) == pytest.approx(0.0)
    assert bus.sdk.write4ByteTxRx(bus.port, 1, GOAL, 2500) == (0, 0)


def test_any_traffic_feeds_the_watchdog(bus: SimpleNamespace) -> None:
    """Talking to one servo keeps the others moving too."""
    bus.sdk.write1ByteTxRx(bus.port, 1, WATCHDOG, 10)
    bus.sdk.write1ByteTxRx(bus.port, 1, TORQUE, 1)
    for _ in range(5):
        wait(bus, 150)
        bus.sdk.ping(bus.port, 9)
    assert bus.sdk.read1ByteTxRx(bus.port, 1, WATCHDOG)[0] == 10


def test_servo_without_torque_is_not_stopped_by_silence(bus: SimpleNamespace) -> None:
    """The watchdog guards motion only."""
    bus.sdk.write1ByteTxRx(bus.port, 1, WATCHDOG, 1)
    wait(bus, 100)
    assert bus.sdk.read1ByteTxRx(bus.port, 1, WATCHDOG)[0] == 1


def test_unplugged_virtual_port_is_lost_and_a_new_one_works_after_replug(
    bus: SimpleNamespace,
) -> None:
    """As a tty: the open port dies for good, opening fails in words, then works."""
    bus.faults.unplugged = True
    with pytest.raises(DeviceLostError, match="has gone"):
        bus.port.write_all(b"\x00")
    with pytest.raises(DeviceError, match="does not exist"):
        VirtualPort(bus.chain, bus.clock).openPort()
    bus.faults.unplugged = False
    fresh = VirtualPort(bus.chain, bus.clock)
    fresh.openPort()
    assert bus.sdk.ping(fresh, 1)[1] == sdk.COMM_SUCCESS


def test_unplugged_pty_is_lost_and_replug_gives_the_same_name(tmp_path: Path) -> None:
    """The link vanishes with the cable and leads to a new terminal afterwards."""
    link, handler = tmp_path / "ttyDXL", sdk.PacketHandler(2.0)
    with PtyBus(chain_of(), link, threading.Lock()) as served:
        port = QuietPort(str(link))
        port.openPort()
        assert handler.ping(port, 1)[1] == sdk.COMM_SUCCESS
        served.unplug()
        assert not link.is_symlink()
        with pytest.raises(DeviceLostError):
            handler.ping(port, 1)
        served.replug()
        fresh = QuietPort(str(link))
        fresh.openPort()
        assert handler.ping(fresh, 1)[1] == sdk.COMM_SUCCESS
        fresh.closePort()
    assert not link.is_symlink()


def test_unplugging_trips_the_watchdog_of_the_servos(tmp_path: Path) -> None:
    """They keep their power and notice the silence by themselves, served by the bus's thread."""
    chain, handler = chain_of(), sdk.PacketHandler(2.0)
    with PtyBus(chain, tmp_path / "tty") as served:
        port = QuietPort(str(tmp_path / "tty"))
        port.openPort()
        handler.write1ByteTxRx(port, 1, WATCHDOG, 5)
        handler.write1ByteTxRx(port, 1, TORQUE, 1)
        served.unplug()
        tripped = threading.Event()
        for _ in range(500):
            if chain.servo(1).registers.watchdog_tripped:
                tripped.set()
                break
            tripped.wait(0.01)
        assert tripped.is_set()


def test_port_is_not_put_where_a_file_lies(tmp_path: Path) -> None:
    """A file of the user's is left alone."""
    (tmp_path / "tty").write_text("mine")
    with pytest.raises(DeviceError, match="not a link"):
        PtyBus(chain_of(), tmp_path / "tty").start()
    with pytest.raises(DeviceError, match="cannot make the port"):
        PtyBus(chain_of(), tmp_path / "absent" / "tty").start()
    assert (tmp_path / "tty").read_text() == "mine"
