"""What nodes say to each other.

Every message begins with ``stamp_ns`` (taken at the device boundary, monotonic clock of
the machine that made it) and ``seq`` (counts up by one per topic). Angles are radians,
times integer nanoseconds. The gripper is kept apart from the joints: 0 closed, 1 open.
A quantity that was not measured is ``None`` (a whole field) or NaN (one joint of it),
never zero.

Arrays are float64 unless said otherwise and are not to be written to after construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

POSITION = "position"
"""Command mode: go to the commanded joint positions and gripper opening."""
LIMP = "limp"
"""Command mode, leaders only: torque off, the arm is guided by hand."""
LIMP_GRIPPER = "limp_gripper"
"""Command mode, leaders only: hold the joints, gripper torque off."""
GUIDE = "guide"
"""Command mode, arms guided by hand only: joints free, the gripper as commanded."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmState:
    """One reading of one arm."""

    KIND: ClassVar[int] = 1
    stamp_ns: int
    seq: int
    position_rad: FloatArray
    """Shape (J,), joint order of the arm's configuration."""
    velocity_rad_s: FloatArray | None
    """Shape (J,)."""
    effort: FloatArray | None
    """Shape (J,). Motor current in ampere on Dynamixel arms, joint torque in N m on a Franka; NaN
    where there is no sensor."""
    gripper: float | None
    """Opening, 0 closed ... 1 open; outside [0, 1] when the calibration does not fit."""
    gripper_velocity: float | None
    """Change of the opening, 1/s."""
    gripper_effort: float | None
    """Same unit as ``effort``."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmCommand:
    """What a commander asks of one arm."""

    KIND: ClassVar[int] = 2
    stamp_ns: int
    seq: int
    position_rad: FloatArray
    """Shape (J,)."""
    gripper: float
    """Opening, 0 closed ... 1 open."""
    valid_until_ns: int
    """After this instant the command is stale and the arm holds."""
    source: str
    """Who commands: ``teleop``, ``replay``, ``policy``."""
    lease: str
    """Identity of this commander's turn; an arm obeys one lease at a time."""
    mode: str = POSITION
    origin_ns: int = 0
    """``stamp_ns`` of the reading this command was made from (0: none); measures latency."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmApplied:
    """What the arm's limits let through, as written to the servos."""

    KIND: ClassVar[int] = 3
    stamp_ns: int
    seq: int
    position_rad: FloatArray
    """Shape (J,)."""
    gripper: float
    command_seq: int
    """``seq`` of the command in force, -1 while holding."""
    origin_ns: int
    """``origin_ns`` of the command in force, 0 while holding."""
    mode: str
    """State of the arm node: ``hold``, ``ramp``, ``follow``, ``limp``, ``stopped``, ``fault``."""
    limited: int
    """Bit mask of ``teleop.limits.Limited``: which limits changed the command."""


@dataclass(frozen=True, slots=True, eq=False)
class PoseInput:
    """A tracked controller or hand, in the device's own room frame.

    The frame is OpenXR's: x right, y up, z backwards (towards the operator).
    """

    KIND: ClassVar[int] = 4
    stamp_ns: int
    seq: int
    position_m: FloatArray
    """Shape (3,)."""
    quaternion_wxyz: FloatArray
    """Shape (4,), unit norm."""
    tracked: bool
    """False: the pose is the last one known, or a guess; not to be followed."""
    trigger: float
    """0 released ... 1 pulled."""
    squeeze: float
    """0 released ... 1 gripped."""
    stick: FloatArray
    """Shape (2,): right and forward, each in [-1, 1]."""
    buttons: int
    """Bit mask, see ``teleop.rig_inputs.BUTTONS``."""


@dataclass(frozen=True, slots=True, eq=False)
class TwistInput:
    """A 6-D rate device such as a SpaceMouse: x forward, y left, z up, each axis in [-1, 1]."""

    KIND: ClassVar[int] = 5
    stamp_ns: int
    seq: int
    linear: FloatArray
    """Shape (3,)."""
    angular: FloatArray
    """Shape (3,)."""
    buttons: int
    """Bit mask, see ``teleop.rig_inputs.BUTTONS``."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera image. ``stamp_ns`` is the capture time as well as the device tells it."""

    KIND: ClassVar[int] = 6
    stamp_ns: int
    seq: int
    arrival_ns: int
    """When the host had the whole frame."""
    encoding: str
    """``jpeg`` (colour, as the camera made it) or ``rgb8`` (H*W*3 bytes)."""
    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class ActionChunk:
    """A policy's plan: row i is meant for the instant ``t0_ns + i * dt_ns``."""

    KIND: ClassVar[int] = 7
    stamp_ns: int
    seq: int
    t0_ns: int
    dt_ns: int
    actions: FloatArray
    """Shape (H, A): per arm its joints (rad) then its gripper, in contract order."""
    chunk_id: int
    observation_id: int
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeEvent:
    """Something that happened to an episode: by the operator, or by the recorder."""

    KIND: ClassVar[int] = 8
    stamp_ns: int
    seq: int
    kind: str
    """``start``, ``stop``, ``discard``, ``note``; from the recorder ``started``, ``saved``,
    ``refused``, ``failed``."""
    episode: int
    """Index of the episode within the session, from 0."""
    task: str
    outcome: str
    """``success``, ``failure`` or ``unknown``."""
    detail: str
    """Path and verdict of a saved episode, or the reason of a refusal."""


@dataclass(frozen=True, slots=True, eq=False)
class SessionPhase:
    """Where the session stands; said again several times a second."""

    KIND: ClassVar[int] = 9
    stamp_ns: int
    seq: int
    phase: str
    """``starting``, ``homing``, ``ready``, ``running``, ``stopping``, ``done``."""
    episode: int
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class StopState:
    """The emergency stop, latched by the session; its silence also stops the arms."""

    KIND: ClassVar[int] = 10
    stamp_ns: int
    seq: int
    engaged: bool
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TaskState:
    """Ground truth of an emulated task (no such stream exists on a real rig)."""

    KIND: ClassVar[int] = 11
    stamp_ns: int
    seq: int
    task: str
    stage: int
    """Reward stage reached now, 0 ... ``max_stage``."""
    max_stage: int
    success: bool
    """``max_stage`` has been held long enough."""
    object_pose: FloatArray
    """Shape (N, 7): x y z (m, world) and quaternion w x y z of each task object."""


@dataclass(frozen=True, slots=True, eq=False)
class Health:
    """A node's heartbeat and what it wants known."""

    KIND: ClassVar[int] = 12
    stamp_ns: int
    seq: int
    node: str
    ok: bool
    state: str
    detail: str
    values: dict[str, float]
    """Counters and measurements by name, unit in the name."""


@dataclass(frozen=True, slots=True, eq=False)
class OperatorAction:
    """A button of an input device, by its meaning."""

    KIND: ClassVar[int] = 13
    stamp_ns: int
    seq: int
    action: str
    """See ``teleop.rig_inputs.Meaning``."""


@dataclass(frozen=True, slots=True, eq=False)
class InputCue:
    """What a device should let its operator see or feel."""

    KIND: ClassVar[int] = 14
    stamp_ns: int
    seq: int
    state: str
    """``idle``, ``engaged``, ``limited``, ``lost`` or ``stopped``."""
    pulse: float
    """Strength of one haptic pulse, 0 (none) ... 1."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmTrace:
    """One sample of an arm's own control loop, none of which may be missing."""

    KIND: ClassVar[int] = 15
    stamp_ns: int
    seq: int
    robot_ms: int
    """The robot's own clock."""
    position_rad: FloatArray
    """Shape (J,)."""
    velocity_rad_s: FloatArray
    """Shape (J,)."""
    torque_nm: FloatArray
    """Shape (J,), measured."""
    external_torque_nm: FloatArray
    """Shape (J,), as the robot estimates it."""


Message = (
    ArmState
    | ArmCommand
    | ArmApplied
    | PoseInput
    | TwistInput
    | Frame
    | ActionChunk
    | EpisodeEvent
    | SessionPhase
    | StopState
    | TaskState
    | Health
    | OperatorAction
    | InputCue
    | ArmTrace
)

MESSAGE_TYPES: tuple[type[Message], ...] = (
    ArmState,
    ArmCommand,
    ArmApplied,
    PoseInput,
    TwistInput,
    Frame,
    ActionChunk,
    EpisodeEvent,
    SessionPhase,
    StopState,
    TaskState,
    Health,
    OperatorAction,
    InputCue,
    ArmTrace,
)
