"""Time: integer nanoseconds of one monotonic clock per machine.

Nodes never read a clock; runners do and hand the time in. Drivers hold a ``Clock`` for
their timeouts, so that the lockstep runner can give them virtual time.
"""

from __future__ import annotations

import time
from typing import Protocol

NS_PER_S = 1_000_000_000


def ns_from_s(seconds: float) -> int:
    """Nanoseconds, rounded to the nearest integer."""
    return round(seconds * NS_PER_S)


class Clock(Protocol):
    """A monotonic clock in integer nanoseconds."""

    def now_ns(self) -> int:
        """The present time."""

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Return at the deadline, or at once if it has passed."""


class MonotonicClock:
    """``CLOCK_MONOTONIC`` of this machine; stamps are comparable on one machine only."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_until_ns(self, deadline_ns: int) -> None:
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / NS_PER_S)


class VirtualClock:
    """A clock that moves only when told; sleeping moves it."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_until_ns(self, deadline_ns: int) -> None:
        self._now_ns = max(self._now_ns, deadline_ns)


class BranchClock:
    """One node's view of a virtual clock: waiting for a device takes the node's time only.

    A node that has waited is *busy* until its own time; the others have gone on beside it, as
    processes do.
    """

    def __init__(self, trunk: VirtualClock) -> None:
        self._trunk = trunk
        self._busy_until_ns = trunk.now_ns()

    def now_ns(self) -> int:
        return max(self._trunk.now_ns(), self._busy_until_ns)

    def sleep_until_ns(self, deadline_ns: int) -> None:
        self._busy_until_ns = max(self._busy_until_ns, deadline_ns)


class Ticker:
    """Absolute deadlines at a fixed period.

    A late tick does not shift the later ones, and missed ticks are skipped and counted,
    never made up for in a burst.
    """

    def __init__(self, period_ns: int, start_ns: int) -> None:
        if period_ns <= 0:
            raise ValueError(f"tick period must be positive, got {period_ns} ns")
        self.period_ns = period_ns
        self.deadline_ns = start_ns
        self.ticks = 0
        self.missed = 0
        self.worst_late_ns = 0

    def due(self, now_ns: int) -> bool:
        """Whether the present deadline has come."""
        return now_ns >= self.deadline_ns

    def advance(self, now_ns: int) -> int:
        """Take the due tick and move to the next future deadline; returns the ticks missed."""
        late_ns = now_ns - self.deadline_ns
        self.worst_late_ns = max(self.worst_late_ns, late_ns)
        missed = max(0, late_ns // self.period_ns)
        self.deadline_ns += (missed + 1) * self.period_ns
        self.ticks += 1
        self.missed += missed
        return missed
