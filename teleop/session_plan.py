"""What a session is asked to do, and what came of each of its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal


class Action(Enum):
    """What the operator can ask for at any time."""

    START = "start"
    STOP = "stop"
    SUCCESS = "success"
    FAILURE = "failure"
    REDO = "redo"
    QUIT = "quit"
    EMERGENCY_STOP = "emergency_stop"
    CLEAR_STOP = "clear_stop"
    CONFIRM = "confirm"


AutoStop = Literal["operator", "success", "commander"]


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What this session is for."""

    task: str
    episodes: int | None
    """None: go on until the operator quits."""
    record: bool
    max_seconds: float
    start: Literal["gripper", "key", "auto"]
    """``auto``: as soon as the commander is ready."""
    stop_when: frozenset[AutoStop] = frozenset()
    """End an episode when the scripted operator has finished, the emulated task has
    succeeded, or the commander (a replay, a rest) has nothing more to do."""
    must_live: Sequence[str] = ()
    """Nodes whose heartbeat is needed before anything moves."""


@dataclass(slots=True)
class EpisodeResult:
    """What became of one episode."""

    index: int
    outcome: str
    seconds: float
    stage: int = 0
    """Best reward stage of the emulated task; 0 without one."""
    max_stage: int = 0
    path: str = ""
    saved_after_s: float = 0.0
    """From the stop to the durable file."""
    verdict: str = ""
    reasons: list[str] = field(default_factory=list)
    commander: str = ""
    """The commander's last words, for example a replay's tracking error."""
    commander_state: str = ""
    """The state it reported with them; ``finished`` when it had done all it was to do."""
