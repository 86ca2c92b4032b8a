"""From a rig's streams to observations, at the policy's node."""

from dataclasses import replace

import numpy as np
import pytest
from deploy_stage import CONTRACT, ROW_NS, START, ScriptedPolicy, Stage, frame
from policy_episodes import ARMS, CAMERA, image_of, small_rig, state_of

from policies.deployment import DeployOptions
from policies.policy import ExtraInput
from policies.policy_node import PolicyNode
from policies.warm_up import warm_up
from teleop import topics
from teleop.clock import NS_PER_S, VirtualClock
from teleop.errors import PolicyError
from teleop.messages import ActionChunk, SessionPhase, TaskState
from teleop.node import Inputs, Received

BLIND = replace(CONTRACT, cameras=())
TRANSPORT_NS = 3_000_000


def test_the_observation_is_what_a_recorded_row_would_hold() -> None:
    """The newest arm readings and image, at the time the readings arrived; ids count up."""
    policy = ScriptedPolicy()
    stage = Stage(policy)
    stage.run(1.5)
    observation = policy.seen[-1]
    at_row = dict(stage.commands)[observation.stamp_ns]
    assert observation.qpos == pytest.approx(at_row)
    image = image_of(np.array([0.3, 0.6]))
    assert np.abs(observation.images[CAMERA].astype(int) - image).mean() < 5
    assert [seen.observation_id for seen in policy.seen] == list(range(len(policy.seen)))


def test_the_policy_forgets_before_each_episode() -> None:
    """``reset`` comes once, as the episode starts to run."""
    policy = ScriptedPolicy()
    stage = Stage(policy)
    stage.run(0.98)
    assert policy.resets == 0
    stage.run(2.0)
    assert policy.resets == 1


def test_the_policy_forgets_although_the_pause_between_episodes_was_not_heard() -> None:
    """A slow inference lasts from one episode into the next: its number tells them apart."""
    policy = ScriptedPolicy(replace(BLIND, history=3))
    feed = Feed(PolicyNode("policy", policy, small_rig(), VirtualClock()))
    for row in range(8):
        feed.episode = row // 4
        feed.say(row)
        feed.step(row + 0.5)
    assert policy.resets == 2


def test_a_policy_without_a_stream_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is planned before every stream has spoken."""
    rig = small_rig()
    policy = ScriptedPolicy()
    node = PolicyNode("policy", policy, rig, VirtualClock())
    phase = Received(SessionPhase(0, 0, "ready", 0, ""), 0)
    states = {topics.arm_state(arm): [Received(state_of(START[:7], 0, 0), 0)] for arm in ARMS}
    assert node.step(Inputs({topics.SESSION_PHASE: [phase], **states}), 0) == []
    assert node.health(0).detail == "nothing has come on camera/cam_high/frame yet"
    out = node.step(Inputs({topics.camera_frame(CAMERA): [Received(frame(0), 0)]}), 0)
    assert [topic for topic, _ in out] == [topics.POLICY_CHUNK]


def test_object_poses_reach_a_privileged_policy() -> None:
    """Flattened, from the emulated task's state."""
    contract = replace(CONTRACT, cameras=(), extras=(ExtraInput("object_pose", 14),))
    policy = ScriptedPolicy(contract)
    node = PolicyNode("policy", policy, small_rig(), VirtualClock())
    poses = np.arange(14.0).reshape(2, 7)
    inputs = {
        topics.SESSION_PHASE: [Received(SessionPhase(0, 0, "running", 0, ""), 0)],
        topics.TASK_STATE: [Received(TaskState(0, 0, "insertion", 0, 4, False, poses), 0)],
        **{topics.arm_state(arm): [Received(state_of(START[:7], 0, 0), 0)] for arm in ARMS},
    }
    assert len(node.step(Inputs(inputs), 0)) == 1
    assert policy.seen[0].extra["object_pose"].tolist() == list(range(14))


class Feed:
    """A node on a machine whose clock is ``ahead_ns`` of the rig's, fed row by row.

    The left waist is at 0.01 rad times the row.
    """

    episode = 0

    def __init__(self, node: PolicyNode, ahead_ns: int = 0) -> None:
        self._node = node
        self._ahead_ns = ahead_ns
        self._waiting: dict[str, list[Received]] = {}

    def say(self, row: int, arrives_at_row: float | None = None) -> None:
        """One reading of each arm; it may have to wait before the node takes it in."""
        stamp_ns = row * ROW_NS
        arrival_ns = stamp_ns + TRANSPORT_NS + self._ahead_ns
        if arrives_at_row is not None:
            arrival_ns = round(arrives_at_row * ROW_NS) + self._ahead_ns
        for arm in ARMS:
            columns = START[:7].copy()
            columns[0] = 0.01 * row
            reading = Received(state_of(columns, row, stamp_ns), arrival_ns)
            self._waiting.setdefault(topics.arm_state(arm), []).append(reading)
        phase = Received(SessionPhase(0, row, "running", self.episode, ""), arrival_ns)
        self._waiting[topics.SESSION_PHASE] = [phase]

    def show(self, row: int, damaged: bool = False) -> None:
        """One frame of the camera."""
        whole = frame(row * ROW_NS)
        shown = replace(whole, data=whole.data[: len(whole.data) // 2]) if damaged else whole
        arrival_ns = row * ROW_NS + TRANSPORT_NS + self._ahead_ns
        self._waiting.setdefault(topics.camera_frame(CAMERA), []).append(
            Received(shown, arrival_ns)
        )

    def step(self, row: float) -> list[ActionChunk]:
        """What the node plans at this row's time."""
        inputs, self._waiting = Inputs(self._waiting), {}
        now_ns = round(row * ROW_NS) + self._ahead_ns
        return [m for _, m in self._node.step(inputs, now_ns) if isinstance(m, ActionChunk)]


def waists(policy: ScriptedPolicy) -> list[float]:
    """Left waist of each observation of the last plan, in rows."""
    return [round(float(seen.qpos[0]) / 0.01, 6) for seen in policy.histories[-1]]


def test_past_observations_lie_a_stride_apart() -> None:
    """Oldest first, the present one last, taken from what was heard between two plans."""
    policy = ScriptedPolicy(replace(BLIND, history=3, history_stride=2))
    feed = Feed(PolicyNode("policy", policy, small_rig(), VirtualClock()))
    for row in range(20):
        feed.say(row)
        if row % 5 == 4:
            feed.step(row + 0.5)
    assert waists(policy) == [15.0, 17.0, 19.0]


def test_an_episode_begins_without_a_past() -> None:
    """There is one observation at first: what was before belongs to another episode."""
    policy = ScriptedPolicy(replace(BLIND, history=3, history_stride=2))
    feed = Feed(PolicyNode("policy", policy, small_rig(), VirtualClock()))
    lengths = []
    for row in range(8):
        feed.say(row)
        feed.step(row + 0.5)
        lengths.append(len(policy.histories[-1]))
    assert lengths == [1, 1, 2, 2, 3, 3, 3, 3]


def test_the_past_is_right_although_the_node_was_busy_meanwhile() -> None:
    """Readings that waited during a slow inference are placed by when they were made."""
    policy = ScriptedPolicy(replace(BLIND, history=3, history_stride=2))
    feed = Feed(PolicyNode("policy", policy, small_rig(), VirtualClock()))
    for row in range(10):
        feed.say(row)
        feed.step(row + 0.5)
    for row in range(10, 18):
        feed.say(row, arrives_at_row=17.4)
    feed.step(17.5)
    assert waists(policy) == [13.0, 15.0, 17.0]


@pytest.mark.parametrize("ahead_s", [-40_000.0, 0.0, 7.25, 3e6])
def test_a_remote_policy_plans_in_the_time_of_the_rig(ahead_s: float) -> None:
    """Whatever its own clock shows: plans begin at stamps of the rig, and nothing seems old."""
    policy = ScriptedPolicy(replace(BLIND, history=2, history_stride=2))
    node = PolicyNode("policy", policy, small_rig(), VirtualClock(), remote=True)
    feed = Feed(node, ahead_ns=round(ahead_s * NS_PER_S))
    plans: list[ActionChunk] = []
    for row in range(20):
        feed.say(row)
        plans += feed.step(row + 0.5)
    assert [plan.t0_ns for plan in plans] == [row * ROW_NS for row in range(20)]
    sent_ns = [plan.stamp_ns - plan.t0_ns for plan in plans]
    assert sent_ns == pytest.approx([ROW_NS // 2 - TRANSPORT_NS] * 20)
    assert waists(policy) == [17.0, 19.0]


def test_a_remote_policy_notices_that_what_it_sees_is_old() -> None:
    """Readings that are held up on the way for 0.2 s are nothing to plan from."""
    policy = ScriptedPolicy(BLIND)
    node = PolicyNode("policy", policy, small_rig(), VirtualClock(), remote=True)
    feed = Feed(node, ahead_ns=5 * NS_PER_S)
    feed.say(0)
    assert len(feed.step(0.5)) == 1
    feed.say(1, arrives_at_row=11)
    assert feed.step(11.5) == []
    assert "is 0.21 s old" in node.health(0).detail


def test_a_frame_is_decoded_once_however_often_it_is_seen() -> None:
    """The camera is slower than the plans: two plans look at the same image in memory."""
    policy = ScriptedPolicy(replace(CONTRACT, history=3))
    stage = Stage(policy, DeployOptions(replan_rows=1))
    stage.film_every = 4
    stage.run(1.5)
    images = [seen.images[CAMERA] for seen in policy.seen[-20:]]
    assert len({id(image) for image in images}) == 5


def test_a_damaged_frame_is_like_one_that_never_came() -> None:
    """The last whole frame is looked at instead, and the damaged ones are counted."""
    policy = ScriptedPolicy()
    node = PolicyNode("policy", policy, small_rig(), VirtualClock())
    feed = Feed(node)
    for row in range(6):
        feed.say(row)
        feed.show(row, damaged=row in (2, 3))
        assert len(feed.step(row + 0.5)) == 1
    images = [seen.images[CAMERA] for seen in policy.seen]
    assert images[1] is images[2] is images[3]
    assert len({id(image) for image in images}) == 4
    assert node.health(0).values["damaged_frames"] == 2


def test_a_camera_that_sends_only_damaged_frames_stops_planning() -> None:
    """The deployment goes on: nothing is planned, the camera is named, whole frames mend it."""
    policy = ScriptedPolicy()
    node = PolicyNode("policy", policy, small_rig(), VirtualClock())
    feed = Feed(node)
    planned = []
    for row in range(40):
        feed.say(row)
        feed.show(row, damaged=row != 5 and row < 38)
        planned += [row] * len(feed.step(row + 0.5))
        if row == 4:
            assert "nothing has come on camera/cam_high/frame yet" in node.health(0).detail
            assert "is no JPEG" in node.health(0).detail
        if row == 37:
            assert "camera/cam_high/frame is 0.6" in node.health(0).detail
            assert "is no JPEG" in node.health(0).detail
    assert planned[0] == 5
    assert 10 < planned[-3] < 30
    assert planned[-2:] == [38, 39]
    assert node.health(0).ok


def test_a_damaged_frame_of_the_past_is_passed_over() -> None:
    """An observation of the past shows the frame before it."""
    policy = ScriptedPolicy(replace(CONTRACT, history=2, history_stride=2))
    feed = Feed(PolicyNode("policy", policy, small_rig(), VirtualClock()))
    for row in range(6):
        feed.say(row)
        feed.show(row, damaged=row == 3)
        if row in (2, 5):
            feed.step(row + 0.5)
    before, after = policy.histories
    assert after[0].images[CAMERA] is before[-1].images[CAMERA]
    assert after[1].images[CAMERA] is not after[0].images[CAMERA]


@pytest.mark.parametrize("ahead_s", [-40_000.0, 40_000.0])
def test_a_frame_that_came_before_the_first_reading_does_not_bend_time(ahead_s: float) -> None:
    """The rig's clock is not known then: frames of the past are still looked up rightly."""
    policy = ScriptedPolicy(replace(CONTRACT, history=2))
    node = PolicyNode("policy", policy, small_rig(), VirtualClock(), remote=True)
    feed = Feed(node, ahead_ns=round(ahead_s * NS_PER_S))
    feed.show(0)
    feed.step(0.5)
    for row in range(1, 10):
        feed.say(row)
        feed.show(row)
        feed.step(row + 0.5)
    past, present = policy.histories[-1]
    assert past.images[CAMERA] is policy.histories[-2][-1].images[CAMERA]
    assert present.images[CAMERA] is not past.images[CAMERA]


def test_the_instruction_is_part_of_every_observation() -> None:
    """In the words of the rig's task, or the task's name when it has none."""
    policy = ScriptedPolicy(BLIND)
    feed = Feed(PolicyNode("policy", policy, small_rig(), VirtualClock(), task="transfer_cube"))
    feed.say(0)
    feed.step(0.5)
    assert policy.seen[-1].instruction == "test"


def test_an_arm_with_an_unmeasured_joint_is_nothing_to_plan_from() -> None:
    """NaN never reaches the policy."""
    policy = ScriptedPolicy(BLIND)
    node = PolicyNode("policy", policy, small_rig(), VirtualClock())
    columns = START[:7].copy()
    columns[2] = np.nan
    inputs = {
        topics.SESSION_PHASE: [Received(SessionPhase(0, 0, "running", 0, ""), 0)],
        **{topics.arm_state(arm): [Received(state_of(columns, 0, 0), 0)] for arm in ARMS},
    }
    assert node.step(Inputs(inputs), 0) == []
    assert node.health(0).detail == "arm/left_follower/state lacks a joint"


def test_the_policy_is_warmed_up_with_what_it_will_see() -> None:
    """A whole history of the right shapes, several times; then it forgets."""
    policy = ScriptedPolicy(replace(CONTRACT, history=2))
    took = warm_up(policy, VirtualClock(), inferences=3)
    assert [len(history) for history in policy.histories] == [2, 2, 2]
    assert policy.seen[0].images[CAMERA].shape == image_of(np.array([0.5, 0.5])).shape
    assert policy.resets >= 1
    assert str(took) == "first inference 0 ms, then 0.0 ms"


def test_a_policy_that_plans_the_wrong_shape_is_refused_at_its_start() -> None:
    """Its contract is what the arms' node relies on."""
    policy = ScriptedPolicy(spoil=lambda chunk: replace(chunk, actions=chunk.actions[:, :7]))
    with pytest.raises(PolicyError, match=r"shape \(25, 7\), its contract says \(25, 14\)"):
        warm_up(policy, VirtualClock())


def test_a_policy_that_plans_no_numbers_is_refused_at_its_start() -> None:
    """A network that training broke is found before the arms move."""
    policy = ScriptedPolicy(
        spoil=lambda chunk: replace(chunk, actions=np.full_like(chunk.actions, np.nan))
    )
    with pytest.raises(PolicyError, match="NaN or infinite actions"):
        warm_up(policy, VirtualClock())
