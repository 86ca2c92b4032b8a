"""The one table of topics: who says what, how often, and whether it is recorded.

A topic name is a path, ``arm/left_follower/state``. Each topic has exactly one publisher,
which binds the topic's own TCP endpoint. ``{name}`` in a pattern stands for a device or
node of the rig.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from teleop import messages as m
from teleop.errors import UnknownNameError


class Queue(Enum):
    """What a subscriber that falls behind wants."""

    LATEST = "latest"
    """Only the newest message; older ones are dropped unseen."""
    ALL = "all"
    """Every message in order; losses show as gaps of ``seq``."""


RateSource = Literal["arm", "camera", "input", "trace", "health", "phase", "task", "event"]


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the table."""

    pattern: str
    message: type[m.Message]
    rate: RateSource
    """Which nominal rate of the rig applies; ``event`` has none."""
    queue: Queue
    recorded: bool


TABLE: tuple[Topic, ...] = (
    Topic("arm/{name}/state", m.ArmState, "arm", Queue.LATEST, recorded=True),
    Topic("arm/{name}/command", m.ArmCommand, "arm", Queue.LATEST, recorded=True),
    Topic("arm/{name}/applied", m.ArmApplied, "arm", Queue.LATEST, recorded=True),
    Topic("arm/{name}/trace", m.ArmTrace, "trace", Queue.ALL, recorded=True),
    Topic("input/{name}/pose", m.PoseInput, "input", Queue.LATEST, recorded=True),
    Topic("input/{name}/twist", m.TwistInput, "input", Queue.LATEST, recorded=True),
    Topic("input/{name}/action", m.OperatorAction, "event", Queue.ALL, recorded=True),
    Topic("input/{name}/cue", m.InputCue, "event", Queue.LATEST, recorded=False),
    Topic("camera/{name}/frame", m.Frame, "camera", Queue.LATEST, recorded=True),
    Topic("policy/chunk", m.ActionChunk, "event", Queue.ALL, recorded=True),
    Topic("session/event", m.EpisodeEvent, "event", Queue.ALL, recorded=True),
    Topic("session/phase", m.SessionPhase, "phase", Queue.LATEST, recorded=False),
    Topic("session/stop", m.StopState, "phase", Queue.LATEST, recorded=True),
    Topic("recorder/event", m.EpisodeEvent, "event", Queue.ALL, recorded=False),
    Topic("task/state", m.TaskState, "task", Queue.LATEST, recorded=True),
    Topic("node/{name}/health", m.Health, "health", Queue.LATEST, recorded=True),
)

SESSION_EVENT = "session/event"
SESSION_PHASE = "session/phase"
SESSION_STOP = "session/stop"
RECORDER_EVENT = "recorder/event"
TASK_STATE = "task/state"
POLICY_CHUNK = "policy/chunk"


def arm_state(arm: str) -> str:
    return f"arm/{arm}/state"


def arm_command(arm: str) -> str:
    return f"arm/{arm}/command"


def arm_applied(arm: str) -> str:
    return f"arm/{arm}/applied"


def arm_trace(arm: str) -> str:
    return f"arm/{arm}/trace"


def input_pose(name: str) -> str:
    return f"input/{name}/pose"


def input_twist(name: str) -> str:
    return f"input/{name}/twist"


def input_action(name: str) -> str:
    return f"input/{name}/action"


def input_cue(name: str) -> str:
    return f"input/{name}/cue"


def camera_frame(camera: str) -> str:
    return f"camera/{camera}/frame"


def node_health(node: str) -> str:
    return f"node/{node}/health"


def row_of(topic: str) -> Topic:
    """The table row that a topic name belongs to.

    Raises:
        UnknownNameError: no row matches.
    """
    parts = topic.split("/")
    for row in TABLE:
        pattern = row.pattern.split("/")
        if len(pattern) == len(parts) and all(
            want in ("{name}", got) for want, got in zip(pattern, parts, strict=True)
        ):
            return row
    raise UnknownNameError("topic", topic, (row.pattern for row in TABLE))
