import itertools

import numpy as np
import pytest
from guided_arm import (
    MODELS,
    MS,
    PERIOD_S,
    TICK_NS,
    Guided,
    viper_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from teleop.rotations import length


@pytest.fixture(params=sorted(MODELS))
def guided(request: pytest.FixtureRequest) -> Guided:
    return Guided(MODELS[request.param]())


def test_silence_brakes_the_arm_within_a_tenth_of_a_second(guided: Guided) -> None:
    """While the hand was moving; after 250 ms only a new press goes on."""
    guided.grip()
    guided.move((0.0, 0.1, 0.0), ticks=20)
    for _ in range(20):
        guided.hand = guided.hand + np.array([0.002, 0.0, 0.0])
        guided.stay()
    guided.silence(10)
    moving = guided.commands[-1].position_rad
    guided.silence(1)
    assert guided.guide.state == "lost"
    guided.silence(10)
    held = guided.commands[-1].position_rad
    assert abs(held - moving).max() < 0.1
    guided.silence(20)
    guided.move((0.1, 0.0, 0.0))
    assert (guided.commands[-1].position_rad == held).all()
    assert guided.guide.state == "lost"
    guided.grip()
    assert guided.guide.state == "engaged"


def test_a_burst_of_stale_poses_moves_nothing(guided: Guided) -> None:
    """A network that stalls for 0.6 s delivers 60 old poses at once, the grip held."""
    guided.grip()
    guided.stay(10)
    guided.silence(60)
    before = guided.commands[-1].position_rad
    for age in range(60, 0, -1):
        guided.hand = guided.hand + np.array([0.005, 0.0, 0.0])
        guided.hear(age_ns=age * TICK_NS)
    guided.stay(50)
    assert (guided.commands[-1].position_rad == before).all()
    assert guided.guide.state == "lost"


def test_a_short_stall_is_not_caught_up_with(guided: Guided) -> None:
    """0.2 s silent, then all at once, while the hand went 30 cm: latched anew, not run after."""
    guided.grip()
    guided.stay(10)
    guided.silence(20)
    for age in range(20, 0, -1):
        guided.hand = guided.hand + np.array([-0.015, 0.0, 0.0])
        guided.hear(age_ns=age * TICK_NS)
    guided.stay(150)
    assert guided.guide.state == "engaged"
    assert abs(guided.moved_m[1]) < 0.16


def test_tracking_lost_with_the_grip_held_does_not_engage_again(guided: Guided) -> None:
    """Found again elsewhere, the hand moves nothing until it grips anew."""
    guided.grip()
    guided.move((0.0, 0.1, 0.0))
    before = guided.commands[-1].position_rad
    guided.tracked = False
    guided.stay(3)
    guided.tracked = True
    guided.hand = guided.hand + np.array([1.0, 0, 0])
    guided.move((0.1, 0.0, 0.0))
    assert (guided.commands[-1].position_rad == before).all()
    guided.grip()
    guided.move((-0.05, 0.0, 0.0))
    assert (guided.commands[-1].position_rad != before).any()


def test_a_stamp_from_the_future_is_not_followed(guided: Guided) -> None:
    """It would keep a dead input fresh for longer."""
    guided.grip()
    before = guided.commands[-1].position_rad
    guided.hand = guided.hand + np.array([0.05, 0.0, 0.0])
    for _ in range(40):
        guided.hear(age_ns=-200 * MS)
        guided.tick()
    assert (guided.commands[-1].position_rad == before).all()
    assert guided.guide.state == "lost"


def test_a_late_tick_earns_no_leap(guided: Guided) -> None:
    """A commander that slept for 90 ms moves on by five ticks of the cap at most."""
    guided.grip()
    guided.move((-0.05, 0.0, 0.0))
    for _ in range(4):
        guided.hand = guided.hand + np.array([-0.05, 0.0, 0.0])
        guided.hear()
        guided.tick(after_ns=90 * MS)
    tools = [guided.arm.forward(c.position_rad).position_m for c in guided.commands[-4:]]
    steps = [length(b - a) for a, b in itertools.pairwise(tools)]
    assert max(steps) <= 0.5 * 0.05 * 1.05


def test_a_puck_lost_while_pushed_holds_the_arm() -> None:
    """Unplugged: braked after 100 ms; pushed still when it is back, it must be let go."""
    guided = Guided(viper_model(), "twist")
    for _ in range(20):
        guided.push(1, 0, 0, 0, 0, 0)
    guided.silence(21)
    held = guided.commands[-1].position_rad
    guided.silence(20)
    for _ in range(20):
        guided.push(1, 0, 0, 0, 0, 0)
    assert (guided.commands[-1].position_rad == held).all()
    assert guided.guide.state == "lost"


coordinate = st.floats(-1.0, 1.0) | st.sampled_from([float("nan"), float("inf"), 1e9])
what = st.fixed_dictionaries(
    {
        "hand": st.tuples(coordinate, coordinate, coordinate),
        "quaternion": st.tuples(*[st.floats(-1, 1)] * 4),
        "tracked": st.booleans() | st.just(True),
        "squeeze": st.sampled_from([0.0, 1.0, 1.0, 1.0, float("nan")]),
        "ticks": st.integers(0, 12),
        "age_ms": st.sampled_from([0, 0, 0, 5, 90, 300, -20, -400]),
        "burst": st.integers(1, 4),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["viper", "franka"]), st.lists(what, min_size=2, max_size=12))
def test_whatever_the_hand_does_the_caps_the_box_and_the_joints_hold(
    data: st.DataObject,
    which: str,
    script: list[dict],
) -> None:
    """Leaps of metres, nonsense, bursts, stale and future stamps, grips held through it all."""
    model = MODELS[which]()
    guided = Guided(model)
    guided.grip()
    for act in script:
        smooth = data.draw(st.booleans())
        start = guided.hand
        guided.squeeze, guided.tracked = act["squeeze"], act["tracked"]
        for k in range(act["burst"]):
            part = (k + 1) / act["burst"] if smooth else 1.0
            guided.hand = start + part * 0.2 * np.array(act["hand"])
            guided.hear(age_ns=act["age_ms"] * MS + (act["burst"] - k) * MS)
        guided.silence(act["ticks"])
        if not np.isfinite(guided.hand).all():
            guided.hand = np.zeros(3)
    guided.check_caps()
    box = model.workspace
    assert box is not None
    joints = np.array([command.position_rad for command in guided.commands])
    rates = np.array([j.max_velocity_rad_s or model.max_velocity_rad_s for j in model.joints])
    assert (abs(np.diff(joints, axis=0)) <= rates * PERIOD_S + 1e-9).all()
    for q in joints:
        position = guided.arm.forward(q).position_m
        assert (position >= np.array(box.min_m) - 1e-9).all()
        assert (position <= np.array(box.max_m) + 1e-9).all()
