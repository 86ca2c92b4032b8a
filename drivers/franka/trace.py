"""The 1 kHz states of a Franka, kept whole until they are taken, and stamped in our own time.

The robot counts milliseconds; states reach us late by a varying time, never early. So the
relation of the two clocks is the lower envelope of (arrival - robot time), as a line: the edge
of the lower convex hull of the earliest arrivals that spans the middle of a window.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drivers.base import TraceSample
from teleop.messages import FloatArray

NS_PER_MS = 1_000_000
BLOCK_MS = 50
"""Of each block the earliest arrival is kept."""
WINDOW_BLOCKS = 200
"""Ten seconds: at 100 ppm, twice a poor crystal's error, the clocks part by 1 ms in that time."""
BURST_NS = 20 * NS_PER_MS
"""A block that came sooner than in this time had been waiting for us; it tells nothing."""
MAX_DRIFT = 2e-4
"""Steeper than any two crystals drift apart; a fit beyond that is noise."""
STEP_NS = 5 * NS_PER_MS
"""A whole block later than the envelope by this means that the robot's clock stood still."""
CAPACITY = 16_384
"""States kept: 16 s, far beyond any pause of a node that is alive."""
JOINTS = 7
COLUMNS = 4 * JOINTS


class HostTime:
    """Maps the robot's milliseconds to this machine's monotonic clock."""

    def __init__(self) -> None:
        self._lows: deque[tuple[int, int]] = deque(maxlen=WINDOW_BLOCKS)
        self._block = -1
        self._begin_ns = 0
        self._low: tuple[int, int] | None = None
        self._line: tuple[int, int, float] | None = None  # at this ms this offset, and its slope
        self._last_ns = 0

    def stamp_ns(self, robot_ms: int, arrival_ns: int) -> int:
        """When the state of ``robot_ms`` was taken; never after its arrival, always increasing."""
        offset = arrival_ns - robot_ms * NS_PER_MS
        if robot_ms // BLOCK_MS != self._block:
            if self._low is not None and arrival_ns - self._begin_ns > BURST_NS:
                self._keep(self._low)
            self._block, self._begin_ns, self._low = robot_ms // BLOCK_MS, arrival_ns, None
        if self._low is None or offset < self._low[1]:
            self._low = (robot_ms, offset)
        earliest = min(offset, self._low[1])
        if self._line is not None:
            ms, at, slope = self._line
            earliest = min(earliest, at + round(slope * (robot_ms - ms)))
        self._last_ns = max(self._last_ns + 1, robot_ms * NS_PER_MS + earliest)
        return self._last_ns

    def _keep(self, low: tuple[int, int]) -> None:
        if self._line is not None:
            ms, at, slope = self._line
            if low[1] - at - slope * (low[0] - ms) > STEP_NS:
                self._lows.clear()
        self._lows.append(low)
        self._line = lower_line(list(self._lows))


def lower_line(points: Sequence[tuple[int, int]]) -> tuple[int, int, float]:
    """The line below all points that is closest to them, of bounded slope.

    Args:
        points: (ms, offset in ns), in order of ms.

    Returns:
        A point of the line, and its slope in ns per ms.
    """
    hull: list[tuple[int, int]] = []
    for x, y in points:
        while len(hull) > 1:
            (x1, y1), (x2, y2) = hull[-2:]
            if (y2 - y1) * (x - x1) < (y - y1) * (x2 - x1):
                break
            hull.pop()
        hull.append((x, y))
    middle = sum(x for x, _ in points) / len(points)
    slope = 0.0
    for (x1, y1), (x2, y2) in itertools.pairwise(hull):
        slope = (y2 - y1) / (x2 - x1)
        if x2 >= middle:
            break
    bound = MAX_DRIFT * NS_PER_MS
    slope = min(max(slope, -bound), bound)
    last = points[-1][0]
    return last, min(round(y - slope * (x - last)) for x, y in points), slope


class TraceRing:
    """States in the order of the robot's clock; any thread puts, one takes.

    ``missing`` counts the robot's milliseconds that never came while control ran.
    """

    def __init__(self) -> None:
        self.missing = 0
        self.overrun = 0
        """States that nobody took in time."""
        self.newest_ms = 0
        """The robot's clock of the newest state."""
        self._ms = np.zeros(CAPACITY, np.int64)
        self._stamps = np.zeros(CAPACITY, np.int64)
        self._arrivals = np.zeros(CAPACITY, np.int64)
        self._values = np.zeros((CAPACITY, COLUMNS))
        self._time = HostTime()
        self._put = 0
        self._taken = 0
        self.in_control = False
        """Whether the newest state is one of control."""
        self._fresh = True
        self._lock = threading.Lock()

    def restart(self) -> None:
        """A new connection: the robot may have counted anew."""
        with self._lock:
            self._time = HostTime()
            self._fresh, self.in_control = True, False

    def put(
        self, robot_ms: int, arrival_ns: int, values: Sequence[FloatArray], in_control: bool
    ) -> None:
        """Keep one state.

        Args:
            robot_ms: The robot's clock.
            arrival_ns: When the state came.
            values: Position, velocity, torque and external torque, each of shape (7,).
            in_control: Whether it is one of control, where none may be missing.
        """
        with self._lock:
            late = 0 if self._fresh else robot_ms - self.newest_ms - 1
            if in_control and self.in_control:
                self.missing += max(late, 0)
            self.in_control = in_control
            if late < 0:
                return  # Read once more where control ends and reading begins.
            self._fresh = False
            at = self._put % CAPACITY
            self._ms[at], self._arrivals[at] = robot_ms, arrival_ns
            self._stamps[at] = self._time.stamp_ns(robot_ms, arrival_ns)
            self._values[at] = np.concatenate(values)
            self.newest_ms = robot_ms
            self._put += 1

    @property
    def is_empty(self) -> bool:
        """Whether no state has come on this connection."""
        return self._fresh

    @property
    def newest_arrival_ns(self) -> int:
        """When the newest state came."""
        return int(self._arrivals[(self._put - 1) % CAPACITY])

    def newest(self) -> TraceSample:
        """The newest state."""
        at = (self._put - 1) % CAPACITY
        return self._samples(np.array([at]))[0]

    def take(self) -> list[TraceSample]:
        """All states since the last call, oldest first."""
        end = self._put
        start = self._taken
        if end - start > CAPACITY - 64:  # Those 64 may be written over while they are read.
            self.overrun += end - start - CAPACITY // 2
            start = end - CAPACITY // 2
        self._taken = end
        return self._samples(np.arange(start, end) % CAPACITY)

    def _samples(self, at: NDArray[np.int64]) -> list[TraceSample]:
        rows = self._values[at]
        q, dq, torque, external = (rows[:, i * JOINTS : (i + 1) * JOINTS] for i in range(4))
        ms, stamps = self._ms[at].tolist(), self._stamps[at].tolist()
        return [
            TraceSample(*told) for told in zip(stamps, ms, q, dq, torque, external, strict=True)
        ]
