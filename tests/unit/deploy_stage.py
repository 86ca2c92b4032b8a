"""The policy's node and its commander in virtual time.

The arms do at once what they are told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from policy_episodes import ARMS, CAMERA, HEIGHT, WIDTH, image_of, small_rig, state_of

from policies.deploy_node import DeployNode
from policies.deployment import DeployOptions
from policies.policy import CameraView, Observation, ObservationContract, chunk_of
from policies.policy_node import PolicyNode
from recorder.rows import column_names
from teleop import topics
from teleop.clock import NS_PER_S, VirtualClock
from teleop.lockstep import Lockstep
from teleop.messages import ActionChunk, ArmCommand, FloatArray, Frame, SessionPhase
from teleop.node import Inputs, NodeHealth, NodePlan, Outputs
from teleop.teleop_node import start_pose
from teleop.topics import Queue

ROW_NS = 20_000_000
POSES = [start_pose(small_rig(), arm) for arm in ARMS]
START = np.concatenate([[*pose.position_rad, pose.gripper] for pose in POSES])
RUNNING_S = 1.0
"""Before that, the schedule homes and waits."""
CONTRACT = ObservationContract(
    tasks=("transfer_cube",),
    joint_names=column_names(small_rig()),
    cameras=(CameraView(CAMERA, HEIGHT, WIDTH, HEIGHT, WIDTH, 25.0, {}),),
    extras=(),
    row_hz=50.0,
    chunk_rows=25,
    qpos_low=tuple(START - 1),
    qpos_high=tuple(START + 1),
    action_low=tuple(START - 1),
    action_high=tuple(START + 1),
    start_low=tuple(START - 0.05),
    start_high=tuple(START + 0.05),
    calibration_sha256="",
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
    histories: list[list[Observation]] = field(default_factory=list)
    resets: int = 0

    def infer(self, history: Sequence[Observation]) -> ActionChunk:
        self.seen.append(history[-1])
        self.histories.append(list(history))
        observation = history[-1]
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

    def __init__(
        self,
        policy: ScriptedPolicy,
        deploy: DeployOptions | None = None,
        allow_start: bool = False,
        with_policy: bool = True,
    ) -> None:
        self.rig = small_rig()
        clock = VirtualClock()
        self.clock = clock
        self.policy = policy
        task = "transfer_cube"
        self.node = PolicyNode("policy", policy, self.rig, clock, deploy, task=task)
        self.commander = DeployNode(
            *("commander", self.rig, "lease", policy.contract, deploy),
            task=task,
            allow_start=allow_start,
        )
        self.silent_s = (0.0, 0.0)
        """From when to when the camera says nothing."""
        self.film_every = 1
        """Rows from one frame to the next."""
        self.commands: list[tuple[int, FloatArray]] = []
        self.origins: list[tuple[int, int]] = []
        """``origin_ns`` of the left arm's commands, by time."""
        self._columns = START.copy()
        arms = [topics.arm_state(arm) for arm in ARMS]
        orders = [topics.arm_command(arm) for arm in ARMS]
        nodes = [
            Actor("session", self._direct, (), (topics.SESSION_PHASE,)),
            Actor(CAMERA, self._film, (), (topics.camera_frame(CAMERA),)),
            *([self.node] if with_policy else []),
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
        if now_ns // ROW_NS % self.film_every:
            return []
        return [(topics.camera_frame(CAMERA), frame(now_ns))]

    def _obey(self, inputs: Inputs, now_ns: int) -> Outputs:
        for column, arm in zip((0, 7), ARMS, strict=True):
            command = inputs.latest(topics.arm_command(arm), ArmCommand)
            if command is not None:
                part = np.append(command.position_rad, command.gripper)
                self._columns[column : column + 7] = part
                if arm == ARMS[0]:
                    self.origins.append((now_ns, command.origin_ns))
                else:
                    self.commands.append((now_ns, self._columns.copy()))
        return [
            (topics.arm_state(arm), state_of(self._columns[c : c + 7].copy(), 0, now_ns))
            for c, arm in zip((0, 7), ARMS, strict=True)
        ]


def frame(now_ns: int) -> Frame:
    image = image_of(np.array([0.3, 0.6]))
    jpeg = simplejpeg.encode_jpeg(image, quality=95, colorspace="RGB")
    return Frame(now_ns, now_ns // ROW_NS, now_ns, "jpeg", WIDTH, HEIGHT, jpeg)
