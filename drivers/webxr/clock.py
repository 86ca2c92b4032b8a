"""Where a browser's clock stands against the rig's, from pings.

A ping of round trip ``r`` tells the offset to within r/2, whatever the network does; so the one
with the shortest round trip of the last while is believed (Cristian's algorithm, 1989). A page's
clock may stop while the headset sleeps: a ping that contradicts the older ones replaces them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_WINDOW = 50
"""Pings remembered: 10 s at one every 200 ms. Quartz drifts some 50 ppm: 0.5 ms in that time."""
MIN_PINGS = 3
"""Before the offset counts as known."""
_SLACK_NS = 1_000_000
"""Of two pings that agree: the browser's clock is told in steps of up to a millisecond."""


@dataclass(frozen=True, slots=True)
class _Ping:
    round_trip_ns: int
    offset_ns: int
    """Rig's clock less the browser's."""


class RemoteClock:
    """Maps stamps of a browser's ``performance.now()`` to the rig's clock."""

    def __init__(self) -> None:
        self._pings: deque[_Ping] = deque(maxlen=_WINDOW)
        self.steps = 0
        """How often the browser's clock was found to have jumped."""

    def add(self, sent_ns: int, client_ms: float, received_ns: int) -> None:
        """One answered ping: sent and received by the rig's clock, answered at ``client_ms``."""
        middle_ns = (sent_ns + received_ns) // 2
        ping = _Ping(received_ns - sent_ns, middle_ns - round(client_ms * 1e6))
        best = self._best()
        if best is not None:
            apart_ns = abs(best.offset_ns - ping.offset_ns)
            if apart_ns > (best.round_trip_ns + ping.round_trip_ns) // 2 + _SLACK_NS:
                self.restart()
        self._pings.append(ping)

    def restart(self) -> None:
        """Forget all pings: the browser's clock has jumped."""
        self._pings.clear()
        self.steps += 1

    def rig_ns(self, client_ms: float) -> int | None:
        """The instant on the rig's clock; None while the offset is not known."""
        best = self._best()
        if best is None or len(self._pings) < MIN_PINGS:
            return None
        return round(client_ms * 1e6) + best.offset_ns

    @property
    def error_ns(self) -> int:
        """What ``rig_ns`` may be wrong by, either way."""
        best = self._best()
        return _SLACK_NS + (best.round_trip_ns // 2 if best is not None else 0)

    @property
    def round_trip_ms(self) -> float:
        """Median of the remembered pings; NaN before the first."""
        trips = sorted(ping.round_trip_ns for ping in self._pings)
        return trips[len(trips) // 2] / 1e6 if trips else float("nan")

    def _best(self) -> _Ping | None:
        return min(self._pings, key=lambda ping: ping.round_trip_ns, default=None)
