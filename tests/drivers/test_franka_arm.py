"""Franka arms through franky and panda-python, against the emulator of their interface."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import one_franka
import pytest
from franka_bench import in_own_process
from one_franka import HOME_RAD, PATIENCE_S, Connect, driver, model, q_of

from drivers.base import ArmReading, TraceSample, TracingArm
from drivers.emulated.franka.server import FrankaEmulator
from drivers.franka.aim import Aim
from drivers.franka.arm import FrankaArmDriver
from drivers.franka.trace import CAPACITY, HostTime, TraceRing
from teleop.clock import MonotonicClock, ns_from_s
from teleop.errors import DeviceError, SafetyError
from teleop.limits import ArmLimits
from teleop.messages import FloatArray
from tests.waiting import wait_until

emulator, connect = one_franka.emulator, one_franka.connect

AWAY_RAD = HOME_RAD + np.array([0.3, 0.2, 0.0, 0.2, 0.0, 0.1, 0.3])
NS_PER_MS = 1_000_000
LEASH = np.full(7, 0.05), np.full(7, 0.3)


def traced(arm: FrankaArmDriver, seconds: float) -> list[TraceSample]:
    """All that the arm's control loop saw in this many seconds of the robot's clock."""
    arm.trace()
    samples: list[TraceSample] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not samples or samples[-1].robot_ms - samples[0].robot_ms < 1000 * seconds:
        assert time.monotonic() < deadline_s
        samples += arm.trace()
        time.sleep(0.005)
    return samples


def test_a_guided_arm_is_recorded_every_millisecond(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """A hand takes the arm along, and no state of its 1 kHz is missing on the way."""
    arm = connect("kinesthetic")
    assert isinstance(arm, TracingArm)
    arm.set_torque(joints=False, gripper=True)
    emulator.hand_to(AWAY_RAD)
    before_ns = time.monotonic_ns()
    samples = traced(arm, 2.0)
    after_ns = time.monotonic_ns()

    assert set(np.diff([s.robot_ms for s in samples])) == {1}
    stamps_ns = np.array([s.stamp_ns for s in samples])
    assert np.all(np.diff(stamps_ns) > 0)
    assert before_ns - ns_from_s(1.0) < stamps_ns[0] < stamps_ns[-1] < after_ns
    assert np.ptp([s.position_rad[0] for s in samples]) > 0.25
    assert np.abs([s.external_torque_nm for s in samples]).max() > 1.0
    assert arm.poll_health().values["missing_states"] == 0


def test_a_held_arm_resists_and_a_guided_one_yields(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """Held it moves by what its spring gives; free it goes where the hand wants."""
    arm = connect("kinesthetic")
    arm.set_torque(joints=True, gripper=True)
    emulator.push([6.0, 0, 0, 0, 0, 0, 0])
    traced(arm, 0.5)
    assert abs(q_of(emulator)[0] - HOME_RAD[0]) < 0.02

    emulator.push([0.0] * 7)
    arm.set_torque(joints=False, gripper=True)
    emulator.hand_to(AWAY_RAD)
    wait_until(lambda: np.abs(q_of(emulator) - AWAY_RAD).max() < 0.02, "guided there")
    arm.set_torque(joints=True, gripper=True)
    emulator.hand_to(None)
    traced(arm, 0.3)
    assert np.abs(q_of(emulator) - AWAY_RAD).max() < 0.03


def test_a_soft_wall_keeps_a_guided_joint_in_its_range(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """Pushed steadily towards the end of its range, a guided joint stops before it."""
    joints = list(model().joints)
    end_rad = HOME_RAD[6] + 0.35
    joints[6] = joints[6].model_copy(update={"max_rad": end_rad})
    arm = connect("kinesthetic", kind=model(joints=tuple(joints)))
    arm.set_torque(joints=False, gripper=True)
    emulator.push([0, 0, 0, 0, 0, 0, 0.6])
    q = np.array([s.position_rad[6] for s in traced(arm, 2.0)])
    assert end_rad - 0.15 < q.max() < end_rad


def test_guiding_faster_than_the_cap_ends_gently(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """The arm comes to rest, says why, and is guided again only after the operator's act."""
    arm = connect("kinesthetic", guiding_max_velocity_rad_s=0.5)
    arm.set_torque(joints=False, gripper=True)
    emulator.push([8.0, 0, 0, 0, 0, 0, 0])
    wait_until(lambda: not arm.poll_health().ok, "the cap is noticed")
    emulator.push([0.0] * 7)
    wait_until(lambda: emulator.state()["robot_mode"] == "idle", "at rest")
    health = arm.poll_health()
    assert health.lasting
    assert "joint1 was guided at" in health.detail
    assert emulator.state()["errors"] == []
    with pytest.raises(DeviceError, match="guiding_max_velocity"):
        arm.set_torque(joints=False, gripper=True)
    assert arm.reboot_failed() == ["franka (too_fast)"]
    arm.set_torque(joints=False, gripper=True)
    assert arm.poll_health().ok


def follow(arm: FrankaArmDriver, path: Callable[[float], FloatArray], seconds: float) -> float:
    """Command a path at 30 Hz; returns the error that 95 % of the readings stay below, rad."""
    errors, begin_s = [], time.monotonic()
    while (at_s := time.monotonic() - begin_s) < seconds:
        goal = path(at_s)
        arm.write(goal, 1.0)
        time.sleep(1 / 30)
        errors.append(np.abs(arm.read().position_rad - goal).max())
    return float(np.quantile(errors, 0.95))


def swing(at_s: float) -> FloatArray:
    """Up to 0.4 rad/s on all joints."""
    return HOME_RAD + 0.2 * np.sin(2.0 * at_s)


def test_a_follower_follows_commands_of_30_hz(connect: Connect) -> None:
    """It stays within 0.04 rad of a swinging command."""
    arm = connect("follower")
    arm.set_torque(joints=True, gripper=True)
    assert follow(arm, swing, 2.0) < 0.04
    assert arm.poll_health().values["missing_states"] == 0


def test_a_follower_holds_when_commands_stop_and_then_lets_go(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """In silence it is at rest after 0.1 s and leaves control after 0.5 s; it may go on later."""
    arm = connect("follower")
    arm.set_torque(joints=True, gripper=True)
    follow(arm, swing, 0.8)
    last_ns = time.monotonic_ns()
    samples = traced(arm, 0.3)
    ago_s = np.array([s.stamp_ns - last_ns for s in samples]) / 1e9
    q = np.array([s.position_rad for s in samples])[(ago_s > 0.12) & (ago_s < 0.4)]
    assert np.ptp(q, axis=0).max() < 0.02
    wait_until(lambda: emulator.state()["robot_mode"] == "idle", "control is left")
    here_rad = q_of(emulator)
    with pytest.raises(DeviceError, match="nobody commanded"):
        arm.write(HOME_RAD, 1.0)
    assert emulator.state()["robot_mode"] == "move"
    assert np.abs(q_of(emulator) - here_rad).max() < 0.01
    assert follow(arm, lambda _: HOME_RAD, 0.5) < 0.5
    assert arm.poll_health().values["deadman_stops"] == 1


def test_a_jump_and_a_goal_out_of_range_are_tamed(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """The arm goes there at its own speed, and not beyond its range less a margin."""
    arm = connect("follower")
    arm.set_torque(joints=True, gripper=True)
    arm.trace()
    goal = HOME_RAD + np.array([0, 0, 0, 0, 0, 0, 2.5])  # The range ends at 3.02 rad.
    begin_s = time.monotonic()
    samples: list[TraceSample] = []
    while time.monotonic() - begin_s < 2.5:
        arm.write(goal, 1.0)
        samples += arm.trace()
        time.sleep(0.02)
    speeds = np.abs([s.velocity_rad_s for s in samples])
    assert speeds.max() < 2.3
    assert 2.87 < q_of(emulator)[6] < 2.95
    assert emulator.state()["errors"] == []


def test_a_command_that_is_no_pose_is_refused(connect: Connect) -> None:
    """NaN never reaches the robot."""
    arm = connect("follower")
    arm.set_torque(joints=True, gripper=True)
    with pytest.raises(SafetyError, match="joint3 = nan"):
        arm.write(np.array([0, 0, np.nan, 0, 0, 0, 0]), 1.0)


def test_torque_off_stops_a_follower_in_place(emulator: FrankaEmulator, connect: Connect) -> None:
    """A Franka has brakes: it rests where it is."""
    arm = connect("follower")
    arm.set_torque(joints=True, gripper=True)
    assert arm.torque_off() == []
    assert emulator.state()["robot_mode"] == "idle"
    assert arm.poll_health().ok
    assert np.abs(arm.read().position_rad - HOME_RAD).max() < 0.01


def test_an_observer_reads_and_never_takes_control(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """It reads an arm guided by its own buttons and says which mode that is."""
    arm = connect("observer")
    emulator.fault("guiding")
    arm.set_torque(joints=True, gripper=True)
    arm.write(AWAY_RAD, 0.0)
    wait_until(lambda: arm.poll_health().detail == "mode guiding", "the mode is told")
    emulator.hand_to(AWAY_RAD)
    wait_until(lambda: abs(arm.read().position_rad[0] - AWAY_RAD[0]) < 0.05, "it is seen to move")
    assert emulator.state()["robot_mode"] == "guiding"
    assert emulator.state()["gripper"] == pytest.approx(0.08)
    assert len(arm.trace()) > 100
    assert arm.read().gripper is None


def test_the_gripper_is_open_or_closed_and_measured_between(
    emulator: FrankaEmulator, connect: Connect
) -> None:
    """Half an opening changes nothing, a low one closes, and the reading is the width."""
    arm = connect("kinesthetic")
    arm.set_torque(joints=False, gripper=True)
    here = arm.read().position_rad

    def opening() -> float:
        arm.write(here, wanted)
        reading: ArmReading = arm.read()
        assert reading.gripper is not None
        return reading.gripper

    wanted = 0.5
    opening()
    traced(arm, 0.5)
    assert opening() == pytest.approx(1.0)
    wanted = 0.1
    wait_until(lambda: 0.2 < opening() < 0.8, "on its way")
    wait_until(lambda: opening() < 0.05, "closed")
    wanted = 0.6
    opening()
    traced(arm, 0.5)
    assert opening() < 0.05
    wanted = 0.9
    wait_until(lambda: opening() > 0.5, "opening")
    wanted = 0.0
    wait_until(lambda: opening() < 0.05, "the latest wish wins on the way")
    wanted = 1.0
    wait_until(lambda: opening() > 0.95, "open")
    emulator.fault("object", width_m=0.03)
    wanted = 0.0
    wait_until(lambda: opening() < 2 and emulator.state()["grasped"], "holds the thing")
    wait_until(lambda: opening() == pytest.approx(0.375, abs=0.02), "as wide as the thing")


@in_own_process(robot="panda")
def test_a_panda_is_guided_and_commanded(emulator: FrankaEmulator) -> None:
    """The same by panda-python, which leaves out a state now and then and counts it."""
    arm = driver(emulator.host, "kinesthetic", model("panda"))
    arm.connect()
    arm.set_torque(joints=False, gripper=True)
    emulator.hand_to(AWAY_RAD)
    samples = traced(arm, 1.0)
    steps = np.diff([s.robot_ms for s in samples])
    assert steps.min() == 1
    assert arm.poll_health().values["missing_states"] >= np.sum(steps - 1)
    wait_until(lambda: np.abs(q_of(emulator) - AWAY_RAD).max() < 0.02, "guided there")
    emulator.hand_to(None)
    arm.set_torque(joints=True, gripper=True)
    assert follow(arm, lambda at_s: AWAY_RAD + 0.1 * np.sin(2.0 * at_s), 1.0) < 0.04
    emulator.fault("reflex")
    wait_until(lambda: arm.poll_health().lasting, "the reflex is told")
    assert "joint_reflex" in arm.poll_health().detail
    assert emulator.state()["robot_mode"] == "reflex"
    assert arm.reboot_failed() == ["franka (reflex)"]
    arm.set_torque(joints=True, gripper=True)
    arm.write(arm.read().position_rad, 0.0)
    wait_until(lambda: (arm.read().gripper or 1.0) < 0.95, "the hand closes")
    arm.close()
    assert emulator.state()["robot_mode"] == "idle"


def test_states_are_stamped_by_the_earliest_arrivals() -> None:
    """Late arrivals do not shift the stamps, and the drift of the clocks is followed."""
    rng = np.random.default_rng(1)
    drift = 100e-6
    time_of, errors_ns, arrival_ns = HostTime(), [], 0
    for ms in range(20_000):
        taken_ns = 7_000_000_000 + round(ms * NS_PER_MS * (1 + drift))
        delay_ns = 200_000 + round(rng.exponential(2e6))
        arrival_ns = max(arrival_ns + 1_000, taken_ns + delay_ns)
        stamp_ns = time_of.stamp_ns(ms, arrival_ns)
        assert stamp_ns <= arrival_ns
        if ms > 2_000:
            errors_ns.append(stamp_ns - taken_ns)
    assert np.abs(errors_ns).max() < 600_000


def test_a_robot_clock_that_stood_still_is_noticed() -> None:
    """A tenth of a second after a pause of 100 ms the stamps are right again."""
    time_of, pause_ns = HostTime(), 100 * NS_PER_MS
    for ms in range(4_000):
        arrival_ns = ms * NS_PER_MS + (pause_ns if ms > 2_000 else 0)
        late_ns = arrival_ns - time_of.stamp_ns(ms, arrival_ns)
        if not 2_000 < ms < 2_110:
            assert late_ns < NS_PER_MS


def test_states_that_nobody_takes_are_counted_not_mixed_up() -> None:
    """A ring that ran over gives the newest half, in order."""
    ring, nothing = TraceRing(), [np.zeros(7)] * 4
    for ms in range(CAPACITY + 500):
        ring.put(ms, ms * NS_PER_MS, nothing, in_control=True)
    taken = ring.take()
    assert taken[-1].robot_ms == CAPACITY + 499
    assert np.all(np.diff([s.robot_ms for s in taken]) == 1)
    assert ring.overrun + len(taken) == CAPACITY + 500
    assert ring.take() == []


def test_an_aim_waits_for_a_robot_that_is_behind() -> None:
    """While the robot's clock stands still the aim does not move, and then it does not jump."""
    names = tuple(f"joint{i}" for i in range(7))
    limit = np.full(7, 2.0)
    limits = ArmLimits(names, -limit, limit, limit, 5 * limit, np.inf, None)
    aim = Aim(limits, hold_s=0.1, leash=LEASH)
    clock = MonotonicClock()
    aim.reset(np.zeros(7), robot_ms=0)
    aim.set(np.full(7, 1.0), clock.now_ns())
    still = np.zeros(7), np.zeros(7)
    assert aim.step(0, clock.now_ns(), *still)[0].max() == 0.0
    position, velocity = aim.step(400, clock.now_ns(), *still)
    assert 0.0 < position[0] <= 0.01
    assert 0.0 < velocity[0] <= 0.1


def test_an_aim_keeps_a_blocked_arm_on_a_short_leash() -> None:
    """An arm that does not follow is pulled with a bounded spring, however far the command is."""
    names = tuple(f"joint{i}" for i in range(7))
    limit = np.full(7, 2.0)
    limits = ArmLimits(names, -limit, limit, limit, 5 * limit, np.inf, None)
    aim = Aim(limits, hold_s=0.1, leash=LEASH)
    aim.reset(np.zeros(7), robot_ms=0)
    for ms in range(4, 1000, 4):
        aim.set(np.full(7, 1.0), ms * NS_PER_MS)
        position, velocity = aim.step(ms, ms * NS_PER_MS, np.zeros(7), np.zeros(7))
        assert position.max() <= 0.05
        assert velocity.max() <= 0.3


def test_an_aim_stops_on_its_way_when_no_command_comes() -> None:
    """A tenth of a second after the last command it brakes, however far the goal is."""
    names = tuple(f"joint{i}" for i in range(7))
    limit = np.full(7, 3.0)
    limits = ArmLimits(names, -limit, limit, limit / 3, 5 * limit, np.inf, None)
    aim = Aim(limits, hold_s=0.1, leash=LEASH)
    aim.reset(np.zeros(7), robot_ms=0)
    aim.set(np.full(7, 2.0), 0)
    position = np.zeros(7)
    for ms in range(4, 2000, 4):
        position, _ = aim.step(ms, ms * NS_PER_MS, position, np.zeros(7))
    assert 0.05 < position.max() < 0.2
