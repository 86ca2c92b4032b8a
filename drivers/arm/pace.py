"""When an arm node reads: at its own ticks, or just behind the commands it follows.

A reading occupies a 1 Mbps bus for 3 ms, and a command that comes meanwhile has to wait for it.
So while commands come at their pace, each is written at once and the reading follows it; the
bus is then free when the next command comes. When they stop, the node's own ticks take over.
"""

from __future__ import annotations

RIDE_PERIODS = 1.5
"""Time without a command, or without a reading, in periods, after which readings no longer wait
for commands."""

EARLY_PERIODS = 0.25
"""How much before its time a tick may be taken, in periods; a late one then delays no other."""

EARLIEST_PERIODS = 0.25
"""Time from a reading to the one behind the next command: a commander that comes in bursts is
followed by as many readings, one that comes far too often is not."""


class Pace:
    """Keeps an arm node's time.

    Args:
        period_ns: Time between readings.
        rides: Whether readings keep to the commands; else every step is a tick.
    """

    def __init__(self, period_ns: int, rides: bool) -> None:
        self._period_ns = period_ns
        self._rides = rides
        self._stepped_ns: int | None = None
        self._ticked_ns: int | None = None
        self._await_until_ns = 0

    def pause_ns(self, now_ns: int) -> int:
        """A step begins: the time since the one before."""
        before, self._stepped_ns = self._stepped_ns, now_ns
        return self._period_ns if before is None else now_ns - before

    def tick(self, now_ns: int, following: bool, wrote: bool) -> bool:
        """Whether it is time to read.

        Args:
            now_ns: The present time.
            following: Whether commands are being followed.
            wrote: Whether one was written in this step.
        """
        patience_ns = round(RIDE_PERIODS * self._period_ns)
        if wrote:
            self._await_until_ns = now_ns + patience_ns
        since_ns = self._period_ns if self._ticked_ns is None else now_ns - self._ticked_ns
        if not self._rides:
            due = True
        elif wrote:
            due = since_ns >= EARLIEST_PERIODS * self._period_ns
        elif following and now_ns < self._await_until_ns and since_ns < patience_ns:
            due = False
        else:
            due = since_ns >= (1 - EARLY_PERIODS) * self._period_ns
        if due:
            self._ticked_ns = now_ns
        return due
