"""What a session tells the recorder, in order, each until it is answered."""

from __future__ import annotations

from collections import deque

from teleop import topics
from teleop.clock import NS_PER_S, ns_from_s
from teleop.errors import RecordingError
from teleop.messages import EpisodeEvent
from teleop.node import Outputs, Sequencer

RESEND_S = 0.5
"""An event is said again until the recorder answers: PUB loses what is sent too early."""
ANSWER_TIMEOUT_S = 10.0
"""A recorder that is alive answers within milliseconds."""
ANSWERS = {
    "start": ("started", "refused", "failed"),
    "stop": ("stopped", "saved", "refused", "failed"),
}


class RecorderTalk:
    """One side of the conversation: only the oldest unanswered event is outstanding.

    Args:
        task: Named in every event.
    """

    def __init__(self, task: str) -> None:
        self.unsaved: set[int] = set()
        """Episodes that were stopped and are not on disk yet."""
        self._task = task
        self._seq = Sequencer()
        self._queue: deque[EpisodeEvent] = deque()
        self._first_sent_ns: int | None = None
        self._sent_ns = 0
        self._stopped_ns: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Whether something has not been answered yet."""
        return bool(self._queue)

    def say(self, kind: str, episode: int, outcome: str, now_ns: int) -> None:
        """Queue ``start``, ``stop`` or ``discard`` of an episode."""
        seq = self._seq.next(topics.SESSION_EVENT)
        self._queue.append(EpisodeEvent(now_ns, seq, kind, episode, self._task, outcome, ""))
        if kind == "stop":
            self.unsaved.add(episode)
            self._stopped_ns[episode] = now_ns
        elif kind == "discard":
            self.unsaved.discard(episode)

    def hear(self, event: EpisodeEvent) -> str:
        """Take an event of the recorder; returns what was answered by it, empty when nothing."""
        if event.kind in ("saved", "failed", "refused"):
            self.unsaved.discard(event.episode)
        if not self._queue or event.episode != self._queue[0].episode:
            return ""
        asked = self._queue[0].kind
        if event.kind not in ANSWERS[asked]:
            return ""
        self._next()
        if event.kind == "refused":
            while self._queue and self._queue[0].episode == event.episode:
                self._queue.popleft()
        return asked

    def seconds_to_save(self, saved: EpisodeEvent) -> float:
        """From the stop of an episode to the ``saved`` that told of it."""
        return (saved.stamp_ns - self._stopped_ns.get(saved.episode, saved.stamp_ns)) / NS_PER_S

    def due(self, now_ns: int) -> Outputs:
        """What is to be sent now.

        Raises:
            RecordingError: the recorder has not answered for ``ANSWER_TIMEOUT_S``.
        """
        outputs: Outputs = []
        while self._queue:
            event = self._queue[0]
            if self._first_sent_ns is None:
                self._first_sent_ns = now_ns
            elif now_ns - self._first_sent_ns > ns_from_s(ANSWER_TIMEOUT_S):
                raise RecordingError(
                    f"the recorder does not answer to the {event.kind} of episode "
                    f"{event.episode}; what it has recorded is kept"
                )
            elif now_ns - self._sent_ns < ns_from_s(RESEND_S):
                break
            self._sent_ns = now_ns
            outputs.append((topics.SESSION_EVENT, event))
            if event.kind in ANSWERS:
                break
            self._next()  # a discard is not answered
        return outputs

    def _next(self) -> None:
        self._queue.popleft()
        self._first_sent_ns = None
