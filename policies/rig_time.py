"""The rig's clock as a policy on another machine sees it.

Stamps are comparable on one machine only. A remote policy therefore never compares its own
clock with a stamp: it learns from what arrives how far its clock is ahead of the rig's, and
thinks in the rig's time. Of all differences between arrival here and stamp there the smallest
is that of the message which was on its way for the shortest time, so what is left of an error
is that shortest time: the rig's true time is later than the estimate by it, never earlier.
"""

from __future__ import annotations

from teleop.clock import ns_from_s

WINDOW_S = 10.0
"""Two clocks drift apart by at most 1 ms in this time (100 ppm, a poor quartz)."""


class WindowedMinimum:
    """The smallest value of the last one to two windows of time.

    Args:
        window_ns: Length of a window.
    """

    def __init__(self, window_ns: int = ns_from_s(WINDOW_S)) -> None:
        self._window_ns = window_ns
        self._begun_ns: int | None = None
        self._before: int | None = None
        self._now: int | None = None

    def add(self, value: int, now_ns: int) -> None:
        """Take a value that came now."""
        if self._begun_ns is None or now_ns - self._begun_ns > self._window_ns:
            self._begun_ns, self._before, self._now = now_ns, self._now, None
        self._now = value if self._now is None else min(self._now, value)

    @property
    def value(self) -> int | None:
        """None before the first."""
        found = [value for value in (self._before, self._now) if value is not None]
        return min(found, default=None)


class RigTime:
    """Turns times of this machine's clock into times of the rig's.

    Args:
        remote: The rig runs on another machine; otherwise the two clocks are one.
    """

    def __init__(self, remote: bool) -> None:
        self._ahead = WindowedMinimum() if remote else None

    def hear(self, stamp_ns: int, arrival_ns: int) -> None:
        """Learn from a message: stamped there, arrived here."""
        if self._ahead is not None:
            self._ahead.add(arrival_ns - stamp_ns, arrival_ns)

    def of(self, here_ns: int) -> int:
        """The rig's time at an instant of this machine's clock."""
        ahead_ns = self._ahead.value if self._ahead is not None else 0
        return here_ns - (ahead_ns or 0)
