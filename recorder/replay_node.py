"""Replay: a recorded episode's commands, sent to the followers again at their own times.

What is sent is what the limits once let through (``arm/<name>/applied``), by time and not by
count, interpolated between samples. While it runs, each measured pose is compared with the
pose wanted at the instant of the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recorder.episode import Episode
from recorder.schema import stream_of
from teleop import topics
from teleop.clock import NS_PER_S
from teleop.commander import Commander, Pose
from teleop.errors import EpisodeError
from teleop.messages import ArmState, FloatArray
from teleop.node import Inputs, NodeContext, NodeHealth, Outputs
from teleop.rig import Rig


class Trajectory:
    """Poses of one arm over time.

    Args:
        times_s: Since the episode's start, rising, shape (N,).
        position_rad: Shape (N, J).
        gripper: Openings, shape (N,).
    """

    def __init__(self, times_s: FloatArray, position_rad: FloatArray, gripper: FloatArray) -> None:
        self._times_s = times_s
        self._columns = np.column_stack((position_rad, gripper))

    @property
    def duration_s(self) -> float:
        """Time of the last pose."""
        return float(self._times_s[-1])

    def at(self, time_s: float) -> Pose:
        """The pose at an instant; the first and the last one hold outside."""
        after = int(np.searchsorted(self._times_s, time_s, side="right"))
        if after == 0 or after == len(self._times_s):
            row = self._columns[min(after, len(self._times_s) - 1)]
        else:
            earlier, later = self._times_s[after - 1 : after + 1]
            part = (time_s - earlier) / (later - earlier)
            row = (1 - part) * self._columns[after - 1] + part * self._columns[after]
        return Pose(row[:-1], float(row[-1]))


class TrackingError:
    """How far measured joints were from where they were wanted."""

    def __init__(self, joint_names: tuple[str, ...]) -> None:
        self._joint_names = joint_names
        self._squares = np.zeros(len(joint_names))
        self._largest = np.zeros(len(joint_names))
        self._count = 0

    def add(self, wanted_rad: FloatArray, measured_rad: FloatArray) -> None:
        """Take in one measurement, both shape (J,); unmeasured joints (NaN) count as no error."""
        off = np.nan_to_num(np.abs(measured_rad - wanted_rad))
        self._squares += off * off
        self._largest = np.maximum(self._largest, off)
        self._count += 1

    @property
    def rms_rad(self) -> FloatArray:
        """Shape (J,)."""
        rms: FloatArray = np.sqrt(self._squares / max(self._count, 1))
        return rms

    @property
    def max_rad(self) -> FloatArray:
        """Shape (J,)."""
        return self._largest

    def values(self, arm: str) -> dict[str, float]:
        """Both per joint, named for a health message."""
        return {
            f"{arm}_{joint}_tracking_{kind}_rad": float(value)
            for kind, column in (("rms", self.rms_rad), ("max", self.max_rad))
            for joint, value in zip(self._joint_names, column, strict=True)
        }

    def words(self, arm: str) -> str:
        """One line per arm."""
        joints = ", ".join(
            f"{name} {rms:.3f}/{most:.3f}"
            for name, rms, most in zip(self._joint_names, self.rms_rad, self.max_rad, strict=True)
        )
        return f"{arm} tracking error rms/max rad: {joints}"


def trajectories_of(episode: Episode, rig: Rig) -> dict[str, Trajectory]:
    """What each follower of the rig did in an episode.

    Raises:
        EpisodeError: it was recorded with other followers, or nothing was applied to one.
    """
    if set(episode.arms) != set(rig.followers):
        raise EpisodeError(
            f"{episode.path}: recorded with the arms {', '.join(episode.arms) or 'none'}, "
            f"the rig has {', '.join(sorted(rig.followers)) or 'none'}"
        )
    return {arm: _trajectory(episode, rig, arm) for arm in sorted(rig.followers)}


def _trajectory(episode: Episode, rig: Rig, arm: str) -> Trajectory:
    recorded = tuple(joint.name for joint in episode.rig.arm_model(arm).joints)
    present = tuple(joint.name for joint in rig.arm_model(arm).joints)
    if recorded != present:
        raise EpisodeError(
            f"{episode.path}: {arm} had the joints {', '.join(recorded)}, "
            f"it now has {', '.join(present)}"
        )
    stream = episode.stream(stream_of(topics.arm_applied(arm)))
    if len(stream) == 0:
        raise EpisodeError(f"{episode.path}: no command was applied to {arm}; nothing to replay")
    times_s = (stream.stamp_ns - episode.start_ns) / NS_PER_S
    gripper = np.asarray(stream["gripper"], dtype=np.float64)
    if rig.arm_model(arm).gripper is None:
        gripper = np.zeros_like(gripper)
    return Trajectory(times_s, np.asarray(stream["position_rad"], dtype=np.float64), gripper)


class ReplayNode(Commander):
    """The commander of a session that repeats an episode.

    Args:
        name: The node's name.
        rig: The rig description.
        lease: Identity of this run.
        trajectories: Per follower; leaders get no command and hold.
        speed: Factor on the recorded time; below 1 is slower.
    """

    def __init__(
        self,
        name: str,
        rig: Rig,
        lease: str,
        trajectories: Mapping[str, Trajectory],
        speed: float = 1.0,
    ) -> None:
        if not speed > 0:
            raise EpisodeError(f"replay at speed {speed:g}; give a number above 0, 1 as recorded")
        goals = {arm: trajectory.at(0.0) for arm, trajectory in trajectories.items()}
        super().__init__(name, rig, "replay", lease, goals)
        self._trajectories = dict(trajectories)
        self._speed = speed
        self._duration_s = max(t.duration_s for t in self._trajectories.values()) / speed
        self._start_ns = 0
        self._finished = False
        self._errors = self._no_errors()

    def ready(self, now_ns: int) -> Outputs:
        """Hold the episode's first pose."""
        return self.holding(now_ns)

    def begin(self, now_ns: int) -> None:
        """The episode's time begins to run."""
        self._start_ns = now_ns
        self._finished = False
        self._errors = self._no_errors()

    def run(self, inputs: Inputs, now_ns: int, tick: bool) -> Outputs:
        """The pose of this instant; after the end, the last one."""
        self._compare(inputs)
        if not tick:
            return []
        self._finished = now_ns - self._start_ns >= self._duration_s * NS_PER_S
        return [
            self.write.position(arm, trajectory.at(self._episode_s(now_ns)), now_ns)
            for arm, trajectory in self._trajectories.items()
        ]

    def running_health(self, now_ns: int) -> NodeHealth:
        """``following`` and how far, then ``finished``; the tracking error so far in both."""
        seconds = min((now_ns - self._start_ns) / NS_PER_S, self._duration_s)
        progress = f"{seconds:.1f} of {self._duration_s:.1f} s"
        words = "; ".join(error.words(arm) for arm, error in self._errors.items())
        return NodeHealth(
            state="finished" if self._finished else "following",
            detail=words if self._finished else f"{progress}; {words}",
            values={k: v for a, error in self._errors.items() for k, v in error.values(a).items()},
        )

    def _compare(self, inputs: Inputs) -> None:
        for arm, trajectory in self._trajectories.items():
            state = inputs.latest(topics.arm_state(arm), ArmState)
            # The pose measured before the first command is not this replay's doing.
            if state is None or self._finished or state.stamp_ns <= self._start_ns:
                continue
            wanted = trajectory.at(self._episode_s(state.stamp_ns))
            self._errors[arm].add(wanted.position_rad, state.position_rad)

    def _episode_s(self, now_ns: int) -> float:
        return (now_ns - self._start_ns) / NS_PER_S * self._speed

    def _no_errors(self) -> dict[str, TrackingError]:
        return {
            arm: TrackingError(tuple(joint.name for joint in self.rig.arm_model(arm).joints))
            for arm in self._trajectories
        }


def build(name: str, context: NodeContext) -> ReplayNode:
    """Make the node.

    Options: ``episode`` (path of the file), ``lease``, ``speed`` (1 when not given).

    Raises:
        EpisodeError: the file cannot be read, or does not fit the rig.
    """
    options = context.options
    if "episode" not in options:
        raise EpisodeError("no episode was named; give the path of one, episode_000000.hdf5")
    with Episode(Path(str(options["episode"]))) as episode:
        trajectories = trajectories_of(episode, context.rig)
    speed = float(str(options.get("speed", 1.0)))
    return ReplayNode(name, context.rig, str(options["lease"]), trajectories, speed)
