"""The commander that plays a policy's chunks, in virtual time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from deploy_stage import CONTRACT, RUNNING_S, START, ScriptedPolicy, Stage, wanted
from policy_episodes import ARMS, small_rig

from policies.deploy_node import DeployNode
from policies.deployment import ChunkMode, DeployOptions
from policies.policy_node import PolicyNode
from teleop.clock import NS_PER_S, VirtualClock
from teleop.errors import PolicyError
from teleop.messages import ActionChunk


def test_the_commander_is_ready_only_once_the_policy_plans() -> None:
    """Homing, home, waiting for the first plan, ready."""
    stage = Stage(ScriptedPolicy())
    stage.silent_s = (0.0, 0.8)
    states = []
    for until in np.arange(0.02, 0.9, 0.02):
        stage.run(float(until))
        states.append(stage.commander.health(stage.clock.now_ns()).state)
    assert list(dict.fromkeys(states)) == ["homing", "home", "waiting", "ready"]
    assert stage.left_waist(0.6, 1.0) == pytest.approx(0.0)


def test_actions_are_played_at_the_time_they_are_meant_for() -> None:
    """Whatever the delays, the command at t is what the policy wanted at t."""
    stage = Stage(ScriptedPolicy())
    stage.run(3.0)
    played = [(t, c) for t, c in stage.commands if t >= 1.5 * NS_PER_S]
    assert len(played) >= 74
    for now_ns, command in played:
        assert command == pytest.approx(wanted(now_ns), abs=1e-6)
    assert stage.commander.health(stage.clock.now_ns()).state == "following"


@pytest.mark.parametrize("mode", ["ensemble", "newest"])
def test_a_stall_holds_and_resumes_without_a_jerk(mode: ChunkMode) -> None:
    """A silent camera stops planning for over a second: the arms stop, then go on smoothly."""
    stage = Stage(ScriptedPolicy(), DeployOptions(mode))
    stage.silent_s = (1.6, 3.2)
    stage.run(2.9)
    health = stage.node.health(stage.clock.now_ns())
    assert (health.ok, health.state) == (False, "blocked")
    assert "camera/cam_high/frame is" in health.detail
    holding = stage.commander.health(stage.clock.now_ns())
    assert (holding.ok, holding.state) == (False, "holding")
    assert np.ptp(stage.left_waist(2.7, 2.9)) == 0.0
    stage.run(5.0)
    steps = np.abs(np.diff(stage.left_waist(1.0, 5.0)))
    fastest = 0.5 * 1.5 * 0.02
    assert steps.max() <= fastest + 0.0201
    last_ns, last = stage.commands[-1]
    assert last == pytest.approx(wanted(last_ns), abs=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda chunk: replace(chunk, actions=np.full_like(chunk.actions, np.nan)),
        lambda chunk: replace(chunk, actions=chunk.actions[:, :7]),
        lambda chunk: replace(chunk, t0_ns=0),
        lambda chunk: replace(chunk, t0_ns=chunk.t0_ns + 3600 * NS_PER_S),
        lambda chunk: replace(chunk, dt_ns=0),
    ],
    ids=["nan", "shape", "old", "future", "no row time"],
)
def test_a_faulty_plan_never_moves_the_arms(spoil: Callable[[ActionChunk], ActionChunk]) -> None:
    """From the first plan on all are faulty: the start pose is held, and health says so."""
    stage = Stage(ScriptedPolicy(spoil=spoil))
    stage.run(2.0)
    for _, command in stage.commands:
        assert command == pytest.approx(START)
    assert stage.commander.health(stage.clock.now_ns()).state == "holding"


def test_plans_made_while_waiting_are_not_played() -> None:
    """A plan from before the start covers the first half second, and has no part in it."""
    early = RUNNING_S * NS_PER_S

    def spoil(chunk: ActionChunk) -> ActionChunk:
        return replace(chunk, actions=chunk.actions + 0.5) if chunk.t0_ns < early else chunk

    stage = Stage(ScriptedPolicy(spoil=spoil))
    stage.run(2.0)
    for now_ns, command in stage.commands:
        assert command == pytest.approx(wanted(max(now_ns, int(early))), abs=0.1)


def test_actions_stay_in_the_range_of_the_training_data() -> None:
    """A plan far outside is clamped, per column."""
    stage = Stage(ScriptedPolicy(spoil=lambda chunk: replace(chunk, actions=chunk.actions + 5)))
    stage.run(5.0)
    highest = np.max([command for _, command in stage.commands], axis=0)
    assert highest == pytest.approx(START + 1)


def test_both_nodes_refuse_a_rig_that_the_policy_was_not_trained_for() -> None:
    """Before anything moves."""
    rig = small_rig()
    one_arm = rig.replaced(arms={ARMS[0]: rig.arms[ARMS[0]].model_dump()})
    with pytest.raises(PolicyError, match="7 columns instead of 14"):
        DeployNode("commander", one_arm, "lease", CONTRACT)
    with pytest.raises(PolicyError, match="7 columns instead of 14"):
        PolicyNode("policy", ScriptedPolicy(), one_arm, VirtualClock())


@pytest.mark.parametrize(
    ("off", "allow", "state", "word"),
    [
        (0.05, False, "ready", ""),
        (0.25, False, "ready", "left_follower/waist is at 0.00, training began at 0.25"),
        (0.45, False, "blocked", "left_follower/waist is at 0.00, training began at 0.45"),
        (0.45, True, "ready", "left_follower/waist is at 0.00, training began at 0.45"),
    ],
)
def test_the_start_pose_decides_whether_to_begin(
    off: float, allow: bool, state: str, word: str
) -> None:
    """Near the training data fine, further a warning, far a refusal that can be overridden."""
    low, high = np.array(CONTRACT.start_low), np.array(CONTRACT.start_high)
    low[0], high[0] = off, off + 0.1
    contract = replace(CONTRACT, start_low=tuple(low), start_high=tuple(high))
    stage = Stage(ScriptedPolicy(contract), allow_start=allow)
    stage.run(0.98)
    health = stage.commander.health(stage.clock.now_ns())
    assert health.state == state
    assert word in health.detail
    assert health.ok == (state == "ready")


def test_differences_to_the_training_rig_are_told_before_the_start() -> None:
    """Another task and another calibration: a warning each, in the commander's words."""
    contract = replace(CONTRACT, tasks=("insertion",), calibration_sha256="of another day")
    stage = Stage(ScriptedPolicy(contract))
    stage.run(0.98)
    detail = stage.commander.health(stage.clock.now_ns()).detail
    assert "calibration is not that of the training episodes" in detail
    assert "trained for insertion, not for transfer_cube" in detail


def test_every_command_names_the_plan_it_was_made_from() -> None:
    """``origin_ns`` is t0 of the newest plan in it, and 0 while holding."""
    stage = Stage(ScriptedPolicy())
    stage.silent_s = (1.6, 3.2)
    stage.run(2.9)
    planned = {seen.stamp_ns for seen in stage.policy.seen}
    following = [origin for t, origin in stage.origins if 1.2e9 < t < 1.6e9]
    assert set(following) <= planned
    assert len(set(following)) > 2
    assert {origin for t, origin in stage.origins if t > 2.7e9} == {0}


def test_latencies_of_both_nodes_are_in_their_health() -> None:
    """A plan a tick on its way, and never overdue."""
    stage = Stage(ScriptedPolicy())
    stage.run(3.0)
    now_ns = stage.clock.now_ns()
    values = {**stage.node.health(now_ns).values, **stage.commander.health(now_ns).values}
    assert values["inference_ms.count"] == values["chunks"] >= 20
    assert 0 <= values["plan_ms.p50"] <= 21
    assert values["overdue_ms.p50"] == 0


@pytest.mark.parametrize("chunk_rows", [1, 2])
def test_a_policy_of_short_chunks_is_followed_without_a_hold(chunk_rows: int) -> None:
    """Single steps and chunks as long as their replanning: every tick has an action."""
    contract = replace(CONTRACT, chunk_rows=chunk_rows)
    stage = Stage(ScriptedPolicy(contract), DeployOptions.for_chunk(chunk_rows))
    stage.run(1.2)
    before = stage.commander.scheduler.counts.held
    stage.run(3.0)
    assert stage.commander.scheduler.counts.held == before
    last_ns, last = stage.commands[-1]
    assert last == pytest.approx(wanted(last_ns), abs=0.05)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda chunk: replace(chunk, actions=np.full_like(chunk.actions, np.nan)), "NaN"),
        (lambda chunk: replace(chunk, t0_ns=0, actions=chunk.actions[:1]), "was past"),
    ],
    ids=["nan", "old"],
)
def test_a_policy_whose_plans_cannot_be_played_is_not_ready(
    spoil: Callable[[ActionChunk], ActionChunk], word: str
) -> None:
    """Plans are judged before the start too, and the commander says what is wrong with them."""
    stage = Stage(ScriptedPolicy(spoil=spoil))
    stage.run(0.98)
    health = stage.commander.health(stage.clock.now_ns())
    assert health.state == "waiting"
    assert "waiting for a plan of the policy: chunk" in health.detail
    assert word in health.detail


def test_a_policy_that_is_not_there_is_named() -> None:
    """Nothing is heard of a remote policy: the commander waits and says for what."""
    stage = Stage(ScriptedPolicy(), with_policy=False)
    stage.run(0.9)
    health = stage.commander.health(stage.clock.now_ns())
    assert health.state == "waiting"
    assert "waiting for a plan of the policy" in health.detail
    assert "nothing has been heard of the policy's node" in health.detail
