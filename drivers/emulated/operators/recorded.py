"""An operator that plays a recorded hand motion instead of doing the task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drivers.emulated.operators.expert import minimum_jerk
from drivers.emulated.operators.operator import HandOperator
from drivers.emulated.plant import AXES, AXES_PER_ARM, GRIPPER_RAD, Plant
from teleop.errors import DeviceError
from teleop.messages import FloatArray

JOINTS = AXES[:-1]
OPTIONAL_JOINTS = ("forearm_roll",)
"""Absent on 5-joint arms such as the WidowX 250; held at 0."""
FINGER_M = (0.043, 0.072)
"""``gripper_cmd`` closed and open: finger distance as Interbotix puppet teleoperation sends it."""
RAMP_RAD_S = 0.6
"""Mean speed from where the leader is to where the motion begins."""
PLAYED_BY = "left_leader"
"""The one arm that follows the motion; any other leader is held where it is."""
AFTER_S = 0.5
"""The hand stays on the last pose this long before it is done."""


@dataclass(frozen=True, slots=True, eq=False)
class HandMotion:
    """A recorded motion of one leader arm."""

    time_s: FloatArray
    """Shape (T,), from 0, increasing."""
    axes_rad: FloatArray
    """Shape (T, 7): the leader's joints and its gripper servo."""

    @classmethod
    def read(cls, path: Path) -> HandMotion:
        """Read a CSV with columns ``t_s``, ``<joint>_rad`` and ``gripper_cmd`` (m).

        Raises:
            DeviceError: the file is missing or is not such a motion.
        """
        table = _read_columns(path)
        time_s = table["t_s"] - table["t_s"][0]
        columns = [table.get(f"{joint}_rad", np.zeros_like(time_s)) for joint in JOINTS]
        closed_m, open_m = FINGER_M
        closed, opened = GRIPPER_RAD["leader"]
        part = np.clip((table["gripper_cmd"] - closed_m) / (open_m - closed_m), 0.0, 1.0)
        return cls(time_s, np.stack([*columns, closed + (opened - closed) * part], axis=1))

    def within(self, low_rad: FloatArray, high_rad: FloatArray) -> HandMotion:
        """The same motion stopping at these limits, each of shape (7,)."""
        return HandMotion(self.time_s, np.clip(self.axes_rad, low_rad, high_rad))

    @property
    def duration_s(self) -> float:
        """Length of the motion."""
        return float(self.time_s[-1])

    def at(self, time_s: float) -> tuple[FloatArray, FloatArray]:
        """Angles (rad) and rates (rad/s) at a time, each of shape (7,); still at both ends."""
        if not 0.0 <= time_s < self.duration_s:
            return self.axes_rad[0 if time_s < 0.0 else -1], np.zeros(AXES_PER_ARM)
        after = int(np.searchsorted(self.time_s, time_s, side="right"))
        span_s = self.time_s[after] - self.time_s[after - 1]
        rate = (self.axes_rad[after] - self.axes_rad[after - 1]) / span_s
        return self.axes_rad[after - 1] + rate * (time_s - self.time_s[after - 1]), rate


def _read_columns(path: Path) -> dict[str, FloatArray]:
    """The columns of a hand motion by name, checked."""
    try:
        with open(path, encoding="utf-8") as file:
            names = file.readline().strip().split(",")
            rows = np.loadtxt(file, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise DeviceError(f"hand motion {path}: cannot be read as a table ({error})") from error
    needed = {"t_s", "gripper_cmd", *(f"{j}_rad" for j in JOINTS if j not in OPTIONAL_JOINTS)}
    if missing := sorted(needed - set(names)):
        raise DeviceError(f"hand motion {path}: lacks the column(s) {', '.join(missing)}")
    if rows.shape[0] < 2 or rows.shape[1] != len(names) or not np.isfinite(rows).all():
        raise DeviceError(
            f"hand motion {path}: {rows.shape[0]} rows of {rows.shape[1]} values for "
            f"{len(names)} columns; it needs at least two complete rows of finite numbers"
        )
    table = {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(names)}
    if not (np.diff(table["t_s"]) > 0).all():
        raise DeviceError(f"hand motion {path}: t_s must increase from row to row")
    return table


class RecordedOperator(HandOperator):
    """Pulls the left leader along a recorded motion, at the speed of the person recorded.

    Each episode plays the whole motion once, after a gentle reach from the leader's present pose
    to the motion's first. Where the person went beyond the leader's own range the hand stops at
    the leader's limit; what the follower then does is for its own limits to decide.

    Args:
        plant: with a left leader.
        csv_path: see ``HandMotion.read``.

    Raises:
        UnknownNameError: the plant has no left leader.
        DeviceError: the file is not a hand motion.
    """

    def __init__(self, plant: Plant, csv_path: Path) -> None:
        plant.axes_of(PLAYED_BY)
        limits = np.array([plant.model.joint(f"{PLAYED_BY}/{axis}").range for axis in AXES])
        self.motion = HandMotion.read(csv_path).within(limits[:, 0], limits[:, 1])
        super().__init__(plant)
        first = self._hand.arms.index(PLAYED_BY) * AXES_PER_ARM
        self._played = slice(first, first + AXES_PER_ARM)

    def _start(self, now_s: float) -> None:
        self._still_rad = self._hand.angle_rad
        self._reach_rad = self.motion.axes_rad[0] - self._still_rad[self._played]
        self._reach_s = float(np.abs(self._reach_rad).max()) / RAMP_RAD_S
        self._motion_from_s = now_s + self._reach_s

    def _work_nm(self, now_s: float) -> FloatArray:
        time_s = now_s - self._motion_from_s
        wanted, rate = self._still_rad.copy(), np.zeros_like(self._still_rad)
        if time_s < 0.0:
            wanted[self._played] += self._reach_rad * minimum_jerk(1.0 + time_s / self._reach_s)
        else:
            wanted[self._played], rate[self._played] = self.motion.at(time_s)
        self.finished = time_s > self.motion.duration_s + AFTER_S
        return self._hand.pull(wanted, rate)
