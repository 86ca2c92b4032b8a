"""Which streams are alive, how fast they run, and how much disk an episode will take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recorder.meta import StreamPlan
from teleop.clock import NS_PER_S
from teleop.messages import Frame
from teleop.node import Received

SILENT_PERIODS = 10
SILENT_AT_LEAST_S = 0.5
"""A stream is alive when it was heard within ten of its periods, and at least this long:
a loaded machine may hold any process up for some hundred milliseconds."""
RATE_WINDOW_S = 1.0
STATE_BYTES = 300
"""Journal bytes of one state message of a seven-joint arm, rounded up."""
COPIES = 2
"""The journals and the finished file exist side by side for a moment."""


@dataclass(slots=True)
class _Heard:
    newest: Received | None = None
    in_window: int = 0
    rate_hz: float = 0.0


class Watch:
    """Listens to every stream all the time, recording or not.

    Args:
        streams: What is recorded.
        now_ns: The present time.
    """

    def __init__(self, streams: Iterable[StreamPlan], now_ns: int) -> None:
        self._plans = {plan.topic: plan for plan in streams}
        self._heard = {topic: _Heard() for topic in self._plans}
        self._since_ns = now_ns
        self._window_ns = now_ns

    def hear(self, topic: str, received: Received) -> None:
        """Take note of a message."""
        heard = self._heard[topic]
        heard.newest = received
        heard.in_window += 1

    def tick(self, now_ns: int) -> bool:
        """Close the rate window when it is full; returns whether it was."""
        elapsed_s = (now_ns - self._window_ns) / NS_PER_S
        if elapsed_s < RATE_WINDOW_S:
            return False
        for heard in self._heard.values():
            heard.rate_hz = heard.in_window / elapsed_s
            heard.in_window = 0
        self._window_ns = now_ns
        return True

    def silent(self, now_ns: int) -> list[str]:
        """Required streams that are not alive, in words."""
        return [
            words
            for plan in self._plans.values()
            if plan.required and (words := self._silence(plan, now_ns))
        ]

    def _silence(self, plan: StreamPlan, now_ns: int) -> str:
        newest = self._heard[plan.topic].newest
        if newest is None:
            waited_s = (now_ns - self._since_ns) / NS_PER_S
            return f"{plan.topic} has not been heard in {waited_s:.1f} s"
        limit_s = SILENT_AT_LEAST_S
        if plan.nominal_hz is not None:
            limit_s = max(limit_s, SILENT_PERIODS / plan.nominal_hz)
        age_s = (now_ns - newest.arrival_ns) / NS_PER_S
        return f"{plan.topic} has been silent for {age_s:.1f} s" if age_s > limit_s else ""

    def newest(self) -> Mapping[str, Received]:
        """The last message of each stream with a rate."""
        return {
            topic: heard.newest
            for topic, heard in self._heard.items()
            if heard.newest is not None and self._plans[topic].nominal_hz is not None
        }

    def rates_hz(self) -> dict[str, float]:
        """Messages per second in the last full window, of streams with a rate."""
        return {
            topic: heard.rate_hz
            for topic, heard in self._heard.items()
            if self._plans[topic].nominal_hz is not None
        }

    def slowest(self) -> list[str]:
        """The lowest rate among the arms' states and among the cameras, in words."""
        hz_of = self.rates_hz()
        arms = [hz for t, hz in hz_of.items() if t.startswith("arm/") and t.endswith("/state")]
        cameras = [hz for t, hz in hz_of.items() if t.startswith("camera/")]
        named = (("arms", arms), ("cameras", cameras))
        return [f"{name} {min(rates):.0f} Hz" for name, rates in named if rates]

    def bytes_for(self, seconds: float) -> int:
        """Disk space that an episode of this length takes, from the images seen lately."""
        per_second = 0.0
        for topic, plan in self._plans.items():
            newest = self._heard[topic].newest
            size = STATE_BYTES
            if newest is not None and isinstance(newest.message, Frame):
                size = len(newest.message.data)
            per_second += size * (plan.nominal_hz or 0.0)
        return int(per_second * seconds * COPIES)
