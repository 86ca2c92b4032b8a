"""The joint limiter: no command gets more out of an arm than its limits allow."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleop.errors import SafetyError
from teleop.limits import (
    GRIPPER_SPEED_UP_S,
    LONGEST_TICK_S,
    ArmLimits,
    JointLimiter,
    Limited,
    limits_of,
)
from teleop.messages import FloatArray
from teleop.rig import Rig

NAMES = ("shoulder", "elbow")
LIMITS = ArmLimits(
    joint_names=NAMES,
    min_rad=np.array([-1.0, -2.0]),
    max_rad=np.array([1.0, 2.0]),
    max_velocity_rad_s=np.array([3.0, 1.0]),
    max_acceleration_rad_s2=np.array([20.0, 10.0]),
    max_step_rad=0.2,
    gripper_velocity_1_s=4.0,
)
DT_S = 0.01
EPS = 1e-9

angle = st.floats(-4, 4, allow_nan=False)
opening = st.floats(-1, 2, allow_nan=False)
ticks_s = st.floats(0.0005, 0.3)
"""From a tick that came twice to one that came after a stall."""


def limiter_at(position: FloatArray, gripper: float = 0.5) -> JointLimiter:
    limiter = JointLimiter(LIMITS)
    limiter.reset(position, gripper)
    return limiter


def travel(limiter: JointLimiter, target: FloatArray, ticks: int) -> FloatArray:
    """Setpoints while a target stands still, shape (ticks + 1, J)."""
    path = [limiter.position_rad]
    path += [limiter.limit(target, 0.5, DT_S).position_rad for _ in range(ticks)]
    return np.array(path)


@settings(max_examples=60, deadline=None)
@given(
    start=st.tuples(angle, angle),
    moves=st.lists(st.tuples(angle, angle, opening, ticks_s, st.booleans()), max_size=40),
)
def test_no_sequence_of_commands_and_ticks_breaks_a_limit(
    start: tuple[float, float], moves: list[tuple[float, float, float, float, bool]]
) -> None:
    """Position, velocity, acceleration, step and gripper rate hold, tick by tick."""
    limiter = limiter_at(np.array(start))
    low, high = np.minimum(LIMITS.min_rad, start), np.maximum(LIMITS.max_rad, start)
    before, speed, grip_before = limiter.position_rad, np.zeros(2), limiter.gripper
    for first, second, gripper, dt_s, hold in moves:
        if hold:
            after = limiter.hold(dt_s)
        else:
            after = limiter.limit(np.array([first, second]), gripper, dt_s)
        credited_s = min(dt_s, LONGEST_TICK_S)
        step = after.position_rad - before
        new_speed = step / credited_s
        assert (after.position_rad >= low - EPS).all()
        assert (after.position_rad <= high + EPS).all()
        assert (np.abs(step) <= LIMITS.max_step_rad + EPS).all()
        assert (np.abs(new_speed) <= LIMITS.max_velocity_rad_s + 1e-6).all()
        gained = np.abs(new_speed - speed)
        assert (gained <= LIMITS.max_acceleration_rad_s2 * credited_s + 1e-6).all()
        assert after.gripper is not None
        assert grip_before is not None
        assert -EPS <= after.gripper <= 1 + EPS
        assert abs(after.gripper - grip_before) <= 4.0 * credited_s + EPS
        before, speed, grip_before = after.position_rad, new_speed, after.gripper


@settings(max_examples=60, deadline=None)
@given(start=st.floats(-1, 1), target=angle)
def test_a_target_at_rest_is_reached_and_never_overshot(start: float, target: float) -> None:
    """The setpoint comes to the target, or the end of the range, from one side only."""
    limiter = limiter_at(np.array([start, 0.0]))
    path = travel(limiter, np.array([target, 0.0]), 150)[:, 0]
    goal = np.clip(target, -1.0, 1.0)
    assert path[-1] == pytest.approx(goal, abs=1e-6)
    assert (np.sign(goal - start) * (goal - path) >= -EPS).all()


@settings(max_examples=30, deadline=None)
@given(start=st.floats(-1, 1), target=angle, dts=st.lists(st.floats(0.002, 0.03), min_size=300))
def test_uneven_ticks_overshoot_by_less_than_one_tick_of_acceleration(
    start: float, target: float, dts: list[float]
) -> None:
    """Braking is planned for any later tick length."""
    limiter = limiter_at(np.array([start, 0.0]))
    goal = np.clip(target, -1.0, 1.0)
    path = [limiter.limit(np.array([target, 0.0]), 0.5, dt).position_rad[0] for dt in dts]
    over = np.sign(goal - start) * (np.array(path) - goal)
    assert over.max() <= 20.0 * 0.03**2
    assert path[-1] == pytest.approx(goal, abs=1e-3)


def test_a_step_of_one_radian_becomes_a_smooth_motion() -> None:
    """The first tick moves by what the acceleration allows; step, velocity, acceleration show."""
    limiter = limiter_at(np.zeros(2))
    first = limiter.limit(np.array([1.0, 0.0]), 0.5, DT_S)
    assert first.position_rad[0] <= 20.0 * DT_S**2 + EPS
    assert first.limited == Limited.STEP | Limited.VELOCITY | Limited.ACCELERATION
    path = travel(limiter, np.array([1.0, 0.0]), 100)[:, 0]
    assert np.abs(np.diff(path)).max() <= 3.0 * DT_S + EPS
    assert path[-1] == pytest.approx(1.0)
    assert path.max() <= 1.0


def test_a_motion_within_the_limits_is_followed_without_lag() -> None:
    """Braking is planned relative to the command's own velocity."""
    limiter = limiter_at(np.zeros(2))
    times = np.arange(300) * DT_S
    wanted = 0.5 * (1 - np.cos(3.0 * times))
    got, flags = [], Limited.NONE
    for q in wanted:
        setpoint = limiter.limit(np.array([q, 0.0]), 0.5, DT_S)
        got.append(setpoint.position_rad[0])
        flags |= setpoint.limited
    assert np.abs(np.array(got) - wanted).max() < 1e-3
    assert Limited.VELOCITY not in flags


def test_one_joint_out_of_range_is_clamped_and_the_others_obey() -> None:
    """The command as a whole is never dropped."""
    limiter = limiter_at(np.zeros(2))
    path = travel(limiter, np.array([5.0, 0.5]), 200)
    assert path[-1] == pytest.approx([1.0, 0.5])
    assert Limited.POSITION in limiter.limit(np.array([5.0, 0.5]), 0.5, DT_S).limited


def test_an_arm_found_outside_its_range_only_moves_inward() -> None:
    """No jump to the limit, no motion further out."""
    limiter = limiter_at(np.array([1.3, 0.0]))
    path = travel(limiter, np.array([2.0, 0.0]), 100)[:, 0]
    assert (np.diff(path) <= EPS).all()
    assert np.abs(np.diff(path)).max() <= 3.0 * DT_S + EPS
    assert path[-1] == pytest.approx(1.0)


def test_holding_slows_down_within_the_acceleration_limit_and_stays() -> None:
    """Stop means hold: from full speed to rest in v / a, then still."""
    limiter = limiter_at(np.array([-1.0, 0.0]))
    path = travel(limiter, np.array([1.0, 0.0]), 30)[:, 0]
    speed = (path[-1] - path[-2]) / DT_S
    held = np.array([path[-1], *(limiter.hold(DT_S).position_rad[0] for _ in range(40))])
    speeds = np.array([speed, *(np.diff(held) / DT_S)])
    assert np.abs(np.diff(speeds)).max() <= 20.0 * DT_S + 1e-6
    assert held[-1] - held[0] <= speed**2 / (2 * 20.0) + EPS
    assert held[-1] == held[-10]


def test_a_velocity_cap_is_kept_and_a_faster_setpoint_slows_down_to_it() -> None:
    """The cap of the engage ramp never asks for more than the acceleration limit."""
    limiter = limiter_at(np.zeros(2))
    capped = np.array([limiter.limit(np.ones(2), 0.5, DT_S, 0.5).position_rad for _ in range(50)])
    assert np.abs(np.diff(capped, axis=0)).max() <= 0.5 * DT_S + EPS
    fast = limiter_at(np.array([-1.0, 0.0]))
    travel(fast, np.array([1.0, 0.0]), 20)
    path = np.array([fast.limit(np.ones(2), 0.5, DT_S, 0.5).position_rad[0] for _ in range(30)])
    speeds = np.diff(path) / DT_S
    assert np.abs(np.diff(speeds)).max() <= 20.0 * DT_S + 1e-6
    assert speeds[-1] <= 0.5 + EPS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_joint_name(bad: float) -> None:
    """The setpoint has not moved."""
    limiter = limiter_at(np.zeros(2))
    with pytest.raises(SafetyError, match="elbow = "):
        limiter.limit(np.array([0.1, bad]), 0.5, DT_S)
    with pytest.raises(SafetyError, match="gripper = "):
        limiter.limit(np.zeros(2), bad, DT_S)
    assert (limiter.position_rad == 0.0).all()


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_a_command_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """The message names the joints that are expected."""
    with pytest.raises(SafetyError, match="shoulder, elbow"):
        limiter_at(np.zeros(2)).limit(np.zeros(shape), 0.5, DT_S)


def test_the_gripper_is_clamped_and_limited_in_rate() -> None:
    """A full stroke takes as long as its rate allows, and says so."""
    limiter = limiter_at(np.zeros(2), gripper=0.0)
    first = limiter.limit(np.zeros(2), 3.0, DT_S)
    assert first.limited == Limited.GRIPPER
    assert first.gripper is not None
    assert first.gripper <= 4.0 / GRIPPER_SPEED_UP_S * DT_S**2 + EPS
    ticks = 1
    while (opening := limiter.limit(np.zeros(2), 3.0, DT_S).gripper) is not None and opening < 0.99:
        ticks += 1
        assert ticks < 100
    assert ticks * DT_S >= 0.99 / 4.0
    assert opening == pytest.approx(1.0, abs=0.01)


def test_an_arm_without_gripper_has_none() -> None:
    """The commanded opening does not matter there."""
    limits = ArmLimits(
        NAMES,
        *(LIMITS.min_rad, LIMITS.max_rad),
        *(LIMITS.max_velocity_rad_s, LIMITS.max_acceleration_rad_s2),
        max_step_rad=0.2,
        gripper_velocity_1_s=None,
    )
    limiter = JointLimiter(limits)
    limiter.reset(np.zeros(2), None)
    setpoint = limiter.limit(np.array([0.0005, 0.0]), 1.0, DT_S)
    assert setpoint.gripper is None
    assert Limited.GRIPPER not in setpoint.limited


def test_the_shipped_rig_gives_each_arm_its_limits(aloha: Rig) -> None:
    """A joint's own limit overrides its model's."""
    model = aloha.arm_model("left_follower")
    joints = (model.joints[0].model_copy(update={"max_velocity_rad_s": 1.5}), *model.joints[1:])
    limits = limits_of(model.model_copy(update={"joints": joints}), aloha.safety)
    assert limits.joint_names[1] == "shoulder"
    assert limits.max_velocity_rad_s.tolist() == [1.5, *[3.14] * 5]
    assert limits.min_rad[1] == -1.85
    assert limits.gripper_velocity_1_s == 4.0


def test_a_tick_costs_little(aloha: Rig) -> None:
    """Well under the budget of a 100 Hz loop, even on a loaded box (25 us on a quiet one)."""
    limiter = JointLimiter(limits_of(aloha.arm_model("left_follower"), aloha.safety))
    limiter.reset(np.zeros(6), 0.5)
    best_s = np.inf
    for _ in range(20):
        started = time.perf_counter()
        for i in range(100):
            limiter.limit(np.full(6, 0.01 * i), 0.5, DT_S)
        best_s = min(best_s, (time.perf_counter() - started) / 100)
    assert best_s < 100e-6
