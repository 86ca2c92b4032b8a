"""From observations to commands: the policy's node and the commander that plays its chunks.

All in virtual time, with arms that do at once what they are told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import simplejpeg
from policy_episodes import ARMS, CAMERA, HEIGHT, WIDTH, image_of, small_rig, state_of

from policies.chunks import ChunkScheduler
from policies.deploy_node import DeployNode
from policies.policy import CameraView, ExtraInput, Observation, ObservationContract, chunk_of
from policies.policy_node import PolicyNode
from recorder.rows import column_names
from teleop import topics
from teleop.clock import NS_PER_S, VirtualClock
from teleop.errors import PolicyError
from teleop.lockstep import Lockstep
from teleop.messages import ActionChunk, ArmCommand, FloatArray, Frame, SessionPhase, TaskState
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs, Received
from teleop.teleop_node import start_pose
from teleop.topics import Queue

ROW_NS = 20_000_000
POSES = [start_pose(small_rig(), arm) for arm in ARMS]
START = np.concatenate([[*pose.position_rad, pose.gripper] for pose in POSES])
RUNNING_S = 1.0
"""Before that, the schedule homes and waits."""
CONTRACT = ObservationContract(
    task="transfer_cube",
    joint_names=column_names(small_rig()),
    cameras=(CameraView(CAMERA, HEIGHT, WIDTH, HEIGHT, WIDTH, 25.0, {}),),
    extras=(),
    row_hz=50.0,
    chunk_rows=25,
    qpos_low=tuple(START - 1),
    qpos_high=tuple(START + 1),
    action_low=tuple(START - 1),
    action_high=tuple(START + 1),
    data_hash="",
)


def wanted(now_ns: int) -> FloatArray:
    """What the scripted policy wants at an instant: the left waist swings, (14,)."""
    action = START.copy()
    action[0] = 0.5 * np.sin(1.5 * (now_ns / NS_PER_S - RUNNING_S))
    return action


@dataclass
class ScriptedPolicy:
    """Plans ``wanted``, or what a test makes of it."""

    contract: ObservationContract = CONTRACT
    spoil: Callable[[ActionChunk], ActionChunk] = lambda chunk: chunk
    seen: list[Observation] = field(default_factory=list)
    resets: int = 0

    def infer(self, observation: Observation) -> ActionChunk:
        self.seen.append(observation)
        rows = np.arange(self.contract.chunk_rows) * ROW_NS
        actions = np.stack([wanted(observation.stamp_ns + int(row)) for row in rows])
        return self.spoil(chunk_of(self.contract, observation, actions, "scripted"))

    def reset(self) -> None:
        self.resets += 1


class Actor:
    """A node that says what a function makes of its inputs, at 50 Hz."""

    def __init__(
        self,
        name: str,
        act: Callable[[Inputs, int], Outputs],
        hears: Sequence[str],
        says: Sequence[str],
    ) -> None:
        self.name = name
        self.plan = NodePlan(ROW_NS, dict.fromkeys(hears, Queue.LATEST), says)
        self.step = act

    def health(self, now_ns: int) -> NodeHealth:
        return NodeHealth()

    def close(self) -> None:
        """Nothing to release."""


class Stage:
    """Arms, a camera and a session around the two nodes."""

    def __init__(self, policy: ScriptedPolicy, scheduler: ChunkScheduler | None = None) -> None:
        self.rig = small_rig()
        clock = VirtualClock()
        self.clock = clock
        self.policy = policy
        self.node = PolicyNode("policy", policy, self.rig, clock)
        self.commander = DeployNode("commander", self.rig, "lease", CONTRACT, scheduler)
        self.silent_s = (0.0, 0.0)
        """From when to when the camera says nothing."""
        self.commands: list[tuple[int, FloatArray]] = []
        self._columns = START.copy()
        arms = [topics.arm_state(arm) for arm in ARMS]
        orders = [topics.arm_command(arm) for arm in ARMS]
        nodes = [
            Actor("session", self._direct, (), (topics.SESSION_PHASE,)),
            Actor(CAMERA, self._film, (), (topics.camera_frame(CAMERA),)),
            self.node,
            self.commander,
            Actor("arms", self._obey, orders, arms),
        ]
        self._runner = Lockstep(nodes, clock)

    def run(self, until_s: float) -> None:
        self._runner.run(lambda: self.clock.now_ns() >= until_s * NS_PER_S, until_s + 1)

    def left_waist(self, from_s: float, to_s: float) -> FloatArray:
        return np.array([c[0] for t, c in self.commands if from_s * 1e9 <= t < to_s * 1e9])

    def _direct(self, inputs: Inputs, now_ns: int) -> Outputs:
        seconds = now_ns / NS_PER_S
        phase = "homing" if seconds < 0.6 else "ready" if seconds < RUNNING_S else "running"
        return [(topics.SESSION_PHASE, SessionPhase(now_ns, 0, phase, 0, ""))]

    def _film(self, inputs: Inputs, now_ns: int) -> Outputs:
        if self.silent_s[0] <= now_ns / NS_PER_S < self.silent_s[1]:
            return []
        return [(topics.camera_frame(CAMERA), frame(now_ns))]

    def _obey(self, inputs: Inputs, now_ns: int) -> Outputs:
        for column, arm in zip((0, 7), ARMS, strict=True):
            command = inputs.latest(topics.arm_command(arm), ArmCommand)
            if command is not None:
                part = np.append(command.position_rad, command.gripper)
                self._columns[column : column + 7] = part
                if arm == ARMS[1]:
                    self.commands.append((now_ns, self._columns.copy()))
        return [
            (topics.arm_state(arm), state_of(self._columns[c : c + 7].copy(), 0, now_ns))
            for c, arm in zip((0, 7), ARMS, strict=True)
        ]


def frame(now_ns: int) -> Frame:
    image = image_of(np.array([0.3, 0.6]))
    jpeg = simplejpeg.encode_jpeg(image, quality=95, colorspace="RGB")
    return Frame(now_ns, 0, now_ns, "jpeg", WIDTH, HEIGHT, jpeg)


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


@pytest.mark.parametrize("mode", ["ensemble", "newest"])
def test_a_stall_holds_and_resumes_without_a_jerk(mode: str) -> None:
    """A silent camera stops planning for over a second: the arms stop, then go on smoothly."""
    stage = Stage(ScriptedPolicy(), ChunkScheduler(14, mode))
    stage.silent_s = (1.6, 3.2)
    stage.run(2.9)
    health = stage.node.health(stage.clock.now_ns())
    assert (health.ok, health.state) == (False, "blocked")
    assert "camera/cam_high/frame is" in health.detail
    holding = stage.commander.health(stage.clock.now_ns())
    assert (holding.ok, holding.state) == (False, "holding")
    assert np.ptp(stage.left_waist(2.7, 2.9)) == 0.0
    stage.run(4.5)
    steps = np.abs(np.diff(stage.left_waist(1.0, 4.5)))
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
    stage.run(3.0)
    highest = np.max([command for _, command in stage.commands], axis=0)
    assert highest == pytest.approx(START + 1)


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


def test_both_nodes_refuse_a_rig_that_the_policy_was_not_trained_for() -> None:
    """Before anything moves."""
    rig = small_rig()
    one_arm = rig.replaced(arms={ARMS[0]: rig.arms[ARMS[0]].model_dump()})
    with pytest.raises(PolicyError, match="7 columns instead of 14"):
        DeployNode("commander", one_arm, "lease", CONTRACT)
    with pytest.raises(PolicyError, match="7 columns instead of 14"):
        PolicyNode("policy", ScriptedPolicy(), one_arm, VirtualClock())
