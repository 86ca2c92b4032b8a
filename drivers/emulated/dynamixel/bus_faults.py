"""Switchable faults of an emulated servo bus: what goes wrong with cables, power and servos.

Everything here is data that a test (or a person) sets while the bus is running; the chain
acts on it. Faults of chance draw from their own seeded generator, so runs repeat.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

from teleop.clock import ns_from_s

TimedReply = tuple[int, bytes]
"""When the bytes reach the host (ns), and the bytes."""


@dataclass(slots=True)
class Chance:
    """How often a reply is hit: the next ``count`` for certain, others with ``probability``."""

    probability: float = 0.0
    count: int = 0

    def strikes(self, rng: random.Random) -> bool:
        """Whether this reply is hit; uses up one of ``count``."""
        if self.count > 0:
            self.count -= 1
            return True
        return self.probability > 0 and rng.random() < self.probability


class Event(NamedTuple):
    """Something that happens to the servos themselves, once."""

    kind: Literal["overload", "brown_out", "baud"]
    servo_id: int = 0
    baud: int = 0


class BusFaults:
    """The faults of one bus; a fresh one is fault-free."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self.servo_absent: set[int] = set()
        """Ids that have dropped off the bus: neither move on command nor answer."""
        self.unplugged = False
        """The host's end of the cable is out; the servos keep their power."""
        self.drop = Chance()
        """A status packet is lost, and with it those of the servos waiting behind it."""
        self.corrupt = Chance()
        """One bit of a status packet is flipped."""
        self.late = Chance()
        """A reply comes ``late_s`` after its time."""
        self.late_s = 0.045
        self.split = Chance()
        """A reply comes in two halves, ``split_s`` apart."""
        self.split_s = 0.004
        self._events: deque[Event] = deque()

    def overload(self, servo_id: int) -> None:
        """The servo reports an overload and drops its torque until it is rebooted."""
        self._events.append(Event("overload", servo_id))

    def brown_out(self) -> None:
        """The supply dips: every servo of the bus restarts."""
        self._events.append(Event("brown_out"))

    def wrong_baud(self, servo_id: int, baud: int) -> None:
        """The servo's line is set to another rate than the bus."""
        self._events.append(Event("baud", servo_id, baud))

    def take_event(self) -> Event | None:
        """The next thing to happen, for the chain."""
        return self._events.popleft() if self._events else None

    def deliver(self, packets: list[bytes], ready_ns: int) -> list[TimedReply]:
        """What becomes of one reply (its status packets in order) on the way to the host."""
        if self.drop.strikes(self._rng):
            packets = packets[: self._rng.randrange(len(packets))]
        if packets and self.corrupt.strikes(self._rng):
            hit = self._rng.randrange(len(packets))
            packets = [self._flipped(p) if i == hit else p for i, p in enumerate(packets)]
        if not packets:
            return []
        data = packets[0] if len(packets) == 1 else b"".join(packets)
        if self.late.strikes(self._rng):
            ready_ns += ns_from_s(self.late_s)
        if self.split.strikes(self._rng):
            half = len(data) // 2
            return [(ready_ns, data[:half]), (ready_ns + ns_from_s(self.split_s), data[half:])]
        return [(ready_ns, data)]

    def _flipped(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[self._rng.randrange(len(damaged))] ^= 1 << self._rng.randrange(8)
        return bytes(damaged)
