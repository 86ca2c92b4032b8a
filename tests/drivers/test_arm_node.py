"""The arm node: whoever commands, the outcome is named and bounded."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from arm_bench import Bench, assert_smooth, offset

from drivers.arm.node import RETRY_S
from teleop.errors import DeviceError, DeviceLostError
from teleop.limits import Limited
from teleop.messages import (
    GUIDE,
    LIMP,
    LIMP_GRIPPER,
)
from teleop.rig import Rig
from teleop.rig_files import load_rig

RIGS = Path(__file__).parents[2] / "docs" / "rigs"


@pytest.fixture
def follower(aloha: Rig) -> Bench:
    return Bench(aloha, "left_follower")


@pytest.fixture
def leader(aloha: Rig) -> Bench:
    return Bench(aloha, "left_leader")


def test_an_arm_without_commander_holds_where_it_is(follower: Bench) -> None:
    """Torque is switched on at the measured pose; state and applied come every tick."""
    follower.ticks(20)
    assert follower.arm.torque == (True, True)
    assert follower.node.mode == "hold"
    assert len(follower.states) == len(follower.applied) == 20
    assert {a.mode for a in follower.applied} == {"hold"}
    assert {a.command_seq for a in follower.applied} == {-1}
    assert (follower.path() == follower.start_rad).all()
    assert [s.seq for s in follower.states] == list(range(20))


def test_a_valid_command_is_followed(follower: Bench) -> None:
    """Mode, sequence and origin of the command in force are told."""
    follower.follow()
    follower.ticks(100, offset(follower, 0.3))
    last = follower.applied[-1]
    assert last.mode == "follow"
    assert last.position_rad[0] == pytest.approx(follower.start_rad[0] + 0.3)
    assert last.command_seq == follower._seq
    assert last.origin_ns > 0
    assert follower.arm.q[0] == pytest.approx(follower.start_rad[0] + 0.3, abs=1e-3)


def test_a_step_of_one_radian_moves_within_the_limits(follower: Bench) -> None:
    """Step, velocity and acceleration limits shape it, and the flags say so."""
    follower.follow()
    begin = len(follower.applied)
    follower.ticks(150, offset(follower, 1.0))
    assert_smooth(follower.applied[begin - 1 :])
    assert Limited(follower.applied[begin].limited) & Limited.STEP
    assert follower.applied[-1].position_rad[0] == pytest.approx(1.0)
    assert follower.count("limited_step_ticks") > 0


def test_a_stale_command_leads_to_hold(follower: Bench) -> None:
    """A commander that goes silent in motion: slow down, hold, lease free, said in words."""
    follower.follow()
    follower.ticks(20, offset(follower, 1.0))
    begin = len(follower.applied)
    follower.ticks(9)
    assert follower.node.mode == "follow"
    follower.ticks(40)
    assert follower.node.mode == "hold"
    assert "silent" in follower.detail
    assert_smooth(follower.applied[begin - 2 :])
    assert (follower.path()[-1] == follower.path()[-10]).all()


def test_a_command_that_was_stale_when_it_came_is_refused(follower: Bench) -> None:
    """An old command out of a queue moves nothing."""
    follower.ticks(2)
    late = follower.command(offset(follower, 0.1), valid_until_ns=follower.clock.now_ns() - 1)
    follower.tick(late)
    assert follower.node.mode == "hold"
    assert "stale" in follower.detail
    assert follower.count("refused_stale") == 1


def test_a_second_lease_is_refused_until_the_holder_is_silent(follower: Bench) -> None:
    """The arm names both; afterwards the second has to engage like any other."""
    follower.follow()
    other = offset(follower, 0.2)
    for _ in range(30):
        follower.tick(
            follower.command(follower.start_rad), follower.command(other, lease="two", source="b")
        )
    assert follower.count("refused_leases") == 30
    assert "'two'" in follower.detail
    assert "'one'" in follower.detail
    assert (follower.path()[-1] == follower.start_rad).all()
    follower.ticks(60, other, lease="two")
    assert {a.mode for a in follower.applied[-60:]} == {"follow", "hold", "ramp"}
    assert follower.path()[-1] == pytest.approx(other)


def test_a_command_with_nan_is_refused_and_the_arm_then_holds(follower: Bench) -> None:
    """The joint is named; an invalid command does not keep the lease alive."""
    follower.follow()
    follower.ticks(30, offset(follower, np.nan, joint=2))
    assert follower.count("refused_invalid") + follower.count("refused_stale") >= 30
    assert "elbow = nan" in follower.detail
    assert follower.node.mode == "hold"
    assert np.isfinite(np.array(follower.arm.writes)).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_rad": np.zeros(5)}, "6 joints"),
        ({"gripper": np.inf}, "gripper = inf"),
        ({"mode": LIMP_GRIPPER}, "mode 'limp_gripper' refused"),
        ({"mode": "dance"}, "mode 'dance' refused"),
    ],
)
def test_a_malformed_command_is_refused_in_words(
    follower: Bench, changes: dict[str, object], words: str
) -> None:
    """Wrong shape, infinite gripper, a mode that followers may not take or nobody knows."""
    follower.ticks(2)
    follower.tick(follower.command(**({"position_rad": follower.start_rad} | changes)))  # type: ignore[arg-type]
    assert words in follower.detail
    assert follower.node.mode == "hold"
    assert follower.arm.torque == (True, True)


def test_engaging_too_far_away_is_refused_by_joint_name(follower: Bench) -> None:
    """Both values and the threshold are told, and nothing moves."""
    follower.ticks(2)
    follower.ticks(20, offset(follower, 0.8, joint=2))
    assert follower.node.mode == "hold"
    assert "engage refused: elbow is commanded to 1.960 rad and measured at 1.160 rad" in (
        follower.detail
    )
    assert "safety.engage_max_rad is 0.5" in follower.detail
    assert follower.count("refused_engagements") == 20
    assert (follower.path() == follower.start_rad).all()


def test_engaging_nearby_ramps_at_a_capped_speed_then_follows(follower: Bench) -> None:
    """0.4 rad at 0.8 rad/s."""
    follower.ticks(2)
    follower.ticks(80, offset(follower, 0.4))
    modes = [a.mode for a in follower.applied]
    assert modes[2] == "ramp"
    assert modes[-1] == "follow"
    ramp = follower.path()[[m == "ramp" for m in modes]]
    assert np.abs(np.diff(ramp, axis=0)).max() <= 0.8 * 0.01 + 1e-9
    assert len(ramp) > 40


def test_a_ramp_toward_a_pose_out_of_range_ends_at_the_limit(follower: Bench) -> None:
    """The part of the command that cannot be reached does not keep the arm ramping."""
    pose = follower.start_rad.copy()
    pose[1] = -1.80
    follower.arm.q = follower.arm.goal = pose.copy()
    pose[1] = -2.1
    follower.ticks(2)
    follower.ticks(80, pose)
    assert follower.node.mode == "follow"
    assert follower.path()[-1][1] == pytest.approx(-1.85)
    assert Limited(follower.applied[-1].limited) == Limited.POSITION


def test_the_emergency_stop_is_obeyed_in_motion_and_clearing_it_moves_nothing(
    follower: Bench,
) -> None:
    """Decelerate, hold; the old commander stays refused after clearing; a new one engages."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.ticks(20, goal)
    begin = len(follower.applied)
    follower.stop = True
    follower.ticks(50, goal)
    assert follower.node.mode == "stopped"
    assert_smooth(follower.applied[begin - 2 :])
    rest = follower.path()[-1]
    assert (follower.path()[-20:] == rest).all()
    follower.stop = False
    follower.ticks(50, goal)
    assert follower.node.mode == "hold"
    assert "ended by a stop" in follower.detail
    assert (follower.path()[-50:] == rest).all()
    follower.ticks(20, rest, lease="next")
    assert follower.node.mode == "follow"


def test_a_commander_that_joins_during_the_stop_cannot_wait_for_its_end(follower: Bench) -> None:
    """Every lease heard while stopped is ended."""
    follower.stop = True
    follower.ticks(20, offset(follower, 0.3), lease="patient")
    follower.stop = False
    follower.ticks(20, offset(follower, 0.3), lease="patient")
    assert follower.node.mode == "hold"
    assert (follower.path() == follower.start_rad).all()


def test_a_silent_session_means_hold_and_its_return_means_engage_again(follower: Bench) -> None:
    """Nobody could stop the arm, so nobody may move it."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.session_speaks = False
    follower.ticks(120, goal)
    assert follower.node.mode == "hold"
    assert "session silent" in follower.detail
    follower.session_speaks = True
    begin = len(follower.applied)
    follower.ticks(30, follower.path()[-1])
    assert follower.applied[begin].mode == "ramp"


def test_before_the_session_has_spoken_nobody_is_obeyed(follower: Bench) -> None:
    """Holding from the first tick."""
    follower.session_speaks = False
    follower.ticks(10, offset(follower, 0.1))
    assert follower.node.mode == "hold"
    assert follower.count("refused_blocked") == 10


def test_a_command_is_written_when_it_comes_and_once(follower: Bench) -> None:
    """Between ticks too; readings follow the commands, so that none is under way at the next."""
    follower.follow()
    for _ in range(20):
        follower.tick(skip_ns=8_000_000)
        assert follower.applied[-1].stamp_ns < follower.clock.now_ns()
        follower.tick(follower.command(offset(follower, 0.1)), skip_ns=2_000_000)
        assert follower.applied[-1].stamp_ns == follower.clock.now_ns()
    assert [a.command_seq for a in follower.applied[-20:]] == list(range(4, 24))
    assert len(follower.arm.writes) == len(follower.applied)
    assert {s.stamp_ns for s in follower.states[-20:]} == {
        a.stamp_ns for a in follower.applied[-20:]
    }


def test_commands_at_any_pace_move_the_arm_within_its_limits(follower: Bench) -> None:
    """Early, late, two at once, or none for a while: time between writes is what counts."""
    follower.follow()
    rng = np.random.default_rng(3)
    begin = len(follower.applied)
    for k in range(600):
        pose = offset(follower, 0.6 * np.sin(k / 25))
        commands = [follower.command(pose) for _ in range(rng.integers(0, 3))]
        follower.tick(*commands, skip_ns=int(rng.integers(1, 18)) * 1_000_000)
    assert_smooth(follower.applied[begin - 2 :])
    assert len(follower.arm.writes) == len(follower.applied)
    assert np.abs(follower.path(begin)[:, 0] - follower.start_rad[0]).max() > 0.5
    gaps_ms = np.diff([s.stamp_ns for s in follower.states]) / 1e6
    assert gaps_ms.min() >= 2.5  # a burst of commands is no burst of readings
    assert gaps_ms.max() <= 33


def test_nobody_engages_while_the_arm_cannot_be_read(follower: Bench) -> None:
    """There is nothing to compare the command with."""
    follower.ticks(5)
    follower.arm.read_error = DeviceError("no reply")
    follower.ticks(3, follower.start_rad)
    assert "engage refused" in follower.detail
    assert follower.node.mode == "hold"


def test_an_unplugged_arm_is_a_fault_and_comes_back_holding(follower: Bench) -> None:
    """Opening is tried once a second; plugged in again it holds and ignores the old lease."""
    follower.follow()
    goal = offset(follower, 1.0)
    follower.ticks(15, goal)
    gone = DeviceLostError("left_follower: the port has gone")
    follower.arm.read_error = follower.arm.connect_error = gone
    states = len(follower.states)
    follower.ticks(250, goal)
    assert follower.node.mode == "fault"
    assert "lost: left_follower: the port has gone" in follower.detail
    assert len(follower.states) == states
    assert 2 <= follower.arm.connects <= 250 * 0.01 / RETRY_S + 1
    follower.arm.connect_error = None
    begin = len(follower.applied)
    follower.arm.torque = (False, False)
    follower.arm.q[1] += 0.1  # It sagged meanwhile.
    follower.ticks(150, goal)
    assert follower.node.mode == "hold"
    assert follower.arm.torque == (True, True)
    assert np.abs(np.diff(follower.path(begin), axis=0)).max() == 0.0
    assert follower.path()[-1] == pytest.approx(follower.arm.q)


def test_a_leader_goes_limp_when_asked_and_stays_limp_when_its_commander_goes_silent(
    leader: Bench,
) -> None:
    """A person holds it; stiffening would only fight the hand."""
    leader.ticks(2)
    leader.ticks(5, leader.start_rad, mode=LIMP)
    assert leader.arm.torque == (False, False)
    assert leader.node.mode == "limp"
    applied = len(leader.applied)
    leader.ticks(100)
    assert leader.node.mode == "limp"
    assert leader.arm.torque == (False, False)
    assert len(leader.applied) == applied
    assert len(leader.states) == 107


def test_a_leader_with_only_its_gripper_free_holds_its_joints(leader: Bench) -> None:
    """The applied gripper is the measured one, and the servo gets no goal for it."""
    leader.ticks(2)
    leader.arm.gripper = 0.1
    leader.ticks(5, leader.start_rad, mode=LIMP_GRIPPER)
    assert leader.arm.torque == (True, False)
    assert leader.applied[-1].mode == "hold"
    assert leader.applied[-1].gripper == 0.1
    assert leader.arm.written_grippers[-1] is None


def test_an_arm_guided_by_hand_obeys_with_its_gripper_alone(leader: Bench) -> None:
    """What is told as applied is where the hand has it, and the gripper that was asked for."""
    leader.ticks(2)
    leader.ticks(5, leader.start_rad, mode=GUIDE, gripper=0.9)
    assert leader.arm.torque == (False, True)
    leader.arm.q = offset(leader, 0.3)  # The hand moved it.
    leader.ticks(2, leader.start_rad, mode=GUIDE, gripper=0.2)
    assert leader.node.mode == "guide"
    assert leader.applied[-1].position_rad == pytest.approx(offset(leader, 0.3))
    assert leader.applied[-1].gripper == leader.arm.written_grippers[-1] == 0.2
    leader.ticks(100)
    assert leader.node.mode == "guide"
    leader.ticks(5, offset(leader, 0.3))
    assert leader.arm.torque == (True, True)
    assert leader.arm.q == pytest.approx(offset(leader, 0.3), abs=0.01)


def test_an_arm_that_is_only_observed_is_read_and_never_touched() -> None:
    """Neither torque nor a goal, whoever asks."""
    rig = load_rig(RIGS / "franka_kinesthetic.yaml")
    franka = rig.arms["franka"].model_dump() | {"role": "observer"}
    observer = Bench(rig.replaced(arms={"franka": franka}), "franka")
    observer.ticks(20, observer.start_rad)
    assert len(observer.states) == 20
    assert observer.arm.torque_calls == []
    assert observer.arm.writes == []
    assert observer.applied == []


def test_a_limp_leader_is_caught_where_it_is(leader: Bench) -> None:
    """Position after limp: torque on at the measured pose, engage check, then follow."""
    leader.ticks(2)
    leader.ticks(5, leader.start_rad, mode=LIMP)
    leader.arm.q = offset(leader, 0.7)  # The hand moved it.
    leader.ticks(5, leader.start_rad)
    assert leader.node.mode == "limp"
    assert "engage refused: waist" in leader.detail
    leader.ticks(20, offset(leader, 0.7))
    assert leader.node.mode == "follow"
    assert leader.path()[-1] == pytest.approx(leader.arm.q)


def test_the_emergency_stop_stiffens_a_limp_leader(leader: Bench) -> None:
    """Stop means hold: it must not fall when the hand lets go."""
    leader.ticks(2)
    leader.ticks(5, leader.start_rad, mode=LIMP)
    leader.arm.q = offset(leader, 0.7)
    leader.stop = True
    leader.ticks(5)
    assert leader.arm.torque == (True, True)
    assert leader.applied[-1].position_rad == pytest.approx(leader.arm.q)


def test_closing_leaves_the_arm_as_it_is(follower: Bench) -> None:
    """Holding, by the driver's own close."""
    follower.ticks(3)
    follower.node.close()
    assert follower.arm.closed
    assert follower.arm.torque == (True, True)


def test_a_step_of_the_node_costs_little(follower: Bench) -> None:
    """80 us on a quiet box, stand-in arm included; the bound is loose for a loaded one."""
    follower.follow()

    def timed(run: Callable[[], None]) -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    best_s = min(timed(lambda: follower.ticks(20, offset(follower, 0.1))) / 20 for _ in range(20))
    assert best_s < 300e-6
