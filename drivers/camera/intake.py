"""From what a camera delivers to numbered frames: check, count, hand over.

Shared by the thread that reads the camera and the node that takes the frames.
"""

from __future__ import annotations

import threading
from collections import deque

from drivers.camera import jpeg_header
from teleop.clock import NS_PER_S
from teleop.messages import Frame

_QUEUE_S = 1.0
"""Frames kept for a node that is late; older ones are dropped and counted."""
_RATE_WINDOW_S = 2.0
_POLLS_PER_FRAME = 4
"""A frame waits a quarter of its period at most before its node publishes it."""
_STALE_PERIODS = 3
_STALE_AT_LEAST_NS = 200_000_000
"""Scheduling on a loaded machine delays a frame this much without the camera being at fault."""


def poll_period_ns(fps: float) -> int:
    """How often a node asks a camera of this rate for frames."""
    return round(NS_PER_S / fps / _POLLS_PER_FRAME)


def stale_after_ns(fps: float) -> int:
    """Silence after which a camera of this rate counts as frozen."""
    return max(round(_STALE_PERIODS * NS_PER_S / fps), _STALE_AT_LEAST_NS)


class FrameIntake:
    """Numbers, checks and queues the frames of one camera.

    Every delivery takes one ``seq``. One that is handed on to nobody (damaged, an exact
    repeat of the image before, or dropped because nobody took it) shows as a gap of ``seq``.
    """

    def __init__(self, width: int, height: int, fps: float) -> None:
        self._size = (width, height)
        self._fps = fps
        self._lock = threading.Lock()
        self._queue: deque[Frame] = deque()
        self._queue_limit = max(4, round(fps * _QUEUE_S))
        self._arrivals: deque[int] = deque(maxlen=max(4, round(fps * _RATE_WINDOW_S)))
        self._seq = 0
        self._last_jpeg = b""
        self._last_stamp_ns = 0
        self._repeats_running = 0
        self._corrupt_running = 0
        self.accepted = 0
        self.repeats = 0
        self.corrupt = 0
        self.drops = 0

    def accept(self, delivered: bytes, stamp_ns: int | None, arrival_ns: int) -> None:
        """Take one JPEG as the camera delivered it.

        Args:
            delivered: the bytes, possibly padded, repeated or damaged.
            stamp_ns: capture time by the device, None when it does not tell.
            arrival_ns: when the host had the whole frame.
        """
        jpeg = jpeg_header.complete(delivered)
        header = jpeg_header.read_header(jpeg) if jpeg is not None else None
        with self._lock:
            seq = self._seq
            self._seq += 1
            if jpeg is None or header is None or (header.width, header.height) != self._size:
                self.corrupt += 1
                self._corrupt_running += 1
                return
            self._corrupt_running = 0
            if jpeg == self._last_jpeg:
                # Sensor noise makes two real exposures differ; equal bytes are an old picture,
                # and handing it on would pass it off as a new one.
                self.repeats += 1
                self._repeats_running += 1
                return
            self._last_jpeg = jpeg
            self._repeats_running = 0
            if stamp_ns is None or stamp_ns <= self._last_stamp_ns:
                stamp_ns = arrival_ns
            self._last_stamp_ns = stamp_ns
            self.accepted += 1
            self._arrivals.append(arrival_ns)
            self._queue.append(
                Frame(stamp_ns, seq, arrival_ns, "jpeg", header.width, header.height, jpeg)
            )
            if len(self._queue) > self._queue_limit:
                self._queue.popleft()
                self.drops += 1

    def take(self) -> list[Frame]:
        """All queued frames, oldest first."""
        with self._lock:
            frames = list(self._queue)
            self._queue.clear()
        return frames

    def skip_outage(self, outage_ns: int) -> None:
        """Leave the gap of ``seq`` that the frames missed during an outage would have filled."""
        with self._lock:
            self._seq += max(1, round(outage_ns * self._fps / NS_PER_S))
            self._arrivals.clear()
            self._repeats_running = 0

    def fps(self, now_ns: int) -> float:
        """Rate of new images over the last seconds; falls towards zero while none come."""
        with self._lock:
            arrivals = tuple(self._arrivals)
        if len(arrivals) < 2:
            return 0.0
        period_ns = (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1)
        silence_ns = max(0.0, now_ns - arrivals[-1] - period_ns)
        return (len(arrivals) - 1) * NS_PER_S / (arrivals[-1] - arrivals[0] + silence_ns)

    def stale_words(self, now_ns: int) -> str:
        """Why no new image comes, empty while they do."""
        with self._lock:
            last_ns = self._arrivals[-1] if self._arrivals else None
            repeats, corrupt = self._repeats_running, self._corrupt_running
        if last_ns is None or now_ns - last_ns <= stale_after_ns(self._fps):
            return ""
        silence_s = (now_ns - last_ns) / NS_PER_S
        if repeats:
            return f"the same image came {repeats} times over {silence_s:.1f} s"
        if corrupt:
            return (
                f"{corrupt} damaged or wrong-sized images over {silence_s:.1f} s; check the cable"
            )
        return f"no image for {silence_s:.1f} s"

    def values(self, now_ns: int) -> dict[str, float]:
        """Counters and rate for the camera's health."""
        return {
            "fps": self.fps(now_ns),
            "frames": float(self.accepted),
            "repeats": float(self.repeats),
            "corrupt": float(self.corrupt),
            "drops": float(self.drops),
        }
